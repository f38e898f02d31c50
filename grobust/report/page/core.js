"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const REDRAW = [];
const DASHES = ["", "7 4", "9 3 2 3", "2 3"];

// Text only ever enters the page as text: nothing here parses HTML.
function make(space, name, attributes, children) {
  const node = space ? document.createElementNS(space, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}
const el = (name, attributes, ...children) => make(null, name, attributes, children);
const svg = (name, attributes, ...children) => make("http://www.w3.org/2000/svg", name, attributes, children);
const byId = (id) => document.getElementById(id);
const percent = (value) => (value === null || value === undefined ? "–" : (100 * value).toFixed(1));
const short = (value) => (value === null || value === undefined ? "–" : String(Number(value.toPrecision(4))));

const TIP = byId("tip");
const LIVE = byId("live");
function showTip(text, x, y) {
  TIP.textContent = text;
  TIP.hidden = false;
  const box = TIP.getBoundingClientRect();
  const left = x + 14 + box.width > innerWidth ? x - 14 - box.width : x + 14;
  const top = y + 14 + box.height > innerHeight ? y - 14 - box.height : y + 14;
  TIP.style.left = `${Math.max(4, left)}px`;
  TIP.style.top = `${Math.max(4, top)}px`;
}
function hideTip() { TIP.hidden = true; }
function say(text) { LIVE.textContent = text; }
addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
addEventListener("scroll", hideTip, { passive: true });

function tipped(node, text) {
  node.setAttribute("tabindex", "0");
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", text.replaceAll("\n", "; "));
  node.addEventListener("pointermove", (event) => showTip(text, event.clientX, event.clientY));
  node.addEventListener("pointerleave", hideTip);
  node.addEventListener("focus", () => {
    if (!node.matches(":focus-visible")) return;
    const box = node.getBoundingClientRect();
    showTip(text, box.left + box.width / 2, box.bottom - 10);
  });
  node.addEventListener("blur", hideTip);
  return node;
}

const MARKERS = [
  (x, y, r) => svg("circle", { cx: x, cy: y, r }),
  (x, y, r) => svg("rect", { x: x - r, y: y - r, width: 2 * r, height: 2 * r }),
  (x, y, r) => svg("path", { d: `M${x} ${y - 1.2 * r}L${x + 1.2 * r} ${y + r}H${x - 1.2 * r}Z` }),
  (x, y, r) => svg("path", { d: `M${x} ${y - 1.4 * r}L${x + 1.4 * r} ${y}L${x} ${y + 1.4 * r}L${x - 1.4 * r} ${y}Z` }),
  (x, y, r) => svg("path", { d: `M${x} ${y + 1.2 * r}L${x + 1.2 * r} ${y - r}H${x - 1.2 * r}Z` }),
];
function marker(style, x, y, r, className) {
  const node = MARKERS[style.marker % MARKERS.length](x, y, r);
  node.setAttribute("class", `${className} s${style.color}`);
  return node;
}

// Round numbers for an axis.
function ticks(low, high, wanted) {
  const raw = (high - low || 1) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const found = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-9; v += step) found.push(Number(v.toPrecision(12)));
  return found;
}
function logTicks(low, high) {
  const found = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e += 1) {
    for (const m of [1, 2, 5]) { const v = m * 10 ** e; if (v >= low * 0.999 && v <= high * 1.001) found.push(v); }
  }
  return found;
}

// Tables: a button in a column's head sorts; a field above filters.
function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const first = head.classList.contains("num") ? "descending" : "ascending";
      const next = head.getAttribute("aria-sort") === first ? (first === "ascending" ? "descending" : "ascending") : first;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", next);
      sortRows(table.tBodies[0], column, next === "descending" ? -1 : 1);
      say(`Sorted by ${button.textContent}, ${next}`);
    });
  });
}
const COLLATOR = new Intl.Collator(undefined, { numeric: true });
function sortRows(body, column, sign) {
  const keyed = [...body.rows].map((row, i) => {
    const cell = row.cells[column];
    const number = cell.dataset.v === undefined ? NaN : Number.parseFloat(cell.dataset.v);
    return { row, i, number, text: cell.textContent };
  });
  keyed.sort((a, b) => {
    // What is undefined stands last, whichever way.
    if (Number.isNaN(a.number) !== Number.isNaN(b.number)) return Number.isNaN(a.number) ? 1 : -1;
    const order = Number.isNaN(a.number) ? COLLATOR.compare(a.text, b.text) : a.number - b.number;
    return sign * order || a.i - b.i;
  });
  body.append(...keyed.map((entry) => entry.row));
}
function filterable(input, table) {
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    say(`${shown} rows`);
  });
}

// Light, dark, or as the system says.
const THEMES = ["auto", "light", "dark"];
function setTheme(theme) {
  const root = document.documentElement;
  if (theme === "auto") root.removeAttribute("data-theme"); else root.setAttribute("data-theme", theme);
  byId("theme").textContent = `Theme: ${theme}`;
  REDRAW.forEach((draw) => draw());
}
function startTheme() {
  let theme = "auto";
  try { theme = localStorage.getItem("grobust-theme") || "auto"; } catch { /* storage can be closed to local files */ }
  if (!THEMES.includes(theme)) theme = "auto";
  setTheme(theme);
  byId("theme").addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    try { localStorage.setItem("grobust-theme", theme); } catch { /* likewise */ }
    setTheme(theme);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTheme(theme));
  addEventListener("beforeprint", () => setTheme("light"));
  addEventListener("afterprint", () => setTheme(theme));
}
