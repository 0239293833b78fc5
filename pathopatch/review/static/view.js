// What is shown just now? One small record, and whoever wants to hear of its changes.

const KEPT = "pathopatch.view";
const STAYS = ["field", "shape", "opacity", "map", "isOnlyPositive"]; // from slide to slide; the threshold does not

export function openView(facts) {
  const view = {
    field: "probability", // probability | tissue_fraction | group | difference
    run: "a", // a: the reviewed run, b: the one beside it
    shape: "both", // fill | outline | both
    opacity: 0.45,
    map: "viridis",
    isOn: true,
    isOnlyPositive: false,
    threshold: { a: facts.decision_probability, b: facts.beside?.decision_probability ?? facts.decision_probability },
    channels: facts.is_rgb ? null : [...facts.channels],
    selected: -1, // cell of the selected patch
    ...kept(),
  };
  if (!facts.fields.includes(view.field)) view.field = "probability";
  const heard = [];
  return {
    now: view,
    change(changes) {
      Object.assign(view, changes);
      keep(view);
      heard.forEach((hear) => hear(view, changes));
    },
    whenChanged: (hear) => heard.push(hear),
  };
}

function kept() {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT)) ?? {};
  } catch {
    return {};
  }
}

function keep(view) {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify(Object.fromEntries(STAYS.map((name) => [name, view[name]]))));
  } catch {
    // no storage allowed: nothing is kept
  }
}
