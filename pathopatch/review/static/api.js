// Requests to the server: the only module that uses the network.

export class Refused extends Error {
  constructor(status, answer) {
    super(answer.message ?? `the server answered ${status}`);
    this.status = status;
    this.code = answer.code ?? "";
    this.remedy = answer.remedy ?? "";
    this.state = answer.state ?? null; // of a 409: the slide's current decisions
  }
}

async function answered(response) {
  if (response.ok) return response;
  let answer = {};
  try {
    answer = await response.json();
  } catch {
    // No JSON: the status is enough.
  }
  throw new Refused(response.status, answer);
}

async function request(url, options) {
  try {
    return await fetch(url, { credentials: "same-origin", ...options });
  } catch {
    const remedy = "Try again. If its command has ended, start pathopatch review again and open the address that it prints: what was saved is kept.";
    throw new Refused(0, { message: "the server of this page does not answer", remedy });
  }
}

async function got(url) {
  return answered(await request(url));
}

async function posted(url, body) {
  const headers = { "Content-Type": "application/json", "X-Pathopatch": "review" };
  return (await answered(await request(url, { method: "POST", headers, body: JSON.stringify(body) }))).json();
}

const slide = (id) => `/api/slides/${encodeURIComponent(id)}`;
const shown = (channels) => (channels === null ? "" : `?channels=${channels.map(encodeURIComponent).join(",")}`);

export const cohort = async () => (await got("/api/cohort")).json();
export const newest = async () => (await (await got("/api/newest")).json()).newest;
export const facts = async (id) => (await got(slide(id))).json();
export const values = async (id) => (await got(`${slide(id)}/values`)).arrayBuffer();
export const tissue = async (id) => createImageBitmap(await (await got(`${slide(id)}/tissue.png`)).blob());
export const patch = async (id, x, y) => (await got(`${slide(id)}/patches/${x}/${y}`)).json();
export const gallery = async (id, kind) => (await got(`${slide(id)}/gallery?kind=${encodeURIComponent(kind)}`)).json();
export const decisions = async (id) => (await got(`${slide(id)}/decisions`)).json();
export const decide = (id, decision) => posted(`${slide(id)}/decisions`, decision);
export const agreement = async () => (await got("/api/agreement")).json();
export const exported = async (name) => (await got(`/export/${name}`)).blob();
export const pack = async () => (await got("/api/pack")).json();
export const answerPack = (answer) => posted("/api/pack", answer);
export const undo = (id, seen) => posted(`${slide(id)}/undo`, seen);

export const pageUrl = (id) => `/slides/${encodeURIComponent(id)}`;
export const placeUrl = (id, x, y) => (x === null ? pageUrl(id) : `${pageUrl(id)}?x=${x}&y=${y}`);
export const thumbnailUrl = (id) => `${slide(id)}/thumbnail.jpg`;
export const tileUrl = (id, level, column, row, channels) =>
  `${slide(id)}/tiles/${level}/${column}/${row}.jpg${shown(channels)}`;
export const patchUrl = (id, x, y, channels) => `${slide(id)}/patches/${x}/${y}.png${shown(channels)}`;
export const packImageUrl = (name) => `/api/pack/${encodeURIComponent(name)}`;
