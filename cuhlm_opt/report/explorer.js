"use strict";
// Shows solved points of the grid; every value is looked up, none is computed.
const grid = JSON.parse(document.getElementById("grid").textContent);
const AXES = ["max_bias", "bandwidth_hz", "snr_db"]; // the order of the grid, the slowest first
const RELATION = { exact: "=", bound: "≤", none: "?" };
const SVG = "http://www.w3.org/2000/svg";

const chosen = Object.fromEntries(AXES.map((axis) => [axis, grid.axes[axis].indexOf(grid.start[axis])]));

/** Index of a point of the grid. */
function pointAt(place) {
  return AXES.reduce((index, axis) => index * grid.axes[axis].length + place[axis], 0);
}

/** A quantity of a mode at a point. */
function value(name, point, mode) {
  return grid.columns[name][point * grid.modes.length + mode];
}

function number(quantity, digits = 3) {
  if (quantity === null) return "–";
  return quantity >= 1000 ? Math.round(quantity).toLocaleString("en") : String(Number(quantity.toPrecision(digits)));
}

function biasText(point, mode) {
  const bias = value("bias", point, mode);
  return bias === null ? "unknown" : `${RELATION[value("bias_kind", point, mode)]} ${bias.toFixed(4)}`;
}

function percent(share) {
  return share === null ? "–" : `${(100 * share).toFixed(1)} %`;
}

function inUnits(axis, quantity) {
  if (axis === "snr_db") return `${quantity} dB`;
  if (axis === "max_bias") return String(quantity);
  const [scale, unit] = [[1e9, "GHz"], [1e6, "MHz"], [1e3, "kHz"], [1, "Hz"]].find(([least]) => quantity >= least) ?? [1, "Hz"];
  return `${Number((quantity / scale).toPrecision(6))} ${unit}`;
}

function element(name, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, each] of Object.entries(attributes)) made.setAttribute(key, each);
  made.textContent = text;
  return made;
}

/** The line of a mode, as the chart and the table show it. */
function lineOf(mode) {
  const { colour, dashes } = grid.lines[mode];
  return { fill: "none", stroke: colour, "stroke-width": 2, "stroke-dasharray": dashes };
}

function showAxes() {
  for (const axis of AXES) {
    const input = document.getElementById(axis);
    if (input === null) continue;
    const text = inUnits(axis, grid.axes[axis][chosen[axis]]);
    input.setAttribute("aria-valuetext", text);
    document.getElementById(`${axis}-value`).textContent = text;
  }
}

function showAdvice(point) {
  const best = grid.recommended[point];
  const mode = grid.modes.indexOf(best);
  document.getElementById("advice").textContent = best === null
    ? "No mode is within this budget."
    : `Run ${best}: ${number(value("throughput_tokens_per_s", point, mode))} tokens/s, ` +
      `${percent(value("skip_rate", point, mode))} of the tokens skipped, ` +
      `${number(value("payload_bits", point, mode))} bits an upload, bias ` +
      `${biasText(point, mode)}.`;
}

function showModes(point) {
  const budget = grid.axes.max_bias[chosen.max_bias];
  const rows = grid.modes.map((name, mode) => {
    const bias = value("bias", point, mode);
    const row = document.createElement("tr");
    row.dataset.mode = name;
    row.className = name === grid.recommended[point] ? "chosen" : bias === null || bias > budget ? "over" : "";
    const title = document.createElement("th");
    title.scope = "row";
    const swatch = element("svg", { class: "swatch", viewBox: "0 0 30 10", "aria-hidden": "true" });
    swatch.append(element("line", { x1: 0, y1: 5, x2: 30, y2: 5, ...lineOf(name) }));
    title.append(swatch, name);
    row.append(title);
    for (const [quantity, shown] of [
      ["throughput_tokens_per_s", number], ["skip_rate", percent], ["payload_bits", number],
      ["bias", () => biasText(point, mode)],
      ["u_threshold", number], ["k", number],
    ]) {
      const cell = document.createElement("td");
      const exact = value(quantity, point, mode);
      cell.dataset[quantity === "throughput_tokens_per_s" ? "throughput" : "value"] = exact;
      cell.textContent = shown(exact);
      row.append(cell);
    }
    return row;
  });
  document.querySelector("#explored tbody").replaceChildren(...rows);
}

function showChart() {
  const chart = document.getElementById("chart");
  if (chart === null) return;
  const phone = window.matchMedia("(max-width: 34rem)").matches;
  const [left, right, top, bottom] = [phone ? 50 : 40, 625, 16, phone ? 245 : 260];
  const widths = grid.axes.bandwidth_hz;
  const curves = grid.modes.map((_, mode) =>
    widths.map((_, index) => value("throughput_tokens_per_s", pointAt({ ...chosen, bandwidth_hz: index }), mode)));
  const fastest = grid.columns.throughput_tokens_per_s.reduce((most, speed) => Math.max(most, speed ?? 0), 0);
  if (fastest === 0) return;
  const step = [1, 2, 5, 10].map((digit) => digit * 10 ** Math.floor(Math.log10(fastest) - 0.7)).find((each) => fastest / each <= 6);
  const x = (hz) => left + (right - left) * Math.log(hz / widths[0]) / Math.log(widths.at(-1) / widths[0]);
  const y = (speed) => bottom - (bottom - top) * speed / fastest;
  const parts = [];
  for (let tick = 0; tick * step <= fastest; tick++) {
    const [height, text] = [y(tick * step), String(Number((tick * step).toPrecision(6)))];
    parts.push(element("line", { x1: left, x2: right, y1: height, y2: height, stroke: "#d4d4d4" }));
    parts.push(element("text", { x: left - 6, y: height + 4, "text-anchor": "end" }, text));
  }
  const ticks = widths.filter((hz) => Number.isInteger(Number(Math.log10(hz).toFixed(9))));
  for (const hz of ticks) {
    const anchor = hz === widths[0] ? "start" : hz === widths.at(-1) ? "end" : "middle";
    parts.push(element("text", { x: x(hz), y: bottom + (phone ? 24 : 18), "text-anchor": anchor }, inUnits("bandwidth_hz", hz)));
  }
  const here = x(widths[chosen.bandwidth_hz]);
  parts.push(element("line", { x1: here, x2: here, y1: top, y2: bottom, stroke: "#595959" }));
  parts.push(element("text", { x: left, y: 296, "text-anchor": "start" }, "tokens/s against bandwidth"));
  curves.forEach((curve, mode) => {
    const points = curve.map((speed, index) => speed === null ? null : `${x(widths[index])},${y(speed)}`);
    parts.push(element("polyline", { points: points.filter((each) => each !== null).join(" "), ...lineOf(grid.modes[mode]) }));
  });
  chart.replaceChildren(...parts);
}

function show() {
  const point = pointAt(chosen);
  showAxes();
  showAdvice(point);
  showModes(point);
  showChart();
}

for (const axis of AXES) {
  document.getElementById(axis)?.addEventListener("input", (event) => {
    chosen[axis] = Number(event.target.value);
    show();
  });
}
window.addEventListener("resize", showChart);
show();
