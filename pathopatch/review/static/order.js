// The order of the slides, that of the cohort's table when it was last shown; and which of them are to do, or new.

const KEPT = "pathopatch.order";

export function keepOrder(ids, list = "") {
  // list "all": also the slides that a work list hides.
  try {
    sessionStorage.setItem(KEPT + list, JSON.stringify(ids));
  } catch {
    // Storage is forbidden: slides come in the order of their ids.
  }
}

export function orderOfSlides(rows, list = "") {
  const there = rows.filter(isShowable).map((row) => row.slide_id);
  try {
    const known = new Set(there);
    const kept = (JSON.parse(sessionStorage.getItem(KEPT + list)) ?? []).filter((id) => known.has(id));
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

export function nextToDo(order, rows, from = null) {
  // The first slide after `from` that the reviewer has to do, continued from the start; null if there is none.
  const open = new Set(rows.filter(isToDo).map((row) => row.slide_id));
  const at = order.indexOf(from) + 1;
  return [...order.slice(at), ...order.slice(0, at)].find((id) => id !== from && open.has(id)) ?? null;
}

export function moveAmong(links, by) {
  // Moves the focus within a table's links.
  const at = links.indexOf(document.activeElement);
  links.at(at < 0 ? 0 : Math.min(Math.max(at + by, 0), links.length - 1))?.focus();
}

export const isToDo = (row) => isShowable(row) && !row.is_mine_done;
export const isOpen = (row) => !row.decision || row.decision.outdated === true;

const LOOKED = "pathopatch.looked.";
let lastLook = 0; // ms; what is on a page for the first time is all new

export function look(folder) {
  // Once for each visit: a reload within it keeps what was new.
  try {
    lastLook = Number(sessionStorage.getItem(LOOKED + folder) ?? localStorage.getItem(LOOKED + folder) ?? 0);
    sessionStorage.setItem(LOOKED + folder, lastLook);
    localStorage.setItem(LOOKED + folder, Date.now());
  } catch {
    // Storage is forbidden: all is new.
  }
}

export const isNew = (row) => row.written > lastLook;
