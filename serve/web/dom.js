// Elements and numbers as text. What comes from a file or the server is set as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An HTML element. `attributes` may hold `text`, and `on` with listeners by event. */
export function el(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** An SVG element; as `el`. */
export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(node, { text, on = {}, ...attributes }, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) {
      node.setAttribute(key, value === true ? "" : value);
    }
  }
  for (const [event, listener] of Object.entries(on)) node.addEventListener(event, listener);
  if (text !== undefined) node.textContent = text;
  node.append(...children);
  return node;
}

/** P(fake) as text. What is not 0 or 1 is not shown as if it were. */
export function score(value) {
  if (value > 0 && value < 0.005) return "below 0.01";
  if (value < 1 && value >= 0.995) return "above 0.99";
  return value.toFixed(2);
}

/** A time in a clip as text, to the hundredth of a second below a minute. */
export function clock(seconds) {
  if (seconds < 60) return `${seconds.toFixed(2)} s`;
  const tenths = Math.round(seconds * 10);
  const [hours, minutes] = [Math.floor(tenths / 36000), Math.floor(tenths / 600) % 60];
  const rest = ((tenths % 600) / 10).toFixed(1).padStart(4, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

/** A number of bytes as text; 1 MB is 1,000,000. */
export function size(bytes) {
  if (bytes < 1e6) return `${Math.max(1, Math.round(bytes / 1e3))} kB`;
  return `${(bytes / 1e6).toFixed(bytes < 1e8 ? 1 : 0)} MB`;
}

export const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

/** Which of the three words a P(fake) stands for, by the undecided band [low, high]. */
export function wordOf(value, [low, high]) {
  if (value > high) return "FAKE";
  return value < low ? "REAL" : "UNDECIDED";
}

export const LOOKS = {
  FAKE: "looks manipulated",
  REAL: "shows no sign of manipulation",
  UNDECIDED: "undecided",
};
