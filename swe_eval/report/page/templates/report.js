"use strict";
// The table of instances: filtered by two fields, sorted by the buttons in its head. Without it all rows are there.
const table = document.getElementById("instances-table");
if (table) {
  const body = table.tBodies[0], rows = [...body.rows];
  const kind = document.getElementById("kind"), words = document.getElementById("words"), shown = document.getElementById("shown");
  const show = () => {
    const wanted = words.value.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      const fits = (!kind.value || row.dataset.kind.split(" ").includes(kind.value)) && row.textContent.toLowerCase().includes(wanted);
      row.hidden = !fits;
      count += fits;
    }
    shown.textContent = `${count} of ${rows.length} shown`;
    const kept = new URLSearchParams(Object.entries({ show: kind.value, words: words.value }).filter(([, value]) => value));
    history.replaceState(null, "", kept.size ? `?${kept}${location.hash}` : location.pathname + location.hash);
  };
  const sort = (head) => {
    const down = head.getAttribute("aria-sort") === "ascending", at = head.cellIndex;
    const value = (row) => row.cells[at].dataset.value ?? row.cells[at].textContent;
    const order = (a, b) => a - b || a.localeCompare(b, undefined, { numeric: true });
    const compare = (a, b) => order(value(a), value(b)) * (down ? -1 : 1);
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows.sort(compare));
  };
  for (const head of table.tHead.rows[0].cells) head.firstElementChild.addEventListener("click", () => sort(head));
  const before = new URLSearchParams(location.search);
  kind.value = before.get("show") ?? "";
  if (kind.selectedIndex < 0) kind.value = "";
  words.value = before.get("words") ?? "";
  kind.addEventListener("change", show);
  words.addEventListener("input", show);
  show();
}
