// Show the selected patch: its pixels at full resolution, its numbers, its place, and its label.

import * as api from "./api.js";
import { GROUP_NAMES } from "./colours.js";
import { showDispute } from "./decisions.js";
import { alarm, byId, modelName, rows } from "./dom.js";
import { NOTHING, fixed, length, percent, signed } from "./text.js";

export class Panel {
  constructor(facts, view) {
    this.facts = facts;
    this.view = view;
    this.place = byId("patch");
    this.label = null;
    this.now = null;
  }

  async show(x, y) {
    // The numbers come from the table of predictions, with all digits; the map has float32 only.
    const asked = `${x},${y}`;
    this.place.dataset.asked = asked;
    let patch;
    try {
      patch = await api.patch(this.facts.slide_id, x, y);
    } catch (error) {
      if (this.place.dataset.asked === asked) alarm(`Patch at ${x}, ${y}: ${error.message}`);
      return;
    }
    if (this.place.dataset.asked !== asked) return; // another one was clicked meanwhile
    this.now = patch;
    this.place.dataset.shown = asked;
    this.place.classList.add("has-patch");
    this.#picture();
    this.#facts();
  }

  #picture() {
    const { facts, now } = this;
    const image = byId("patch-image");
    image.hidden = !facts.has_slide;
    if (!facts.has_slide) return;
    image.src = api.patchUrl(facts.slide_id, now.x, now.y, this.view.now.channels);
    image.alt = `Patch at ${now.x}, ${now.y} px, at full resolution`;
  }

  repaint() {
    if (this.now) this.#picture();
  }

  relabelled(decisions) {
    // Shows the labels that reviewers gave the patch; the pressed button is this reviewer's own.
    const { x, y } = this.now ?? {};
    this.label = this.now && decisions.labelOf(x, y);
    if (this.now) this.#facts();
    for (const verdict of ["tumour", "non-tumour", "unsure"]) {
      const button = document.querySelector(`[data-does="label-${verdict}"]`);
      button.setAttribute("aria-pressed", String(decisions.own(this.label)?.verdict === verdict));
      button.disabled = !this.now;
    }
    showDispute("patch-dispute", this.label?.dispute ?? [], decisions.settling === `${x},${y}`, "label");
  }

  #facts() {
    const { facts, now } = this;
    const has = (value) => value !== undefined && value !== null;
    const given = has(now.label) ? facts.class_names[now.label] : "unknown";
    const isPredicted = Number.isFinite(now.probability);
    const decided = isPredicted ? (now.probability > facts.decision_probability ? 1 : 0) : null;
    const um = [now.x, now.y].map((value) => length(value * facts.mpp)).join(", ");
    const full = (value) => ({ value: String(value) });
    rows(byId("patch-facts"), [
      ["Probability", isPredicted ? `${fixed(now.probability, 4)} (${facts.class_names[decided]})` : "not predicted",
        { ...full(now.probability), name: "probability" }],
      [facts.beside ? "Beside (B)" : "", facts.beside ? fixed(now.beside, 4) : null, { ...full(now.beside), name: "beside" }],
      ["A − B", facts.beside && isPredicted ? signed(now.probability - now.beside, 4) : null],
      ["Spread (SD)", has(now.spread) ? fixed(now.spread, 4) : null],
      ["Tissue", percent(now.tissue_fraction), { ...full(now.tissue_fraction), name: "tissue" }],
      [facts.group_of === "prediction" ? "Group (of prediction)" : "Group", has(now.group) ? `${now.group}: ${GROUP_NAMES[now.group]}` : NOTHING],
      ["Label", given],
      ["Relabelled", this.label ? labelText(this.label) : "no", { name: "relabelled" }],
      ["Flags", flags(now)],
      ["Position", um],
      ["", `x ${now.x}, y ${now.y} px`],
      ["Model", modelName(facts.model)],
    ]);
  }
}

function labelText({ verdict, reviewer, comment, settles, verdicts, dispute }) {
  const note = comment ? `: ${comment}` : "";
  if (verdicts.length < 2 && !settles) return `${verdict}, ${reviewer}${note}`;
  const each = verdicts.map((one) => `${one.reviewer}: ${one.verdict}${one.comment ? ` (${one.comment})` : ""}`).join(", ");
  if (dispute.length) return `≠ disputed: ${each}`;
  return settles ? `${verdict}, settled by ${reviewer}${note}; ${each}` : each;
}

function flags(patch) {
  const raised = Object.keys(patch).filter((name) => name.startsWith("flag_") && patch[name]).map((name) => name.slice(5));
  return raised.length ? raised.map((name) => name.replaceAll("_", " ")).join(", ") : "none";
}
