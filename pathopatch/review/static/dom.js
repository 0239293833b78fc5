// Create elements. Text is always inserted as text, never as markup, so that no typed text can run as a script.

export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "data") Object.assign(element.dataset, value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const byId = (id) => document.getElementById(id);

export function rows(list, pairs) {
  // Fill a <dl> from [[term, value or element, {data}], …]; a row whose value is null is left out.
  list.replaceChildren(
    ...pairs
      .filter(([, value]) => value !== null && value !== undefined)
      .flatMap(([term, value, data]) => [el("dt", {}, term), el("dd", { data: data ?? {} }, value)]),
  );
}

export function modelName({ name, fingerprint, has_card: hasCard }) {
  // The name of a model; it leads to the model's card where there is one.
  return hasCard ? el("a", { href: `/models/${fingerprint}`, title: "Model card" }, name) : el("span", {}, name);
}

export function say(text) {
  // Read out by screen readers, and shown for six seconds at the foot of the page.
  const place = byId("said");
  place.textContent = text;
  place.dataset.fresh = "yes";
  clearTimeout(say.fading);
  say.fading = setTimeout(() => delete place.dataset.fresh, 6000);
}

export async function copy(text, saying) {
  try {
    await navigator.clipboard.writeText(text);
    say(saying);
  } catch {
    alarm("This browser copies nothing from a page without https. Copy it from here:", el("code", {}, text));
  }
}

export function alarm(text, ...buttons) {
  // An error stays until it is closed.
  const place = byId("alarm");
  const close = el("button", { type: "button", onclick: () => place.replaceChildren() }, "Close");
  place.replaceChildren(el("p", {}, text), ...buttons, close);
}
