// Features in two dimensions, on a canvas: tens of thousands of points, hover, pan and zoom.
function bytes(text) {
  const raw = atob(text), found = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i += 1) found[i] = raw.charCodeAt(i);
  return found;
}
const CELLS = 96;

function scatter(host, panel) {
  const n = panel.n;
  const xy = new Uint16Array(bytes(panel.xy).buffer), group = new Uint16Array(bytes(panel.group).buffer);
  const split = bytes(panel.split), wrong = panel.wrong === null ? null : bytes(panel.wrong);
  const canvas = el("canvas", { tabindex: "0", role: "img", "aria-label": `${panel.label}. Arrow keys pan, plus and minus zoom, 0 resets, comma and full stop step through points.` });
  const groupsOn = panel.groups.map(() => true), splitsOn = [true, true, true];
  let wrongOnly = false, zoom = 1, cx = 0.5, cy = 0.5, picked = -1, pending = false;

  // Points by cell of a grid, so that a hover looks at a few of them.
  const starts = new Uint32Array(CELLS * CELLS + 1), order = new Uint32Array(n);
  const cellOf = (i) => Math.min(CELLS - 1, (xy[2 * i] * CELLS) >> 16) + CELLS * Math.min(CELLS - 1, (xy[2 * i + 1] * CELLS) >> 16);
  for (let i = 0; i < n; i += 1) starts[cellOf(i) + 1] += 1;
  for (let c = 0; c < CELLS * CELLS; c += 1) starts[c + 1] += starts[c];
  const fill = starts.slice();
  for (let i = 0; i < n; i += 1) { order[fill[cellOf(i)]] = i; fill[cellOf(i)] += 1; }

  const visible = (i) => groupsOn[group[i]] && splitsOn[split[i]] && (!wrongOnly || wrong[i] === 1);
  const screenX = (i, w) => ((xy[2 * i] / 65535 - cx) * zoom + 0.5) * w;
  const screenY = (i, h) => h - ((xy[2 * i + 1] / 65535 - cy) * zoom + 0.5) * h;

  // Points stay on a layer of their own, so that a hover draws its ring and no points.
  const layer = document.createElement("canvas"), ring = canvas.getContext("2d"), context = layer.getContext("2d");
  let stale = true;
  function draw() {
    pending = false;
    const ratio = devicePixelRatio || 1, box = canvas.getBoundingClientRect();
    const w = Math.max(1, Math.round(box.width * ratio)), h = Math.max(1, Math.round(box.height * ratio));
    for (const each of [canvas, layer]) {
      if (each.width !== w || each.height !== h) { each.width = w; each.height = h; stale = true; }
    }
    if (stale) drawPoints(w, h, ratio);
    stale = false;
    ring.clearRect(0, 0, w, h);
    ring.drawImage(layer, 0, 0);
    if (picked < 0) return;
    ring.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
    ring.lineWidth = 2 * ratio;
    ring.beginPath();
    ring.arc(screenX(picked, w), screenY(picked, h), 8 * ratio, 0, 2 * Math.PI);
    ring.stroke();
  }
  function drawPoints(w, h, ratio) {
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink").trim();
    context.clearRect(0, 0, w, h);
    const size = Math.max(1.5, Math.min(4, (n > 20000 ? 1.6 : 2.4) * Math.sqrt(zoom))) * ratio;
    context.globalAlpha = n > 20000 ? 0.6 : 0.8;
    for (let g = 0; g < panel.groups.length; g += 1) {
      if (!groupsOn[g]) continue;
      context.fillStyle = style.getPropertyValue(`--c${g % 8}`).trim();
      for (let i = 0; i < n; i += 1) {
        if (group[i] === g && visible(i)) context.fillRect(screenX(i, w) - size / 2, screenY(i, h) - size / 2, size, size);
      }
    }
    context.globalAlpha = 1;
    if (wrong) {
      context.strokeStyle = ink;
      context.globalAlpha = 0.45;
      context.lineWidth = 0.8 * ratio;
      for (let i = 0; i < n; i += 1) {
        if (wrong[i] === 1 && visible(i)) context.strokeRect(screenX(i, w) - size, screenY(i, h) - size, 2 * size, 2 * size);
      }
      context.globalAlpha = 1;
    }
  }
  function refresh() { if (!pending) { pending = true; requestAnimationFrame(draw); } }
  function redraw() { stale = true; refresh(); }

  function nearest(px, py, w, h) {
    const x = (px / w - 0.5) / zoom + cx, y = ((h - py) / h - 0.5) / zoom + cy;
    const reach = Math.ceil((14 / Math.min(w, h) / zoom) * CELLS);
    const [ci, cj] = [Math.floor(x * CELLS), Math.floor(y * CELLS)];
    let best = -1, distance = 14 * 14;
    for (let j = Math.max(0, cj - reach); j <= Math.min(CELLS - 1, cj + reach); j += 1) {
      for (let i = Math.max(0, ci - reach); i <= Math.min(CELLS - 1, ci + reach); i += 1) {
        for (let k = starts[j * CELLS + i]; k < starts[j * CELLS + i + 1]; k += 1) {
          const p = order[k];
          if (!visible(p)) continue;
          const d = (screenX(p, w) - px) ** 2 + (screenY(p, h) - py) ** 2;
          if (d < distance) { distance = d; best = p; }
        }
      }
    }
    return best;
  }
  const describe = (i) => `${panel.groups[group[i]]}\n${["train", "val", "test"][split[i]]}${panel.ids ? `, ${panel.ids[i]}` : ""}${wrong && split[i] === 2 ? `\n${wrong[i] ? "predicted wrongly" : "predicted rightly"}` : ""}`;
  function pick(i, x, y) {
    if (i !== picked) refresh();
    picked = i;
    if (i < 0) { hideTip(); return; }
    showTip(describe(i), x, y);
  }

  let drag = null;
  canvas.addEventListener("pointerdown", (event) => { drag = [event.clientX, event.clientY, cx, cy]; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointerup", () => { drag = null; });
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    if (drag) {
      cx = drag[2] - (event.clientX - drag[0]) / box.width / zoom;
      cy = drag[3] + (event.clientY - drag[1]) / box.height / zoom;
      redraw();
      return;
    }
    pick(nearest(event.clientX - box.left, event.clientY - box.top, box.width, box.height), event.clientX, event.clientY);
  });
  canvas.addEventListener("pointerleave", () => pick(-1));
  canvas.addEventListener("blur", () => pick(-1));
  const zoomBy = (factor) => { zoom = Math.min(200, Math.max(1, zoom * factor)); if (zoom === 1) { cx = 0.5; cy = 0.5; } redraw(); };
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && document.activeElement !== canvas) return;
    event.preventDefault();
    zoomBy(event.deltaY < 0 ? 1.2 : 1 / 1.2);
  }, { passive: false });
  function step(direction) {
    for (let k = 1; k <= n; k += 1) {
      const i = (picked + direction * k + n * 2) % n;
      if (!visible(i)) continue;
      const box = canvas.getBoundingClientRect();
      pick(i, box.left + screenX(i, box.width), box.top + screenY(i, box.height));
      say(describe(i));
      return;
    }
  }
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };
    const actions = { "+": () => zoomBy(1.3), "=": () => zoomBy(1.3), "-": () => zoomBy(1 / 1.3), 0: () => zoomBy(0), ".": () => step(1), ",": () => step(-1) };
    if (event.key in moves) { cx += moves[event.key][0] / zoom; cy += moves[event.key][1] / zoom; redraw(); }
    else if (event.key in actions) actions[event.key]();
    else return;
    event.preventDefault();
  });

  const toggle = (parent, name, styleClass, set) => {
    const button = el("button", { type: "button", "aria-pressed": "true" }, styleClass === null ? null : svg("svg", { viewBox: "0 0 26 12", "aria-hidden": "true" }, svg("rect", { class: `mark ${styleClass}`, x: 7, y: 1, width: 11, height: 10 })), name);
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      set(on);
      redraw();
    });
    parent.append(button);
    return button;
  };
  const groups = el("div", { class: "legend" }), others = el("div", { class: "legend" });
  panel.groups.forEach((name, g) => toggle(groups, `${name} (${panel.counts[g]})`, `s${g % 8}`, (on) => { groupsOn[g] = on; }));
  ["train", "val", "test"].forEach((name, s) => { if (panel.splits.includes(s)) toggle(others, name, null, (on) => { splitsOn[s] = on; }); });
  const zooms = el("div", { class: "tools" });
  for (const [name, factor] of [["Zoom in", 1.5], ["Zoom out", 1 / 1.5], ["Reset", 0]]) {
    const button = el("button", { type: "button" }, name);
    button.addEventListener("click", () => zoomBy(factor));
    zooms.append(button);
  }
  if (wrong) {
    const button = el("button", { type: "button", "aria-pressed": "false" }, "Mistakes alone");
    button.addEventListener("click", () => {
      wrongOnly = !wrongOnly;
      button.setAttribute("aria-pressed", String(wrongOnly));
      redraw();
    });
    zooms.append(button);
  }
  host.append(canvas, zooms, groups, others);
  // Colours may be other ones.
  REDRAW.push(() => { stale = true; draw(); });
  new ResizeObserver(redraw).observe(canvas);
  draw();
}
