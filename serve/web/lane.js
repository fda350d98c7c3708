// One face in the timeline: its P(fake) over time, or for an image on a line from 0 to 1.

import { clock, el, LOOKS, score, svg, wordOf } from "./dom.js";
import { percent, pieces } from "./scale.js";
import { colourClass, dashes, faceName, key, mark, nearest } from "./tracks.js";

const DENSE = 60;
const CATCH_PX = 10;
/** How far PageUp and PageDown jump beyond the next point. */
const JUMP = 9;
/** A player does not stop at a time exactly. */
const HERE_S = 0.01;

/** What is said of a point's score. */
export const says = (point, band) =>
  `P(fake) ${score(point.probability_fake)}, ${LOOKS[wordOf(point.probability_fake, band)]}`;

/**
 * A row of the timeline. `picked(point or null, time)` is called when a point or a moment is chosen
 * by mouse, finger or keyboard.
 */
export class Lane {
  constructor(track, still, picked) {
    Object.assign(this, { track, still, picked, time: 0, chosen: null });
    this.playhead = svg("line", { class: "playhead", y1: -3, y2: "100%", x1: 0, x2: 0 });
    [this.content, this.ring] = [svg("g"), svg("g")];
    [this.value, this.now] = [el("b"), el("span")];
    this.tip = el("span", { class: "tip", hidden: true });
    const attributes = { class: `plot ${colourClass(track)}`, "aria-hidden": "true" };
    const picture = svg("svg", attributes, this.content, this.ring, ...(still ? [] : [this.playhead]));
    const role = still
      ? { role: "button" }
      : { role: "slider", "aria-label": `${faceName(track)}: P(fake) over time`, "aria-valuemin": 0 };
    const hide = () => (this.tip.hidden = true);
    const on = {
      pointermove: (event) => this.#hover(event),
      pointerleave: hide,
      click: (event) => this.#click(event),
      keydown: (event) => this.#key(event),
    };
    this.plot = el("div", { class: "lane", tabindex: 0, on, ...role }, picture, this.tip);
    const scores = el("span", { class: "scores" }, this.value, this.now);
    const label = el("p", { class: "label" }, key(track), el("span", { text: faceName(track) }), scores);
    this.root = el("div", { class: "row" }, label, this.plot);
  }

  /** Shows the face's points; `data` as in `Timeline.show`, with `step` and `end` in seconds. */
  show(points, data) {
    Object.assign(this, { points, data });
    const summary = data.tracks?.find((each) => each.track === this.track);
    this.value.textContent = summary ? `P(fake) ${score(summary.probability_fake)}` : "";
    if (this.still) {
      this.plot.setAttribute("aria-label", `${faceName(this.track)}: ${says(points[0], data.band)}`);
      this.content.replaceChildren(...this.#stillPlot());
    } else {
      this.plot.setAttribute("aria-valuemax", data.end.toFixed(2));
      const marks = points.map((point) => this.#mark(point));
      const crowd = points.length > DENSE ? "dense" : "";
      this.content.replaceChildren(this.#lines(), svg("g", { class: crowd }, ...marks));
    }
    this.choose(this.chosen);
  }

  /** Moves the playhead; `point` is the face's point under it, or undefined. */
  at(time, point) {
    if (this.still) return;
    this.time = time;
    this.now.textContent = point ? `now ${score(point.probability_fake)}` : "";
    this.playhead.setAttribute("x1", percent(time, this.data.end));
    this.playhead.setAttribute("x2", percent(time, this.data.end));
    this.plot.setAttribute("aria-valuenow", time.toFixed(2));
    const said = point ? says(point, this.data.band) : "no face here";
    this.plot.setAttribute("aria-valuetext", `${clock(time)}: ${said}`);
  }

  /** Rings a point of this face, or none. */
  choose(point) {
    this.chosen = point;
    const [cx, cy] = point ? this.#place(point) : [];
    this.ring.replaceChildren(...(point ? [svg("circle", { class: "ring", cx, cy, r: 8 })] : []));
  }

  #place(point) {
    if (this.still) return [percent(point.probability_fake, 1), "50%"];
    return [percent(point.time_s, this.data.end), percent(1 - point.probability_fake, 1)];
  }

  #mark(point) {
    const [x, y] = this.#place(point);
    return svg("svg", { class: "mark", x, y }, mark(this.track));
  }

  // Stretched to the row's width by the browser; the marks, which must not be, lie over it.
  #lines() {
    const { band, threshold, intervals = [], step, end } = this.data;
    const x = (time) => (1000 * time) / end;
    const y = (value) => 1000 * (1 - value);
    const across = { x1: 0, x2: 1000 };
    const spans = intervals.filter((each) => each.track === this.track);
    return svg(
      "svg",
      { viewBox: "0 0 1000 1000", preserveAspectRatio: "none", width: "100%", height: "100%" },
      ...spans.map((each) => {
        const where = { x: x(each.start_s), width: x(each.end_s - each.start_s) };
        return svg("g", { class: "span" }, ...[1000, 60].map((height) => svg("rect", { y: 0, height, ...where })));
      }),
      svg("rect", { class: "undecided", x: 0, width: 1000, y: y(band[1]), height: 1000 * (band[1] - band[0]) }),
      ...[0, 1].map((value) => svg("line", { class: "grid", ...across, y1: y(value), y2: y(value) })),
      svg("line", { class: "threshold", ...across, y1: y(threshold), y2: y(threshold) }),
      ...pieces(this.points, step).map((piece) => {
        const points = piece.map((each) => `${x(each.time_s)},${y(each.probability_fake)}`).join(" ");
        return svg("polyline", { class: "line", "stroke-dasharray": dashes(this.track), points });
      }),
    );
  }

  #stillPlot() {
    const { band, threshold } = this.data;
    const at = (value) => percent(value, 1);
    return [
      svg("rect", { class: "undecided", x: at(band[0]), width: at(band[1] - band[0]), y: 0, height: "100%" }),
      svg("line", { class: "grid", x1: 0, x2: "100%", y1: "50%", y2: "50%" }),
      svg("line", { class: "threshold", x1: at(threshold), x2: at(threshold), y1: 0, y2: "100%" }),
      this.#mark(this.points[0]),
    ];
  }

  #timeAt(event) {
    const { left, width } = this.plot.getBoundingClientRect();
    return Math.min(Math.max((event.clientX - left) / width, 0), 1) * this.data.end;
  }

  #nearest(time) {
    return this.still ? this.points[0] : nearest(this.points, time);
  }

  #hover(event) {
    const point = this.#nearest(this.#timeAt(event));
    const time = this.still ? "" : `${clock(point.time_s)}  `;
    this.tip.textContent = `${time}P(fake) ${score(point.probability_fake)}`;
    const [left] = this.#place(point);
    this.tip.style.left = left;
    this.tip.className = `tip ${parseFloat(left) > 70 ? "leftwards" : parseFloat(left) < 30 ? "rightwards" : ""}`;
    this.tip.hidden = false;
  }

  #click(event) {
    const time = this.#timeAt(event);
    const point = this.#nearest(time);
    const away = (Math.abs(point.time_s - time) / this.data.end) * this.plot.clientWidth;
    if (this.still || away <= CATCH_PX) this.picked(point, point.time_s);
    else this.picked(null, time);
  }

  #key(event) {
    const last = this.points.length - 1;
    const after = this.points.findIndex((point) => point.time_s > this.time + HERE_S);
    const before = this.points.findLastIndex((point) => point.time_s < this.time - HERE_S);
    const next = after < 0 ? last : after;
    const here = this.points.indexOf(this.#nearest(this.time));
    const goal = {
      ArrowRight: next,
      ArrowUp: next,
      ArrowLeft: before,
      ArrowDown: before,
      PageUp: next + JUMP,
      PageDown: before - JUMP,
      Home: 0,
      End: last,
      Enter: here,
      " ": here,
    }[event.key];
    if (goal === undefined) return;
    event.preventDefault();
    const point = this.points[Math.min(Math.max(goal, 0), last)];
    this.picked(point, point.time_s);
  }
}
