// Fill the page from its data.
function each(name, draw) {
  for (const host of document.querySelectorAll(`[data-chart="${name}"]`)) draw(host, DATA[name][Number(host.dataset.index)]);
}

// The table of runs can have thousands of rows: it is built when it is opened.
function fillRuns() {
  const details = byId("runs-details");
  if (!details) return;
  let built = false;
  details.addEventListener("toggle", () => {
    if (built || !details.open) return;
    built = true;
    const table = details.querySelector("table"), shown = byId("run-shown");
    const rows = DATA.runs.map((run, i) => {
      const button = el("button", { type: "button" }, "settings");
      button.addEventListener("click", () => {
        shown.hidden = false;
        shown.textContent = JSON.stringify({ ...DATA.run_headers.reduce((all, name, k) => ({ ...all, [name]: run[k] }), {}), ...DATA.settings[DATA.run_settings[i]] }, null, 2);
        shown.focus();
      });
      return el("tr", {}, ...run.map((value, k) => {
        const numeric = DATA.run_numeric[k];
        const text = value === null ? "–" : numeric === "percent" ? percent(value) : String(value);
        return el("td", { class: numeric ? "num" : null, "data-v": numeric && value !== null ? value : null }, text);
      }), el("td", {}, button));
    });
    table.tBodies[0].append(...rows);
  });
}

startTheme();
each("wga", drawWga);
each("curves", drawCurves);
each("spectra", drawSpectra);
each("rho", drawRho);
each("scatter", scatter);
document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("input[data-filters]").forEach((input) => filterable(input, byId(input.dataset.filters)));
fillRuns();
document.documentElement.dataset.ready = "true";
