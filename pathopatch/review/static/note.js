// A note on a decision: what is typed before the decision goes with it, what is typed afterwards is added to it.

import { say } from "./dom.js";

export class Note {
  constructor(field, button, { standing, add }) {
    // standing: the reviewer's own decision, or null. add: saves a text with it, and returns whether that worked.
    this.field = field;
    this.button = button;
    this.standing = standing;
    this.add = add;
    this.isDraft = false;
    field.addEventListener("input", () => this.#mark());
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape" || (event.key === "Enter" && !event.shiftKey)) event.preventDefault();
      if (event.key === "Escape") leave();
      else if (event.key === "Enter" && !event.shiftKey) this.save();
    });
    button.addEventListener("click", () => this.save());
  }

  #mark() {
    this.isDraft = this.field.value.trim() !== this.#saved();
    this.button.disabled = !this.isDraft;
  }

  #saved() {
    return this.standing()?.comment ?? "";
  }

  draft() {
    // What goes with the next decision. A note that is saved already stays with its own decision.
    return this.isDraft ? this.field.value.trim() : "";
  }

  begin() {
    // For a verdict of another kind: the note of the one before does not fit it.
    if (!this.isDraft) this.field.value = "";
  }

  show() {
    // A text that is not saved yet stays, whatever others decide meanwhile.
    if (!this.isDraft) this.field.value = this.#saved();
    this.#mark();
  }

  clear() {
    this.isDraft = false;
    this.show();
  }

  focus() {
    this.field.focus();
  }

  async save() {
    if (!this.isDraft) return leave();
    if (!this.standing()) {
      say("Kept: the note goes with your decision.");
      return leave();
    }
    if (await this.add(this.field.value.trim())) {
      this.clear();
      leave();
    }
    return undefined;
  }
}

export function leave() {
  // To the slide, where keys are on; on a button, the space bar would press it again.
  document.querySelector("#viewer .openseadragon-canvas").focus();
}
