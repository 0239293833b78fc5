// Show the decisions on this slide and record new ones: accept, reject, flag, label a patch, draw a region, undo.

import * as api from "./api.js";
import { alarm, byId, el, say } from "./dom.js";
import { Note, leave } from "./note.js";
import { VERDICTS, fixed, verdictsText, when } from "./text.js";

export const REASONS = [
  "map does not follow the tissue", "tumour missed", "non-tumour called tumour", "out of focus",
  "artefact (fold, ink, bubble, knife)", "wrong or damaged tissue", "staining or scan", "second opinion wanted",
];
const MOST_LISTED = 20; // disputed patches
const placeOf = ({ x, y, region }) => `${x},${y},${region}`;

export class Decisions {
  constructor(facts, view, reviewer, changed) {
    this.facts = facts;
    this.view = view;
    this.reviewer = reviewer;
    this.changed = changed;
    this.state = { revision: 0, decision: null, patches: [], regions: [], history: [], verdicts: [], dispute: [] };
    this.settling = null; // "slide", or the patch's "x,y": the next verdict on it settles its dispute
    this.isBlinded = false;
    this.writing = null; // the newest that is on its way; `asked` is what it asks
    this.verdict = null; // that of the open form
    this.form = byId("decision-form");
    byId("reasons").append(...REASONS.map((reason) => el("option", { value: reason })));
    this.note = new Note(byId("comment"), byId("save-note"), {
      standing: () => this.#ownOfSlide(),
      add: (comment) => {
        const { verdict, reason, settles = "" } = this.#ownOfSlide();
        return this.#send({ verdict, reason, settles, comment });
      },
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
  }

  async load() {
    this.#take(await api.decisions(this.facts.slide_id));
  }

  async refresh() {
    // What colleagues decided meanwhile. A settlement that was begun goes on.
    const state = await api.decisions(this.facts.slide_id);
    if (this.writing || state.revision === this.state.revision) return;
    const { settling } = this;
    this.#take(state);
    this.settling = settling;
    this.#showDispute();
  }

  #take(state) {
    if (state.since && state.since !== this.state.revision) return this.load();
    if (state.since) {
      // Of patches and regions only those that were decided on since then.
      for (const kind of ["patches", "regions"]) {
        const all = new Map(this.state[kind].map((row) => [placeOf(row), row]));
        for (const row of state[kind]) {
          all.delete(placeOf(row));
          if (row.verdict) all.set(placeOf(row), row);
        }
        state[kind] = [...all.values()];
      }
    }
    this.state = state;
    this.settling = null;
    this.#showStanding();
    this.#showHistory();
    this.note.show();
    return this.changed(state);
  }

  labelOf(x, y) {
    return this.state.patches.find((label) => label.x === x && label.y === y) ?? null;
  }

  own(decision, verdicts = decision?.verdicts ?? []) {
    // This reviewer's decision, to which a note may be added: one on another map is made anew instead.
    const isOwn = (row) => row && row.reviewer.trim() === this.reviewer.trim() && !row.outdated;
    return isOwn(decision) ? decision : (verdicts.find(isOwn) ?? null);
  }

  ownLabelOf(x, y) {
    return this.own(this.labelOf(x, y));
  }

  #ownOfSlide() {
    return this.own(this.state.decision, this.state.verdicts);
  }

  open(verdict) {
    // Only rejecting and flagging need a reason.
    if (this.#ownOfSlide()?.verdict !== verdict) this.note.begin();
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
    const [reason, comment] = [byId("reason").value.trim(), byId("comment").value.trim()];
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

  relabel = (x, y, verdict, comment, settles) => this.#send({ verdict, x, y, comment, ...(settles && { settles }) });

  drawn = (region, verdict, comment = "") => this.#send({ verdict, region, comment });

  settle(place, dispute) {
    // The same button again takes it back.
    if (!dispute?.length) return say("No two verdicts differ here.");
    this.settling = this.settling === place ? null : place;
    this.#showDispute();
    return this.changed(this.state);
  }

  async undo() {
    if (!this.state.can_undo) {
      // The server withdraws nobody else's decision.
      const others = [...new Set(this.state.history.filter((row) => row.stands).map((row) => row.reviewer))].join(", ");
      return say(others ? `Nothing of yours to undo: ${others} decided here. A new decision of yours stands beside it.` : "Nothing to undo.");
    }
    return this.#write("undo", () => "Undone.", (seen) => api.undo(this.facts.slide_id, seen));
  }

  #send(decision) {
    const { now } = this.view;
    const patch = decision.x === undefined ? "Slide" : `Patch at ${decision.x}, ${decision.y} px`;
    const what = decision.region ? "Region" : patch;
    const disputeNow = () => (what === "Slide" ? this.state.dispute : (!decision.region && this.labelOf(decision.x, decision.y)?.dispute) || []);
    const isSettling = this.settling === (what === "Slide" ? "slide" : `${decision.x},${decision.y}`);
    const settles = isSettling ? disputeNow().map((row) => row.id).join(" ") : "";
    const shown = { threshold: now.threshold.a, fingerprint: this.facts.fingerprint, settles };
    const differs = () => (disputeNow().length ? ` ≠ Disputed: ${verdictsText(disputeNow())}.` : "");
    return this.#write(JSON.stringify(decision), () => `${what}: ${VERDICTS[decision.verdict] ?? decision.verdict}. Undo with u.${differs()}`, (seen) =>
      api.decide(this.facts.slide_id, { ...shown, ...decision, ...seen }));
  }

  async #write(asked, done, send) {
    // Returns whether it was saved. The server refuses a decision that was made on an older state than its own: one that
    // is given while another is being saved waits for it, and the same once more, by a key that is held, is left out.
    if (this.writing && asked === this.asked) return false;
    this.asked = asked;
    const before = this.writing;
    const mine = (async () => {
      await before;
      try {
        await this.#take(await send({ revision: this.state.revision }));
        say(done());
        return true;
      } catch (error) {
        if (error.status === 409) this.#conflict(error);
        else alarm(`Not saved: ${error.message}. ${error.remedy ?? ""}`);
        return false;
      }
    })();
    this.writing = mine;
    return mine.finally(() => this.writing === mine && (this.writing = null));
  }

  #conflict(error) {
    const last = error.state?.history?.[0];
    const who = last ? ` ${last.reviewer} (${VERDICTS[last.verdict] ?? last.verdict}, ${when(last.made)})` : "";
    const reload = el("button", { type: "button", id: "reload-decisions" }, "Show what stands now");
    reload.addEventListener("click", async () => {
      byId("alarm").replaceChildren();
      if (error.state) await this.#take(error.state);
      else await this.load();
      say("Decisions are up to date. Decide again if you still want to.");
    });
    // With the same revision it is the heatmap that has changed.
    const isDecided = error.state && error.state.revision !== this.state.revision;
    if (isDecided) {
      alarm(`Not saved: you decided on this slide in another window meanwhile:${who}.`, reload);
    } else {
      const again = el("button", { type: "button" }, "Reload the page");
      again.addEventListener("click", () => location.reload());
      alarm(`Not saved: ${error.message}. ${error.remedy ?? ""}`, again);
    }
    (document.querySelector("#alarm button") ?? byId("alarm")).focus();
  }

  #showStanding() {
    const { decision, dispute, verdicts, is_mine_done: isMineDone } = this.state;
    const place = byId("standing");
    const verdict = decision?.verdict ?? "none";
    place.dataset.verdict = verdict;
    place.dataset.revision = this.state.revision;
    const said = VERDICTS[verdict] ?? (this.isBlinded ? "not reviewed by you" : "not reviewed");
    const chip = dispute.length ? el("span", { class: "chip disputed" }, "≠ disputed") : el("span", { class: `chip ${verdict}` }, said);
    place.replaceChildren(chip);
    if (decision) {
      const why = [decision.reason, decision.comment].filter(Boolean).join(": ");
      const settled = decision.settles ? "settled by " : "";
      place.append(el("span", {}, ` ${dispute.length ? "last " : settled}${decision.reviewer}, ${when(decision.made)}`));
      if (why) place.append(el("p", { class: "why" }, why));
      if (decision.outdated) {
        place.append(el("p", { class: "why warn" }, "Outdated: it refers to another heatmap than this one."));
      }
    }
    if (verdicts.length > 1) place.append(el("p", { class: "verdicts" }, verdictsText(verdicts)));
    if (this.isBlinded && !isMineDone) place.append(el("p", { class: "quiet" }, "Blinded reading: what others decided here appears after your verdict."));
    this.#showDispute();
    for (const does of ["accept", "reject", "flag"]) {
      document.querySelector(`[data-does="${does}"]`).setAttribute("aria-pressed", String(this.#ownOfSlide()?.verdict === does));
    }
  }

  #showDispute() {
    showDispute("dispute", this.state.dispute, this.settling === "slide", "verdict");
    const disputed = this.state.patches.filter((label) => label.dispute.length);
    byId("disputed-patches").hidden = disputed.length === 0;
    const links = disputed.slice(0, MOST_LISTED).flatMap(({ x, y }) => [el("a", { href: api.placeUrl(this.facts.slide_id, x, y) }, `${x}, ${y}`), " · "]);
    byId("disputed-patches").replaceChildren(`≠ Disputed patches (${disputed.length}), px: `, ...links.slice(0, -1), disputed.length > MOST_LISTED ? " …" : "");
  }

  #showHistory() {
    const { history, revision } = this.state;
    byId("history-count").textContent = String(revision);
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
      revision > history.length ? el("li", { class: "quiet" }, "Earlier ones are in the export of decisions.") : "",
    );
  }
}

export function showDispute(name, dispute, isSettling, what) {
  // Of the slide or of a patch: who differs, and the button with which the next verdict settles it.
  byId(name).hidden = dispute.length === 0;
  byId(name).querySelector("button").setAttribute("aria-pressed", String(isSettling));
  const pair = verdictsText(dispute);
  byId(`${name}-text`).textContent = isSettling ? `Your next ${what} settles ${pair}.` : `≠ Disputed: ${pair}.`;
}
