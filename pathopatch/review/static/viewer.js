// The deep-zoom viewer, with the heat layer over the slide, a scale bar and a navigator.

import { tileUrl } from "./api.js";
import { byId } from "./dom.js";
import { length, roundLength } from "./text.js";

const BAR_PX = 120; // longest scale bar
const UM_PER_PX_OF_1X = 10; // the usual convention: an objective of 40x scans at 0.25 µm/px
const VIEWER_KEYS = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"]; // the page handles all others
const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;

export class Viewer {
  constructor(facts, view, heat, place = byId("viewer")) {
    this.facts = facts;
    this.view = view;
    this.heat = heat;
    this.labels = [];
    this.overlays = []; // each draws above the heat layer
    this.leads = () => {}; // called before the reviewer moves this view
    this.whenDrawn = () => {};
    this.isMain = place.id === "viewer";
    this.isDrawing = false; // a double click closes an outline then, and does not zoom
    this.place = place;
    this.place.dataset.ground = facts.background;
    const { OpenSeadragon } = globalThis;
    this.point = (x, y) => new OpenSeadragon.Point(x, y);
    this.rectangle = (x, y, width, height) => new OpenSeadragon.Rect(x, y, width, height);
    withoutInlineStyle();
    this.osd = OpenSeadragon({
      element: this.place,
      tileSources: this.#source(),
      drawer: "canvas",
      showNavigationControl: false,
      showNavigator: this.isMain,
      navigatorId: "navigator",
      navigatorAutoFade: false,
      navigatorOpacity: 1,
      navigatorBackground: facts.background === "dark" ? "#000000" : "#ffffff",
      navigatorBorderColor: "#1b1f23",
      navigatorDisplayRegionColor: "#d55e00",
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsPen: { clickToZoom: false },
      maxZoomPixelRatio: 16,
      visibilityRatio: 0.2,
      animationTime: isCalm ? 0 : 0.3,
      springStiffness: 12,
      preserveImageSizeOnResize: true,
      crossOriginPolicy: false,
    });
    this.layer = document.createElement("canvas");
    this.layer.className = "heat";
    this.layer.setAttribute("aria-hidden", "true");
    this.osd.canvas.append(this.layer);
    this.#describe();
    this.osd.addHandler("open", () => {
      this.draw();
      this.place.dataset.ready = "yes";
    });
    this.#watchTiles();
    this.osd.addHandler("update-viewport", () => this.draw());
    this.osd.addHandler("resize", () => this.draw());
    this.osd.addHandler("canvas-key", (event) => {
      const { key, shiftKey } = event.originalEvent;
      if (!VIEWER_KEYS.includes(key) || shiftKey) event.preventDefaultAction = true;
    });
    this.osd.addHandler("tile-load-failed", () => (this.place.dataset.lost = "tiles"));
  }

  #source() {
    // Level `max_level` is full resolution, and each level below halves it.
    const { slide_id: id, tile, has_slide: hasSlide } = this.facts;
    const shown = this.view.now.channels;
    const channels = shown === null || shown.length === this.facts.channels.length ? null : [...shown];
    return {
      width: tile.width, height: tile.height, tileSize: tile.size, tileOverlap: 0, minLevel: 0, maxLevel: tile.max_level,
      tileExists: (level) => hasSlide && (channels === null || channels.length > 0) && level >= 0,
      getTileUrl: (level, column, row) => tileUrl(id, level, column, row, channels),
    };
  }

  #watchTiles() {
    // data-loaded: whether all visible tiles are loaded; tests wait for it.
    this.osd.world.addHandler("add-item", ({ item }) => {
      this.place.dataset.loaded = "no";
      item.addHandler("fully-loaded-change", ({ fullyLoaded }) => (this.place.dataset.loaded = fullyLoaded ? "yes" : "no"));
    });
  }

  #describe() {
    const { canvas } = this.osd;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-label", `Slide ${this.facts.slide_id}${this.isMain ? "" : ", second view"}. Arrow keys move, plus and minus zoom, ` +
      "Enter selects the patch in the middle, Shift and an arrow key the one next to it.");
    if (!this.isMain) return;
    this.osd.navigator.element.setAttribute("aria-hidden", "true");
    this.osd.navigator.element.querySelectorAll("[tabindex]").forEach((each) => each.removeAttribute("tabindex"));
    this.osd.navigator.element.removeAttribute("tabindex");
  }

  showChannels() {
    // Replaces the image; the place on the slide stays.
    this.place.dataset.loaded = "no";
    const old = this.osd.world.getItemAt(0);
    this.osd.addTiledImage({ tileSource: this.#source(), index: 0, success: () => old && this.osd.world.removeItem(old) });
  }

  whenTilesFail(listener) {
    this.osd.addHandler("tile-load-failed", listener);
  }

  whenClicked(listener) {
    this.osd.addHandler("canvas-click", (event) => {
      if (!event.quick) return;
      const at = this.#onSlide(event.position);
      listener(at.x, at.y);
    });
  }

  whenDoubleClicked(listener) {
    this.osd.addHandler("canvas-double-click", (event) => {
      if (this.isDrawing) event.preventDefaultAction = true;
    });
    // The browser's own event: of corners clicked in quick succession OpenSeadragon pairs the wrong ones.
    this.osd.canvas.addEventListener("dblclick", listener);
  }

  whenDragged(listener) {
    // listener(phase, x, y) returns whether the drag is its own: then the slide stays where it is.
    const told = (phase) => (event) => {
      const at = this.#onSlide(event.position);
      if (listener(phase, at.x, at.y)) event.preventDefaultAction = true;
    };
    this.osd.addHandler("canvas-press", told("press"));
    this.osd.addHandler("canvas-drag", told("drag"));
    this.osd.addHandler("canvas-drag-end", told("end"));
  }

  whenPointed(listener) {
    this.place.addEventListener("pointermove", (event) => {
      const box = this.place.getBoundingClientRect();
      const at = this.#onSlide(this.point(event.clientX - box.left, event.clientY - box.top));
      listener(at.x, at.y);
    });
    this.place.addEventListener("pointerleave", () => listener(-1, -1));
  }

  #onSlide(point) {
    return this.osd.viewport.viewportToImageCoordinates(this.osd.viewport.pointFromPixel(point, true));
  }

  middle() {
    const at = this.osd.viewport.viewportToImageCoordinates(this.osd.viewport.getCenter(true));
    return [at.x, at.y];
  }

  flyTo(x, y, sidePx) {
    // Shows the patch with its corner at (x, y), level-0 px, in the middle, with its neighbours.
    this.showBox({ left: x, top: y, width: sidePx, height: sidePx }, 1.25);
  }

  showBox({ left, top, width, height }, margin = 0.25) {
    // Level-0 px; the margin on each side is a share of the box.
    this.leads();
    const [x, y] = [left - margin * width, top - margin * height];
    const around = this.rectangle(x, y, (1 + 2 * margin) * width, (1 + 2 * margin) * height);
    this.osd.viewport.fitBounds(this.osd.viewport.imageToViewportRectangle(around), isCalm);
  }

  goTo(x, y, umPerPx) {
    // A point of the slide, level-0 px, into the middle; µm per px of the screen.
    const { osd } = this;
    if (!osd.isOpen()) return osd.addOnceHandler("open", () => this.goTo(x, y, umPerPx));
    osd.viewport.panTo(osd.viewport.imageToViewportCoordinates(this.point(x, y)), true);
    return osd.viewport.zoomTo(osd.world.getItemAt(0).imageToViewportZoom(this.facts.mpp / umPerPx), null, true);
  }

  magnify(objective) {
    this.leads();
    const zoom = (objective * this.facts.mpp) / UM_PER_PX_OF_1X;
    this.osd.viewport.zoomTo(this.osd.world.getItemAt(0).imageToViewportZoom(zoom), null, isCalm);
  }

  showTool(hint) {
    // What a click does while a tool is chosen; null: none is.
    byId("drawing-hint").hidden = hint === null;
    byId("drawing-hint").textContent = hint ?? "";
    document.querySelector("[data-does=stop-drawing]").disabled = hint === null;
    this.place.toggleAttribute("data-drawing", hint !== null);
    this.isDrawing = hint !== null;
    this.draw();
  }

  zoom() {
    // Px of the screen per level-0 px.
    return Number(this.place.dataset.zoom);
  }

  keepInSight(x, y, sidePx) {
    const { viewport } = this.osd;
    this.leads();
    const middle = viewport.imageToViewportCoordinates(this.point(x + sidePx / 2, y + sidePx / 2));
    if (!viewport.getBounds(false).containsPoint(middle)) viewport.panTo(middle, isCalm);
  }

  zoomBy(factor) {
    this.leads();
    this.osd.viewport.zoomBy(factor, undefined, isCalm);
    this.osd.viewport.applyConstraints(isCalm);
  }

  turn() {
    // By a quarter, clockwise.
    this.leads();
    this.osd.viewport.setRotation((this.osd.viewport.getRotation() + 90) % 360, true);
    this.place.dataset.turn = this.osd.viewport.getRotation();
  }

  home() {
    this.leads();
    this.osd.viewport.goHome(isCalm);
  }

  draw() {
    const image = this.osd.world.getItemAt(0);
    if (!image) return;
    const density = globalThis.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.place;
    fit(this.layer, width, height, density);
    const { viewport } = this.osd;
    const zoom = image.viewportToImageZoom(viewport.getZoom(true)); // px of the screen per level-0 px
    const corner = viewport.pixelFromPointNoRotate(image.imageToViewportCoordinates(0, 0), true);
    const context = this.layer.getContext("2d");
    const [across, down] = [this.layer.width, this.layer.height];
    const quarters = Math.round(viewport.getRotation() / 90);
    const turn = (quarters * Math.PI) / 2;
    const [wide, high] = quarters % 2 ? [down, across] : [across, down]; // of the view before it is turned
    const x = corner.x * density + (wide - across) / 2;
    const y = corner.y * density + (high - down) / 2;
    const place = { x, y, scale: zoom * density, density, width: wide, height: high, turn };
    context.save();
    context.clearRect(0, 0, across, down);
    context.translate(across / 2, down / 2);
    context.rotate(turn);
    context.translate(-wide / 2, -high / 2);
    this.heat.draw(context, this.view.now, place, this.labels);
    for (const overlay of this.overlays) overlay(context, place);
    context.restore();
    this.osd.drawer.setImageSmoothingEnabled(zoom < 1); // beyond full resolution, pixels stay visible as squares
    this.place.dataset.zoom = zoom.toPrecision(6);
    this.place.dataset.corner = `${corner.x.toFixed(2)},${corner.y.toFixed(2)}`;
    this.place.dataset.heat ??= performance.now().toFixed(0); // ms from navigation to the first heat layer
    if (this.isMain) this.#drawScale(zoom);
    this.whenDrawn();
  }

  #drawScale(zoom) {
    const umPerPx = this.facts.mpp / zoom;
    const um = roundLength(BAR_PX * umPerPx);
    byId("scale-bar").style.width = `${um / umPerPx}px`;
    byId("scale-length").textContent = length(um);
    const objective = UM_PER_PX_OF_1X / umPerPx;
    const isEmpty = zoom > 1.01; // no more detail than at the scan's own
    byId("magnification").textContent = `${+objective.toPrecision(objective < 10 ? 2 : 3)}×${isEmpty ? ", empty" : ""}`;
    for (const button of document.querySelectorAll("[data-objective]")) {
      button.setAttribute("aria-pressed", String(Math.abs(button.dataset.objective / objective - 1) < 0.01));
    }
    byId("zoom").textContent = `${(100 * zoom).toFixed(zoom < 0.1 ? 1 : 0)} % · ${umPerPx.toPrecision(3)} µm/px`;
  }
}

function withoutInlineStyle() {
  // OpenSeadragon adds an inline style, which the page's policy forbids, unless it finds an element with this mark.
  // An element without a namespace has the mark and is no style.
  const mark = document.createElementNS(null, "style");
  mark.setAttribute("data-openseadragon-mobile-css", "");
  document.head.append(mark);
}

function fit(canvas, width, height, density) {
  const [across, down] = [Math.round(width * density), Math.round(height * density)];
  if (canvas.width === across && canvas.height === down) return;
  canvas.width = across;
  canvas.height = down;
}
