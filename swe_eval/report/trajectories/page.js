"use strict";
// Two trajectories side by side. trajectories.data/index.js has a line per instance, trajectories.data/<id>.js one
// instance in full; both are scripts, because a page that is opened as a file may not fetch. Whatever a model wrote is
// put in as text, never as HTML.

const DATA = "trajectories.data/";
const KEPT = 12; // instances in memory
const LINES = 12; // of an output that are shown before it is unfolded
const SIGNS = { resolved: "✓", unresolved: "✗", empty_patch: "∅", infra: "!" };
const WORDS = { resolved: "resolved", unresolved: "unresolved", empty_patch: "empty patch", infra: "infra: owed" };
const FILTERS = {
  all: ["all", () => true],
  a: ["only A resolved", (a, b) => won(a) && !won(b)],
  b: ["only B resolved", (a, b) => won(b) && !won(a)],
  both: ["both", (a, b) => won(a) && won(b)],
  neither: ["neither", (a, b) => !won(a) && !won(b)],
  flagged: ["flagged", (a, b) => a?.flags.length > 0 || b?.flags.length > 0],
  owed: ["owed", (a, b) => a?.outcome === "infra" || b?.outcome === "infra"],
};

const $ = (id) => document.getElementById(id);
const loaded = new Map(); // id -> instance, the most recently used last
const waiting = new Map(); // id -> what to do when it is there
let index = null;
let shown = []; // the instances that pass search and filter
let current = null; // instance_id
let filter = "all";
let unfolded = false;

const won = (trial) => trial?.outcome === "resolved";

// ---- small helpers

function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("aria-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const count = (n, one, many = one + "s") => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

function seconds(s) {
  return s < 60 ? `${s.toFixed(1)} s` : s < 3600 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`;
}

// ---- data

function load(name, failed) {
  const script = make("script", { src: DATA + encodeURIComponent(name) + ".js" });
  script.onload = () => script.remove();
  script.onerror = () => {
    script.remove();
    failed();
  };
  document.head.append(script);
}

function withInstance(id, then) {
  if (loaded.has(id)) return then(keep(id, loaded.get(id)));
  const asked = waiting.has(id);
  waiting.set(id, then);
  if (asked) return undefined;
  return load(id, () => {
    waiting.delete(id);
    if (id === current) say(`The data of ${id} is not there: it is made by python -m swe_eval.report RUN --trajectories.`);
  });
}

function ahead(id) {
  if (!loaded.has(id) && !waiting.has(id)) withInstance(id, () => {});
}

function keep(id, instance) {
  loaded.delete(id);
  loaded.set(id, instance);
  if (loaded.size > KEPT) loaded.delete(loaded.keys().next().value);
  return instance;
}

window.trajectories = {
  index(found) {
    index = found;
    $("run").replaceChildren(found.report ? make("a", { href: found.report, title: "the report" }, found.run) : found.run);
    document.title = `${found.run}: trajectories`;
    for (const id of ["a", "b"]) $(id).replaceChildren(...found.arms.map((arm) => make("option", { value: arm }, arm)));
    [$("a").value, $("b").value] = found.pair;
    follow();
  },
  instance(found) {
    const then = waiting.get(found.instance_id);
    waiting.delete(found.instance_id);
    keep(found.instance_id, found);
    then?.(found);
  },
};

function say(text) {
  $("instance").replaceChildren(make("p", { className: "hint" }, text));
}

// ---- the address: #<instance_id> or #<instance_id>,<arm A>,<arm B>

function address(id) {
  const [a, b] = [$("a").value, $("b").value];
  const isUsual = a === index.pair[0] && b === index.pair[1];
  return "#" + (isUsual ? id : `${id},${a},${b}`);
}

function follow() {
  const [id, a, b] = decodeURIComponent(location.hash.slice(1)).split(",");
  $("a").value = index.arms.includes(a) ? a : index.pair[0];
  $("b").value = index.arms.includes(b) ? b : index.pair[1];
  listInstances();
  const known = index.instances.some((each) => each.instance_id === id);
  if (id && !known) return say(`There is no instance ${id} in this run.`);
  return open(known ? id : shown[0]?.instance_id);
}

// ---- the list

function listInstances() {
  const [a, b] = [$("a").value, $("b").value];
  const sought = $("search").value.trim().toLowerCase();
  const found = index.instances.filter((each) => text(each, a, b).includes(sought));
  listFilters(found, a, b);
  shown = found.filter((each) => FILTERS[filter][1](each.trials[a], each.trials[b]));
  $("count").textContent = `${shown.length} of ${count(index.instances.length, "instance")}`;
  $("list").replaceChildren(...shown.map((each) => entry(each, a, b)));
  mark();
}

function text(each, a, b) {
  const trials = [each.trials[a], each.trials[b]].filter(Boolean);
  const words = trials.flatMap((trial) => [WORDS[trial.outcome], trial.exit_status, ...trial.flags]);
  return [each.instance_id, each.difficulty ?? "", ...words].join(" ").toLowerCase();
}

function listFilters(found, a, b) {
  const chips = Object.entries(FILTERS).map(([name, [label, passes]]) => {
    const n = found.filter((each) => passes(each.trials[a], each.trials[b])).length;
    if (!n && (name === "flagged" || name === "owed") && filter !== name) return null;
    const radio = make("input", { type: "radio", name: "filter", value: name, checked: name === filter });
    return make("label", { className: n ? "" : "empty" }, radio, `${label} ${n}`);
  });
  const focused = document.activeElement?.name === "filter";
  $("filters").replaceChildren($("filters").firstElementChild, ...chips.filter(Boolean));
  if (focused) $("filters").querySelector(":checked")?.focus();
}

function entry(each, a, b) {
  const flags = [each.trials[a], each.trials[b]].some((trial) => trial?.flags.length);
  const flag = flags ? make("span", { className: "flagged", title: "flagged", role: "img", "aria-label": "flagged" }, "⚑") : null;
  const link = make("a", { href: address(each.instance_id) }, make("span", { className: "id" }, each.instance_id), flag);
  link.append(sign("A", each.trials[a]), sign("B", each.trials[b]));
  link.dataset.id = each.instance_id;
  return make("li", {}, link);
}

function sign(arm, trial) {
  const words = trial ? WORDS[trial.outcome] : "not run";
  const label = `${arm} ${words}`;
  return make("span", { className: `sign ${trial?.outcome ?? "none"}`, title: label, role: "img", "aria-label": label }, SIGNS[trial?.outcome] ?? "–");
}

function mark() {
  for (const link of $("list").querySelectorAll("a")) {
    if (link.dataset.id === current) {
      link.setAttribute("aria-current", "true");
      link.scrollIntoView({ block: "nearest" });
    } else link.removeAttribute("aria-current");
  }
}

function step(by) {
  const at = shown.findIndex((each) => each.instance_id === current);
  const next = shown[at < 0 ? 0 : Math.min(Math.max(at + by, 0), shown.length - 1)];
  if (next && next.instance_id !== current) location.hash = address(next.instance_id);
}

// ---- an instance

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
  return make("div", { className: "title" }, make("h1", {}, instance.instance_id), make("span", {}, before, " ", after));
}

function issue(instance) {
  const about = [instance.repo, instance.difficulty, instance.created && `of ${instance.created}`].filter(Boolean);
  const statement = make("pre", {}, instance.problem_statement);
  const folded = make("details", { className: "issue" }, make("summary", {}, "Issue"), statement);
  return make("div", { className: "about" }, about.join(" · "), folded);
}

function card(side, arm, trial) {
  const head = make("h3", {}, make("span", { className: `tag ${side}` }, side.toUpperCase()), make("b", {}, arm));
  if (!trial) return make("section", { className: `card ${side}`, "aria-label": arm }, head, make("p", { className: "hint" }, "Not run."));
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
    ...trial.flags.map((flag) => flagged(side, flag)),
    ...tests(trial),
    make("p", { className: "raw" }, "raw: ", ...raw.slice(1)),
  );
}

function flagged(side, flag) {
  const jump = flag.turn && make("button", { onclick: () => toTurn(side, flag.turn) }, `turn ${flag.turn}`);
  const what = `⚑ ${index.meaning[flag.kind] ?? flag.kind}${flag.is_disqualifying ? "" : " (cannot have shown the fix)"} `;
  return make("p", { className: "flag" }, what, jump || null, " ", make("code", {}, flag.evidence));
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

// ---- patches

function patches(instance, a, b) {
  const sides = [["a", "A", a?.patch], ["b", "B", b?.patch], ["gold", "reference", instance.gold]];
  const cards = new Map(); // by patch: equal ones are shown once
  for (const [side, name, patch] of sides.filter(([, , patch]) => patch?.trim())) {
    const same = cards.get(patch);
    cards.set(patch, same ? ["both", `${same[1]} and ${name}, the same`, patch] : [side, name, patch]);
  }
  const without = sides.slice(0, 2).filter(([, , patch]) => !patch?.trim());
  const names = without.map(([, name]) => name).join(" and ");
  const line = names ? make("p", { className: "hint" }, `No patch of ${names}.`) : "";
  return make("div", {}, line, make("div", { className: "cards" }, ...[...cards.values()].map((each) => diffCard(...each))));
}

function diffCard(side, name, patch) {
  return make("section", { className: `card ${side}`, "aria-label": `patch: ${name}` }, make("h3", {}, name), diff(name, patch));
}

function diff(name, patch) {
  const lines = patch.replace(/\n$/, "").split("\n");
  const pre = make("pre", {}, ...lines.map((line) => make("span", { className: kindOf(line) }, line)));
  return make("div", { className: "diff", tabIndex: 0, role: "region", "aria-label": `diff: ${name}` }, pre);
}

function kindOf(line) {
  if (line.startsWith("diff ") || line.startsWith("+++ ") || line.startsWith("--- ")) return line.startsWith("diff ") ? "file" : "meta";
  if (line.startsWith("@@")) return "hunk";
  if (line.startsWith("+")) return "add";
  if (line.startsWith("-")) return "del";
  return /^(index|new file|deleted file|old mode|new mode|similarity|rename)/.test(line) ? "meta" : "";
}

// ---- turns

function turns(a, b) {
  if (!a?.turns.length && !b?.turns.length) return [make("p", { className: "hint" }, "There is no trajectory.")];
  const rows = align(a?.turns ?? [], b?.turns ?? []);
  const first = rows.findIndex(([x, y]) => !x || !y || commandsOf(x) !== commandsOf(y));
  const made = [];
  rows.forEach(([x, y], at) => {
    if (at === first && a && b) {
      made.push(make("div", { className: "divergence", id: "divergence" }, `first divergence: turn ${(x ?? y).number}`));
    }
    made.push(row(x, y));
  });
  if (first < 0) made.unshift(make("p", { className: "hint" }, "Both ran the same commands."));
  return made;
}

const commandsOf = (turn) => turn.actions.map((action) => action.command.trim()).join("\n") || turn.thought;

// The longest common subsequence of equal commands keeps turns beside each other; between them they pair in order.
function align(a, b) {
  const [x, y] = [a.map(commandsOf), b.map(commandsOf)];
  const best = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      best[i][j] = x[i] === y[j] ? best[i + 1][j + 1] + 1 : Math.max(best[i + 1][j], best[i][j + 1]);
    }
  }
  const rows = [];
  let [i, j, fromI, fromJ] = [0, 0, 0, 0];
  const between = () => {
    for (; fromI < i || fromJ < j; fromI++, fromJ++) rows.push([fromI < i ? a[fromI] : null, fromJ < j ? b[fromJ] : null]);
    [fromI, fromJ] = [i, j];
  };
  while (i < a.length && j < b.length) {
    if (x[i] === y[j]) {
      between();
      rows.push([a[i++], b[j++]]);
      [fromI, fromJ] = [i, j];
    } else if (best[i + 1][j] >= best[i][j + 1]) i++;
    else j++;
  }
  [i, j] = [a.length, b.length];
  between();
  return rows;
}

function row(a, b) {
  const same = a && b && a.number === b.number && a.thought === b.thought && JSON.stringify(a.actions) === JSON.stringify(b.actions);
  const cells = same ? [cell("both", a)] : [cell("a", a), cell("b", b)];
  return make("div", { className: "row" }, ...cells);
}

function cell(side, turn) {
  if (!turn) return make("div", { className: "turn nothing", "aria-hidden": "true" });
  const name = side === "both" ? "A and B" : side.toUpperCase();
  const about = [turn.seconds ? seconds(turn.seconds) : "", turn.prompt_tokens ? `${count(turn.prompt_tokens, "token")} read, ${turn.completion_tokens.toLocaleString("en")} written` : ""];
  const head = make("div", { className: "head" }, make("span", { className: `tag ${side}` }, name), make("b", {}, `turn ${turn.number}`), about.filter(Boolean).join(" · "));
  const made = make("article", { className: `turn ${side}`, "aria-label": `${name}, turn ${turn.number}` }, head);
  made.dataset.turn = turn.number;
  if (turn.thought) made.append(folding(turn.thought, "thought"));
  for (const action of turn.actions) {
    made.append(folding(action.command, "command"));
    if (action.problem) made.append(make("div", { className: "output failed" }, make("pre", {}, action.problem)));
    const failed = action.returncode ? " failed" : "";
    const code = failed ? `exit ${action.returncode}\n` : "";
    if (action.output || code) made.append(folding(code + action.output, `output${failed}`));
  }
  if (turn.refused) made.append(folding(turn.refused, "refused"));
  return made;
}

// Long text shows its first lines; the rest is put into the page when it is asked for.
function folding(text, className) {
  const lines = text.replace(/\n+$/, "").split("\n");
  const pre = make("pre", {});
  const box = make("div", { className }, pre);
  const head = lines.slice(0, LINES).join("\n").slice(0, 2000);
  const whole = lines.join("\n");
  pre.textContent = lines.length > LINES + 3 || whole.length > 2400 ? head : whole;
  if (pre.textContent.length === whole.length) return box;
  const label = lines.length > LINES ? `${count(lines.length - LINES, "more line")}` : `${count(whole.length - head.length, "more character")}`;
  const more = make("button", { className: "more", "aria-expanded": "false" }, `▸ ${label}`);
  more.onclick = () => {
    const isOpen = more.getAttribute("aria-expanded") === "true";
    more.setAttribute("aria-expanded", String(!isOpen));
    more.textContent = isOpen ? `▸ ${label}` : "▾ fold";
    pre.textContent = isOpen ? head : whole;
  };
  box.append(more);
  return box;
}

function toDivergence() {
  return make("button", { className: "jump", onclick: KEYS.d, title: "first divergence (d)" }, "first divergence");
}

function toTurn(side, number) {
  const found = $("instance").querySelector(`.turn.${side}[data-turn="${number}"], .turn.both[data-turn="${number}"]`);
  if (found) go(found.closest(".row"));
}

function go(target) {
  $("instance").querySelector(".here")?.classList.remove("here");
  target.classList.add("here");
  target.scrollIntoView({ block: "start" });
}

function stepTurn(by) {
  const rows = [...$("instance").querySelectorAll(".row")];
  const at = rows.findIndex((each) => each.classList.contains("here"));
  const next = rows[at < 0 ? 0 : Math.min(Math.max(at + by, 0), rows.length - 1)];
  if (next) go(next);
}

function unfold() {
  unfolded = !unfolded;
  for (const more of $("instance").querySelectorAll(`.more[aria-expanded="${String(!unfolded)}"]`)) more.click();
}

// ---- what a person does

const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  n: () => stepTurn(1),
  p: () => stepTurn(-1),
  d: () => $("divergence") && go($("divergence")),
  e: unfold,
  s: swap,
  "/": () => {
    $("side").classList.add("open");
    $("search").focus();
  },
};

function swap() {
  [$("a").value, $("b").value] = [$("b").value, $("a").value];
  repair();
}

function repair() {
  listInstances();
  if (current) history.replaceState(null, "", address(current));
  open(current);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const inSearch = event.target === $("search");
  if (event.key === "Escape") {
    if ($("search").value) {
      $("search").value = "";
      listInstances();
    }
    document.activeElement?.blur();
    return;
  }
  const inList = inSearch || event.target.closest?.("#list");
  if (inList && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    event.preventDefault();
    step(event.key === "ArrowDown" ? 1 : -1);
    if (!inSearch) $("list").querySelector("[aria-current]")?.focus();
    return;
  }
  if (inSearch && event.key === "Enter") {
    if (shown.length && !shown.some((each) => each.instance_id === current)) location.hash = address(shown[0].instance_id);
    $("instance").focus();
    return;
  }
  if (event.target.matches?.("input, select, textarea")) {
    if (event.target.type !== "radio") return;
  }
  if (KEYS[event.key]) {
    event.preventDefault();
    KEYS[event.key]();
  }
});
$("search").addEventListener("input", listInstances);
$("filters").addEventListener("change", (event) => {
  filter = event.target.value;
  listInstances();
  if (!shown.some((each) => each.instance_id === current)) step(1);
});
$("a").addEventListener("change", repair);
$("b").addEventListener("change", repair);
$("swap").addEventListener("click", swap);
$("menu").addEventListener("click", () => {
  const isOpen = $("side").classList.toggle("open");
  $("menu").setAttribute("aria-expanded", String(isOpen));
});
$("list").addEventListener("click", (event) => {
  if (event.target.closest("a")) {
    $("side").classList.remove("open");
    $("menu").setAttribute("aria-expanded", "false");
  }
});
window.addEventListener("hashchange", follow);
load("index", () => say("There is no data beside this page: python -m swe_eval.report RUN --trajectories makes it, and --serve needs none."));
