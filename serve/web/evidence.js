// The pictures that explain a verdict, of the crops that decided most.

import { byId, clock, el, score } from "./dom.js";
import { faceName, key, nearest } from "./tracks.js";

const BRANCHES = { ed: "autoencoder branch", vae: "variational branch" };
const PASSED = "The heat map passed its check.";
const FAILED = "The heat map did not pass its check and says nothing about this face.";

/** `picked(entry)` is called when the evidence of another crop is asked for; it calls `near`. */
export class EvidencePanel {
  constructor(picked) {
    this.picked = picked;
    this.clear();
  }

  clear() {
    this.entries = null;
    byId("pictures").replaceChildren();
    byId("explain").hidden = false;
  }

  /** Takes the entries of an answer and shows what is nearest to `point`; `still` where they are of an image. */
  take(entries, still, point) {
    Object.assign(this, { entries, still });
    byId("explain").hidden = true;
    if (entries.length) this.near(point ?? entries[0]);
    else byId("pictures").replaceChildren(el("p", { text: "There is no crop to explain." }));
  }

  /** Shows what is nearest to a point: of the same face if there is any. */
  near(point) {
    if (!this.entries?.length) return;
    const own = this.entries.filter((entry) => entry.track === point.track);
    if (own.length) return this.#show(nearest(own, point.time_s));
    const text = `${faceName(point.track)} was not explained; only the faces that are seen longest are.`;
    byId("pictures").replaceChildren(el("p", { text }), this.#choice(null));
  }

  #show(entry) {
    const name = this.#name(entry);
    const pictures = [["What the network saw", entry.crop], ["Heat map: what speaks for the score", entry.heat]];
    for (const [branch, picture] of Object.entries(entry.errors)) {
      pictures.push([`Reconstruction error, ${BRANCHES[branch] ?? branch}`, picture]);
    }
    byId("pictures").replaceChildren(
      el("p", { text: `${name}: P(fake) ${score(entry.probability_fake)}` }),
      el("div", { class: "pictures" }, ...pictures.map(([title, source]) => figure(title, source, name))),
      el(
        "p",
        { class: entry.means_something ? "" : "failed" },
        el("strong", { text: entry.means_something ? PASSED : FAILED }),
        ` ${entry.sentence}`,
      ),
      this.#choice(entry),
    );
  }

  #name(entry) {
    return this.still ? faceName(entry.track) : `${faceName(entry.track)} at ${clock(entry.time_s)}`;
  }

  #choice(shown) {
    const items = this.entries.map((entry) => {
      const pick = () => {
        this.picked(entry);
        byId("pictures").querySelector("[aria-pressed=true]")?.focus();
      };
      const attributes = { type: "button", "aria-pressed": String(entry === shown), on: { click: pick } };
      return el("li", {}, el("button", attributes, key(entry.track), this.#name(entry)));
    });
    return el("ul", { class: "buttons", "aria-label": "Explained crops" }, ...items);
  }
}

function figure(title, source, name) {
  // Nothing but a picture inside the answer is loaded, whatever the answer says.
  const src = /^data:image\/(jpeg|png);base64,/.test(source) ? source : undefined;
  return el("figure", {}, el("img", { src, alt: `${title}; ${name}` }), el("figcaption", { text: title }));
}
