// Show the patches that most deserve a look, by one reason at a time; a click flies to one.

import * as api from "./api.js";
import { byId, el, say } from "./dom.js";
import { fixed, percent, signed } from "./text.js";

const KINDS = {
  "near-threshold": "Near the threshold",
  "against-area": "Against the area: little tissue called tumour, much called non-tumour",
  disagreement: "Runs A and B disagree most",
  "label-disagreement": "Disagrees with the label",
  flagged: "Flagged",
};

export class Gallery {
  constructor(facts, view, fly, labelOf) {
    this.labelOf = labelOf; // the reader's own label of a patch, or null
    this.patches = []; // that are shown
    this.facts = facts;
    this.view = view;
    this.fly = fly;
    this.place = byId("gallery");
    this.choice = byId("gallery-kind");
    const kinds = facts.gallery;
    this.choice.replaceChildren(...kinds.map((kind) => el("option", { value: kind }, KINDS[kind] ?? kind)));
    this.choice.addEventListener("change", () => this.show());
  }

  async show() {
    const kind = this.choice.value;
    if (!kind) return;
    this.place.setAttribute("aria-busy", "true");
    try {
      const patches = await api.gallery(this.facts.slide_id, kind);
      if (this.choice.value !== kind) return; // another reason was chosen meanwhile
      this.patches = patches;
      this.place.replaceChildren(...patches.map((patch) => this.#item(patch, kind)));
      this.count();
      if (!patches.length) this.place.append(el("li", { class: "quiet" }, "None on this slide."));
      this.place.dataset.kind = kind;
    } catch (error) {
      this.place.replaceChildren(el("li", { class: "quiet" }, `Not available: ${error.message}`));
    } finally {
      this.place.removeAttribute("aria-busy");
    }
  }

  count() {
    // How far the model can be trusted against the area: where it knows nothing, few are confirmed.
    const labelled = this.patches.filter(({ x, y }) => this.labelOf(x, y));
    const called = ({ probability }) => (probability > this.facts.decision_probability ? "tumour" : "non-tumour");
    const confirmed = labelled.filter((patch) => this.labelOf(patch.x, patch.y).verdict === called(patch));
    byId("confirmed").hidden = this.choice.value !== "against-area";
    byId("confirmed").textContent = `${confirmed.length} of ${labelled.length} that you labelled are confirmed. Few: do not trust the model here. Do not test it on these patches.`;
  }

  async nextDoubtful() {
    // Of the patches near the threshold, the nearest first, and after the last one that again.
    this.doubtful ??= await api.gallery(this.facts.slide_id, "near-threshold");
    if (!this.doubtful.length) return say("There is no patch.");
    this.at = ((this.at ?? -1) + 1) % this.doubtful.length;
    const { x, y } = this.doubtful[this.at];
    this.fly(x, y);
    say(`Doubtful patch ${this.at + 1} of ${this.doubtful.length}.`);
  }

  #item(patch, kind) {
    const { facts } = this;
    const isDifference = kind === "disagreement";
    const number = isDifference ? `A − B ${signed(patch.probability - patch.beside, 2)}` : `p ${fixed(patch.probability, 2)}`;
    const image = facts.has_slide
      ? el("img", {
          src: api.patchUrl(facts.slide_id, patch.x, patch.y, this.view.now.channels),
          alt: "", loading: "lazy", width: 64, height: 64,
        })
      : el("span", { class: "no-image" });
    const button = el(
      "button",
      { type: "button", title: `x ${patch.x}, y ${patch.y} px`, onclick: () => this.fly(patch.x, patch.y) },
      image,
      el("span", { class: "hidden" }, `Patch at ${patch.x}, ${patch.y} px: `),
      el("span", {}, `${number},`),
      el("span", { class: "quiet" }, kind === "flagged" ? patch.flags.map((name) => name.replaceAll("_", " ")).join(", ") : `tissue ${percent(patch.tissue_fraction, 0)}`),
    );
    return el("li", {}, button);
  }
}
