// Where things lie on a time axis.

const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400];
const TICKS = 6;
/** A pause clearly longer than the usual step: the face was not seen there. */
const GAP_STEPS = 1.5;

export const percent = (value, whole) => `${((100 * value) / whole).toFixed(3)}%`;

/** Round moments from 0 to `end`, about half a dozen. */
export function ticks(end) {
  const step = STEPS.find((each) => end / each <= TICKS) ?? end / TICKS;
  return Array.from({ length: Math.floor(end / step + 1e-9) + 1 }, (_, i) => i * step);
}

/** The points of a track, divided where it was out of sight. */
export function pieces(points, step) {
  const found = [];
  for (const point of points) {
    const last = found.at(-1)?.at(-1);
    if (last && point.time_s - last.time_s <= GAP_STEPS * step) found.at(-1).push(point);
    else found.push([point]);
  }
  return found;
}
