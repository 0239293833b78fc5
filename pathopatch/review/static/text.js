// Format numbers, lengths and times, the same way everywhere.

export const NOTHING = "–";

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

export const fixed = (value, digits = 3) => (isNumber(value) ? value.toFixed(digits) : NOTHING);
export const percent = (share, digits = 1) => (isNumber(share) ? `${(100 * share).toFixed(digits)}\u00a0%` : NOTHING);
export const count = (value) => (isNumber(value) ? value.toLocaleString("en-GB") : NOTHING);
export const signed = (value, digits = 3) =>
  isNumber(value) ? `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}` : NOTHING;

// What the model has to do with a slide, where its results flatter it; null elsewhere.
export const leakageText = (word) => (["trained on", "selected on"].includes(word) ? `model was ${word} this slide` : null);

export const least = (value) => (value > 0 && value < 0.0001 ? "< 0.0001" : fixed(value, 4));

export function length(um) {
  if (!isNumber(um)) return NOTHING;
  return um >= 1000 ? `${+(um / 1000).toFixed(3)} mm` : `${+um.toFixed(um < 10 ? 1 : 0)} µm`;
}

export function roundLength(limit) {
  // The largest of 1, 2, 5, 10, 20, 50 … that does not exceed the limit.
  const power = 10 ** Math.floor(Math.log10(limit));
  return Math.max(...[1, 2, 5].map((step) => step * power).filter((value) => value <= limit * (1 + 1e-9)));
}

export function when(iso) {
  const time = new Date(iso);
  if (Number.isNaN(time.getTime())) return iso ?? "";
  const two = (value) => String(value).padStart(2, "0");
  const day = `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())}`;
  return `${day} ${two(time.getHours())}:${two(time.getMinutes())}`;
}

export const verdictsText = (verdicts) =>
  verdicts.map(({ reviewer, verdict, outdated }) => `${reviewer}: ${verdict}${outdated ? " (outdated)" : ""}`).join(", ");

export const VERDICTS = {
  accept: "accepted", reject: "rejected", flag: "flagged",
  tumour: "tumour", "non-tumour": "non-tumour", unsure: "unsure", removed: "removed", "missed tissue": "missed tissue", "not tissue": "not tissue",
};
