// The turns of both arms beside each other.

function turns(a, b) {
  if (!a?.turns.length && !b?.turns.length) return [make("p", { className: "hint" }, "There is no trajectory.")];
  const rows = align(a?.turns ?? [], b?.turns ?? []);
  const first = rows.findIndex(([x, y]) => !x || !y || commandsOf(x) !== commandsOf(y));
  const made = [];
  rows.forEach(([x, y], at) => {
    if (at === first && a && b) {
      made.push(
        make("div", { className: "divergence", id: "divergence" }, `first divergence: turn ${(x ?? y).number}`),
      );
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
    for (; fromI < i || fromJ < j; fromI++, fromJ++)
      rows.push([fromI < i ? a[fromI] : null, fromJ < j ? b[fromJ] : null]);
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
  const same =
    a &&
    b &&
    a.number === b.number &&
    a.thought === b.thought &&
    JSON.stringify(a.actions) === JSON.stringify(b.actions);
  const cells = same ? [cell("both", a)] : [cell("a", a), cell("b", b)];
  return make("div", { className: "row" }, ...cells);
}

function cell(side, turn) {
  if (!turn) return make("div", { className: "turn nothing", "aria-hidden": "true" });
  const name = side === "both" ? "A and B" : side.toUpperCase();
  const about = side === "both" ? "" : effort(turn);
  const head = make(
    "div",
    { className: "head" },
    make("span", { className: `tag ${side}` }, name),
    make("b", {}, `turn ${turn.number}`),
    about,
  );
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

function effort(turn) {
  const tokens = `${count(turn.prompt_tokens, "token")} read, ${turn.completion_tokens.toLocaleString("en")} written`;
  return [turn.seconds ? seconds(turn.seconds) : "", turn.prompt_tokens ? tokens : ""].filter(Boolean).join(" · ");
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
  const label =
    lines.length > LINES
      ? `${count(lines.length - LINES, "more line")}`
      : `${count(whole.length - head.length, "more character")}`;
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
