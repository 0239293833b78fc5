// Show the decisions on this slide and record new ones: accept, reject, flag, label a patch, draw a region, undo.

import * as api from "./api.js";
import { alarm, byId, el, say } from "./dom.js";
import { Note, leave } from "./note.js";
import { VERDICTS, fixed, verdictsText, when } from "./text.js";

export const REASONS = [
  "map does not follow the tissue", "tumour missed", "non-tumour called tumour", "out of focus",
  "artefact (fold, ink, bubble, knife)", "wrong or damaged tissue", "staining or scan", "second opinion wanted",
];
const NAME = "pathopatch.reviewer";

export class Decisions {
  constructor(facts, view, reviewer, changed) {
    this.facts = facts;
    this.view = view;
    this.reviewer = reviewer;
    this.changed = changed;
    this.state = { revision: 0, decision: null, patches: [], regions: [], history: [], verdicts: [], dispute: [] };
    this.isSettling = false; // the next verdict settles the dispute
    this.isBlinded = false;
    this.isBusy = false;
    this.verdict = null; // that of the open form
    this.form = byId("decision-form");
    byId("reason").append(...REASONS.map((reason) => el("option", { value: reason }, reason)));
    this.note = new Note(byId("comment"), byId("save-note"), {
      standing: () => this.own(this.state.decision),
      add: (comment) => this.#send({ verdict: this.state.decision.verdict, reason: this.state.decision.reason, settles: this.state.decision.settles, comment }),
    });
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#save();
    });
    this.form.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.verdict) this.close();
      else if (event.key === "Enter" && !event.shiftKey && this.verdict && event.target === byId("comment")) {
        event.preventDefault();
        event.stopPropagation(); // the note alone would not be a rejection
        this.#save();
      }
    }, { capture: true });
    byId("cancel").addEventListener("click", () => this.close());
    this.#askName();
  }

  #askName() {
    // Needed only if the page was started without --reviewer.
    const field = byId("reviewer-name");
    byId("reviewer").hidden = Boolean(this.reviewer);
    if (this.reviewer) return;
    try {
      field.value = localStorage.getItem(NAME) ?? "";
      field.addEventListener("change", () => localStorage.setItem(NAME, field.value.trim()));
    } catch {
      // Storage is forbidden: each page asks for the name.
    }
  }

  async load() {
    this.#take(await api.decisions(this.facts.slide_id));
  }

  #take(state) {
    this.state = state;
    this.isSettling = false;
    this.#showStanding();
    this.#showHistory();
    this.note.show();
    this.changed(state);
  }

  labelOf(x, y) {
    return this.state.patches.find((label) => label.x === x && label.y === y) ?? null;
  }

  own(decision) {
    // A decision to which this reviewer may add a note: somebody else's, or one on another map, is made anew instead.
    return decision && decision.reviewer === this.#name() && !decision.outdated ? decision : null;
  }

  ownLabelOf(x, y) {
    return this.own(this.labelOf(x, y));
  }

  #name() {
    return this.reviewer || byId("reviewer-name").value.trim();
  }

  open(verdict) {
    // Only rejecting and flagging need a reason.
    if (this.state.decision?.verdict !== verdict) this.note.begin();
    this.verdict = verdict;
    byId("why").hidden = false;
    byId("why-buttons").hidden = false;
    byId("save-note").hidden = true;
    byId("form-title").textContent = `${verdict === "reject" ? "Reject" : "Flag"}: why?`;
    byId("save").textContent = verdict === "reject" ? "Save rejection" : "Save flag";
    byId("reason").focus();
  }

  close() {
    for (const id of ["why", "why-buttons"]) byId(id).hidden = true;
    byId("save-note").hidden = false;
    this.verdict = null;
    byId("form-error").textContent = "";
    this.note.show();
    leave();
  }

  async #save() {
    const [reason, comment] = [byId("reason").value, byId("comment").value.trim()];
    if (!reason && !comment) {
      byId("form-error").textContent = "Choose a reason or write a note.";
      byId("reason").focus();
      return;
    }
    if (await this.#send({ verdict: this.verdict, reason, comment })) {
      byId("reason").value = "";
      this.close();
    }
  }

  accept = () => this.#send({ verdict: "accept", comment: this.note.draft() });

  relabel = (x, y, verdict, comment) => this.#send({ verdict, x, y, comment });

  drawn = (region, verdict, comment = "") => this.#send({ verdict, region, comment });

  settle() {
    if (!this.state.dispute.length) return say("No two verdicts differ here.");
    this.isSettling = !this.isSettling;
    return this.#showDispute();
  }

  async undo() {
    const withdrawn = new Set(this.state.history.map((row) => row.undoes));
    const rows = this.state.history.filter((row) => row.verdict !== "undo" && !withdrawn.has(row.id));
    if (!rows.length) return say("Nothing to undo.");
    // The server withdraws nobody else's decision.
    const name = this.#name().trim();
    if (name && !rows.some((row) => row.reviewer.trim() === name)) {
      const others = [...new Set(rows.map((row) => row.reviewer))].join(", ");
      return say(`Nothing of yours to undo: ${others} decided here. A new decision of yours replaces theirs.`);
    }
    return this.#write("Undone.", (seen) => api.undo(this.facts.slide_id, seen));
  }

  #send(decision) {
    const { now } = this.view;
    const patch = decision.x === undefined ? "Slide" : `Patch at ${decision.x}, ${decision.y} px`;
    const what = decision.region ? "Region" : patch;
    const isSettling = this.isSettling && what === "Slide";
    const settles = isSettling ? this.state.dispute.map((row) => row.id).join(" ") : "";
    const shown = { threshold: now.threshold.a, fingerprint: this.facts.fingerprint, settles };
    return this.#write(`${what}: ${VERDICTS[decision.verdict] ?? decision.verdict}. Undo with u.`, (seen) =>
      api.decide(this.facts.slide_id, { ...shown, ...decision, ...seen }));
  }

  async #write(done, send) {
    // Returns whether it was saved. The server refuses a decision that was made on an older state than its own.
    if (this.isBusy) return false;
    const name = this.#name();
    if (!name) {
      byId("reviewer-name").focus();
      say("Write your name first: it is saved with each decision.");
      return false;
    }
    this.isBusy = true;
    try {
      const seen = { revision: this.state.revision, ...(this.reviewer ? {} : { reviewer: name }) };
      this.#take(await send(seen));
      say(done);
      return true;
    } catch (error) {
      if (error.status === 409) this.#conflict(error);
      else alarm(`Not saved: ${error.message}. ${error.remedy ?? ""}`);
      return false;
    } finally {
      this.isBusy = false;
    }
  }

  #conflict(error) {
    const last = error.state?.history?.[0];
    const who = last ? ` ${last.reviewer} (${VERDICTS[last.verdict] ?? last.verdict}, ${when(last.made)})` : "";
    const reload = el("button", { type: "button", id: "reload-decisions" }, "Show what stands now");
    reload.addEventListener("click", async () => {
      byId("alarm").replaceChildren();
      if (error.state) this.#take(error.state);
      else await this.load();
      say("Decisions are up to date. Decide again if you still want to.");
    });
    // With the same revision it is the heatmap that has changed.
    const isDecided = error.state && error.state.revision !== this.state.revision;
    if (isDecided) {
      alarm(`Not saved: someone else decided on this slide meanwhile:${who}.`, reload);
    } else {
      const again = el("button", { type: "button" }, "Reload the page");
      again.addEventListener("click", () => location.reload());
      alarm(`Not saved: ${error.message}. ${error.remedy ?? ""}`, again);
    }
    (document.querySelector("#alarm button") ?? byId("alarm")).focus();
  }

  #showStanding() {
    const { decision } = this.state;
    const place = byId("standing");
    const verdict = decision?.verdict ?? "none";
    place.dataset.verdict = verdict;
    place.dataset.revision = this.state.revision;
    place.replaceChildren(el("span", { class: `chip ${verdict}` }, VERDICTS[verdict] ?? (this.isBlinded ? "not reviewed by you" : "not reviewed")));
    if (decision) {
      const why = [decision.reason, decision.comment].filter(Boolean).join(": ");
      const settled = decision.settles && !this.state.dispute.length ? "settled by " : "";
      place.append(el("span", {}, ` ${settled}${decision.reviewer}, ${when(decision.made)}`));
      if (why) place.append(el("p", { class: "why" }, why));
      if (decision.outdated) {
        place.append(el("p", { class: "why warn" }, "Outdated: it refers to another heatmap than this one."));
      }
    }
    const { verdicts, is_mine_done: isMineDone } = this.state;
    if (verdicts.length > 1) place.append(el("p", { class: "verdicts" }, verdictsText(verdicts)));
    if (this.isBlinded && !isMineDone) place.append(el("p", { class: "quiet" }, "Blinded reading: what others decided here appears after your verdict."));
    this.#showDispute();
    for (const does of ["accept", "reject", "flag"]) {
      document.querySelector(`[data-does="${does}"]`).setAttribute("aria-pressed", String(verdict === does));
    }
  }

  #showDispute() {
    const { dispute } = this.state;
    byId("dispute").hidden = dispute.length === 0;
    document.querySelector("[data-does=settle]").setAttribute("aria-pressed", String(this.isSettling));
    const pair = verdictsText(dispute);
    byId("dispute-text").textContent = this.isSettling ? `Your next verdict settles ${pair}.` : `≠ Disputed: ${pair}.`;
  }

  #showHistory() {
    const { history } = this.state;
    byId("history-count").textContent = String(history.length);
    byId("history").replaceChildren(
      ...history.map((row) => {
        const patch = row.x === null ? "slide" : `patch ${row.x}, ${row.y}`;
        const on = row.region ? "region" : patch;
        const what = row.verdict === "undo" ? "withdrawn" : (VERDICTS[row.verdict] ?? row.verdict);
        const why = [row.reason, row.comment].filter(Boolean).join(": ");
        const at = row.threshold === null ? "" : ` · threshold ${fixed(row.threshold, 3)}`;
        return el(
          "li", { class: row.stands ? "" : "past" },
          `${what} (${on}${row.settles ? `, settles ${row.settles.replace(" ", " and ")}` : ""})`, el("span", { class: "quiet" }, ` ${row.reviewer}, ${when(row.made)}${at}`),
          why ? el("p", { class: "why" }, why) : null,
        );
      }),
    );
  }
}
