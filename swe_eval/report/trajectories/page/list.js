// The instances that pass search and filter, and the address of each: #<instance_id>, or #<instance_id>,<arm A>,<arm B>.

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
  const flag = flags
    ? make("span", { className: "flagged", title: "flagged", role: "img", "aria-label": "flagged" }, "⚑")
    : null;
  const link = make(
    "a",
    { href: address(each.instance_id) },
    make("span", { className: "id" }, each.instance_id),
    flag,
  );
  link.append(sign("A", each.trials[a]), sign("B", each.trials[b]));
  link.dataset.id = each.instance_id;
  return make("li", {}, link);
}

function sign(arm, trial) {
  const words = trial ? WORDS[trial.outcome] : "not run";
  const label = `${arm} ${words}`;
  return make(
    "span",
    { className: `sign ${trial?.outcome ?? "none"}`, title: label, role: "img", "aria-label": label },
    SIGNS[trial?.outcome] ?? "–",
  );
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
