// The state of the page's view: one small record, and the functions to call when it changes.

const KEPT = "pathopatch.view";
const STAYS = ["field", "shape", "opacity", "isOnlyPositive", "isWhole"]; // kept from slide to slide; the threshold is not

export function openView(facts) {
  const view = {
    field: "probability", // probability | tissue_fraction | spread | group | difference
    run: "a", // a: the reviewed run, b: the run to compare with
    shape: "both", // fill | outline | both
    opacity: facts.heat_opacity, // of the highest value
    isOn: true,
    isOnlyPositive: null, // null: where the field is the probability
    isWhole: false, // whether patches are filled whole, and not over their tissue alone
    threshold: { a: facts.decision_probability, b: facts.beside?.decision_probability ?? facts.decision_probability },
    channels: facts.is_rgb ? null : [...facts.channels],
    selected: -1, // cell of the selected patch
    ...kept(),
  };
  Object.assign(view, linked(facts, view.threshold));
  if (!facts.fields.includes(view.field)) view.field = "probability";
  const listeners = [];
  return {
    now: view,
    change(changes) {
      Object.assign(view, changes);
      keep(view);
      listeners.forEach((listener) => listener(view, changes));
    },
    whenChanged: (listener) => listeners.push(listener),
  };
}

function linked(facts, threshold) {
  // What a link to a view says, see `linkTo`.
  const given = new URLSearchParams(location.search);
  const run = given.get("run") === "b" && facts.beside ? "b" : "a";
  const value = Number(given.get("threshold") ?? NaN);
  return {
    run,
    ...(given.has("field") ? { field: given.get("field") } : {}),
    ...(value >= 0 && value <= 1 ? { threshold: { ...threshold, [run]: value } } : {}),
  };
}

export function linkTo(view, [x, y], umPerPx) {
  // The address of a view: its middle (level-0 px), µm per px, layer, run and threshold.
  const at = `${x.toFixed(0)},${y.toFixed(0)},${umPerPx.toPrecision(4)}`;
  const said = new URLSearchParams({ at, field: view.field, run: view.run, threshold: view.threshold[view.run] });
  return `${location.origin}${location.pathname}?${said}`;
}

export function stored(use) {
  try {
    return use();
  } catch {
    return null; // storage is forbidden: nothing is kept
  }
}

const kept = () => stored(() => JSON.parse(sessionStorage.getItem(KEPT))) ?? {};

function keep(view) {
  stored(() => sessionStorage.setItem(KEPT, JSON.stringify(Object.fromEntries(STAYS.map((name) => [name, view[name]])))));
}
