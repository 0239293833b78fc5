// Keys. One list per page defines its keys, its buttons and its help, so that they cannot differ.

import { byId, el } from "./dom.js";

const OFF = "pathopatch.keys";
const TYPED_IN = "textarea, select, [contenteditable], input:not([type=radio], [type=checkbox], [type=range], [type=button])";
const PRESSED_BY_SPACE = "button, a, summary, [type=radio], [type=checkbox]";

export function bindKeys(bindings) {
  // bindings: [{does, keys: ["a", …], says, run}]; a button with data-does="…" runs the same binding.
  const byKey = new Map(bindings.flatMap((binding) => binding.keys.map((key) => [key, binding])));
  const help = makeHelp(bindings);
  byKey.set("?", { does: "help", run: () => (help.open ? help.close() : help.showModal()) });
  document.addEventListener("keydown", (event) => {
    const binding = byKey.get(named(event));
    if (!binding || isForTheElement(event) || (document.querySelector("dialog[open]") && binding.does !== "help")) return;
    if (!areOn() && binding.does !== "help") return;
    event.preventDefault();
    binding.run();
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-does]");
    if (!button) return;
    (button.dataset.does === "help" ? byKey.get("?") : bindings.find(({ does }) => does === button.dataset.does)).run();
  });
  // A clicked button or box loses the focus: otherwise the space bar would press it again.
  document.addEventListener("click", (event) => {
    const pressed = event.detail > 0 && !event.target.closest("dialog") && event.target.closest(PRESSED_BY_SPACE);
    if (pressed && pressed === document.activeElement) pressed.blur();
  });
}

function named(event) {
  const shift = event.shiftKey && event.key.length > 1 ? "Shift+" : "";
  return event.ctrlKey || event.metaKey || event.altKey ? "" : shift + event.key;
}

function isForTheElement(event) {
  const focused = event.target instanceof Element ? event.target : document.body;
  if (focused.matches(TYPED_IN)) return true;
  return [" ", "Enter"].includes(event.key) && focused.matches(PRESSED_BY_SPACE);
}

function areOn() {
  try {
    return localStorage.getItem(OFF) !== "off";
  } catch {
    return true;
  }
}

const NAMES = { " ": "space", ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Escape: "esc" };

function shownKey(key) {
  const parts = key === "+" ? ["+"] : key.split("+");
  return parts.flatMap((part, index) => [...(index ? [" + "] : []), el("kbd", {}, NAMES[part] ?? part)]);
}

function makeHelp(bindings) {
  const dialog = byId("help");
  const rows = [...bindings, { does: "help", keys: ["?"], says: "Show or close this help" }].map(({ does, keys, says }) => {
    const shown = keys.flatMap((key, index) => [...(index ? [" "] : []), ...shownKey(key)]);
    return el("tr", { data: { for: does } }, el("th", { scope: "row" }, ...shown), el("td", {}, says));
  });
  const box = el("input", { type: "checkbox", id: "keys-on" });
  box.checked = areOn();
  box.addEventListener("change", () => {
    try {
      localStorage.setItem(OFF, box.checked ? "on" : "off");
    } catch {
      // Storage is forbidden: keys stay on.
    }
  });
  dialog.append(
    // Without this the first control would have the focus: a space bar would turn all keys off.
    el("h2", { id: "help-title", tabindex: "-1", autofocus: true }, "Keys"),
    el("table", {}, el("tbody", {}, ...rows)),
    el("p", {}, el("label", {}, box, " Keys are on (always off inside text fields; every key has a button)")),
    el("form", { method: "dialog" }, el("button", {}, "Close")),
  );
  return dialog;
}
