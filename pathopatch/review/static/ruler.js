// Measure a length on the slide: two clicks, a drag, or Enter at the middle of the view.

import { say } from "./dom.js";
import { drawText } from "./heat.js";
import { lineText, onSlide } from "./shapes.js";
import { length } from "./text.js";

const HINT = "Ruler: click two points, drag, or press Enter for the middle of the view; Escape stops";

export class Ruler {
  constructor(facts, viewer, button, decisions) {
    this.decisions = decisions;
    this.facts = facts;
    this.viewer = viewer;
    this.button = button;
    this.isOn = false;
    this.points = []; // two at most, level-0 px
    this.pointer = null;
    viewer.overlays.push((context, place) => this.#draw(context, place));
    viewer.whenDragged((phase, x, y) => this.#drag(phase, x, y));
  }

  begin() {
    this.#show(true);
  }

  stop() {
    this.#show(false);
  }

  #show(isOn) {
    this.isOn = isOn;
    this.points = [];
    this.button.setAttribute("aria-pressed", String(isOn));
    this.viewer.showTool(isOn ? `${HINT}.` : null);
  }

  click(x, y) {
    // A third point begins the next line.
    if (this.points.length > 1) this.points = [];
    this.points.push([x, y]);
    if (this.points.length > 1) this.#read();
    this.viewer.draw();
  }

  point(x, y) {
    this.pointer = x < 0 ? null : [x, y];
    if (this.isOn && this.points.length === 1) this.viewer.draw();
  }

  #drag(phase, x, y) {
    if (!this.isOn) return false;
    if (phase === "press") this.pressed = [x, y];
    else this.points = [this.pressed, [x, y]];
    if (phase === "end") this.#read();
    this.viewer.draw();
    return true;
  }

  #um([[x, y], [toX, toY]]) {
    return Math.hypot(toX - x, toY - y) * this.facts.mpp;
  }

  #read() {
    const um = this.#um(this.points);
    this.viewer.place.dataset.um = um;
    const ends = onSlide(this.points, this.facts.size_px);
    const kept = ends.length === 2 ? this.decisions.drawn(lineText(ends), "length") : Promise.resolve(false);
    kept.then((isKept) => say(`Length: ${length(um)}${isKept ? ", kept below Regions" : ""}`));
  }

  #draw(context, place) {
    if (!this.isOn) return;
    const middle = this.pointer ?? this.viewer.middle();
    const points = this.points.length === 1 ? [...this.points, middle] : this.points;
    const at = ([x, y]) => [place.x + x * place.scale, place.y + y * place.scale];
    if (!this.pointer) cross(context, at(this.viewer.middle()), 9 * place.density, place.density);
    if (!points.length) return;
    for (const point of points) cross(context, at(point), 6 * place.density, place.density);
    line(context, points.map(at), place.density);
    label(context, place, at(points[1]), length(this.#um(points)));
  }
}

function line(context, [from, to], density) {
  // Dark with a light rim, visible on any tissue.
  for (const [colour, width] of [["#ffffff", 5], ["#1b1f23", 2]]) {
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.strokeStyle = colour;
    context.lineWidth = width * density;
    context.stroke();
  }
}

function cross(context, [x, y], reach, density) {
  line(context, [[x - reach, y], [x + reach, y]], density);
  line(context, [[x, y - reach], [x, y + reach]], density);
}

function label(context, place, [x, y], text) {
  const px = 13 * place.density;
  context.font = `700 ${px}px sans-serif`;
  const width = context.measureText(text).width + px;
  const middle = Math.min(x + px + width / 2, place.width - width / 2);
  drawText(context, place, [middle, y], text, { px, width, height: 2 * px });
}
