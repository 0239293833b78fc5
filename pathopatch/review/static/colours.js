// Colours of values and groups, as packed numbers: the order of ImageData in a little-endian number, alpha the highest.

// Okabe-Ito: run A lower, run A higher.
const DIFFERENCE = ["#0072b2", "#d55e00"];

// Okabe-Ito, as in the report: blue for non-tumour, orange for tumour, the darker one for much tissue.
export const GROUPS = ["#56b4e9", "#0072b2", "#e69f00", "#d55e00"];
export const GROUP_NAMES = [
  "non-tumour, little tissue", "non-tumour, much tissue", "tumour, little tissue", "tumour, much tissue",
];

const STEPS = 256;
const part = (hex, at) => parseInt(hex.slice(at, at + 2), 16);
const rgb = (hex) => [part(hex, 1), part(hex, 3), part(hex, 5)];
const packed = ([red, green, blue], alpha) => ((Math.round(255 * alpha) << 24) | (blue << 16) | (green << 8) | red) >>> 0;
const table = (colour) => Uint32Array.from({ length: STEPS }, (_, index) => colour(index / (STEPS - 1)));

export function heatTable([low, high]) {
  // From clear at the lowest value to opaque at the highest; between the two colours, linear.
  return table((share) => packed(low.map((from, at) => Math.round(from + share * (high[at] - from))), share));
}

export function differenceTable() {
  // Opaque at -1 and 1, clear at 0.
  const [lower, higher] = DIFFERENCE.map(rgb);
  return table((share) => packed(share < 0.5 ? lower : higher, Math.abs(2 * share - 1)));
}

export const groupTable = () => Uint32Array.from(GROUPS, (colour) => packed(rgb(colour), 1));

export function css(colour) {
  return `rgba(${colour & 255}, ${(colour >>> 8) & 255}, ${(colour >>> 16) & 255}, ${(colour >>> 24) / 255})`;
}
