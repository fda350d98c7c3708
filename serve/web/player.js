// The chosen file, shown from this device, with a box around each face.

import { controls } from "./controls.js";
import { byId, score, svg } from "./dom.js";
import { byTrack, colourClass, dashes, faceName, frameStep, nearest } from "./tracks.js";

const SAME_FRAME_S = 0.06;
const LABEL_PX = 13;
const LOAD_LIMIT_MS = 4000;

/** `moved(time)` is called whenever the playhead has moved. */
export class Player {
  constructor(moved) {
    this.moved = moved;
    this.video = byId("video");
    this.image = byId("image");
    this.overlay = byId("overlay");
    this.time = 0;
    this.shown = null;
    this.judged = { width: null, height: null };
    this.tracks = new Map();
    for (const event of ["timeupdate", "seeking", "seeked"]) this.video.addEventListener(event, () => this.#follow());
    this.video.addEventListener("play", () => this.#run());
    controls(this.video, (time) => this.seek(time));
    new ResizeObserver(() => this.#draw()).observe(this.overlay);
  }

  /** Shows a file. Gives its duration: 0 for an image, null where the browser does not know. */
  async load(file) {
    this.clear();
    const url = URL.createObjectURL(file);
    this.url = url;
    const still = file.type.startsWith("image/") && file.type !== "image/gif";
    const [shown, ready] = still ? [this.image, "load"] : [this.video, "loadedmetadata"];
    const plays = await loaded(shown, ready, url);
    if (this.url !== url) return null; // another file was chosen meanwhile
    const [width, height] = still
      ? [shown.naturalWidth, shown.naturalHeight]
      : [shown.videoWidth, shown.videoHeight];
    if (!plays || !width || !height) {
      byId("unplayable").textContent = still
        ? "This browser cannot show this image format. It can be judged nevertheless."
        : "This browser cannot play this format. It can be judged nevertheless, and the timeline works.";
      byId("unplayable").hidden = false;
      return still ? 0 : null;
    }
    shown.hidden = false;
    byId("controls").hidden = still;
    this.shown = shown;
    this.overlay.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.size = { width, height };
    if (still) return 0;
    return Number.isFinite(shown.duration) ? shown.duration : null;
  }

  clear() {
    if (this.url) URL.revokeObjectURL(this.url);
    this.video.pause();
    for (const shown of [this.video, this.image]) {
      shown.removeAttribute("src");
      shown.hidden = true;
    }
    this.video.load();
    for (const id of ["unplayable", "controls"]) byId(id).hidden = true;
    this.time = 0;
    this.shown = this.url = null;
    this.show([], {});
  }

  /** Takes what the boxes are drawn from; `width` and `height` are those of the judged frames. */
  show(timeline, { width = null, height = null }) {
    this.judged = { width, height };
    this.tracks = byTrack(timeline);
    this.reach = Math.max(0.75 * frameStep(timeline), SAME_FRAME_S);
    this.#draw();
  }

  seek(time) {
    this.time = time;
    // A little into the frame: rounded down, it would be the one before.
    if (this.shown === this.video) this.video.currentTime = Math.min(time + 0.001, this.video.duration);
    this.#draw();
    this.moved(time);
  }

  /** The points that are shown now: of each track the nearest one, unless it is too far. */
  now() {
    const points = [...this.tracks.values()].map((points) => nearest(points, this.time));
    return points.filter((point) => Math.abs(point.time_s - this.time) <= this.reach);
  }

  #follow() {
    if (this.shown !== this.video) return;
    this.time = this.video.currentTime;
    this.#draw();
    this.moved(this.time);
  }

  #run() {
    this.#follow();
    if (!this.video.paused && !this.video.ended) requestAnimationFrame(() => this.#run());
  }

  #draw() {
    const { width: w, height: h } = this.overlay.getBoundingClientRect();
    if (!this.shown || !w || !h) return this.overlay.replaceChildren();
    // Browsers stretch pixels that are not square, and the detector does not.
    const { width, height } = this.size;
    const [sx, sy] = [width / (this.judged.width ?? width), height / (this.judged.height ?? height)];
    const unit = Math.max(width / w, height / h); // pixels of the picture in one of the page
    this.overlay.replaceChildren(
      ...this.now().map((point) => {
        const [x0, y0, x1, y1] = point.box;
        return this.#box(point, [x0 * sx, y0 * sy, x1 * sx, y1 * sy], unit);
      }),
    );
  }

  #box(point, [x0, y0, x1, y1], unit) {
    const text = `${faceName(point.track)}  ${score(point.probability_fake)}`;
    const size = LABEL_PX * unit;
    const above = y0 > 1.5 * size;
    const [y, wide] = [above ? y0 - 1.4 * size : y0, 0.62 * size * text.length];
    const x = Math.max(0, Math.min(x0, this.size.width - wide));
    const where = { x: x0, y: y0, width: Math.max(0, x1 - x0), height: Math.max(0, y1 - y0) };
    const old = Math.abs(point.time_s - this.time) > SAME_FRAME_S && this.shown === this.video;
    return svg(
      "g",
      { class: `face ${colourClass(point.track)} ${old ? "old" : ""}` },
      svg("rect", { class: "halo", ...where }),
      svg("rect", { class: "box", "stroke-dasharray": dashes(point.track), ...where }),
      svg("rect", { class: "plate", x, y, width: wide, height: 1.4 * size }),
      svg("text", { x: x + 0.4 * size, y: y + 1.03 * size, "font-size": size, text }),
    );
  }
}

/** Whether a file could be loaded into a video or image; some files make a browser wait for ever. */
function loaded(shown, ready, url) {
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve(false), LOAD_LIMIT_MS);
    const settle = (plays) => () => {
      clearTimeout(timer);
      resolve(plays);
    };
    shown.addEventListener(ready, settle(true), { once: true });
    shown.addEventListener("error", settle(false), { once: true });
    shown.src = url;
  });
}
