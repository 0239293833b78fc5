// The agreement page: START HERE. Who decided how much, how each two reviewers agree, and where they differ.

import * as api from "./api.js";
import { alarm, byId, el } from "./dom.js";
import { bindKeys } from "./keys.js";
import { moveAmong } from "./order.js";
import { NOTHING, VERDICTS, count, fixed, percent } from "./text.js";

const KINDS = { slide: "slides (accepted, rejected, flagged)", patch: "patch labels" };
const number = (text) => el("td", { class: "number" }, text);

async function start() {
  const { folder, reviewers, agreements, differences } = await api.agreement();
  byId("cohort-name").textContent = folder;
  fill("reviewers", reviewers.map((one) => el("tr", {}, el("th", { scope: "row" }, one.name), number(count(one.slides)), number(count(one.patches)))));
  byId("reviewers").hidden = reviewers.length === 0;
  byId("alone").hidden = reviewers.length > 1;
  byId("alone").textContent = alone(reviewers);
  for (const id of ["kappa-section", "difference-section"]) byId(id).hidden = reviewers.length < 2;
  fill("kappas", agreements.map(kappaRow));
  fill("differences", differences.map(differenceRow));
  byId("difference-count").textContent = count(differences.length);
  byId("none").hidden = differences.length > 0;
  for (const id of ["differences", "difference-keys"]) byId(id).hidden = differences.length === 0;
  bindKeys(differences.length === 0 ? [] : [
    { does: "next", keys: ["j", "ArrowDown"], says: "Next difference", run: () => moveAmong(links(), 1) },
    { does: "previous", keys: ["k", "ArrowUp"], says: "Difference above", run: () => moveAmong(links(), -1) },
    { does: "open", keys: ["Enter"], says: "Open the slide of the row", run: openRow },
  ]);
  document.body.dataset.ready = "yes";
}

const links = () => [...byId("differences").querySelectorAll("a")];
const openRow = () => (links().find((link) => link === document.activeElement) ?? links()[0]).click();

function alone(reviewers) {
  const who = reviewers.length ? `Only ${reviewers[0].name} has decided here` : "Nobody has decided here";
  return `${who}. Agreement needs a second reviewer: start this page with another --reviewer, or with --import of the decisions that a colleague exported.`;
}

function fill(id, rows) {
  byId(id).tBodies[0].replaceChildren(...rows);
}

function kappaRow({ first, second, kind, n, n_slides: slides, n_agreed: agreed, kappa, low, high }) {
  const both = n === 0 ? "none" : kind === "slide" ? count(n) : `${count(n)} on ${count(slides)} slide${slides > 1 ? "s" : ""}`;
  const interval = low === null ? NOTHING : `${fixed(low, 2)} to ${fixed(high, 2)}`;
  const value = n > 0 && kappa === null ? "not defined: one verdict throughout" : fixed(kappa, 2);
  return el(
    "tr", { data: { kind } }, el("th", { scope: "row" }, `${first} and ${second}`), el("td", {}, KINDS[kind]), number(both),
    number(n ? `${count(agreed)} (${percent(agreed / n, 0)})` : NOTHING), number(value), number(interval),
  );
}

function differenceRow({ slide_id: id, x, y, decisions }) {
  const where = x === null ? "whole slide" : `patch at ${x}, ${y} px`;
  const link = el("a", { href: api.placeUrl(id, x, y) }, id);
  return el("tr", { data: { slide: id } }, el("th", { scope: "row" }, link), el("td", {}, where), ...decisions.map(decisionCell));
}

function decisionCell({ reviewer, verdict, reason, comment }) {
  const why = [reason, comment].filter(Boolean).join(": ");
  return el(
    "td", {}, el("span", { class: `chip ${verdict}` }, VERDICTS[verdict] ?? verdict), el("span", { class: "quiet" }, ` ${reviewer}`),
    why ? el("p", { class: "why" }, why) : null,
  );
}

// Going back from a slide may show an old copy of this page, without the new decision.
addEventListener("pageshow", (event) => event.persisted && location.reload());

start().catch((error) => {
  alarm(`The agreement cannot be shown: ${error.message} ${error.remedy ?? ""}`);
  document.body.dataset.ready = "failed";
});
