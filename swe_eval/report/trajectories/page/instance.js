// One instance: what became of it under both arms.

function open(id) {
  if (!id) return say("No instance passes the filter.");
  current = id;
  mark();
  return withInstance(id, (instance) => {
    if (id !== current) return;
    render(instance);
    const next = shown[shown.findIndex((each) => each.instance_id === id) + 1]; // j is then at once there
    if (next) setTimeout(() => ahead(next.instance_id), 200);
  });
}

function render(instance) {
  const arms = { a: $("a").value, b: $("b").value };
  const a = instance.trials[arms.a];
  const b = instance.trials[arms.b];
  const main = $("instance");
  main.replaceChildren(
    title(instance),
    issue(instance),
    make("h2", { className: "unseen" }, "Outcomes"),
    make("div", { className: "cards" }, card("a", arms.a, a), card("b", arms.b, b)),
    make("h2", {}, "Patches"),
    patches(instance, a, b),
    make("h2", {}, "Turns ", toDivergence()),
    ...turns(a, b),
    ...index.notes.map((note) => make("p", { className: "note" }, note)),
  );
  main.scrollTop = 0;
  unfolded = false;
}

function title(instance) {
  const before = make("button", { onclick: () => step(-1), "aria-label": "previous instance (k)" }, "‹");
  const after = make("button", { onclick: () => step(1), "aria-label": "next instance (j)" }, "›");
  return make(
    "div",
    { className: "title" },
    make("h1", {}, instance.instance_id),
    make("span", {}, before, " ", after),
  );
}

function issue(instance) {
  const about = [instance.repo, instance.difficulty, instance.created && `of ${instance.created}`].filter(Boolean);
  const statement = make("pre", {}, instance.problem_statement);
  const folded = make("details", { className: "issue" }, make("summary", {}, "Issue"), statement);
  return make("div", { className: "about" }, about.join(" · "), folded);
}

function card(side, arm, trial) {
  const head = make("h3", {}, make("span", { className: `tag ${side}` }, side.toUpperCase()), make("b", {}, arm));
  if (!trial)
    return make(
      "section",
      { className: `card ${side}`, "aria-label": arm },
      head,
      make("p", { className: "hint" }, "Not run."),
    );
  head.append(make("span", { className: `badge ${trial.outcome}` }, `${SIGNS[trial.outcome]} ${WORDS[trial.outcome]}`));
  const source = trial.source === "rescued" ? "patch rescued, not submitted" : "";
  const facts = [
    trial.exit_status,
    source,
    trial.error,
    count(trial.turns.length, "turn"),
    trial.seconds ? seconds(trial.seconds) : "",
    trial.completion_tokens ? `${count(trial.completion_tokens, "token")} written` : "",
  ];
  const raw = Object.entries(trial.files).flatMap(([name, path]) => [" · ", make("a", { href: path }, name)]);
  return make(
    "section",
    { className: `card ${side}`, "aria-label": arm },
    head,
    make("p", { className: "facts" }, facts.filter(Boolean).join(" · ")),
    ...flagged(side, trial.flags),
    ...tests(trial),
    make("p", { className: "raw" }, "raw: ", ...raw.slice(1)),
  );
}

function flagged(side, flags) {
  const kinds = [...new Set(flags.map((flag) => flag.kind))];
  return kinds.map((kind) => {
    const found = flags.filter((flag) => flag.kind === kind).map((flag) => evidence(side, flag));
    return make("div", { className: "flag" }, `⚑ ${index.meaning[kind] ?? kind}`, make("ul", {}, ...found));
  });
}

function evidence(side, flag) {
  const jump = flag.turn && make("button", { onclick: () => toTurn(side, flag.turn) }, `turn ${flag.turn}`);
  const aside = flag.is_disqualifying ? "" : " (cannot have shown the fix)";
  return make("li", {}, jump || "", " ", make("code", {}, flag.evidence), aside);
}

function tests(trial) {
  return Object.entries(trial.tests).flatMap(([kind, found]) => {
    const total = found.passed + found.failed;
    if (!total) return [];
    const line = found.failed ? `${kind}: ${found.failed} of ${total} failed` : `${kind}: all ${total} passed`;
    const names = make("ul", {}, ...found.failures.map((name) => make("li", {}, make("code", {}, name))));
    const left = found.failed - found.failures.length;
    if (left > 0) names.append(make("li", {}, `and ${left} more: see the report`));
    return [make("p", { className: "tests" }, line), found.failed ? names : null];
  });
}

function patches(instance, a, b) {
  const sides = [
    ["a", "A", a?.patch],
    ["b", "B", b?.patch],
    ["gold", "reference", instance.gold],
  ];
  const cards = new Map(); // by patch: equal ones are shown once
  for (const [side, name, patch] of sides.filter(([, , patch]) => patch?.trim())) {
    const same = cards.get(patch);
    cards.set(patch, same ? ["both", `${same[1]} and ${name}, the same`, patch] : [side, name, patch]);
  }
  const without = sides.slice(0, 2).filter(([, , patch]) => !patch?.trim());
  const names = without.map(([, name]) => name).join(" and ");
  const line = names ? make("p", { className: "hint" }, `No patch of ${names}.`) : "";
  return make(
    "div",
    {},
    line,
    make("div", { className: "cards" }, ...[...cards.values()].map((each) => diffCard(...each))),
  );
}

function diffCard(side, name, patch) {
  return make(
    "section",
    { className: `card ${side}`, "aria-label": `patch: ${name}` },
    make("h3", {}, name),
    diff(name, patch),
  );
}

function diff(name, patch) {
  const lines = patch.replace(/\n$/, "").split("\n");
  const pre = make("pre", {}, ...lines.map((line) => make("span", { className: kindOf(line) }, line)));
  return make("div", { className: "diff", tabIndex: 0, role: "region", "aria-label": `diff: ${name}` }, pre);
}

function kindOf(line) {
  if (line.startsWith("diff ") || line.startsWith("+++ ") || line.startsWith("--- "))
    return line.startsWith("diff ") ? "file" : "meta";
  if (line.startsWith("@@")) return "hunk";
  if (line.startsWith("+")) return "add";
  if (line.startsWith("-")) return "del";
  return /^(index|new file|deleted file|old mode|new mode|similarity|rename)/.test(line) ? "meta" : "";
}
