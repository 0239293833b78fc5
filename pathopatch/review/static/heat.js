// Draw the values of a slide's grid over its tissue: one small canvas, one pixel per cell, drawn scaled.
// Values are clear at 0, so a dashed line around the analysed cells tells "nothing found" from "not looked at".

import { differenceTable, groupTable, heatTable } from "./colours.js";
import { origin } from "./values.js";

export const RANGES = { probability: [0, 1], tissue_fraction: [0, 1], difference: [-1, 1], spread: [0, 0.5] };
const MIN_LINE_CELL_PX = 4; // of smaller cells, lines would hide the tissue: cells at the edge are filled instead
const INK = 0xff231f1b; // #1b1f23, packed
const PAPER = 0xffffffff;
const AREA = { bright: "#6e6e6e", dark: "#969696" }; // of the dashed line
const NO_ANSWER = 0xff969696; // grey, packed: tissue, but too little for the model
const AREA_PACKED = { bright: 0xff6e6e6e, dark: 0xff969696 };

export const coloursOf = (facts, field) => (field === "difference" ? differenceTable() : heatTable(facts.heat_colors));

export class HeatLayer {
  constructor(facts, values) {
    this.facts = facts;
    this.values = values;
    this.fill = grid(values.across, values.down);
    this.painted = ""; // what the fill shows: a new threshold alone does not repaint it
    this.isPositive = new Uint8Array(values.across * values.down);
    this.ground = facts.background === "dark" ? "dark" : "bright";
    this.positiveEdge = new Edge(values, this.isPositive, () => (this.ground === "dark" ? PAPER : INK));
    const isKnown = Uint8Array.from(values.probability, (value) => (value === value ? 1 : 0)); // NaN: not predicted
    const least = facts.no_answer_from;
    const isScanned = (cell) => !values.scanned || values.scanned[cell] >= least.scanned;
    this.hasNoAnswer = Uint8Array.from(values.tissue, (tissue, cell) => (least && !isKnown[cell] && tissue >= least.tissue && isScanned(cell) ? 1 : 0));
    this.areaEdge = new Edge(values, isKnown, (row, column) => (((row + column) >> 1) % 2 ? 0 : AREA_PACKED[this.ground]));
  }

  field(view) {
    const { values } = this;
    if (view.field === "tissue_fraction") return values.tissue;
    if (view.field === "difference") return values.difference;
    if (view.field === "spread") return values.spread;
    return this.probability(view);
  }

  probability(view) {
    return view.run === "b" && this.values.beside ? this.values.beside : this.values.probability;
  }

  recolour(view) {
    const probability = this.probability(view);
    const threshold = view.threshold[view.run];
    const { isPositive } = this;
    for (let cell = 0; cell < isPositive.length; cell += 1) isPositive[cell] = probability[cell] > threshold ? 1 : 0;
    const { field, run, isOnlyPositive } = view;
    const wanted = [field, run, isOnlyPositive && threshold].join();
    if (wanted !== this.painted) {
      if (field === "group") this.#paintGroups(view);
      else this.#paintField(view);
      this.painted = wanted;
    }
    this.positiveEdge.changed();
  }

  #paintField(view) {
    const value = this.field(view);
    const [low, high] = RANGES[view.field];
    const colours = coloursOf(this.facts, view.field);
    const last = colours.length - 1;
    const scale = last / (high - low);
    this.#paint(view, (cell) => {
      const here = value[cell];
      if (here !== here) return this.hasNoAnswer[cell] ? NO_ANSWER : 0; // NaN: nothing was predicted, and glass stays clear
      const at = ((here - low) * scale + 0.5) | 0;
      return colours[at < 0 ? 0 : at > last ? last : at];
    });
  }

  #paintGroups(view) {
    const colours = groupTable();
    const { group } = this.values;
    this.#paint(view, (cell) => (group[cell] < 0 ? 0 : colours[group[cell]]));
  }

  #paint(view, colour) {
    const { pixels } = this.fill;
    for (let cell = 0; cell < pixels.length; cell += 1) {
      pixels[cell] = view.isOnlyPositive && !this.isPositive[cell] ? 0 : colour(cell);
    }
    put(this.fill);
  }

  draw(context, view, place, labels) {
    // `place`: x, y of the slide's corner and scale (px per level-0 px), in px of the context. Cells beyond the slide are clipped.
    const { facts, values } = this;
    const cell = facts.cell_px * place.scale;
    const [width, height] = facts.size_px.map((side) => side * place.scale);
    context.save();
    context.beginPath();
    context.rect(place.x, place.y, width, height);
    context.clip();
    context.imageSmoothingEnabled = false; // between two cells there is no third value
    if (view.isOn) {
      if (view.shape !== "outline") {
        context.globalAlpha = view.opacity;
        context.drawImage(this.fill.canvas, place.x, place.y, cell * values.across, cell * values.down);
        context.globalAlpha = 1;
      }
      this.areaEdge.draw(context, place, cell, () => dashedStroke(context, AREA[this.ground], place.density));
      if (view.shape !== "fill") this.positiveEdge.draw(context, place, cell, () => doubleStroke(context, place.density));
    }
    context.restore();
    for (const label of labels) drawLabel(context, place, facts, label);
    if (view.selected >= 0) this.#drawSelected(context, place, view.selected);
  }

  #drawSelected(context, place, cell) {
    const [x, y] = origin(this.facts, cell);
    const side = this.facts.span_px * place.scale;
    context.beginPath();
    context.rect(place.x + x * place.scale, place.y + y * place.scale, side, side);
    doubleStroke(context, 1.6 * place.density);
  }
}

class Edge {
  // The line around some cells. `isInside` is read anew after `changed`; `colour` is that of a cell where cells are small.
  constructor({ across, down }, isInside, colour) {
    this.across = across;
    this.down = down;
    this.isInside = isInside;
    this.colour = colour;
    this.cells = grid(across, down);
    this.changed();
  }

  changed() {
    this.lines = null; // computed when they are drawn
    this.isPainted = false;
  }

  draw(context, place, cell, stroke) {
    if (cell < MIN_LINE_CELL_PX) {
      if (!this.isPainted) this.#paint();
      this.isPainted = true;
      context.drawImage(this.cells.canvas, place.x, place.y, cell * this.across, cell * this.down);
      return;
    }
    this.lines ??= this.#computeLines();
    const { lines } = this;
    const right = (context.canvas.width - place.x) / cell;
    const bottom = (context.canvas.height - place.y) / cell;
    const [left, top] = [-place.x / cell, -place.y / cell];
    context.beginPath();
    for (let at = 0; at < lines.length; at += 4) {
      if (lines[at] > right || lines[at + 2] < left || lines[at + 1] > bottom || lines[at + 3] < top) continue;
      context.moveTo(place.x + lines[at] * cell, place.y + lines[at + 1] * cell);
      context.lineTo(place.x + lines[at + 2] * cell, place.y + lines[at + 3] * cell);
    }
    stroke();
  }

  #computeLines() {
    // Borders between cells inside and others, joined while they run straight: x0, y0, x1, y1 of each, in cells.
    const { across, down, isInside } = this;
    const lines = [];
    for (let row = 0; row <= down; row += 1) {
      let began = -1;
      for (let column = 0; column <= across; column += 1) {
        const cell = row * across + column;
        const here = row < down && column < across ? isInside[cell] : 0;
        const above = row > 0 && column < across ? isInside[cell - across] : 0;
        if (here === above) {
          if (began >= 0) lines.push(began, row, column, row);
          began = -1;
        } else if (began < 0) began = column;
      }
    }
    for (let column = 0; column <= across; column += 1) {
      let began = -1;
      for (let row = 0; row <= down; row += 1) {
        const cell = row * across + column;
        const here = row < down && column < across ? isInside[cell] : 0;
        const left = row < down && column > 0 ? isInside[cell - 1] : 0;
        if (here === left) {
          if (began >= 0) lines.push(column, began, column, row);
          began = -1;
        } else if (began < 0) began = row;
      }
    }
    return new Uint16Array(lines);
  }

  #paint() {
    // Cells inside with a neighbour that is not.
    const { across, down, isInside } = this;
    const { pixels } = this.cells;
    for (let row = 0, cell = 0; row < down; row += 1) {
      for (let column = 0; column < across; column += 1, cell += 1) {
        const isInner =
          column > 0 && column < across - 1 && row > 0 && row < down - 1 &&
          isInside[cell - 1] && isInside[cell + 1] && isInside[cell - across] && isInside[cell + across];
        pixels[cell] = isInside[cell] && !isInner ? this.colour(row, column) : 0;
      }
    }
    put(this.cells);
  }
}

function grid(across, down) {
  const canvas = document.createElement("canvas");
  canvas.width = across;
  canvas.height = down;
  const context = canvas.getContext("2d");
  const image = context.createImageData(across, down);
  return { canvas, context, image, pixels: new Uint32Array(image.data.buffer) };
}

function put({ context, image }) {
  context.putImageData(image, 0, 0);
}

function doubleStroke(context, thickness) {
  // Dark with a light rim, visible on any tissue.
  context.lineCap = "square";
  context.strokeStyle = "#ffffff";
  context.lineWidth = 3.2 * thickness;
  context.stroke();
  context.strokeStyle = "#1b1f23";
  context.lineWidth = 1.4 * thickness;
  context.stroke();
}

function dashedStroke(context, colour, density) {
  context.save();
  context.setLineDash([7 * density, 5 * density]);
  context.strokeStyle = colour;
  context.lineWidth = 1.2 * density;
  context.stroke();
  context.restore();
}

const LETTERS = { tumour: "T", "non-tumour": "N", unsure: "?" };

function drawLabel(context, place, facts, { x, y, verdict }) {
  const side = facts.span_px * place.scale;
  const [left, top] = [place.x + x * place.scale, place.y + y * place.scale];
  context.save();
  context.setLineDash([4 * place.density, 3 * place.density]);
  context.beginPath();
  context.rect(left, top, side, side);
  doubleStroke(context, place.density);
  context.restore();
  const px = Math.round(11 * place.density);
  if (side < px) return;
  context.font = `700 ${px}px sans-serif`;
  context.fillStyle = "#ffffff";
  context.fillRect(left, top, px * 1.2, px * 1.25);
  context.fillStyle = "#1b1f23";
  context.textBaseline = "top";
  context.fillText(LETTERS[verdict] ?? "?", left + px * 0.2, top + px * 0.15);
}
