// Draw the values of a slide's grid over its tissue: one small canvas, one pixel per cell, drawn scaled.
// Values are clear at 0, so a dashed line around the analysed cells tells "nothing found" from "not looked at".

import { css, differenceTable, groupTable, heatTable, opaque } from "./colours.js";
import { origin } from "./values.js";

export const RANGES = { probability: [0, 1], tissue_fraction: [0, 1], difference: [-1, 1], spread: [0, 0.5] };
const MIN_LINE_CELL_PX = 4; // of smaller cells, lines would hide the tissue: cells at the edge are filled instead
const INK = 0xff231f1b; // #1b1f23, packed
const PAPER = 0xffffffff;
const HOLE_DASH = [4, 6]; // px of the screen
const NO_ANSWER = 0xff969696; // grey, packed: tissue, but too little for the model

export const coloursOf = ({ colors }, { field }) =>
  field === "difference" ? differenceTable(colors.difference) : heatTable(colors.map);

// Whether only cells above the threshold are filled: those of a probability, unless the reviewer chose otherwise.
export const isOnlyPositive = (view) => view.isOnlyPositive ?? view.field === "probability";

export class HeatLayer {
  constructor(facts, values) {
    this.facts = facts;
    this.values = values;
    this.fill = grid(values.across, values.down);
    this.painted = ""; // what the fill shows: a new threshold alone does not repaint it
    this.isPositive = new Uint8Array(values.across * values.down);
    this.ground = facts.background === "dark" ? "dark" : "bright";
    const line = this.ground === "dark" ? PAPER : INK;
    this.positiveEdge = new Edge(values, this.isPositive, (row, column, isHole) => (isHole && (row + column) % 2 ? 0 : line));
    this.area = opaque(facts.colors.area);
    const isKnown = Uint8Array.from(values.probability, (value) => (value === value ? 1 : 0)); // NaN: not predicted
    const least = facts.no_answer_from;
    // Of the whole patch that begins in a cell: what lies beyond the slide was not scanned.
    const inside = (length, index) => Math.min(1, (length - index * facts.cell_px) / facts.span_px);
    const onSlide = (cell) => inside(facts.size_px[0], cell % values.across) * inside(facts.size_px[1], Math.floor(cell / values.across));
    const isScanned = (cell) => (values.scanned ? values.scanned[cell] : 1) * onSlide(cell) >= least.scanned;
    this.hasNoAnswer = Uint8Array.from(values.tissue, (tissue, cell) => (least && !isKnown[cell] && tissue >= least.tissue && isScanned(cell) ? 1 : 0));
    this.areaEdge = new Edge(values, isKnown, (row, column) => (((row + column) >> 1) % 2 ? 0 : this.area));
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
    const { field, run } = view;
    const wanted = [field, run, isOnlyPositive(view) && threshold].join();
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
    const colours = coloursOf(this.facts, view);
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
    const colours = groupTable(this.facts.colors.groups);
    const { group } = this.values;
    this.#paint(view, (cell) => (group[cell] < 0 ? 0 : colours[group[cell]]));
  }

  #paint(view, colour) {
    const { pixels } = this.fill;
    const isHidden = isOnlyPositive(view) ? (cell) => !this.isPositive[cell] && !this.hasNoAnswer[cell] : () => false;
    for (let cell = 0; cell < pixels.length; cell += 1) pixels[cell] = isHidden(cell) ? 0 : colour(cell);
    put(this.fill);
  }

  draw(context, view, place, labels) {
    // `place`: x, y of the slide's corner, scale (px per level-0 px), width and height of the view before it is turned, in
    // px of the context. Cells beyond the slide are clipped.
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
        const over = values.mask && !view.isWhole ? this.#overTissue(context, place, cell, width, height) : null;
        context.globalAlpha = view.opacity;
        if (over) context.drawImage(over, 0, 0);
        else context.drawImage(this.fill.canvas, place.x, place.y, cell * values.across, cell * values.down);
        context.globalAlpha = 1;
      }
      this.areaEdge.draw(context, place, cell, () => dashedStroke(context, css(this.area), place.density));
      if (view.shape !== "fill") {
        this.positiveEdge.draw(context, place, cell, (isHole) => doubleStroke(context, place.density, isHole ? HOLE_DASH : []));
      }
    }
    context.restore();
    for (const label of labels) drawLabel(context, place, facts, label);
    if (view.selected >= 0) this.#drawSelected(context, place, view.selected);
  }

  #overTissue(context, place, cell, width, height) {
    // The fill as large as the context, clear beside tissue: glass within a patch is no tumour.
    const { across, down, mask } = this.values;
    this.over ??= document.createElement("canvas").getContext("2d");
    Object.assign(this.over.canvas, { width: place.width, height: place.height }); // clears it, too
    this.over.imageSmoothingEnabled = false;
    this.over.drawImage(this.fill.canvas, place.x, place.y, cell * across, cell * down);
    this.over.globalCompositeOperation = "destination-in";
    this.over.drawImage(mask, place.x, place.y, width, height);
    return this.over.canvas;
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
  // The line around some cells, and the line around the holes in them. `isInside` is read anew after `changed`;
  // `colour` is that of a cell where cells are small.
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
    this.lines.forEach((lines, isHole) => this.#strokeLines(context, place, cell, lines, () => stroke(isHole === 1)));
  }

  #strokeLines(context, place, cell, lines, stroke) {
    const right = (place.width - place.x) / cell;
    const bottom = (place.height - place.y) / cell;
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
    // Two lists: the outer borders, and those of holes.
    const { across, down } = this;
    const depth = nesting(this.isInside, across, down);
    const lines = [[], []];
    const kindOf = (one, other) => (one === other ? -1 : Math.max(one, other) % 2 ? 0 : 1);
    const walk = (length, at, add) => {
      let [began, kind] = [0, -1];
      for (let step = 0; step <= length; step += 1) {
        const now = step < length ? at(step) : -1;
        if (now === kind) continue;
        if (kind >= 0) lines[kind].push(...add(began, step));
        [began, kind] = [step, now];
      }
    };
    const wide = across + 2;
    for (let row = 0; row <= down; row += 1) {
      const above = (column) => row * wide + column + 1;
      walk(across, (column) => kindOf(depth[above(column)], depth[above(column) + wide]), (from, to) => [from, row, to, row]);
    }
    for (let column = 0; column <= across; column += 1) {
      const left = (row) => (row + 1) * wide + column;
      walk(down, (row) => kindOf(depth[left(row)], depth[left(row) + 1]), (from, to) => [column, from, column, to]);
    }
    return lines.map((each) => new Uint16Array(each));
  }

  #paint() {
    // Cells inside with a neighbour that is not.
    const { across, down, isInside } = this;
    const { pixels } = this.cells;
    const depth = nesting(isInside, across, down);
    for (let row = 0, cell = 0; row < down; row += 1) {
      for (let column = 0; column < across; column += 1, cell += 1) {
        const isInner =
          column > 0 && column < across - 1 && row > 0 && row < down - 1 &&
          isInside[cell - 1] && isInside[cell + 1] && isInside[cell - across] && isInside[cell + across];
        pixels[cell] = isInside[cell] && !isInner ? this.colour(row, column, isAtHole(depth, (row + 1) * (across + 2) + column + 1, across + 2)) : 0;
      }
    }
    put(this.cells);
  }
}

export function nesting(isInside, across, down) {
  // How deep each cell lies, in a grid with one more cell on each side: 0 outside, 1 in a part inside, 2 in a hole of
  // it, 3 in an island in the hole, and so on. Parts are connected by sides, what is around them by corners too.
  // Cells are labelled in reading order, and labels that meet are joined under the lower one: what lies above the
  // first cell of a part is what the part lies in.
  const wide = across + 2;
  const inside = new Uint8Array(wide * (down + 2));
  for (let row = 0; row < down; row += 1) inside.set(isInside.subarray(row * across, (row + 1) * across), (row + 1) * wide + 1);
  const [label, joined, above, depth] = [1, 2, 3, 4].map(() => new Int32Array(inside.length));
  const lowest = (one) => {
    while (joined[one] !== one) one = joined[one] = joined[joined[one]];
    return one;
  };
  const before = [[1, wide, wide + 1, wide - 1], [1, wide]]; // the neighbours already read; beyond the end of a row all is outside
  let count = 1;
  for (let at = wide + 1; at < inside.length; at += 1) {
    const steps = before[inside[at]];
    let mine = -1;
    for (let number = 0; number < steps.length; number += 1) {
      const from = at - steps[number];
      if (inside[from] !== inside[at] || label[from] === mine) continue;
      const other = lowest(label[from]);
      if (mine < 0) mine = other;
      else if (other < mine) mine = joined[mine] = other;
      else joined[other] = mine;
    }
    if (mine < 0) {
      mine = joined[count] = count;
      above[count] = label[at - wide];
      count += 1;
    }
    label[at] = mine;
  }
  for (let one = 1; one < count; one += 1) depth[one] = joined[one] === one ? depth[above[one]] + 1 : depth[joined[one]];
  return label.map((one) => depth[one]);
}

function isAtHole(depth, at, wide) {
  // Of a cell at an edge: whether only holes are next to it.
  const least = depth[at];
  return depth[at - 1] >= least && depth[at + 1] >= least && depth[at - wide] >= least && depth[at + wide] >= least;
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

function doubleStroke(context, thickness, dash = null) {
  // Dark with a light rim, visible on any tissue; a dash is of the dark line.
  context.lineCap = "square";
  context.strokeStyle = "#ffffff";
  context.lineWidth = 3.2 * thickness;
  context.stroke();
  if (dash) context.setLineDash(dash.map((length) => length * thickness));
  context.strokeStyle = "#1b1f23";
  context.lineWidth = 1.4 * thickness;
  context.stroke();
  if (dash) context.setLineDash([]);
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

function drawLabel(context, place, facts, { x, y, verdict, dispute }) {
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
  drawText(context, place, [left + 0.6 * px, top + 0.6 * px], dispute.length ? "≠" : (LETTERS[verdict] ?? "?"), { px });
}

export function drawText(context, { turn }, [x, y], text, { px, width = 1.2 * px, height = 1.25 * px, ground = "#ffffff", ink = "#1b1f23" }) {
  // Upright around a point, however the slide is turned.
  context.save();
  context.translate(x, y);
  context.rotate(-turn);
  context.fillStyle = ground;
  context.fillRect(-width / 2, -height / 2, width, height);
  context.font = `700 ${px}px sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillStyle = ink;
  context.fillText(text, 0, 0.05 * px);
  context.restore();
}
