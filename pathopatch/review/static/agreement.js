// The agreement page: START HERE. Who decided how much, how each two reviewers agree, and where they differ.

import * as api from "./api.js";
import { alarm, byId, el } from "./dom.js";
import { bindKeys } from "./keys.js";
import { moveAmong } from "./order.js";
import { NOTHING, VERDICTS, count, fixed, percent } from "./text.js";

const KINDS = { slide: "slides (accepted, rejected, flagged)", patch: "patch labels" };
const number = (text) => el("td", { class: "number" }, text);

async function start() {
  const { folder, is_blinded: isBlinded, ...all } = await api.agreement();
  const { reviewers } = all;
  byId("cohort-name").textContent = folder;
  fill("reviewers", reviewers.map((one) => el("tr", {}, el("th", { scope: "row" }, one.name), number(count(one.slides)), number(count(one.patches)))));
  byId("reviewers").hidden = reviewers.length === 0;
  byId("alone").hidden = reviewers.length > 1;
  byId("alone").textContent = alone(reviewers);
  for (const id of ["kappa-section", "difference-section"]) byId(id).hidden = reviewers.length < 2;
  byId("how-read").textContent = isBlinded
    ? "Blinded reading: nobody sees others’ decisions on a slide before giving his own verdict. You see those on slides that you have read."
    : "Each reviewer sees the others’ decisions. For independent readings start the page with --blinded.";
  const chosen = ["first", "second"].map(byId);
  chosen.forEach((select, at) => {
    select.append(...reviewers.map(({ name }) => el("option", {}, name)));
    select.selectedIndex = at;
    // The same name twice is no pair: the other one changes places.
    let before = at;
    select.addEventListener("change", () => {
      const other = chosen[1 - at];
      if (other.selectedIndex === select.selectedIndex) other.selectedIndex = before;
      showPair(all, chosen.map(({ value }) => value));
    });
    for (const each of chosen) each.addEventListener("change", () => (before = select.selectedIndex));
  });
  if (reviewers.length > 1) showPair(all, chosen.map(({ value }) => value));
  bindKeys(all.differences.length === 0 ? [] : [
    { does: "next", keys: ["j", "ArrowDown"], says: "Next difference", run: () => moveAmong(links(), 1) },
    { does: "previous", keys: ["k", "ArrowUp"], says: "Difference above", run: () => moveAmong(links(), -1) },
    { does: "open", keys: ["Enter"], says: "Open the slide of the row", run: openRow },
  ]);
  document.body.dataset.ready = "yes";
}

function showPair({ agreements, differences }, pair) {
  const isOfPair = (names) => names.every((name) => pair.includes(name.trim()));
  const ofPair = agreements.filter(({ first, second }) => isOfPair([first, second]));
  const differing = differences.filter(({ decisions }) => isOfPair(decisions.map(({ reviewer }) => reviewer)));
  fill("kappas", ofPair.map(kappaRow));
  byId("counts").replaceChildren(...ofPair.filter(({ n }) => n > 0).map(countTable));
  fill("differences", differing.map(differenceRow));
  byId("difference-count").textContent = count(differing.length);
  byId("none").hidden = differing.length > 0;
  for (const id of ["differences", "difference-keys"]) byId(id).hidden = differing.length === 0;
}

function countTable({ first, second, kind, counts }) {
  const used = Object.keys(VERDICTS).filter((name) => name in counts || Object.values(counts).some((row) => name in row));
  const head = used.map((name) => el("th", { scope: "col", class: "number" }, VERDICTS[name]));
  const rows = used.map((name) =>
    el("tr", {}, el("th", { scope: "row" }, VERDICTS[name]), ...used.map((other) => number(count(counts[name]?.[other] ?? 0)))));
  return el(
    "table", { class: "plain", data: { kind } }, el("caption", {}, `${KINDS[kind]}: rows ${first}, columns ${second}`),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Verdict"), ...head)), el("tbody", {}, ...rows),
  );
}

const links = () => [...byId("differences").querySelectorAll("a")];
const openRow = () => (links().find((link) => link === document.activeElement) ?? links()[0])?.click();

function alone(reviewers) {
  const who = reviewers.length ? `Only ${reviewers[0].name} has decided here` : "Nobody has decided here";
  return `${who}. Agreement needs a second reviewer: start this page with another --reader, or with --import of the decisions that a colleague exported.`;
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
  alarm(`The agreement cannot be shown: ${error.message}. ${error.remedy ?? ""}`);
  document.body.dataset.ready = "failed";
});
