// Filter and sort the cohort's rows (arithmetic only: rows in, rows out).

import { isNew, isOpen, isToDo } from "./order.js";
import { NOTHING, VERDICTS, count, fixed, least, percent } from "./text.js";

export const COLUMNS = [
  { name: "slide_id", says: "Slide", of: (row) => row.slide_id },
  { name: "patient_id", says: "Patient", of: (row) => row.patient_id || null, write: (value) => value ?? NOTHING },
  { name: "predicted", says: "Predicted patches", of: (row) => row.predicted, write: count, isNumber: true, hint: "of all patches, those with so much tissue and so much scanned that the model answers" },
  { name: "tissue_area_mm2", says: "Tissue mm²", of: (row) => row.tissue_area_mm2, write: (value) => fixed(value, 2), isNumber: true },
  { name: "tissue_share", says: "Tissue %", of: (row) => row.tissue_share, write: (value) => percent(value), isNumber: true, hint: "share of what was scanned" },
  { name: "tumour", says: "Positive patches", of: (row) => row.tumour, write: count, isNumber: true, hint: "patches above the model’s threshold" },
  { name: "positive_share", says: "Positive share of tissue area", of: (row) => row.positive_share, write: (value) => percent(value), isNumber: true, hint: "share of the tissue area above the model’s threshold", hasBar: true },
  { name: "lowest_margin", says: "Lowest margin", of: (row) => row.lowest_margin, write: least, isNumber: true, hint: "least distance of a patch’s probability from the threshold" },
  { name: "flagged_share", says: "Flagged %", of: (row) => row.flagged_share, write: (value) => percent(value), isNumber: true, hint: "patches with a quality flag" },
  { name: "state", says: "Status", of: (row) => stateText(row) },
  { name: "decision", says: "Decisions", of: (row) => row.decision?.made ?? null },
];

export const STATUSES = {
  all: { says: "all slides", holds: () => true },
  open: { says: "not reviewed", holds: (row) => isOpen(row) && !isFailed(row) },
  accept: { says: "accepted", holds: (row) => isDecided(row, "accept") },
  reject: { says: "rejected", holds: (row) => isDecided(row, "reject") },
  flag: { says: "flagged", holds: (row) => isDecided(row, "flag") },
  outdated: { says: "decision outdated", holds: (row) => row.decision?.outdated === true },
  warned: { says: "with warnings", holds: (row) => warnings(row).length > 0 },
  failed: { says: "failed", holds: (row) => isFailed(row) },
};

export const LISTS = {
  todo: { says: "Mine to do", holds: isToDo },
  done: { says: "Mine done", holds: (row) => row.is_mine_done },
  disputed: { says: "Disputed", holds: (row) => row.dispute.length + row.disputed_patches > 0 },
  fresh: { says: "New since you last looked", holds: isNew },
  failed: { says: "Failed, with the remedy", holds: (row) => isFailed(row) },
};

const isDecided = (row, verdict) => row.decision?.verdict === verdict && row.dispute.length === 0;

export const isFailed = (row) => !["done", "done_empty", "current", "running"].includes(row.state);
export const warnings = (row) => (Array.isArray(row.warnings) ? row.warnings : []);

export function stateText(row) {
  if (isFailed(row)) return row.code || row.state || "failed";
  return { done: "predicted", current: "predicted", done_empty: "no tissue", running: "running" }[row.state];
}

export function chosen(rows, { search, status, list, sort, isDown }) {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (row) => {
    const text = [row.slide_id, row.patient_id, row.decision?.reviewer, ...row.verdicts.map((one) => one.reviewer), VERDICTS[row.decision?.verdict]].join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  };
  const kept = rows.filter((row) => STATUSES[status].holds(row) && (!list || LISTS[list].holds(row)) && fits(row));
  const { of } = COLUMNS.find(({ name }) => name === sort);
  return kept.sort((one, other) => compare(of(one), of(other), isDown) || compare(one.slide_id, other.slide_id, false));
}

const order = new Intl.Collator("en", { numeric: true });

function compare(one, other, isDown) {
  // Missing values come last in both directions.
  if (one === null || one === undefined) return other === null || other === undefined ? 0 : 1;
  if (other === null || other === undefined) return -1;
  const way = typeof one === "number" ? one - other : order.compare(one, other);
  return isDown ? -way : way;
}
