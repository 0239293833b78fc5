// Colours of values and groups, as packed numbers: the order of ImageData in a little-endian number, alpha the highest.

// The colours themselves come with the facts of a slide, from the table that overlays and reports use.

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

export function differenceTable(colours) {
  // Opaque at -1 and 1, clear at 0.
  const [lower, higher] = colours.map(rgb);
  return table((share) => packed(share < 0.5 ? lower : higher, Math.abs(2 * share - 1)));
}

export const groupTable = (colours) => Uint32Array.from(colours, (colour) => packed(rgb(colour), 1));
export const opaque = (colour) => packed(colour, 1);

export function css(colour) {
  return `rgba(${colour & 255}, ${(colour >>> 8) & 255}, ${(colour >>> 16) & 255}, ${(colour >>> 24) / 255})`;
}
