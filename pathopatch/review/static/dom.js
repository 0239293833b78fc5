// How is an element made? Texts are texts, never markup, so that nothing a person typed can run.

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "data") Object.assign(made.dataset, value);
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const byId = (id) => document.getElementById(id);

export function rows(list, pairs) {
  // Fill a <dl>: [[term, value or element, {data}], …]; a value that is null leaves its row out.
  list.replaceChildren(
    ...pairs
      .filter(([, value]) => value !== null && value !== undefined)
      .flatMap(([term, value, data]) => [el("dt", {}, term), el("dd", { data: data ?? {} }, value)]),
  );
}

export function say(text) {
  // Read out by screen readers, and shown for a while at the foot of the page.
  const place = byId("said");
  place.textContent = text;
  place.dataset.fresh = "yes";
  clearTimeout(say.fading);
  say.fading = setTimeout(() => delete place.dataset.fresh, 6000);
}

export function alarm(text, ...buttons) {
  // What went wrong stays until it is closed.
  const place = byId("alarm");
  const close = el("button", { type: "button", onclick: () => place.replaceChildren() }, "Close");
  place.replaceChildren(el("p", {}, text), ...buttons, close);
}
