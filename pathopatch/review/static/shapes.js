// Outlines of regions (arithmetic only): points to text and back, area, and fewer points along a drawn line.

export const MOST_CHARACTERS = 32000; // of an outline, as the server has it

export function toText(points) {
  const ring = [...points, points[0]].map(([x, y]) => `${x} ${y}`);
  return `POLYGON ((${ring.join(", ")}))`;
}

export const lineText = ([from, to]) => `LINESTRING (${from.join(" ")}, ${to.join(" ")})`;

export function toPoints(text) {
  // Of an outline without the last point, which is the first one again; of a length both ends.
  const points = text.slice(text.lastIndexOf("(") + 1, text.indexOf(")")).split(", ").map((point) => point.split(" ").map(Number));
  return text.startsWith("LINE") ? points : points.slice(0, -1);
}

export function areaPx(points) {
  let twice = 0;
  points.forEach(([x, y], index) => {
    const [nextX, nextY] = points[(index + 1) % points.length];
    twice += x * nextY - nextX * y;
  });
  return Math.abs(twice) / 2;
}

export function bounds(points) {
  const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
  const [left, top] = [Math.min(...xs), Math.min(...ys)];
  return { left, top, width: Math.max(...xs) - left, height: Math.max(...ys) - top };
}

export function onSlide(points, [width, height]) {
  // Whole level-0 px within the slide, without a point twice in a row.
  const whole = points.map(([x, y]) => [Math.round(Math.min(Math.max(x, 0), width)), Math.round(Math.min(Math.max(y, 0), height))]);
  const isNew = ([x, y], index) => {
    const [beforeX, beforeY] = whole[(index + whole.length - 1) % whole.length];
    return x !== beforeX || y !== beforeY;
  };
  return whole.filter(isNew);
}

export function simplified(points, tolerance) {
  // Ramer, Douglas and Peucker: no point of the line is further than the tolerance from what is left of it.
  if (points.length < 3) return points;
  const keep = new Uint8Array(points.length);
  keep[0] = keep[points.length - 1] = 1;
  const stack = [[0, points.length - 1]];
  while (stack.length) {
    const [from, to] = stack.pop();
    let [farthest, most] = [-1, tolerance];
    for (let index = from + 1; index < to; index += 1) {
      const away = distance(points[index], points[from], points[to]);
      if (away > most) [farthest, most] = [index, away];
    }
    if (farthest < 0) continue;
    keep[farthest] = 1;
    stack.push([from, farthest], [farthest, to]);
  }
  return points.filter((_, index) => keep[index]);
}

function distance([x, y], [x0, y0], [x1, y1]) {
  const [dx, dy] = [x1 - x0, y1 - y0];
  const length = dx * dx + dy * dy;
  const share = length ? Math.min(1, Math.max(0, ((x - x0) * dx + (y - y0) * dy) / length)) : 0;
  return Math.hypot(x - x0 - share * dx, y - y0 - share * dy);
}
