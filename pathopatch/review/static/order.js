// Which slide is next? The order is the one the cohort's table had when it was last seen.

const KEPT = "pathopatch.order";

export function keepOrder(ids) {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify(ids));
  } catch {
    // no storage allowed: the order is the cohort's own
  }
}

export function orderOfSlides(rows) {
  const there = rows.filter(isShowable).map((row) => row.slide_id);
  try {
    const known = new Set(there);
    const kept = (JSON.parse(sessionStorage.getItem(KEPT)) ?? []).filter((id) => known.has(id));
    return kept.length ? kept : there;
  } catch {
    return there;
  }
}

export const isShowable = (row) => ["done", "done_empty", "current"].includes(row.state);

export function neighbours(order, id) {
  const at = order.indexOf(id);
  return { place: at + 1, before: at > 0 ? order[at - 1] : null, after: at >= 0 ? (order[at + 1] ?? null) : null };
}

export function nextUnreviewed(order, rows, from = null) {
  // The first after `from` without a decision that still holds, then round from the start; null if there is none.
  const open = new Set(rows.filter((row) => isShowable(row) && isOpen(row)).map((row) => row.slide_id));
  const at = order.indexOf(from) + 1;
  return [...order.slice(at), ...order.slice(0, at)].find((id) => id !== from && open.has(id)) ?? null;
}

export const isOpen = (row) => !row.decision || row.decision.outdated === true;
