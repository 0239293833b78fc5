// The page on which a person answers a pack: START HERE. One image at a time, and no way back.

import * as api from "./api.js";
import { alarm, byId } from "./dom.js";

const SCORES = { y: "yes", n: "no" };
const DEAF_MS = 200; // nobody sees an image and answers in less: it is a key that bounces, or was hit twice
let ahead = null; // the next image, which loads while one is looked at
let shown = null; // the image in sight and since when, ms; null while no answer is taken

async function start() {
  const state = await api.pack();
  byId("count").textContent = state.images;
  byId("begin").textContent = state.answered ? `Go on at image ${state.answered + 1} of ${state.images}` : "Start";
  byId("begin").addEventListener("click", () => show(state).then(() => byId("question").focus()));
  state.next.length > 0 ? open("start", "begin") : end(state);
  for (const button of document.querySelectorAll("[data-score]")) button.addEventListener("click", () => answer(button.dataset.score));
  document.addEventListener("keydown", (event) => {
    if (event.repeat && event.key !== "Tab") event.preventDefault(); // a key that is held answers once
    else if (!event.ctrlKey && !event.metaKey && !event.altKey) answer(SCORES[event.key.toLowerCase()]);
  });
  document.body.dataset.ready = "yes";
}

function open(section, focused) {
  for (const each of document.querySelectorAll("main > section")) each.hidden = each.id !== section;
  if (focused) byId(focused).focus();
}

const load = (name) => ({ name, image: Object.assign(new Image(), { src: api.packImageUrl(name) }) });

async function show({ images, answered, mpp, next: [name, later] }) {
  const { image } = ahead?.name === name ? ahead : load(name);
  try {
    await image.decode();
  } catch {
    return alarm(`The image ${name} cannot be shown. Reload the page; if that does not help, ask for the pack again.`);
  }
  if (later) ahead = load(later);
  image.alt = `Image ${answered + 1}`;
  image.height = Math.max(512, image.naturalHeight);
  byId("progress").textContent = `${answered + 1} of ${images}${mpp ? ` · ${Math.round(image.naturalWidth * mpp)} µm wide` : ""}`;
  byId("image").replaceChildren(image);
  open("asking");
  await new Promise(requestAnimationFrame); // the time runs once the window is in sight
  shown = { name, since: performance.now() };
  setTimeout(() => (document.body.dataset.shown = name), DEAF_MS);
}

async function answer(score) {
  if (!score || !shown || performance.now() - shown.since < DEAF_MS) return;
  const [given, seconds] = [shown, (performance.now() - shown.since) / 1000];
  shown = null;
  byId("alarm").replaceChildren();
  let state = null;
  try {
    state = await api.answerPack({ image: given.name, score, seconds });
  } catch (error) {
    ({ state } = error);
    alarm(state ? "That image was answered in another window: here is the next." : `Not saved: ${error.message}. ${error.remedy}`);
  }
  if (!state) shown = given;
  else if (state.next.length > 0) await show(state);
  else end(state);
}

function end({ file, command, images }) {
  byId("progress").textContent = `${images} of ${images}`;
  byId("file").textContent = file;
  byId("command").textContent = command;
  open("end", "end-title");
}

start().catch((error) => alarm(`The pack cannot be shown: ${error.message}. ${error.remedy ?? ""}`));
