// What a person does.

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
    if (shown.length && !shown.some((each) => each.instance_id === current))
      location.hash = address(shown[0].instance_id);
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
load("index", () =>
  say(
    "There is no data beside this page: python -m swe_eval.report RUN --trajectories makes it, and --serve needs none.",
  ),
);
