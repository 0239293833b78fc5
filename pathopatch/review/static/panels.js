// Panels beside the slide, and parts of them, that fold as the reader left them; full screen shows the slide alone.

import { say } from "./dom.js";
import { stored } from "./view.js";

const KEPT = "pathopatch.folded.";
const isKept = (name) => stored(() => localStorage.getItem(KEPT + name)) ?? "";
const keep = (name, value) => stored(() => localStorage.setItem(KEPT + name, value));

export function bindPanels() {
  showPanels(isKept("panels") !== "folded");
  for (const part of document.querySelectorAll(".side details[id]")) {
    part.open = isKept(part.id) === "open";
    part.addEventListener("toggle", () => keep(part.id, part.open ? "open" : ""));
  }
  document.addEventListener("fullscreenchange", () => {
    const isOn = Boolean(document.fullscreenElement);
    document.body.toggleAttribute("data-full", isOn);
    document.querySelector("[data-does=full-screen]").setAttribute("aria-pressed", String(isOn));
  });
}

export function foldPanels() {
  const isOpen = isFolded();
  showPanels(isOpen);
  keep("panels", isOpen ? "" : "folded");
}

export function unfolded(run) {
  // For what is written or read in a panel.
  return () => {
    if (isFolded()) showPanels(true);
    return run();
  };
}

const isFolded = () => document.body.hasAttribute("data-folded") || document.body.hasAttribute("data-full");

function showPanels(isOpen) {
  document.body.toggleAttribute("data-folded", !isOpen);
  if (isOpen) document.body.removeAttribute("data-full");
  document.querySelector("[data-does=panels]").setAttribute("aria-expanded", String(isOpen));
}

export function fullScreen() {
  if (document.fullscreenElement) return document.exitFullscreen();
  return document.documentElement.requestFullscreen().catch(() => say("This browser refuses full screen."));
}
