// The controls of the heat layer: each changes the view, and shows its state.

import { byId, el } from "./dom.js";
import { isOnlyPositive } from "./heat.js";
import { count, fixed, percent } from "./text.js";
import { positiveTissue, positives } from "./values.js";

export function bindControls(facts, values, view) {
  const fields = [...document.querySelectorAll("[name=field]")];
  for (const each of fields) each.closest("label").hidden = !facts.fields.includes(each.value);
  choices(fields, (field) => view.change({ field }));
  choices([...document.querySelectorAll("[name=shape]")], (shape) => view.change({ shape }));
  byId("opacity").addEventListener("input", (event) => view.change({ opacity: Number(event.target.value) }));
  byId("only-positive").addEventListener("change", (event) => view.change({ isOnlyPositive: event.target.checked }));
  byId("whole-patches").addEventListener("change", (event) => view.change({ isWhole: event.target.checked }));
  byId("whole-patches").closest("label").hidden = !facts.has_tissue;
  byId("threshold").addEventListener("input", (event) => setThreshold(view, Number(event.target.value)));
  byId("threshold-number").addEventListener("change", (event) => {
    const wanted = event.target.valueAsNumber; // NaN where it is no number
    if (wanted >= 0 && wanted <= 1) setThreshold(view, wanted);
    else refuse(`${event.target.value || "This"} is not allowed: write a number from 0 to 1, such as 0.5.`);
  });
  byId("threshold-reset").addEventListener("click", () => setThreshold(view, decision(facts, view.now.run)));
  byId("runs").hidden = !facts.beside;
  bindChannels(facts, view);
  view.whenChanged((now) => show(facts, values, now));
  show(facts, values, view.now);
}

const decision = (facts, run) => (run === "b" ? facts.beside.decision_probability : facts.decision_probability);

function setThreshold(view, wanted) {
  refuse("");
  view.change({ threshold: { ...view.now.threshold, [view.now.run]: wanted } });
}

function refuse(message) {
  byId("threshold-error").textContent = message;
  byId("threshold-number").setAttribute("aria-invalid", String(message !== ""));
}

export function changeOpacity(view, by) {
  view.change({ opacity: Math.min(1, Math.max(0, Math.round((view.now.opacity + by) * 100) / 100)) });
}

function choices(inputs, chosen) {
  for (const input of inputs) input.addEventListener("change", () => chosen(input.value));
}

function show(facts, values, now) {
  for (const each of document.querySelectorAll("[name=field]")) each.checked = each.value === now.field;
  for (const each of document.querySelectorAll("[name=shape]")) each.checked = each.value === now.shape;
  document.querySelector("[data-does=overlay]").setAttribute("aria-pressed", String(now.isOn));
  byId("opacity").value = now.opacity;
  byId("opacity-shown").textContent = percent(now.opacity, 0);
  byId("only-positive").checked = isOnlyPositive(now);
  byId("whole-patches").checked = now.isWhole;
  showRun(facts, now);
  showThreshold(facts, values, now);
}

function showRun(facts, now) {
  if (!facts.beside) return;
  const isB = now.run === "b";
  byId("run-shown").textContent = isB ? `Run B: ${facts.beside.model.name}` : `Run A: ${facts.model.name}`;
  document.querySelector("[data-does=beside]").setAttribute("aria-pressed", String(isB));
}

function showThreshold(facts, values, now) {
  const threshold = now.threshold[now.run];
  byId("threshold").value = threshold;
  if (document.activeElement !== byId("threshold-number") && !byId("threshold-error").textContent) byId("threshold-number").value = fixed(threshold, 3);
  const isModels = threshold === decision(facts, now.run);
  byId("threshold-reset").disabled = isModels;
  const { above, known } = positives(counted(values, now.run), threshold);
  const place = byId("positives");
  place.dataset.positives = above;
  place.dataset.threshold = threshold;
  const cells = now.run === "b" ? values.beside : values.probability;
  const isRecorded = isModels && now.run === "a";
  const share = isRecorded ? facts.summary.positive_share : positiveTissue(facts, values, cells, threshold);
  const whose = isModels ? "the model’s threshold" : `threshold ${fixed(threshold, 3)}`;
  place.replaceChildren(el("b", {}, count(above)), ` of ${count(known)} patches positive, ${percent(share)} of the tissue area, `, el("span", {}, whose));
}

function counted(values, run) {
  // Of a run with patches of another size, only the cells can be compared.
  return run === "b" ? (values.patch.beside ?? values.beside) : values.patch.probability;
}

function bindChannels(facts, view) {
  if (facts.is_rgb) return;
  byId("channel-section").hidden = false;
  byId("channels").replaceChildren(
    ...facts.channels.map((name, index) => {
      const colour = facts.channel_colors[index];
      const swatch = el("span", { class: "swatch", "aria-hidden": "true" });
      swatch.style.background = colour.css;
      const box = el("input", { type: "checkbox", name: "channel", value: name });
      box.checked = view.now.channels.includes(name);
      box.addEventListener("change", () => {
        const on = [...document.querySelectorAll("[name=channel]:checked")].map((each) => each.value);
        view.change({ channels: on });
      });
      const window = facts.intensity_windows?.[index];
      const counts = window ? `${colour.name}, ${window.map((value) => +value.toFixed(1)).join(" to ")}` : "";
      return el("li", {}, el("label", {}, box, swatch, ` ${name} `, el("span", { class: "quiet" }, counts)));
    }),
  );
}
