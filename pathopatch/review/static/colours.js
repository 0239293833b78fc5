// Colour maps that are perceptually uniform, also in grey and for colour-blind readers.

// 33 evenly spaced colours of each map (viridis and cividis are CC0), interpolated linearly.
const TABLES = {
  viridis:
    "440154 470d60 48186a 482374 472d7b 453681 424086 3f4989 3b528b 375a8d 33638d " +
    "2f6a8e 2c728e 297a8e 26818e 23898e 21908c 1f988b 1f9f88 21a685 28ae80 31b57b " +
    "3ebc74 4cc26c 5dc963 6ece58 82d34c 96d83f abdc32 c0df24 d5e21a eae51a fde725",
  cividis:
    "00224e 00285b 002e6a 043371 1a386f 273e6e 32436d 3b496c 434e6c 4b546c 52596d " +
    "5a5f6e 61656f 686a71 6f7073 757676 7c7b78 848179 8b8778 938d78 9b9376 a39a75 " +
    "aba072 b3a670 bbad6c c3b469 ccba64 d4c15f ddc958 e6d051 efd748 f8df3c fee838",
  greys: "000000 ffffff",
  difference: "0072b2 f2f2f2 d55e00", // Okabe-Ito blue, no difference, Okabe-Ito vermilion
};

export const MAPS = ["viridis", "cividis", "greys"];

// Okabe-Ito, as in the report: blue for non-tumour, orange for tumour, the darker one for much tissue.
export const GROUPS = ["#56b4e9", "#0072b2", "#e69f00", "#d55e00"];
export const GROUP_NAMES = [
  "non-tumour, little tissue", "non-tumour, much tissue", "tumour, little tissue", "tumour, much tissue",
];

const STEPS = 256;
const part = (hex, at) => parseInt(hex.slice(at, at + 2), 16);
const rgb = (hex) => [part(hex, 0), part(hex, 2), part(hex, 4)];

// ImageData has bytes in the order red, green, blue, alpha: in a little-endian number, alpha is the highest.
const packed = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;

export function table(name) {
  // A Uint32Array of 256 opaque colours, from the lowest value to the highest.
  const stops = TABLES[name].split(" ").map(rgb);
  return Uint32Array.from({ length: STEPS }, (_, index) => {
    const place = (index / (STEPS - 1)) * (stops.length - 1);
    const below = Math.min(Math.floor(place), stops.length - 2);
    const share = place - below;
    return packed(stops[below].map((low, at) => Math.round(low + share * (stops[below + 1][at] - low))));
  });
}

export const groupTable = () => Uint32Array.from(GROUPS, (colour) => packed(rgb(colour.slice(1))));

export function css(colour) {
  return `rgb(${colour & 255}, ${(colour >>> 8) & 255}, ${(colour >>> 16) & 255})`;
}
