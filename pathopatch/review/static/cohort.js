// The cohort page: START HERE. One row per slide; sort, filter, open the next slide that the reviewer has to do.

import * as api from "./api.js";
import { alarm, byId, copy, el, modelName, say } from "./dom.js";
import { bindKeys } from "./keys.js";
import { watch } from "./live.js";
import { isShowable, keepOrder, look, moveAmong, nextToDo } from "./order.js";
import { COLUMNS, LISTS, STATUSES, chosen, isFailed, stateText, warnings } from "./table.js";
import { VERDICTS, count, leakageText, verdictsText, when } from "./text.js";

const table = byId("slides");
const filters = fromAddress();
const rowById = new Map(); // table rows by slide id: created once, then moved
const SPANNED = ["tissue_share", "tumour", "positive_share", "lowest_margin", "flagged_share"]; // by a failure's text
const FIRST_ROWS = 60; // shown at once, more than fit on a screen; the others follow
let rows = [];
let isBlinded = false;
let fillTimer = 0;

async function start() {
  const cohort = await api.cohort();
  ({ rows, is_blinded: isBlinded } = cohort);
  look(cohort.folder);
  byId("cohort-name").textContent = `Cohort ${cohort.folder}`;
  byId("cohort-facts").replaceChildren(
    `${count(rows.length)} slides`,
    ...(cohort.model ? [" · predicted by ", modelName(cohort.model), others(rows)] : []),
    ...(cohort.beside ? [" · beside ", modelName(cohort.beside)] : []),
    ...(cohort.reviewer ? [` · reviewer ${cohort.reviewer}`] : []),
    ...(cohort.is_blinded ? [" · ", el("b", {}, "blinded reading"), ": others’ verdicts on a slide appear after yours"] : []),
  );
  document.title = `${cohort.folder} · pathopatch review`;
  makeHead();
  makeFilters();
  showLeftOut(cohort.left_out);
  show();
  bindKeys([
    { does: "next", keys: ["j", "ArrowDown"], says: "Next row", run: () => moveAmong(links(), 1) },
    { does: "previous", keys: ["k", "ArrowUp"], says: "Row above", run: () => moveAmong(links(), -1) },
    { does: "open", keys: ["Enter"], says: "Open the slide of the row", run: open },
    { does: "unreviewed", keys: ["n"], says: "Open the next slide that you have to do", run: openNextToDo },
    ...Object.entries(LISTS).map(([name, { says }], at) => ({
      does: name, keys: [String(at + 1)], says: `Show only: ${says.toLowerCase()}; again: all`,
      run: () => show({ list: filters.list === name ? "" : name }),
    })),
    { does: "export", keys: ["x"], says: "Open or close the export menu", run: () => toggleExport() },
    { does: "agreement", keys: ["c"], says: "Compare reviewers", run: () => (location.href = "/agreement") },
    { does: "decisions-geojson", keys: ["d"], says: "Export every reader's verdicts, regions and lengths as GeoJSON", run: () => exported("decisions.zip") },
    { does: "qupath", keys: ["q"], says: "Export slides, heatmaps and decisions to QuPath", run: () => exported("qupath.zip") },
    { does: "search", keys: ["/"], says: "Search", run: () => byId("search").focus() },
  ]);
  watch(refresh);
  document.body.dataset.ready = "yes";
  await painted();
  document.body.dataset.shownAfter = performance.now().toFixed(0); // ms from navigation to the painted table
}

async function refresh() {
  // What was decided meanwhile; the row in which the reader is stays his.
  const here = document.activeElement?.closest("tbody tr")?.dataset.slide;
  ({ rows } = await api.cohort());
  rowById.clear();
  countLists();
  show();
  if (here) rowById.get(here)?.querySelector("a")?.focus();
}

function others(rows) {
  const more = new Set(rows.map(({ model }) => model).filter(Boolean)).size - 1;
  return more > 0 ? ` and ${count(more)} other model${more > 1 ? "s" : ""}` : "";
}

const links = () => [...table.tBodies[0].querySelectorAll("th a")];

function toggleExport(isOpen = byId("export-menu").hidden) {
  const button = document.querySelector("[data-does=export]");
  if (!isOpen && byId("export-menu").contains(document.activeElement)) button.focus();
  byId("export-menu").hidden = !isOpen;
  button.setAttribute("aria-expanded", String(isOpen));
  if (isOpen) byId("export-menu").firstElementChild.focus();
}

function painted() {
  return new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
}

function fromAddress() {
  const given = new URLSearchParams(location.search);
  const sort = COLUMNS.some(({ name }) => name === given.get("sort")) ? given.get("sort") : "lowest_margin"; // doubt first
  const status = given.get("status") in STATUSES ? given.get("status") : "all";
  const list = given.get("list") in LISTS ? given.get("list") : "";
  return { search: given.get("search") ?? "", status, list, sort, isDown: given.get("down") === "1" };
}

function toAddress() {
  const { search, status, list, sort, isDown } = filters;
  const kept = new URLSearchParams({ ...(search && { search }), status, ...(list && { list }), sort, ...(isDown && { down: "1" }) });
  history.replaceState(null, "", `?${kept}`);
}

function makeHead() {
  const cells = COLUMNS.map(({ name, says, isNumber, hint }) => {
    const button = el("button", { type: "button", title: hint ?? null, onclick: () => sortBy(name, isNumber) }, says);
    return el("th", { scope: "col", id: `head-${name}`, class: isNumber ? "number" : null, data: { column: name } }, button);
  });
  table.tHead.rows[0].replaceChildren(el("td", { class: "picture" }), ...cells);
}

function sortBy(name, isNumber) {
  // The first press sorts numbers from the largest, names from the first; the second one reverses the order.
  filters.isDown = filters.sort === name ? !filters.isDown : Boolean(isNumber) && name !== "lowest_margin";
  filters.sort = name;
  show();
}

function makeFilters() {
  const status = byId("status");
  status.append(...Object.keys(STATUSES).map((value) => el("option", { value })));
  countLists();
  byId("export-menu").addEventListener("keydown", ({ key }) => key === "Escape" && toggleExport(false));
  document.addEventListener("click", ({ target }) => !target.closest(".menu") && toggleExport(false));
  status.value = filters.status;
  byId("search").value = filters.search;
  status.addEventListener("change", () => show({ status: status.value }));
  byId("search").addEventListener("input", (event) => show({ search: event.target.value }));
}

function countLists() {
  for (const option of byId("status").options) {
    const { says, holds } = STATUSES[option.value];
    option.textContent = `${says} (${count(rows.filter(holds).length)})`;
  }
  for (const [name, { holds }] of Object.entries(LISTS)) {
    document.querySelector(`[data-does=${name}] b`).textContent = count(rows.filter(holds).length);
  }
}

function show(changes = {}) {
  Object.assign(filters, changes);
  const shown = chosen(rows, filters);
  fill(shown);
  for (const head of table.tHead.querySelectorAll("th")) {
    if (head.dataset.column === filters.sort) head.setAttribute("aria-sort", filters.isDown ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  for (const name of Object.keys(LISTS)) {
    document.querySelector(`[data-does=${name}]`).setAttribute("aria-pressed", String(filters.list === name));
  }
  byId("none").hidden = shown.length > 0;
  byId("shown").textContent = shown.length === rows.length ? "" : `${count(shown.length)} of ${count(rows.length)}`;
  keepOrder(shown.filter(isShowable).map((row) => row.slide_id));
  keepOrder(chosen(rows, { ...filters, list: "" }).filter(isShowable).map((row) => row.slide_id), "all");
  toAddress();
}

function fill(shown) {
  clearTimeout(fillTimer);
  const put = (some) => table.tBodies[0].append(...some.map(rowOf));
  table.tBodies[0].replaceChildren();
  put(shown.slice(0, FIRST_ROWS));
  fillTimer = setTimeout(() => put(shown.slice(FIRST_ROWS)), 50);
}

function rowOf(row) {
  if (!rowById.has(row.slide_id)) rowById.set(row.slide_id, tableRow(row));
  return rowById.get(row.slide_id);
}

function tableRow(row) {
  const isSpanned = ({ name }) => isFailed(row) && SPANNED.includes(name); // it has no numbers, and much to say
  const cells = COLUMNS.filter((column) => !isSpanned(column)).map((column) => cell(row, column));
  const picture = isShowable(row)
    ? el("img", { src: api.thumbnailUrl(row.slide_id), alt: "", loading: "lazy", decoding: "async", width: 64, height: 44 })
    : null;
  picture?.addEventListener("error", () => picture.remove());
  return el("tr", { data: { slide: row.slide_id } }, el("td", { class: "picture" }, picture), ...cells);
}

function cell(row, { name, of, write, isNumber, hasBar }) {
  if (name === "slide_id") {
    const label = isShowable(row) ? el("a", { href: api.pageUrl(row.slide_id) }, row.slide_id) : row.slide_id;
    return el("th", { scope: "row", data: { column: name } }, label);
  }
  if (name === "state") return stateCell(row);
  if (name === "decision") return decisionCell(row);
  const value = of(row);
  const element = el("td", { class: isNumber ? "number" : null, data: { column: name, value: value ?? "" } }, write(value));
  if (hasBar && Number.isFinite(value)) {
    const bar = el("span", { class: "share", "aria-hidden": "true" }, el("span", {}));
    bar.firstChild.style.width = `${100 * value}%`;
    element.append(bar);
  }
  return element;
}

function stateCell(row) {
  const texts = warnings(row);
  const warned = texts.length ? el("span", { class: "chip flag", title: texts.join("\n") }, `${texts.length} warning${texts.length > 1 ? "s" : ""}`) : null;
  const why = isFailed(row) ? failure(row) : [];
  const state = isFailed(row) ? el("span", { class: "chip reject" }, stateText(row)) : stateText(row);
  const leak = leakageText(row.leakage);
  const leaked = leak ? el("span", { class: "chip reject", title: leak }, row.leakage) : null;
  const span = isFailed(row) ? { colspan: SPANNED.length + 1, headers: "head-state" } : {};
  return el("td", { data: { column: "state" }, ...span }, state, leak ? " " : null, leaked, warned ? " " : null, warned, ...why);
}

function failure({ slide_id: id, code, message, command }) {
  // One line of what is wrong, of which the whole opens, and what to do.
  const [wrong, remedy] = message.replace(`${code}: `, "").split(" Remedy: ");
  const what = el("details", { class: "message" }, el("summary", {}, wrong), el("p", { class: "why" }, message));
  return [message ? what : null, toDo(remedy ?? "run the same command again; it says more", command, id)];
}

function toDo(remedy, command, of) {
  const button = el("button", { type: "button", title: command, "aria-label": `Copy command: ${of}`, onclick: () => copy(command, "Command copied.") }, "Copy command");
  return el("p", { class: "to-do" }, el("b", {}, "What to do: "), `${remedy} `, command ? button : null);
}

function showLeftOut({ count: all, files }) {
  byId("left-out").hidden = all === 0;
  byId("left-out-count").textContent = count(all) + (all > files.length ? `, the first ${count(files.length)} here` : "");
  // Many are listed when somebody asks for them.
  byId("left-out").addEventListener("toggle", () => byId("left-out-files").append(...files.map(leftOut)), { once: true });
}

function leftOut({ file, reason, command }) {
  const isExcluded = reason === "the manifest excludes it";
  const remedy = isExcluded ? "clear its cell of the column exclude, and predict again" : "nothing, if it is no slide; else the command says what is known of it";
  return el("li", {}, el("b", {}, file), ` ${reason}`, toDo(remedy, isExcluded ? "" : command, file));
}

function decisionCell({ decision, verdicts, dispute, disputed_patches: patches }) {
  const disputed = (what) => el("span", { class: "chip disputed" }, `≠ ${what}`);
  const ofPatches = patches ? disputed(`${count(patches)} patch${patches > 1 ? "es" : ""} disputed`) : null;
  if (!decision) return el("td", { data: { column: "decision", value: "" } }, el("span", { class: "quiet" }, isBlinded ? "not reviewed by you" : "not reviewed"), ofPatches);
  const { verdict, reviewer, made: at, reason, comment, outdated, settles } = decision;
  const isDisputed = dispute.length > 0;
  const why = [reason, comment].filter(Boolean).join(": ");
  return el(
    "td", { data: { column: "decision", value: verdict } },
    isDisputed ? disputed("disputed") : el("span", { class: `chip ${verdict}` }, VERDICTS[verdict]),
    outdated ? el("span", { class: "chip flag" }, "outdated") : null,
    ofPatches,
    el("span", { class: "quiet" }, ` ${isDisputed ? "last " : settles ? "settled by " : ""}${reviewer}, ${when(at)}`),
    verdicts.length > 1 ? el("p", { class: "verdicts" }, verdictsText(verdicts)) : null,
    why ? el("p", { class: "why" }, why) : null,
  );
}

function open() {
  const link = document.activeElement?.closest("tbody tr")?.querySelector("a") ?? table.tBodies[0].querySelector("th a");
  if (link) location.href = link.href;
}

async function exported(name) {
  say(`${name} is being written …`);
  try {
    const link = el("a", { href: URL.createObjectURL(await api.exported(name)), download: name });
    link.click();
    URL.revokeObjectURL(link.href);
    say(`${name} is downloaded.`);
  } catch (error) {
    alarm(`Not exported: ${error.message}. ${error.remedy ?? ""}`);
  }
}

function openNextToDo() {
  const here = document.activeElement?.closest("tbody tr")?.dataset.slide ?? null;
  const next = nextToDo(chosen(rows, { ...filters, list: "" }).map((row) => row.slide_id), rows, here);
  if (next) location.href = api.pageUrl(next);
  else say("You have decided on every slide in the table.");
}

// Going back from a slide may show an old copy of this page, without the new decision.
addEventListener("pageshow", (event) => event.persisted && location.reload());

start().catch((error) => {
  alarm(`The cohort cannot be shown: ${error.message}. ${error.remedy ?? ""}`);
  document.body.dataset.ready = "failed";
});
