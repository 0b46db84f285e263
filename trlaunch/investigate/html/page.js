"use strict";
const rows = new Map();
for (const row of document.querySelectorAll(".row[data-key]")) {
  const key = row.dataset.key;
  if (!rows.has(key)) rows.set(key, []);
  rows.get(key).push(row);
}
// SASS names its line of PTX exactly; the reverse is looked up here.
const exact = new Map();
for (const row of document.querySelectorAll(".row[data-exact]")) {
  const ptx = row.dataset.exact;
  if (!exact.has(ptx)) exact.set(ptx, []);
  exact.get(ptx).push(row);
}

function toggle(name, found, on) {
  for (const row of found) row.classList.toggle(name, on);
}

function partners(row) {
  const found = exact.get(row.id) || [];
  const ptx = row.dataset.exact && document.getElementById(row.dataset.exact);
  return ptx ? [...found, ptx] : found;
}

function show(row) {
  // Scrolls the pane alone: the page stays where the reader is.
  const code = row.closest(".code");
  const at = row.getBoundingClientRect().top - code.getBoundingClientRect().top + code.scrollTop;
  code.scrollTop = at - code.clientHeight / 2;
}

function clear() {
  for (const name of ["linked", "exact", "chosen"]) {
    for (const row of [...document.querySelectorAll("." + name)]) row.classList.remove(name);
  }
}

function choose(row) {
  clear();
  const same = rows.get(row.dataset.key) || [];
  const closest = partners(row);
  row.classList.add("chosen");
  toggle("linked", same, true);
  toggle("exact", closest, true);
  const own = row.closest(".pane");
  for (const pane of document.querySelectorAll(".pane:not([hidden])")) {
    if (pane === own) continue;
    const first = closest.find((other) => pane.contains(other)) ||
      same.find((other) => pane.contains(other) && other.classList.contains("marked")) ||
      same.find((other) => pane.contains(other));
    if (first) show(first);
  }
}

let near = [];
document.addEventListener("mouseover", (event) => {
  const row = event.target.closest && event.target.closest(".row[data-key]");
  toggle("near", near, false);
  near = row ? rows.get(row.dataset.key) || [] : [];
  toggle("near", near, true);
});

document.addEventListener("click", (event) => {
  const row = event.target.closest(".row");
  if (row) {
    if (String(getSelection())) return;
    choose(row);
    return;
  }
  const link = event.target.closest("a.to");
  const target = link && document.getElementById(link.getAttribute("href").slice(1));
  if (target) {
    event.preventDefault();
    const pane = target.closest(".pane");
    if (pane.hidden) document.querySelector(`[data-pane="${pane.id.slice(5)}"]`).click();
    document.getElementById("levels").scrollIntoView({ block: "start" });
    choose(target);
    show(target);
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") clear();
});

for (const box of document.querySelectorAll("[data-pane]")) {
  box.addEventListener("change", () => {
    document.getElementById("pane-" + box.dataset.pane).hidden = !box.checked;
    const count = document.querySelectorAll(".pane:not([hidden])").length;
    document.querySelector(".panes").style.setProperty("--columns", count === 4 ? 2 : Math.min(Math.max(count, 1), 3));
  });
}

const every = document.getElementById("every");
if (every) every.addEventListener("change", () => {
  document.querySelector(".lanes").classList.toggle("every", every.checked);
});

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

for (const row of document.querySelectorAll(".pane")) {
  const first = row.querySelector(".row.marked");
  if (first) show(first);
}
