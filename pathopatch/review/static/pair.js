// Two views in step: the map beside the slide, or the map of run A beside that of run B.

import { byId } from "./dom.js";
import { HeatLayer } from "./heat.js";
import { Viewer } from "./viewer.js";

export class Pair {
  constructor(facts, values, view, viewer, { clicked, pointed, button }) {
    Object.assign(this, { facts, values, view, viewer, clicked, pointed, button });
    this.second = null; // made at the first use, and kept: one that is destroyed complains of tiles that still come
    this.isOn = false;
    this.leader = viewer;
    this.#listen(viewer);
    viewer.osd.addHandler("update-viewport", () => this.#follow(viewer));
    viewer.whenDrawn = () => this.draw();
  }

  toggle() {
    const place = byId("viewer-beside");
    const isOn = !this.isOn;
    this.isOn = isOn;
    const { viewport } = this.viewer.osd;
    const wasWhole = viewport.getZoom() < 1.01 * viewport.getHomeZoom();
    const scale = () => this.viewer.osd.world.getItemAt(0)?.viewportToImageZoom(viewport.getZoom());
    const before = scale();
    place.classList.toggle("away", !isOn);
    for (const id of ["caption", "caption-beside"]) byId(id).hidden = !isOn;
    this.button.setAttribute("aria-pressed", String(isOn));
    this.leader = this.viewer;
    if (isOn && !this.second) this.#open(place);
    this.recolour();
    this.#follow(this.viewer);
    // A frame later: the viewer restores its old zoom after this event. Who has zoomed in meanwhile stays there.
    const home = () => requestAnimationFrame(() => scale() < 1.01 * before && this.viewer.home());
    if (wasWhole) this.viewer.osd.addOnceHandler("after-resize", home);
  }

  #open(place) {
    const pair = this;
    this.heat = new HeatLayer(this.facts, this.values);
    this.second = new Viewer(this.facts, { get now() { return pair.#now(); } }, this.heat, place);
    this.second.overlays = this.viewer.overlays;
    this.second.whenClicked(this.clicked);
    this.second.whenPointed(this.pointed);
    this.#listen(this.second);
    this.second.osd.addHandler("open", () => this.#follow(this.viewer));
    this.second.osd.addHandler("update-viewport", () => this.#follow(this.second));
  }

  #now() {
    const { now } = this.view;
    return this.facts.beside ? { ...now, run: now.run === "a" ? "b" : "a" } : { ...now, isOn: false };
  }

  #listen(viewer) {
    // Who moves one of the two leads the other.
    viewer.leads = () => (this.leader = viewer);
    for (const event of ["pointerdown", "wheel", "keydown"]) {
      viewer.place.addEventListener(event, viewer.leads, { capture: true, passive: true });
    }
  }

  #follow(viewer) {
    if (!this.isOn || !this.second.osd.isOpen() || viewer !== this.leader) return;
    const { viewport } = (viewer === this.viewer ? this.second : this.viewer).osd;
    viewport.zoomTo(viewer.osd.viewport.getZoom(true), null, true);
    viewport.setRotation(viewer.osd.viewport.getRotation(), true);
    viewport.panTo(viewer.osd.viewport.getCenter(true), true);
  }

  recolour() {
    if (!this.isOn) return;
    const nameOf = (run) => `Run ${run.toUpperCase()}: ${run === "b" ? this.facts.beside.model.name : this.facts.model.name}`;
    const isPair = Boolean(this.facts.beside);
    byId("caption").textContent = isPair ? nameOf(this.view.now.run) : "Map";
    byId("caption-beside").textContent = isPair ? nameOf(this.#now().run) : "Slide";
    this.heat.recolour(this.#now());
    this.draw();
  }

  draw() {
    if (!this.isOn) return;
    this.second.labels = this.viewer.labels;
    this.second.draw();
  }
}
