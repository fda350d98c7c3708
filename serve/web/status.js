// What is going on: for the eye at once, for the ear only now and then.

import { byId } from "./dom.js";

const READ_OUT_EVERY = 0.25;

/** With a capital, unless it begins with a file's name, and a full stop. */
export function asSentence(text) {
  const begun = /^[a-z]+[ ,]/.test(text) ? text[0].toUpperCase() + text.slice(1) : text;
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}

/** Says a sentence to screen readers. */
export function announce(text) {
  byId("live").textContent = text;
}

export class Status {
  #last = { text: "", share: 0 };

  /** Shows what is done, and the share of it, or null where that is not known. */
  show(text, share = null, more = "") {
    byId("progress").hidden = false;
    byId("problem").hidden = true;
    const whole = share === null ? text : `${text}: ${Math.round(100 * share)} %`;
    byId("progress-text").textContent = whole;
    byId("progress-more").textContent = more;
    if (share === null) byId("bar").removeAttribute("value");
    else byId("bar").value = share;
    if (text === this.#last.text && (share ?? 0) < this.#last.share + READ_OUT_EVERY) return;
    this.#last = { text, share: share ?? 0 };
    announce(whole);
  }

  done() {
    byId("progress").hidden = true;
    this.#last = { text: "", share: 0 };
  }

  /** Shows why something did not work. */
  fail(text, requestId = "") {
    this.done();
    byId("problem-text").textContent = text;
    byId("problem-id").textContent = requestId ? `Request ${requestId}` : "";
    byId("problem").hidden = false;
  }
}
