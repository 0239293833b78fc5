// Draw regions of tumour, or of tissue that was found wrongly, on the slide, and list them. The server checks and keeps them.

import { byId, el, say } from "./dom.js";
import { drawText } from "./heat.js";
import { Note } from "./note.js";
import { MOST_CHARACTERS, areaPx, bounds, onSlide, simplified, toPoints, toText } from "./shapes.js";
import { length, when } from "./text.js";

// Colours of Okabe and Ito. A line, dashed or not, and a letter say the same without colour.
const STYLES = {
  tumour: { colour: "#d55e00", dash: [], letter: "T", says: "Tumour" },
  "non-tumour": { colour: "#0072b2", dash: [9, 6], letter: "N", says: "Non-tumour" },
  "missed tissue": { colour: "#b07900", dash: [2, 5], letter: "+", says: "Missed tissue" },
  "not tissue": { colour: "#007a87", dash: [12, 4, 2, 4], letter: "−", says: "Not tissue" },
};
const LENGTH = { colour: "#1b1f23", dash: [], letter: "L", says: "Length" };
const OWN_COLOURS = ["#a3477d", "#00735a", "#5b4bb0", "#6b5b00", "#a0283c", "#46505f"]; // white on them is readable

function styleOf(verdict, own) {
  // Of a class of the folder's own: a colour, a dash and a letter by its place in the list.
  if (verdict === "length") return LENGTH;
  if (STYLES[verdict]) return STYLES[verdict];
  const place = Math.max(0, own.indexOf(verdict));
  const [first] = verdict;
  const colour = OWN_COLOURS[place % OWN_COLOURS.length];
  return { colour, dash: [6 + 3 * place, 4], letter: first.toUpperCase(), says: first.toUpperCase() + verdict.slice(1) };
}
const TOLERANCE_PX = 0.7; // of a freehand line, px of the screen: less than one sees
const NEAR_PX = 4; // a second click this near is the one that closes the outline
const HINTS = {
  polygon: "click its corners; double click, Enter or the first corner closes it, u takes the last corner back, Escape stops",
  freehand: "drag around it; Escape stops",
};

export class Regions {
  constructor(facts, viewer, decisions) {
    this.facts = facts;
    this.verdicts = [...Object.keys(STYLES), ...facts.region_classes];
    this.styleOf = (verdict) => styleOf(verdict, facts.region_classes);
    this.viewer = viewer;
    this.decisions = decisions;
    this.shown = []; // {row, points}
    this.verdict = "tumour";
    this.tool = null; // polygon | freehand
    this.points = []; // of the outline that is being drawn, level-0 px
    this.pointer = null;
    this.edited = null; // the region whose corners can be moved: {row, points}
    this.held = -1; // the corner that is dragged
    viewer.overlays.push((context, place) => this.#draw(context, place));
    viewer.whenDragged((phase, x, y) => this.#drag(phase, x, y));
    viewer.whenDoubleClicked(() => this.tool === "polygon" && this.close());
  }

  get isDrawing() {
    return this.tool !== null;
  }

  show(rows) {
    this.shown = rows.map((row) => ({ row, points: toPoints(row.region) }));
    byId("region-count").textContent = String(rows.length);
    byId("regions").replaceChildren(...this.shown.map((region, index) => this.#item(region, index + 1)));
    this.viewer.draw();
  }

  #item(region, number) {
    const { row, points } = region;
    const { says, colour, letter } = this.styleOf(row.verdict);
    const isLength = row.verdict === "length";
    const mm2 = (areaPx(points) * this.facts.mpp ** 2) / 1e6;
    const um = Math.hypot(points[1][0] - points[0][0], points[1][1] - points[0][1]) * this.facts.mpp;
    const area = isLength ? length(um) : `${+mm2.toPrecision(3)} mm²`;
    const mark = el("span", { class: "region-mark", "aria-hidden": "true" }, letter);
    mark.style.background = colour;
    const fly = el(
      "button", { type: "button", class: "fly", title: `Show it on the slide · ${when(row.made)}`, onclick: () => this.viewer.showBox(bounds(points)) },
      mark, el("span", {}, `${says}, ${area}`), el("span", { class: "quiet" }, row.reviewer),
    );
    const remove = el(
      "button", { type: "button", "aria-label": `Remove region ${number}, ${says.toLowerCase()}`, onclick: () => this.#remove(row) }, "Remove",
    );
    const outdated = row.outdated ? el("p", { class: "why warn" }, "Drawn on another heatmap than this one.") : null;
    const parts = [el("div", { class: "row" }, fly, remove), isLength ? null : this.#changesOf(region, number), this.#noteOf(row, number), outdated];
    return el("li", { data: { verdict: row.verdict, area: mm2, um: isLength ? um : null } }, ...parts);
  }

  #changesOf(region, number) {
    // Of one's own region: another class, or other corners.
    const { row } = region;
    if (!this.decisions.own(row)) return null;
    const options = this.verdicts.map((verdict) => el("option", { value: verdict, selected: verdict === row.verdict || null }, verdict));
    const classes = el("select", { "aria-label": `Class of region ${number}` }, ...options);
    classes.addEventListener("change", () => this.decisions.drawn(row.region, classes.value, row.comment));
    const corners = el("button", { type: "button", "aria-label": `Move corners of region ${number}`, onclick: () => this.#edit(region) }, "Move corners");
    return el("div", { class: "row" }, classes, corners);
  }

  #edit({ row, points }) {
    this.stop();
    this.edited = { row, points: points.map((point) => [...point]) };
    this.viewer.showBox(bounds(points));
    this.viewer.showTool("Drag a corner; Escape ends it.");
  }

  #noteOf(row, number) {
    // Of one's own region a field, of somebody else's the text.
    if (!this.decisions.own(row)) return row.comment ? el("p", { class: "why" }, row.comment) : null;
    const field = el("textarea", { rows: 1, maxlength: 5000, placeholder: "Note; Enter saves", "aria-label": `Note on region ${number}` });
    const save = el("button", { type: "button" }, "Save");
    const add = (text) => this.decisions.drawn(row.region, row.verdict, text);
    new Note(field, save, { standing: () => row, add }).show();
    return el("div", { class: "region-note" }, field, save);
  }

  async #remove(row) {
    if (await this.decisions.drawn(row.region, "removed")) byId("region-title").scrollIntoView({ block: "nearest" });
  }

  swapClass() {
    this.verdict = this.verdicts[(this.verdicts.indexOf(this.verdict) + 1) % this.verdicts.length];
    byId("region-class").textContent = this.verdict;
    if (this.isDrawing) this.#showTool();
  }

  begin(tool) {
    // The same key again ends the drawing.
    if (this.tool === tool) return this.stop();
    this.tool = tool;
    this.points = [];
    return this.#showTool();
  }

  stop() {
    this.tool = null;
    this.edited = null;
    this.points = [];
    this.#showTool();
  }

  back() {
    // Takes the last corner back; without one, the drawing ends.
    if (!this.points.length) return this.stop();
    this.points.pop();
    return this.viewer.draw();
  }

  #showTool() {
    for (const tool of ["polygon", "freehand"]) {
      document.querySelector(`[data-does=${tool}]`).setAttribute("aria-pressed", String(this.tool === tool));
    }
    this.viewer.showTool(this.isDrawing ? `Region of ${this.verdict}: ${HINTS[this.tool]}.` : null);
  }

  click(x, y) {
    if (this.tool !== "polygon") return;
    const last = this.points.at(-1);
    const isNear = (corner, px) => Math.hypot(x - corner[0], y - corner[1]) < px / this.viewer.zoom();
    if (last && isNear(last, NEAR_PX)) return; // the second half of a double click
    if (this.points.length > 2 && isNear(this.points[0], 2 * NEAR_PX)) return void this.close();
    this.points.push([x, y]);
    this.viewer.draw();
  }

  point(x, y) {
    this.pointer = x < 0 ? null : [x, y];
    if (this.tool === "polygon" && this.points.length) this.viewer.draw();
  }

  #dragCorner(phase, x, y) {
    const { points } = this.edited;
    const away = ([atX, atY]) => Math.hypot(x - atX, y - atY) * this.viewer.zoom();
    if (phase === "press") {
      const nearest = points.reduce((best, point, at) => (away(point) < away(points[best]) ? at : best), 0);
      this.held = away(points[nearest]) < 3 * NEAR_PX ? nearest : -1;
    }
    if (this.held < 0) return false;
    if (phase !== "press") points[this.held] = [x, y];
    if (phase === "end") this.#moved();
    this.viewer.draw();
    return true;
  }

  async #moved() {
    // The new outline first: what is refused leaves the old one as it is.
    const { row, points } = this.edited;
    const text = toText(onSlide(points, this.facts.size_px));
    this.held = -1;
    if (text !== row.region && (await this.decisions.drawn(text, row.verdict, row.comment))) await this.#remove(row);
    const region = this.shown.find((each) => each.row.region === text) ?? this.shown.find((each) => each.row.region === row.region);
    this.edited = region && { row: region.row, points: region.points.map((point) => [...point]) };
    this.viewer.draw();
  }

  #drag(phase, x, y) {
    if (this.edited) return this.#dragCorner(phase, x, y);
    if (this.tool !== "freehand") return false;
    if (phase === "press") this.points = [];
    else if (phase === "drag") this.points.push([x, y]);
    else if (this.points.length) this.close();
    this.viewer.draw();
    return true;
  }

  async close() {
    // Saves the outline. One that the server refuses stays, so that its corners can be taken back.
    let tolerance = this.tool === "freehand" ? TOLERANCE_PX / this.viewer.zoom() : 0;
    const outline = () => onSlide(tolerance ? simplified(this.points, tolerance) : this.points, this.facts.size_px);
    let points = outline();
    if (points.length < 3) return say("A region needs three corners at least.");
    while (toText(points).length > MOST_CHARACTERS) {
      tolerance = 2 * tolerance || 1;
      points = outline();
    }
    // The tool stays: regions are often drawn one after another.
    if ((await this.decisions.drawn(toText(points), this.verdict)) || this.tool === "freehand") this.points = [];
    return this.viewer.draw();
  }

  #draw(context, place) {
    for (const { row, points } of this.shown) {
      if (row.region !== this.edited?.row.region) drawOutline(context, place, points, this.styleOf(row.verdict), true);
    }
    if (this.edited) {
      drawOutline(context, place, this.edited.points, this.styleOf(this.edited.row.verdict), true);
      for (const [x, y] of this.edited.points) drawCorner(context, place, x, y);
    }
    if (!this.points.length) return;
    const isOpen = this.tool === "polygon" && this.pointer;
    drawOutline(context, place, isOpen ? [...this.points, this.pointer] : this.points, this.styleOf(this.verdict), false);
    if (this.tool === "polygon") for (const [x, y] of this.points) drawCorner(context, place, x, y);
  }
}

function drawOutline(context, place, points, { colour, dash, letter }, isClosed) {
  const at = ([x, y]) => [place.x + x * place.scale, place.y + y * place.scale];
  context.save();
  context.lineJoin = "round";
  context.beginPath();
  points.forEach((point, index) => (index ? context.lineTo(...at(point)) : context.moveTo(...at(point))));
  if (isClosed) context.closePath();
  // A white rim below the colour: visible on stained tissue, on glass and on black.
  context.strokeStyle = "#ffffff";
  context.lineWidth = 6 * place.density;
  context.stroke();
  context.setLineDash(dash.map((length) => length * place.density));
  context.strokeStyle = colour;
  context.lineWidth = 3 * place.density;
  context.stroke();
  context.restore();
  const px = Math.round(12 * place.density);
  if (!isClosed) return;
  drawText(context, place, at(points[0]), "", { px, width: 1.6 * px, height: 1.6 * px });
  drawText(context, place, at(points[0]), letter, { px, width: 1.4 * px, height: 1.4 * px, ground: colour, ink: "#ffffff" });
}

function drawCorner(context, place, x, y) {
  context.fillStyle = "#ffffff";
  context.strokeStyle = "#1b1f23";
  context.lineWidth = place.density;
  const side = 6 * place.density;
  context.beginPath();
  context.rect(place.x + x * place.scale - side / 2, place.y + y * place.scale - side / 2, side, side);
  context.fill();
  context.stroke();
}
