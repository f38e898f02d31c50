// Charts in SVG: lines with a crosshair, intervals in rows, null ranges.
const WIDTH = 560;

function legendKey(style, dashed) {
  return svg("svg", { viewBox: "0 0 26 12", "aria-hidden": "true" },
    svg("path", { d: "M0 6H26", class: `line s${style.color}`, "stroke-dasharray": dashed === undefined ? DASHES[style.dash] : dashed }),
    marker(style, 13, 6, 3.5, "mark"));
}

// series: [{name, style, x, y, sd, note}]; x ascending.
function lineChart(host, { series, xLabel, yLabel, scale, log, label }) {
  const height = 330, left = 52, right = 12, top = 10, bottom = 42;
  const shown = new Set(series.map((s) => s.name));
  const holder = el("div"), legend = el("div", { class: "legend" });
  host.append(holder, legend);
  let at = null;
  function draw() {
    const used = series.filter((s) => shown.has(s.name));
    holder.replaceChildren();
    const all = used.length ? used : series;
    const xs = [...new Set(all.flatMap((s) => s.x))].sort((a, b) => a - b);
    const ys = all.flatMap((s) => s.y.flatMap((y, i) => (y === null ? [] : s.sd ? [y - s.sd[i], y + s.sd[i]] : [y])));
    let [low, high] = [Math.min(...ys), Math.max(...ys)];
    if (log) { low /= 1.15; high *= 1.15; } else { const pad = (high - low || 0.1) * 0.06; low = Math.max(scale === 100 ? 0 : -Infinity, low - pad); high += pad; if (scale === 100) high = Math.min(1, high); }
    const [x0, x1] = [xs[0], xs[xs.length - 1]];
    const px = (x) => left + (x1 === x0 ? 0.5 : (x - x0) / (x1 - x0)) * (WIDTH - left - right);
    const place = log ? Math.log : (v) => v;
    const py = (y) => top + (1 - (place(y) - place(low)) / (place(high) - place(low))) * (height - top - bottom);
    const chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", tabindex: "0", "aria-label": `${label}. Arrow keys read values.` });
    for (const t of log ? logTicks(low, high) : ticks(low, high, 5)) {
      chart.append(svg("line", { class: "grid", x1: left, x2: WIDTH - right, y1: py(t), y2: py(t) }),
        svg("text", { class: "soft", x: left - 6, y: py(t) + 4, "text-anchor": "end" }, short(t * scale)));
    }
    for (const t of ticks(x0, x1, 8).filter((v) => Number.isInteger(v))) {
      chart.append(svg("text", { class: "soft", x: px(t), y: height - bottom + 16, "text-anchor": "middle" }, short(t)));
    }
    chart.append(svg("line", { class: "axis", x1: left, x2: WIDTH - right, y1: height - bottom, y2: height - bottom }),
      svg("text", { class: "soft", x: (left + WIDTH - right) / 2, y: height - 6, "text-anchor": "middle" }, xLabel),
      svg("text", { class: "soft", transform: `translate(13 ${(top + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, yLabel));
    for (const s of used) {
      const points = s.x.map((x, i) => [px(x), s.y[i], i]).filter((p) => p[1] !== null);
      if (s.sd) {
        const upper = points.map(([x, y, i]) => `${x.toFixed(1)} ${py(Math.min(high, y + s.sd[i])).toFixed(1)}`);
        const lower = points.map(([x, y, i]) => `${x.toFixed(1)} ${py(Math.max(low, y - s.sd[i])).toFixed(1)}`).reverse();
        chart.append(svg("path", { class: `spread s${s.style.color}`, d: `M${[...upper, ...lower].join("L")}Z` }));
      }
      chart.append(svg("path", { class: `line s${s.style.color}`, "stroke-dasharray": s.dashes === undefined ? DASHES[s.style.dash] : s.dashes,
        d: `M${points.map(([x, y]) => `${x.toFixed(1)} ${py(y).toFixed(1)}`).join("L")}` }));
      const every = Math.max(1, Math.floor(points.length / 10));
      points.filter((_, i) => i % every === 0).forEach(([x, y]) => chart.append(marker(s.style, x, py(y), 3.2, "mark")));
    }
    const cross = svg("line", { class: "ref", visibility: "hidden", y1: top, y2: height - bottom });
    chart.append(cross);
    const read = (i) => {
      at = Math.max(0, Math.min(xs.length - 1, i));
      cross.setAttribute("x1", px(xs[at])); cross.setAttribute("x2", px(xs[at])); cross.setAttribute("visibility", "visible");
      const lines = used.map((s) => [s, s.x.indexOf(xs[at])]).filter(([s, k]) => k >= 0 && s.y[k] !== null)
        .sort((a, b) => b[0].y[b[1]] - a[0].y[a[1]])
        .map(([s, k]) => `${s.name}: ${short(s.y[k] * scale)}${s.sd && s.n > 1 ? ` ± ${short(s.sd[k] * scale)}` : ""}`);
      return [`${xLabel} ${short(xs[at])}`, ...lines].join("\n");
    };
    chart.addEventListener("pointermove", (event) => {
      const box = chart.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * WIDTH;
      const nearest = xs.reduce((best, v, i) => (Math.abs(px(v) - x) < Math.abs(px(xs[best]) - x) ? i : best), 0);
      showTip(read(nearest), event.clientX, event.clientY);
    });
    chart.addEventListener("pointerleave", () => { hideTip(); at = null; cross.setAttribute("visibility", "hidden"); });
    chart.addEventListener("blur", () => { hideTip(); at = null; cross.setAttribute("visibility", "hidden"); });
    chart.addEventListener("keydown", (event) => {
      const now = at === null ? 0 : at;
      const moves = { ArrowLeft: now - 1, ArrowRight: at === null ? 0 : now + 1, Home: 0, End: xs.length - 1 };
      if (!(event.key in moves)) return;
      event.preventDefault();
      const text = read(moves[event.key]), box = chart.getBoundingClientRect();
      showTip(text, box.left + (px(xs[at]) / WIDTH) * box.width, box.top + box.height / 3);
      say(text);
    });
    holder.append(chart);
  }
  for (const s of series) {
    const button = el("button", { type: "button", "aria-pressed": "true" }, legendKey(s.style, s.dashes), s.note ? `${s.name} ${s.note}` : s.name);
    button.addEventListener("click", () => {
      if (shown.has(s.name)) shown.delete(s.name); else shown.add(s.name);
      button.setAttribute("aria-pressed", String(shown.has(s.name)));
      draw();
    });
    legend.append(button);
  }
  draw();
}

// Rows of marks on one axis. rows: [{name, sub, tip, draw(px, y) → nodes}].
function rowChart(host, { rows, low, high, scale, xLabel, label, reference }) {
  const step = 34, left = 150, right = 14, top = 6;
  const height = top + rows.length * step + 38;
  const px = (x) => left + ((Math.min(high, Math.max(low, x)) - low) / (high - low || 1)) * (WIDTH - left - right);
  const bottom = top + rows.length * step;
  const chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "group", "aria-label": label });
  for (const t of ticks(low, high, 6)) {
    chart.append(svg("line", { class: "grid", x1: px(t), x2: px(t), y1: top, y2: bottom }),
      svg("text", { class: "soft", x: px(t), y: bottom + 15, "text-anchor": "middle" }, short(t * scale)));
  }
  if (reference !== undefined) chart.append(svg("line", { class: "ref", x1: px(reference), x2: px(reference), y1: top, y2: bottom }));
  rows.forEach((row, i) => {
    const y = top + (i + 0.5) * step;
    const name = row.name.length > 22 ? `${row.name.slice(0, 21)}…` : row.name;
    const group = svg("g", {}, svg("rect", { class: "row", x: 0, y: y - step / 2 + 1, width: WIDTH, height: step - 2, rx: 5 }),
      svg("text", { x: left - 10, y: row.sub ? y - 1 : y + 4, "text-anchor": "end" }, name),
      row.sub ? svg("text", { class: "soft", x: left - 10, y: y + 12, "text-anchor": "end" }, row.sub) : null, ...row.draw(px, y));
    chart.append(tipped(group, row.tip));
  });
  chart.append(svg("text", { class: "soft", x: (left + WIDTH - right) / 2, y: height - 4, "text-anchor": "middle" }, xLabel));
  host.append(chart);
}

function drawWga(host, panel) {
  const ends = panel.rows.flatMap((r) => [r.low === null ? r.mean : r.low, r.high === null ? r.mean : r.high, r.average === null ? r.mean : r.average, ...r.seeds]);
  const rows = panel.rows.map((r) => ({
    name: r.method, sub: `n = ${r.seeds.length} seed${r.seeds.length === 1 ? "" : "s"}`,
    tip: `${r.method}\nworst-group accuracy ${percent(r.mean)}% [${percent(r.low)}, ${percent(r.high)}]\n${r.sd === null ? "one seed" : `sd over seeds ${percent(r.sd)} (n = ${r.seeds.length})`}\naverage ${percent(r.average)}%\nworst: ${r.worst}`,
    draw: (px, y) => [
      r.low === null ? null : svg("line", { class: `whisker s${r.style.color}`, x1: px(r.low), x2: px(r.high), y1: y, y2: y }),
      ...r.seeds.map((seed) => svg("circle", { class: `open s${r.style.color}`, cx: px(seed), cy: y + 8, r: 2 })),
      r.average === null ? null : svg("path", { class: `open s${r.style.color}`, d: `M${px(r.average)} ${y - 6}l6 6l-6 6l-6 -6Z` }),
      marker(r.style, px(r.mean), y, 5, "mark"),
    ],
  }));
  const pad = 0.03;
  rowChart(host, { rows, low: Math.max(0, Math.min(...ends) - pad), high: Math.min(1, Math.max(...ends) + pad), scale: 100, xLabel: "test accuracy (%)", label: `Worst-group accuracy by method, ${panel.title}` });
}

function drawRho(host, panel) {
  const ends = panel.classes.flatMap((c) => [c.rho, 1, ...(c.null ? [c.null[0], c.null[4]] : [])]);
  const rows = panel.classes.map((c) => ({
    name: c.name, sub: `n = ${c.n_minority}, ${c.n_majority}`,
    tip: `${c.name}: ρ = ${short(c.rho)}\nminority ${c.minority}` + (c.null ? `\nnull 95%: ${short(c.null[0])} to ${short(c.null[4])}, median ${short(c.null[2])}\np = ${short(c.p)}: ${c.reading}` : "\nno null was computed"),
    draw: (px, y) => [
      ...(c.null ? [svg("rect", { class: "band", x: px(c.null[0]), width: Math.max(1, px(c.null[4]) - px(c.null[0])), y: y - 8, height: 16 }),
        svg("rect", { class: "band2", x: px(c.null[1]), width: Math.max(1, px(c.null[3]) - px(c.null[1])), y: y - 8, height: 16 }),
        svg("line", { class: "axis", x1: px(c.null[2]), x2: px(c.null[2]), y1: y - 8, y2: y + 8 })] : []),
      marker({ color: 3, marker: 3 }, px(c.rho), y, 4.5, "mark"),
    ],
  }));
  const pad = (Math.max(...ends) - Math.min(...ends) || 1) * 0.06;
  rowChart(host, { rows, low: Math.max(0, Math.min(...ends) - pad), high: Math.max(...ends) + pad, scale: 1, reference: 1, xLabel: "ρ(y): λ1 of the minority over the majority group", label: `Spectral norm ratios, ${panel.title}` });
}

function drawSpectra(host, panel) {
  lineChart(host, { xLabel: "rank", yLabel: "eigenvalue (log axis)", scale: 1, log: true, label: `Eigenvalues of each group's covariance, ${panel.title}`,
    series: panel.groups.map((g, i) => ({ name: g.name, note: `${g.minority ? "(minority, " : "("}n = ${g.n})`, style: { color: i % 8, dash: 0, marker: i % 5 }, dashes: g.minority ? "6 4" : "", x: g.values.map((_, k) => k + 1), y: g.values })) });
}

const CURVE_VALUES = { wga: "test worst-group accuracy", average: "test average accuracy", val_wga: "validation worst-group accuracy" };
function drawCurves(host, panel) {
  const picked = el("select", { "aria-label": "Value drawn" });
  for (const [key, name] of Object.entries(CURVE_VALUES)) {
    if (panel.methods.some((m) => m[key])) picked.append(el("option", { value: key }, name));
  }
  const holder = el("div");
  const draw = () => {
    holder.replaceChildren();
    lineChart(holder, { xLabel: "epoch", yLabel: `${CURVE_VALUES[picked.value]} (%)`, scale: 100, label: `${CURVE_VALUES[picked.value]} over epochs, ${panel.title}`,
      series: panel.methods.filter((m) => m[picked.value]).map((m) => ({ name: m.name, style: m.style, n: m.n, note: `(n = ${m.n}, ${short(m.steps)} steps/epoch)`, x: m.epochs, y: m[picked.value].mean, sd: m[picked.value].sd })) });
  };
  picked.addEventListener("change", draw);
  host.append(el("div", { class: "tools" }, picked), holder);
  draw();
}
