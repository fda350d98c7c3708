// What can be taken away: the JSON of an answer, and the facts of a printed report.

import { byId, clock, el, size } from "./dom.js";

/** The SHA-256 of a file as text, or why there is none. */
export async function sha256(file) {
  if (!globalThis.crypto?.subtle) return "not computed: the page was not loaded over HTTPS";
  try {
    const digest = await crypto.subtle.digest("SHA-256", await file.arrayBuffer());
    return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  } catch {
    return "not computed: the file could not be read into memory";
  }
}

/** Fills the table of facts; gives the cell of the SHA-256, which comes later. */
export function showFacts(file, detection, card, when, requestId) {
  const { model, timings_ms: timings, band, threshold, duration_s: duration } = detection;
  const [low, high, middle] = [...band, threshold].map((value) => value.toFixed(2));
  const [total, network] = [timings.total, timings.network].map((value) => (value / 1000).toFixed(1));
  const digest = el("td", { class: "digits", text: "being computed" });
  const facts = [
    ["File", file.name || "pasted image"],
    ["Size", size(file.size) + (detection.width ? `, ${detection.width} × ${detection.height} pixels` : "")],
    ["SHA-256 of the file", digest],
    ["Length", duration === null ? "an image" : clock(duration)],
    ["Judged", `${when.toISOString().slice(0, 19).replace("T", " ")} UTC`],
    ["Frames", `${detection.frames_sampled} looked at, ${detection.frames_with_face} with a face`],
    ["Detector", `${model.name} (${model.id})`],
    ["SHA-256 of its weights", el("td", { class: "digits", text: model.fingerprint })],
    ["Calibrated", card ? (card.calibrated ? "yes" : "no: the score is no probability") : "not known"],
    ["Decision", `FAKE above ${high}, REAL below ${low}, threshold ${middle}`],
    ["Time taken", `${total} s, ${network} s of it in the network`],
    ["Request", el("td", { class: "digits", text: requestId || "no id" })],
  ];
  const rows = facts.map(([name, value]) => {
    const cell = typeof value === "string" ? el("td", { text: value }) : value;
    return el("tr", {}, el("th", { scope: "row", text: name }), cell);
  });
  byId("facts").querySelector("tbody").replaceChildren(...rows);
  byId("facts").hidden = false;
  return digest;
}

/** Saves a detection as a file beside the clip's name. */
export function save(file, detection) {
  const stem = (file.name || "pasted").replace(/\.[^.]*$/, "");
  const url = URL.createObjectURL(new Blob([JSON.stringify(detection, null, 2)], { type: "application/json" }));
  el("a", { href: url, download: `${stem}.detection.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
