// P(fake) of each face over time, a row a face, and the same as a table.

import { byId, clock, el, LOOKS, plural, score, wordOf } from "./dom.js";
import { Lane, says } from "./lane.js";
import { percent, ticks } from "./scale.js";
import { byTrack, faceName, frameStep, key } from "./tracks.js";

const ROWS = 8;
const HINT = "Click a point, or step with the arrow keys, to go there and see its values.";

/** `picked(point or null, time)` is called when a point or a moment is chosen in it. */
export class Timeline {
  constructor(picked) {
    this.picked = picked;
    this.axis = el("div", { class: "axis", "aria-hidden": "true" });
    byId("more").addEventListener("click", () => {
      this.#showAll();
      [...this.lanes.values()].at(-1).plot.focus(); // the button is gone
    });
    addEventListener("beforeprint", () => this.#showAll());
    byId("table").addEventListener("toggle", () => this.#table());
    this.clear();
  }

  clear() {
    Object.assign(this, { lanes: new Map(), all: false, data: null, chosen: null });
    byId("rows").replaceChildren();
    byId("spans").replaceChildren();
    byId("point").textContent = HINT;
    byId("timeline").hidden = true;
    byId("table").open = false;
  }

  /**
   * Shows the points so far.
   *
   * `data`: timeline, tracks and intervals of a detection, or the timeline alone; band, threshold and
   * duration (0 for an image, null where it is not known).
   */
  show(data) {
    this.still = data.duration === 0;
    this.points = byTrack(data.timeline);
    const end = Math.max(data.duration ?? 0, ...data.timeline.map((point) => point.time_s)) || 1;
    this.data = { ...data, end, step: frameStep(data.timeline) };
    byId("timeline").hidden = !data.timeline.length;
    byId("timeline-title").textContent = this.still ? "Faces" : "Faces over time";
    byId("legend").textContent = this.#legend();
    if (this.still) byId("point").textContent = "";
    this.#rows();
    this.#spans();
    this.#table();
  }

  /** Moves the line that marks the time; `near` are the points under it. */
  at(time, near) {
    for (const [track, lane] of this.lanes) lane.at(time, near.find((point) => point.track === track));
  }

  /** Marks a point as the chosen one, or none. */
  choose(point) {
    this.chosen = point;
    byId("point").textContent = point ? this.#said(point) : this.still ? "" : HINT;
    for (const [track, lane] of this.lanes) lane.choose(point?.track === track ? point : null);
  }

  #said(point) {
    const frame = this.still ? "" : ` at ${clock(point.time_s)}, frame ${point.frame_index}`;
    return `${faceName(point.track)}${frame}: ${says(point, this.data.band)}`;
  }

  #showAll() {
    this.all = true;
    if (this.data) this.#rows();
  }

  // The faces that look most manipulated, until all are asked for.
  #rows() {
    const seen = [...this.points.keys()];
    const worst = seen.toSorted((a, b) => this.#suspicion(b) - this.#suspicion(a));
    const shown = this.all ? seen : worst.slice(0, ROWS).sort((a, b) => a - b);
    const lanes = shown.map((track) => this.lanes.get(track) ?? new Lane(track, this.still, this.picked));
    lanes.forEach((lane) => lane.show(this.points.get(lane.track), this.data));
    this.lanes = new Map(lanes.map((lane) => [lane.track, lane]));
    this.#ticks();
    inOrder(byId("rows"), [...lanes.map((lane) => lane.root), ...(this.still ? [] : [this.axis])]);
    byId("more").hidden = shown.length === seen.length;
    byId("more").textContent = `Show the other ${plural(seen.length - shown.length, "face")}`;
  }

  #suspicion(track) {
    const scores = this.points.get(track).map((point) => point.probability_fake);
    return scores.reduce((sum, each) => sum + each, 0) / scores.length;
  }

  #ticks() {
    const labels = ticks(this.data.end).map((time) => {
      const text = time < 60 ? `${+time.toFixed(2)} s` : clock(time).replace(/\.0$/, "");
      const label = el("span", { text });
      label.style.left = percent(time, this.data.end);
      return label;
    });
    this.axis.replaceChildren(...labels);
  }

  #legend() {
    const { band, threshold, intervals } = this.data;
    const [low, high] = band.map((edge) => edge.toFixed(2));
    const undecided = high > low ? `, shaded across: undecided (${low} to ${high})` : "";
    const from = this.still ? "From left to right" : "From bottom to top";
    const spans = intervals?.length ? "; shaded with a bar on top: looks manipulated" : "";
    return `${from}: P(fake) 0 to 1; dashed: threshold ${threshold.toFixed(2)}${undecided}${spans}.`;
  }

  #spans() {
    const spans = this.data.intervals ?? [];
    const items = spans.map((span) => {
      const when = `${clock(span.start_s)} to ${clock(span.end_s)}`;
      const scores = `P(fake) ${score(span.probability_fake)}, peak ${score(span.peak)}`;
      const text = `${faceName(span.track)}, ${when}: ${scores}`;
      const seek = () => this.picked(null, span.start_s);
      return el("li", {}, el("button", { type: "button", on: { click: seek } }, key(span.track), text));
    });
    byId("spans").replaceChildren(
      ...(items.length ? [el("h4", { text: "Looks manipulated" }), el("ul", { class: "buttons" }, ...items)] : []),
    );
  }

  // Filled when it is looked at: it may have thousands of rows.
  #table() {
    if (!byId("table").open || !this.data) return;
    const names = ["Time", "Frame", "Face", "P(fake)", "What it says"];
    const rows = this.data.timeline.map((point) => {
      const { time_s, frame_index, track, probability_fake } = point;
      const cells = [clock(time_s), frame_index, faceName(track), score(probability_fake)];
      cells.push(LOOKS[wordOf(probability_fake, this.data.band)]);
      return el("tr", {}, ...cells.map((text) => el("td", { text })));
    });
    const head = el("tr", {}, ...names.map((text) => el("th", { scope: "col", text })));
    const table = el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows));
    byId("table").querySelector("div").replaceChildren(table);
  }
}

/** Makes `nodes` the children of `parent`; one that stays in place keeps the focus. */
function inOrder(parent, nodes) {
  nodes.forEach((node, place) => {
    if (parent.children[place] !== node) parent.insertBefore(node, parent.children[place] ?? null);
  });
  while (parent.children.length > nodes.length) parent.lastChild.remove();
}
