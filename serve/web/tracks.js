// How each face of a clip is drawn: colour, marker and dashes, so that no two rely on colour alone.

import { svg } from "./dom.js";

const COLOURS = 6;
const MARKS = [
  "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
  "M-3.6-3.6h7.2v7.2h-7.2z",
  "M0-4.8 4.6 3.5H-4.6z",
  "M0-5 5 0 0 5-5 0z",
  "M0 4.8 4.6-3.5H-4.6z",
];
const DASHES = ["none", "7 3", "2 3", "9 3 2 3"];

/** People count from 1, tracks from 0. */
export const faceName = (track) => `Face ${track + 1}`;

export const colourClass = (track) => `c${track % COLOURS}`;

export const dashes = (track) => DASHES[track % DASHES.length];

/** The marker of a track, around (0, 0), about 10 px wide. */
export const mark = (track) => svg("path", { d: MARKS[track % MARKS.length] });

/** The marker as a small picture beside text. */
export function key(track) {
  const attributes = { class: `key ${colourClass(track)}`, viewBox: "-6 -6 12 12", "aria-hidden": "true" };
  return svg("svg", attributes, mark(track));
}

/** The points of each track in order of time, by track, as a Map that is ordered by track. */
export function byTrack(timeline) {
  const found = new Map();
  for (const point of timeline) {
    if (!found.has(point.track)) found.set(point.track, []);
    found.get(point.track).push(point);
  }
  return new Map([...found].sort(([a], [b]) => a - b));
}

/** Usual time between two sampled frames; 0 where there is only one. */
export function frameStep(timeline) {
  const times = [...new Set(timeline.map((point) => point.time_s))].sort((a, b) => a - b);
  const steps = times.slice(1).map((time, i) => time - times[i]).sort((a, b) => a - b);
  return steps.length ? steps[Math.floor(steps.length / 2)] : 0;
}

/** The point of `points` that is nearest in time; undefined of none. */
export function nearest(points, time) {
  let best;
  for (const point of points) {
    if (!best || Math.abs(point.time_s - time) < Math.abs(best.time_s - time)) best = point;
  }
  return best;
}
