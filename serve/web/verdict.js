// The verdict in plain words, with how unsure it is.

import { byId, clock, el, plural, score } from "./dom.js";
import { faceName } from "./tracks.js";

const HEADLINES = {
  FAKE: "Looks manipulated",
  REAL: "No sign of manipulation",
  UNDECIDED: "The detector does not know",
};
const ON_THE_WHOLE = "On the whole no sign of manipulation";
const CALIBRATED =
  "The detector is calibrated on clips like those it was checked with; on others P(fake) may be off.";
const NOT_CALIBRATED = "The detector is not calibrated: its score orders clips and is no probability.";
const NAMED = 3;
const NO_FACE = "No face was found";

/**
 * A detection as {tone, headline, but, sentences}; `but` is what must not be missed beside the headline, or
 * "". `calibrated` is null where it is not known.
 */
export function inWords(detection, calibrated) {
  const { verdict, probability_fake: value, frames_sampled: frames } = detection;
  if (saysNothing(detection)) {
    const where = detection.duration_s === null ? "in the image" : `in ${plural(frames, "frame")}`;
    return {
      tone: "UNDECIDED",
      headline: NO_FACE,
      but: "",
      sentences: [`Nothing can be said: the detector judges faces, and found none ${where}.`],
    };
  }
  const number = calibrated === false ? "Score" : "P(fake)";
  const sentences = [`${number} ${score(value)}${range(detection)}.`];
  const doubt = otherVerdict(detection);
  if (doubt) sentences.push(doubt);
  if (verdict === "UNDECIDED" && detection.band[1] > detection.band[0]) {
    const [low, high] = detection.band.map((edge) => edge.toFixed(2));
    sentences.push(`Between ${low} and ${high} this detector errs too often to decide.`);
  }
  if (calibrated === true) sentences.push(CALIBRATED);
  if (calibrated === false) sentences.push(NOT_CALIBRATED);
  const but = exception(detection);
  const headline = but && verdict === "REAL" ? ON_THE_WHOLE : HEADLINES[verdict];
  return { tone: verdict, headline, but, sentences };
}

/** Without a face there is nothing to say, though the aggregation `original` answers FAKE at 0.5. */
const saysNothing = (detection) => !detection.frames_with_face || detection.probability_fake === null;

/** Shows the verdict; gives the text to be read out. */
export function showVerdict(detection, calibrated) {
  const { tone, headline, but, sentences } = inWords(detection, calibrated);
  byId("verdict").className = tone;
  byId("headline").textContent = headline;
  byId("words").replaceChildren(
    ...(but ? [el("p", { class: "but", text: but })] : []),
    ...sentences.map((text, place) => el("p", { text, class: place ? "" : "lead" })),
  );
  // The server counts tracks from 0.
  const reason = detection.reason.replace(/\btrack (\d+)/g, (_, track) => faceName(Number(track)));
  byId("basis").textContent = `Basis: ${reason}.`;
  byId("gauge").replaceChildren(...(saysNothing(detection) ? [] : gauge(detection)));
  return `Verdict: ${headline}. ${[but, ...sentences].filter(Boolean).join(" ")}`;
}

/** Shows that there is no verdict, with a word on why. */
export function showNoVerdict(text) {
  byId("verdict").className = "pending";
  byId("headline").textContent = text;
  for (const id of ["words", "basis", "gauge"]) byId(id).replaceChildren();
}

/** A clip that is not FAKE on the whole may hold a face or a stretch that is. */
function exception({ verdict, tracks, intervals, band }) {
  if (verdict === "FAKE") return "";
  const found = intervals.map((each) => `${faceName(each.track)} (${clock(each.start_s)} to ${clock(each.end_s)})`);
  const parts = new Set(intervals.map((each) => each.track));
  for (const { track, probability_fake: value } of tracks) {
    if (value > band[1] && !parts.has(track)) found.push(faceName(track));
  }
  if (!found.length) return "";
  const more = found.length > NAMED ? [`${found.length - NAMED} more`] : [];
  const named = [...found.slice(0, NAMED), ...more];
  const last = named.pop();
  if (!named.length) return `But ${last} looks manipulated.`;
  return `But ${named.join(", ")} and ${last} look manipulated.`;
}

function range({ probability_interval: interval, duration_s: duration }) {
  if (interval) {
    const [low, high] = interval.map(score);
    return `, and between ${low} and ${high} (95 %) had other frames been looked at`;
  }
  if (duration === null) return "; of one image, how sure that is cannot be told";
  return "; with fewer than two frames with a face, how sure that is cannot be told";
}

function otherVerdict({ verdict, probability_interval: interval, band: [low, high] }) {
  if (!interval || verdict === "UNDECIDED") return "";
  const sure = verdict === "FAKE" ? interval[0] > high : interval[1] < low;
  return sure ? "" : "Other frames might have given another verdict.";
}

function gauge({ probability_fake: value, probability_interval: interval, threshold, band: [low, high] }) {
  const part = (name, from, to = from) => {
    const node = el("i", { class: name });
    node.style.left = `${100 * from}%`;
    if (to > from) node.style.width = `${100 * (to - from)}%`;
    return node;
  };
  const parts = [part("band", low, high), part("mark", threshold)];
  if (interval) parts.push(part("range", ...interval));
  parts.push(part("value", value));
  const label = `P(fake) ${score(value)} on a scale from 0 to 1; the threshold is ${threshold.toFixed(2)}`;
  const [real, fake] = ["0 real", "1 fake"].map((text) => el("span", { text }));
  const named = el("span", { class: "named", text: `threshold ${threshold.toFixed(2)}` });
  named.style.left = `${Math.min(Math.max(100 * threshold, 32), 68)}%`; // beside the ends' names
  return [
    el("div", { class: "gauge", role: "img", "aria-label": label }, ...parts),
    el("p", { class: "ends soft", "aria-hidden": "true" }, real, named, fake),
  ];
}
