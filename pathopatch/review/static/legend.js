// Draw the legend of the heat layer: colours with numbers and units, a histogram, and a tick at the threshold.

import { GROUP_NAMES, css, opaque } from "./colours.js";
import { el } from "./dom.js";
import { RANGES, coloursOf, isOnlyPositive } from "./heat.js";
import { count, fixed, percent, signed } from "./text.js";
import { histogram } from "./values.js";

const BINS = 50;
const HISTOGRAM_PX = 34;
const BAR_PX = 12;

export function drawLegend(place, facts, heat, view) {
  place.dataset.field = view.field;
  if (view.field === "group") place.replaceChildren(groups(facts, heat));
  else place.replaceChildren(...scale(facts, heat, view));
  place.append(el("p", { class: "quiet" }, "Colours are over tissue alone, unless whole patches are chosen. Grey dashes: the analysed area. Solid line: above the threshold; dashed around a hole in it. Outside the area nothing was predicted (glass, or not scanned)."));
  if (facts.no_answer_from) place.append(el("p", { class: "quiet" }, `Grey: no answer, too little tissue for this model (${count(facts.counts.too_little_tissue)} patches).`));
}

function scale(facts, heat, view) {
  const [low, high] = RANGES[view.field];
  const threshold = view.threshold[view.run];
  const hasTick = view.field === "probability";
  const canvas = el("canvas", { width: 512, height: 2 * (HISTOGRAM_PX + BAR_PX), "aria-hidden": "true" });
  const isFilled = (index, all) => !hasTick || !isOnlyPositive(view) || index / (all.length - 1) > threshold;
  const colours = [...coloursOf(facts, view)].map((colour, index, all) => (isFilled(index, all) ? colour : 0));
  const shown = { colours, opacity: view.opacity, ground: css(opaque(facts.colors.legend_tissue)) };
  paint(canvas, shown, histogram(heat.field(view), low, high, BINS), hasTick ? (threshold - low) / (high - low) : null);
  const write = view.field === "difference" ? (value) => signed(value, 1) : (value) => fixed(value, 2);
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((share) => el("span", {}, write(low + share * (high - low))));
  const parts = [
    el("p", { class: "legend-title" }, title(facts, view)),
    canvas,
    el("div", { class: "ticks" }, ...ticks),
  ];
  if (hasTick) {
    const isRight = threshold > (low + high) / 2;
    const mark = el("span", { class: "threshold-mark" }, isRight ? `threshold ${fixed(threshold, 3)} ▲` : `▲ threshold ${fixed(threshold, 3)}`);
    const rail = el("div", { class: "threshold-rail" }, mark);
    mark.style.left = `${(100 * (threshold - low)) / (high - low)}%`;
    mark.dataset.side = isRight ? "left" : "right"; // the text stays inside the legend
    parts.push(rail);
  }
  return parts;
}

function title(facts, view) {
  const run = view.run === "b" ? `B: ${facts.beside.model.name}` : `A: ${facts.model.name}`;
  const of = facts.beside ? ` · run ${run}` : "";
  if (view.field === "tissue_fraction") return "Tissue fraction of the patch, 0 to 1";
  if (view.field === "spread") return "Spread: SD of probability over the ensemble, 0 to 0.5";
  if (view.field === "difference") return `Difference of probability, A − B, −1 to 1`;
  return `Probability of ${facts.class_names[1]}, 0 to 1${of}`;
}

function paint(canvas, { colours, opacity, ground }, bins, tick) {
  const context = canvas.getContext("2d");
  const { width } = canvas;
  const [high, bar] = [2 * HISTOGRAM_PX, 2 * BAR_PX];
  const most = Math.max(1, ...bins);
  context.fillStyle = "#6b737b";
  bins.forEach((cells, index) => {
    const tall = cells === 0 ? 0 : Math.max(2, Math.sqrt(cells / most) * (high - 4)); // square roots keep rare values visible
    context.fillRect((index * width) / bins.length, high - tall, width / bins.length - 1, tall);
  });
  context.fillStyle = ground; // the same tissue on every slide, so that slides can be compared
  context.fillRect(0, high, width, bar);
  context.globalAlpha = opacity;
  const step = width / colours.length; // whole pixels, so that neighbours do not overlap
  colours.forEach((colour, index) => {
    context.fillStyle = css(colour);
    context.fillRect(index * step, high, step, bar);
  });
  context.globalAlpha = 1;
  if (tick === null) return;
  context.fillStyle = "#ffffff";
  context.fillRect(tick * width - 3, 0, 6, high + bar);
  context.fillStyle = "#1b1f23";
  context.fillRect(tick * width - 1.5, 0, 3, high + bar);
}

function groups(facts, heat) {
  const sizes = [0, 0, 0, 0];
  for (const group of heat.values.patch.group) if (group >= 0) sizes[group] += 1;
  const all = sizes.reduce((sum, value) => sum + value, 0);
  const by = facts.group_of === "prediction" ? "predicted class" : "label";
  const lines = facts.colors.groups.map((colour, group) => {
    const swatch = el("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = colour;
    const share = all ? ` (${percent(sizes[group] / all, 0)})` : "";
    return el("li", {}, swatch, el("b", {}, String(group)), ` ${GROUP_NAMES[group]}: ${count(sizes[group])}${share}`);
  });
  const heading = `Group: ${by} × tissue, much from ${fixed(facts.tau, 2)} on`;
  return el("div", {}, el("p", { class: "legend-title" }, heading), el("ul", { class: "groups" }, ...lines));
}
