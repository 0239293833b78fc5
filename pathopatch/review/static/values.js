// The values of a slide's cells and patches: the server's binary answer as typed arrays.

const TYPES = { float32: Float32Array, uint32: Uint32Array, uint16: Uint16Array, int8: Int8Array };

export function unpack(facts, buffer) {
  // Per cell, row by row: probability, tissue, spread, beside, group, and the patch that begins there (-1: none).
  const array = {};
  for (const { name, type, length, offset } of facts.layout) array[name] = new TYPES[type](buffer, offset, length);
  const [across, down] = facts.cells;
  const patchIn = new Int32Array(across * down).fill(-1);
  const group = new Int8Array(across * down).fill(-1);
  array.patch_cell.forEach((cell, index) => {
    patchIn[cell] = index;
    group[cell] = array.patch_group[index];
  });
  return {
    across, down, patchIn, group,
    probability: array.cell_probability,
    tissue: array.cell_tissue,
    scanned: array.cell_scanned ?? null, // null: everywhere
    spread: array.cell_spread ?? null,
    beside: array.cell_beside ?? null,
    difference: array.cell_beside ? array.cell_probability.map((value, cell) => value - array.cell_beside[cell]) : null,
    patch: {
      count: array.patch_cell.length,
      cell: array.patch_cell,
      probability: array.patch_probability,
      tissue: array.patch_tissue,
      flags: array.patch_flags,
      label: array.patch_label,
      group: array.patch_group,
      beside: array.patch_beside ?? null,
    },
  };
}

export function positives(probability, threshold) {
  // The number above a threshold, and the number of values that are not NaN.
  let above = 0;
  let known = 0;
  for (let index = 0; index < probability.length; index += 1) {
    const value = probability[index];
    if (value > threshold) above += 1;
    if (value === value) known += 1;
  }
  return { above, known };
}

export function positiveTissue(facts, { across, down, tissue, scanned }, probability, threshold) {
  // The share of the tissue area in cells above a threshold; null without tissue. The last cells overhang the slide,
  // and only their scanned part on it counts.
  const [width, height] = facts.size_px;
  const inside = (length, index) => Math.min(1, length / facts.cell_px - index);
  let positive = 0;
  let all = 0;
  for (let row = 0, cell = 0; row < down; row += 1) {
    for (let column = 0; column < across; column += 1, cell += 1) {
      const area = (tissue[cell] || 0) * (scanned ? scanned[cell] || 0 : 1) * inside(width, column) * inside(height, row);
      all += area;
      if (probability[cell] > threshold) positive += area;
    }
  }
  return all ? positive / all : null;
}

const histograms = new WeakMap(); // by the array of values, which never changes

export function histogram(values, low, high, bins) {
  if (!histograms.has(values)) histograms.set(values, count(values, low, high, bins));
  return histograms.get(values);
}

function count(values, low, high, bins) {
  const counts = new Uint32Array(bins);
  const scale = bins / (high - low);
  for (let index = 0; index < values.length; index += 1) {
    const value = values[index];
    if (value >= low && value <= high) counts[Math.min(bins - 1, Math.floor((value - low) * scale))] += 1;
  }
  return counts;
}

export function origin(facts, cell) {
  // Top-left corner of the patch that begins in a cell, level-0 px.
  const [across] = facts.cells;
  const at = (index) => Math.floor(index * facts.cell_px + 0.5);
  return [at(cell % across), at(Math.floor(cell / across))];
}

export function cellAt(facts, x, y) {
  // The cell whose patch has its centre nearest to a point (level-0 px), or -1 outside the grid.
  const [across, down] = facts.cells;
  const index = (value) => Math.floor((value - facts.span_px / 2) / facts.cell_px + 0.5);
  if (x < 0 || y < 0 || x >= facts.size_px[0] || y >= facts.size_px[1]) return -1;
  const column = Math.min(Math.max(index(x), 0), across - 1);
  const row = Math.min(Math.max(index(y), 0), down - 1);
  return row * across + column;
}

export function nearestPatch(values, facts, x, y) {
  // The cell of the patch whose middle is nearest to a point (level-0 px); -1 if there is no patch.
  let [nearest, least] = [-1, Infinity];
  for (let cell = 0; cell < values.patchIn.length; cell += 1) {
    if (values.patchIn[cell] < 0) continue;
    const [left, top] = origin(facts, cell);
    const away = (left + facts.span_px / 2 - x) ** 2 + (top + facts.span_px / 2 - y) ** 2;
    if (away < least) [nearest, least] = [cell, away];
  }
  return nearest;
}

export function nextPatch(values, from, across, down) {
  // The next cell with a patch in one direction, skipping cells without one; -1 if there is none.
  let column = (from % values.across) + across;
  let row = Math.floor(from / values.across) + down;
  while (column >= 0 && row >= 0 && column < values.across && row < values.down) {
    if (values.patchIn[row * values.across + column] >= 0) return row * values.across + column;
    column += across;
    row += down;
  }
  return -1;
}
