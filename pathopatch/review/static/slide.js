// The slide page: START HERE. Loads one slide's values, and connects viewer, controls, panel, gallery and decisions.

import * as api from "./api.js";
import { bindControls, changeOpacity } from "./controls.js";
import { Decisions } from "./decisions.js";
import { alarm, byId, copy, el, modelName, rows, say } from "./dom.js";
import { Gallery } from "./gallery.js";
import { HeatLayer } from "./heat.js";
import { bindKeys } from "./keys.js";
import { drawLegend } from "./legend.js";
import { watch } from "./live.js";
import { neighbours, nextToDo, orderOfSlides } from "./order.js";
import { Note } from "./note.js";
import { Pair } from "./pair.js";
import { Panel } from "./panel.js";
import { bindPanels, foldPanels, fullScreen, unfolded } from "./panels.js";
import { Regions } from "./regions.js";
import { Ruler } from "./ruler.js";
import { count, fixed, leakageText, length, percent } from "./text.js";
import { cellAt, nearestPatch, nextPatch, origin, unpack } from "./values.js";
import { linkTo, openView } from "./view.js";
import { Viewer } from "./viewer.js";

const RECOLOURS = ["field", "run", "isOnlyPositive", "threshold"];
const OBJECTIVES = [5, 10, 20, 40];
const id = decodeURIComponent(location.pathname.split("/").pop());

async function start() {
  bindPanels();
  byId("slide-name").textContent = id;
  document.title = `${id} · pathopatch review`;
  const [facts, buffer, cohort] = await Promise.all([api.facts(id), api.values(id), api.cohort()]);
  const values = { ...unpack(facts, buffer), mask: facts.has_tissue ? await api.tissue(id) : null };
  const view = openView(facts);
  const heat = new HeatLayer(facts, values);
  heat.recolour(view.now);
  const viewer = new Viewer(facts, view, heat);
  const panel = new Panel(facts, view);
  const select = (cell) => {
    if (cell < 0 || values.patchIn[cell] < 0) return false;
    view.change({ selected: cell });
    byId("patch-hint").hidden = true;
    const [x, y] = origin(facts, cell);
    panel.show(x, y).then(() => {
      if (!panel.now) return;
      panel.relabelled(decisions);
      patchNote.clear(); // a note that was not saved was on another patch
    });
    return true;
  };
  const selectAt = (x, y) => select(cellAt(facts, x, y)) || say("No patch there.");
  const fly = (x, y) => {
    select(cellAt(facts, x + facts.span_px / 2, y + facts.span_px / 2));
    viewer.flyTo(x, y, facts.span_px);
  };
  const gallery = new Gallery(facts, view, fly, (x, y) => decisions.ownLabelOf(x, y));
  const decisions = new Decisions(facts, view, cohort.reviewer, (state) => {
    viewer.labels = state.patches;
    regions.show(state.regions);
    panel.relabelled(decisions);
    patchNote.show();
    gallery.count();
  });
  decisions.isBlinded = cohort.is_blinded;
  const regions = new Regions(facts, viewer, decisions);
  const ruler = new Ruler(facts, viewer, document.querySelector("[data-does=ruler]"), decisions);
  const patchNote = new Note(byId("patch-note"), byId("save-patch-note"), {
    standing: () => panel.now && decisions.ownLabelOf(panel.now.x, panel.now.y),
    add: (text) => {
      const { verdict, settles = "" } = decisions.ownLabelOf(panel.now.x, panel.now.y);
      return decisions.relabel(panel.now.x, panel.now.y, verdict, text, settles);
    },
  });
  bindControls(facts, values, view);
  view.whenChanged((now, changes) => {
    if (RECOLOURS.some((name) => name in changes)) {
      heat.recolour(now);
      drawLegend(byId("legend"), facts, heat, now);
      pair.recolour();
    }
    viewer.draw();
    if ("channels" in changes) {
      viewer.showChannels();
      pair.second?.showChannels();
      panel.repaint();
    }
  });
  drawLegend(byId("legend"), facts, heat, view.now);
  const clicked = (x, y) => {
    if (ruler.isOn) ruler.click(x, y);
    else if (regions.isDrawing) regions.click(x, y);
    else selectAt(x, y);
  };
  const pointed = (x, y) => {
    showPointer(facts, values, x, y);
    regions.point(x, y);
    ruler.point(x, y);
  };
  const pair = new Pair(facts, values, view, viewer, { clicked, pointed, button: document.querySelector("[data-does=pair]") });
  viewer.whenClicked(clicked);
  viewer.whenTilesFail(() => hideIfChanged(facts, viewer, panel));
  viewer.whenPointed(pointed);
  describe(facts);
  const order = orderOfSlides(cohort.rows);
  bindKeys(bindings({ facts, values, view, viewer, pair, ruler, panel, decisions, regions, patchNote, gallery, select, order }));
  showPlace(order);
  gallery.show();
  watch(() => decisions.refresh());
  await decisions.load();
  flyToAddress(fly, viewer);
  document.body.dataset.ready = "yes";
}

function flyToAddress(fly, viewer) {
  // A link of the agreement page leads to a patch, a copied one to a view.
  const given = new URLSearchParams(location.search);
  const at = given.get("at")?.split(",").map(Number);
  if (at?.length === 3 && at.every(Number.isFinite) && at[2] > 0) viewer.goTo(...at);
  if (given.has("x") && given.has("y")) fly(Number(given.get("x")), Number(given.get("y")));
}

function bindings({ facts, values, view, viewer, pair, ruler, panel, decisions, regions, patchNote, gallery, select, order }) {
  const { before, after } = neighbours(order, id);
  const go = async (there, otherwise) => // what was not saved, the page says
    (await decisions.writing) !== false && (there ? (location.href = api.pageUrl(there)) : say(otherwise));
  addEventListener("beforeunload", (event) => decisions.writing && event.preventDefault());
  const label = (verdict) => () => {
    const [x, y] = origin(facts, view.now.selected);
    const isShown = view.now.selected >= 0 && panel.now?.x === x && panel.now?.y === y;
    return isShown ? decisions.relabel(x, y, verdict, patchNote.draft()) : say("Select a patch first.");
  };
  const selectMiddle = () => select(nearestPatch(values, facts, ...viewer.middle()));
  const step = (across, down) => () => {
    if (view.now.selected < 0) return selectMiddle();
    const cell = nextPatch(values, view.now.selected, across, down);
    return select(cell) ? viewer.keepInSight(...origin(facts, cell), facts.span_px) : say("No patch there.");
  };
  const swapRuns = () => (facts.beside ? view.change({ run: view.now.run === "a" ? "b" : "a" }) : say("There is no second run."));
  const stop = () => {
    regions.stop();
    ruler.stop();
  };
  const draw = (tool) => () => {
    ruler.stop();
    regions.begin(tool);
  };
  const measure = () => {
    const isOn = ruler.isOn;
    stop();
    if (!isOn) ruler.begin();
  };
  const confirm = () => {
    if (ruler.isOn) return ruler.click(...viewer.middle());
    return regions.points.length ? regions.close() : selectMiddle();
  };
  return [
    { does: "overlay", keys: [" "], says: "Show or hide the heat layer", run: () => view.change({ isOn: !view.now.isOn }) },
    { does: "fainter", keys: ["["], says: "Heat layer fainter", run: () => changeOpacity(view, -0.1) },
    { does: "stronger", keys: ["]"], says: "Heat layer stronger", run: () => changeOpacity(view, 0.1) },
    { does: "beside", keys: ["b"], says: "Change between run A and run B", run: swapRuns },
    { does: "accept", keys: ["a"], says: "Accept the slide", run: decisions.accept },
    { does: "reject", keys: ["r"], says: "Reject the slide, with a reason", run: unfolded(() => decisions.open("reject")) },
    { does: "flag", keys: ["f"], says: "Flag the slide, with a reason", run: unfolded(() => decisions.open("flag")) },
    { does: "undo", keys: ["u"], says: "Undo your last decision on this slide, or the last corner of an outline", run: () => (regions.points.length ? regions.back() : decisions.undo()) },
    { does: "settle", keys: ["e"], says: "Settle the dispute with your next verdict", run: unfolded(() => decisions.settle("slide", decisions.state.dispute)) },
    { does: "note", keys: ["m"], says: "Write a note on the slide", run: unfolded(() => decisions.note.focus()) },
    { does: "label-tumour", keys: ["1"], says: "Selected patch is tumour", run: label("tumour") },
    { does: "label-non-tumour", keys: ["2"], says: "Selected patch is non-tumour", run: label("non-tumour") },
    { does: "label-unsure", keys: ["3"], says: "Selected patch: unsure", run: label("unsure") },
    { does: "settle-label", keys: ["4"], says: "Settle the dispute of the patch with your next label", run: () => decisions.settle(`${panel.now?.x},${panel.now?.y}`, panel.label?.dispute) },
    { does: "patch-note", keys: ["p"], says: "Write a note on the selected patch", run: unfolded(() => patchNote.focus()) },
    { does: "polygon", keys: ["d"], says: "Draw a region by its corners", run: draw("polygon") },
    { does: "freehand", keys: ["h"], says: "Draw a region freehand", run: draw("freehand") },
    { does: "region-class", keys: ["t"], says: "Next class of regions", run: () => regions.swapClass() },
    { does: "stop-drawing", keys: ["Escape"], says: "Stop drawing or measuring", run: stop },
    { does: "ruler", keys: ["l"], says: "Measure lengths, which are kept", run: measure },
    { does: "select", keys: ["Enter"], says: "Select the patch in the middle, close the outline, or set a point of the ruler", run: confirm },
    { does: "doubtful", keys: ["z"], says: "Next doubtful patch: the nearest to the threshold first", run: () => gallery.nextDoubtful() },
    { does: "left", keys: ["Shift+ArrowLeft"], says: "Select the patch to the left", run: step(-1, 0) },
    { does: "right", keys: ["Shift+ArrowRight"], says: "Select the patch to the right", run: step(1, 0) },
    { does: "up", keys: ["Shift+ArrowUp"], says: "Select the patch above", run: step(0, -1) },
    { does: "down", keys: ["Shift+ArrowDown"], says: "Select the patch below", run: step(0, 1) },
    { does: "zoom-in", keys: ["+", "="], says: "Zoom in", run: () => viewer.zoomBy(1.5) },
    { does: "zoom-out", keys: ["-"], says: "Zoom out", run: () => viewer.zoomBy(1 / 1.5) },
    { does: "home", keys: ["0"], says: "Whole slide", run: () => viewer.home() },
    ...OBJECTIVES.map((objective, index) => (
      { does: `magnify-${objective}`, keys: [String(5 + index)], says: `Magnification ${objective}×`, run: () => viewer.magnify(objective) })),
    { does: "pair", keys: ["s"], says: "Two views in step: map and slide, or run A and run B", run: () => pair.toggle() },
    { does: "turn", keys: ["q"], says: "Turn the slide by a quarter", run: () => viewer.turn() },
    { does: "panels", keys: ["o"], says: "Fold or open the panels", run: foldPanels },
    { does: "full-screen", keys: ["w"], says: "Full screen: the slide alone", run: fullScreen },
    { does: "link", keys: ["v"], says: "Copy a link to this view", run: () => copyLink(linkTo(view.now, viewer.middle(), facts.mpp / viewer.zoom())) },
    { does: "next", keys: ["j"], says: "Next slide", run: () => go(after, "This is the last slide.") },
    { does: "previous", keys: ["k"], says: "Previous slide", run: () => go(before, "This is the first slide.") },
    {
      does: "unreviewed", keys: ["n"], says: "Next slide that you have to do",
      run: async () => {
        const { rows: all } = await api.cohort();
        go(nextToDo(orderOfSlides(all, "all"), all, id), "You have decided on every other slide of the table.");
      },
    },
  ];
}

function copyLink(link) {
  history.replaceState(null, "", link);
  return copy(link, "Link copied. It opens this view for whoever may open this page.");
}

function showPlace(order) {
  const { place, before, after } = neighbours(order, id);
  byId("slide-place").textContent = place ? `${place} of ${order.length}` : "";
  document.querySelector("[data-does=previous]").disabled = !before;
  document.querySelector("[data-does=next]").disabled = !after;
}

function showPointer(facts, values, x, y) {
  const cell = cellAt(facts, x, y);
  if (cell < 0) return byId("pointer").replaceChildren();
  const at = `${length(x * facts.mpp)}, ${length(y * facts.mpp)}`;
  const beside = values.beside ? ` (B ${fixed(values.beside[cell])})` : "";
  const said = `${at} · probability ${fixed(values.probability[cell])}${beside} · tissue ${percent(values.tissue[cell], 0)}`;
  return byId("pointer").replaceChildren(said);
}

function describe(facts) {
  const [width, height] = facts.size_px;
  const patient = facts.patient_id ? `patient ${facts.patient_id} · ` : "";
  byId("slide-facts").textContent = `${patient}${count(width)} × ${count(height)} px · ${fixed(facts.mpp, 3)} µm/px`;
  const leak = leakageText(facts.leakage);
  if (leak) byId("slide-facts").append(" ", el("span", { class: "chip reject" }, leak));
  const { summary, counts } = facts;
  rows(byId("summary"), [
    ["Model", modelName(facts.model)],
    ["Positive share", `${percent(summary.positive_share)} of the tissue area`, { name: "positive-share", value: summary.positive_share }],
    ["Tissue", `${fixed(summary.tissue_mm2, 2)} mm²`],
    ["Largest region", `${fixed(summary.largest_region_mm2, 3)} mm²`],
    ["Flagged", percent(summary.flagged_share)],
  ]);
  rows(byId("about"), [
    ["Model’s threshold", fixed(facts.decision_probability, 4), { name: "decision", value: facts.decision_probability }],
    ["Patches", `${count(counts.patches)}, ${count(counts.predicted)} predicted`],
    ["Called tumour", count(counts.tumour), { name: "tumour", value: counts.tumour }],
    ["Patch", `${facts.patch_px} px, ${fixed(facts.span_px * facts.mpp, 0)} µm`],
    ["Model", el("code", {}, facts.model.fingerprint)],
    ["Heatmap", el("code", {}, facts.fingerprint)],
  ]);
  const noRunB = facts.why_no_beside ? [`There is no run B: ${facts.why_no_beside}`] : [];
  const said = [...(facts.warnings ?? []), ...(facts.model.beware ?? []), ...noRunB];
  byId("warnings").replaceChildren(...said.map((warning) => el("li", {}, warning)));
  describeMissing(facts);
}

function describeMissing(facts) {
  byId("no-slide").hidden = facts.has_slide;
  if (!facts.has_slide) byId("no-slide").textContent = `The slide itself is not shown: ${facts.why_no_slide ?? "its file is not there"}`;
}

// On paper the picture keeps its size in pixels and is scaled as a whole, so that heat layer and scale bar fit it.
const stage = document.querySelector(".stage");
addEventListener("beforeprint", () => {
  const { width, height } = stage.getBoundingClientRect();
  Object.assign(stage.style, { width: `${width}px`, height: `${height}px`, zoom: String(Math.min(1, 680 / width)) });
});
addEventListener("afterprint", () => stage.removeAttribute("style"));

async function hideIfChanged(facts, viewer, panel) {
  // A file that changed while the page is open is another one than was predicted: its map is shown without it.
  if (!facts.has_slide || hideIfChanged.isAsking) return;
  hideIfChanged.isAsking = true;
  const now = await api.facts(id).catch(() => facts);
  hideIfChanged.isAsking = false;
  if (now.has_slide) return;
  Object.assign(facts, { has_slide: false, why_no_slide: now.why_no_slide });
  describeMissing(facts);
  viewer.showChannels();
  panel.repaint();
}

start().catch((error) => {
  alarm(`This slide cannot be shown: ${error.message}. ${error.remedy ?? ""}`);
  document.body.dataset.ready = "failed";
});
