// Requests to the server of this page: problems as errors, and waiting where it says so.

const API = new URL("v1/", document.baseURI);
/** The server's reason for giving up on a request. */
export const TOO_LONG = "time budget";
const ATTEMPT_AFTER_S = [2, 5, 10, 20, 30];

/** What the server answered in place of a result, or why there is no answer. */
export class Problem extends Error {
  constructor(detail, { status = 0, reason = "", requestId = "", retryAfter = null } = {}) {
    super(detail);
    Object.assign(this, { status, reason, requestId, retryAfter });
  }
}

/**
 * A connection to the API.
 *
 * `key()` gives the API key or ""; `waiting(seconds, problem)` is told every second that a request
 * is tried again, with 0 when it is.
 */
export class Api {
  constructor(key, waiting) {
    Object.assign(this, { key, waiting });
  }

  /** GET as JSON. Tried again while the server is busy or out of reach. */
  get(path, signal) {
    return this.#patiently(() => this.#fetch("GET", path, signal), signal, true);
  }

  /** POST of a file as the field `file`; `progress(share)` is told how much of it has gone. */
  post(path, file, signal, progress) {
    return this.#patiently(() => this.#send(path, file, signal, progress), signal, false);
  }

  /** DELETE that also goes out when the page is being left. It does not matter if it fails. */
  remove(path) {
    const options = { method: "DELETE", headers: this.#headers(), keepalive: true };
    fetch(new URL(path, API), options).catch(() => {});
  }

  #headers() {
    return this.key() ? { Authorization: `Bearer ${this.key()}` } : {};
  }

  async #patiently(ask, signal, always) {
    for (let attempt = 0; ; attempt++) {
      try {
        return await ask();
      } catch (problem) {
        if (!(problem instanceof Problem) || signal.aborted) throw problem;
        // What took too long would take as long once more.
        const busy = [429, 503].includes(problem.status) && problem.reason !== TOO_LONG;
        const unreachable = problem.status === 0 && (always || !navigator.onLine);
        if (!busy && !unreachable) throw problem;
        const usual = ATTEMPT_AFTER_S[Math.min(attempt, ATTEMPT_AFTER_S.length - 1)];
        await this.#wait(problem.retryAfter ?? usual, problem, signal);
      }
    }
  }

  async #wait(seconds, problem, signal) {
    for (let left = Math.ceil(seconds); left > 0; left--) {
      this.waiting(left, problem);
      await pause(1000, signal);
      if (!navigator.onLine) left = Math.max(left, 2); // no use to try
    }
    this.waiting(0, problem);
  }

  async #fetch(method, path, signal) {
    let response;
    try {
      response = await fetch(new URL(path, API), { method, signal, headers: this.#headers(), cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(unreachable());
    }
    return readAnswer(response.status, await response.text(), (name) => response.headers.get(name));
  }

  // fetch() does not tell how much of a body has gone.
  #send(path, file, signal, progress) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open("POST", new URL(path, API));
      for (const [name, value] of Object.entries(this.#headers())) request.setRequestHeader(name, value);
      const body = new FormData();
      body.append("file", file, file.name || "pasted");
      request.upload.onprogress = (event) => progress(event.total ? event.loaded / event.total : 0);
      request.upload.onload = () => progress(1);
      request.onload = () => {
        try {
          resolve(readAnswer(request.status, request.responseText, (name) => request.getResponseHeader(name)));
        } catch (problem) {
          reject(problem);
        }
      };
      request.onerror = () => reject(new Problem(brokenOff()));
      request.onabort = () => reject(aborted());
      const abort = () => request.abort();
      if (signal.aborted) return reject(aborted());
      signal.addEventListener("abort", abort);
      request.onloadend = () => signal.removeEventListener("abort", abort);
      request.send(body);
    });
  }
}

/** Waits. An abort by `signal` ends it with an AbortError. */
export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(aborted());
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  });
}

function readAnswer(status, text, header) {
  let answer = null;
  try {
    answer = text ? JSON.parse(text) : null;
  } catch {
    // A proxy's error page; the status has to do.
  }
  const requestId = answer?.request_id || header("X-Request-Id") || "";
  if (status >= 200 && status < 300 && answer) return { answer, requestId };
  const after = Number(header("Retry-After"));
  const reason = answer?.reason ?? "";
  throw new Problem(sentence(status, answer), { status, reason, requestId, retryAfter: after > 0 ? after : null });
}

function sentence(status, answer) {
  if (typeof answer?.detail === "string" && answer.detail) return answer.detail;
  // A list of what is wrong with a request's fields.
  if (Array.isArray(answer?.detail)) return answer.detail.map((each) => each.msg).join("; ");
  return answer?.title || `The server answered with status ${status} and no reason.`;
}

const aborted = () => new DOMException("cancelled", "AbortError");

function unreachable() {
  return navigator.onLine ? "The server cannot be reached." : "This device is offline.";
}

function brokenOff() {
  if (!navigator.onLine) return unreachable();
  return (
    "The connection broke off while the file was sent. The server may have refused it for its size, " +
    "or the file has changed or is a folder."
  );
}
