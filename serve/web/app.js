// The page: decides what happens when, and passes what is known between its parts.

import { Api, Problem } from "./api.js";
import { watchForFiles } from "./choose.js";
import { byId, size } from "./dom.js";
import { EvidencePanel } from "./evidence.js";
import { explain, judge } from "./judge.js";
import { loadModels } from "./models.js";
import { Player } from "./player.js";
import { save, sha256, showFacts } from "./report.js";
import { announce, asSentence, Status } from "./status.js";
import { Timeline } from "./timeline.js";
import { showNoVerdict, showVerdict } from "./verdict.js";

const TITLE = document.title;
/** Until the detector's own decision is known. */
const HALF = { band: [0.5, 0.5], threshold: 0.5 };
const EXCHANGED = "The detector was exchanged meanwhile: verdict and evidence are of the new one.";

const status = new Status();
const api = new Api(() => byId("key").value.trim(), waiting);
const timeline = new Timeline(pick);
const player = new Player((time) => timeline.at(time, player.now()));
const evidence = new EvidencePanel(pick);

let cardOf = null; // from a detector's name to its card, once they are loaded
let current = null; // the file that is shown: {file, options, detection}
let running = null; // the AbortController of what is under way
let resume = null; // what waits for an API key

watchForFiles((file, count) => start(file, count > 1 ? `Only the first of ${count} files is judged.` : ""));
byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (current) start(current.file);
});
byId("key").addEventListener("change", () => running || (resume ?? models)());
byId("cancel").addEventListener("click", () => running?.abort());
byId("save").addEventListener("click", () => save(current.file, current.detection));
byId("print").addEventListener("click", () => window.print());
byId("explain-start").addEventListener("click", why);
models();

/** Does one thing; what was under way is cancelled. */
async function run(task) {
  running?.abort();
  const own = new AbortController();
  [running, resume] = [own, null];
  byId("again").disabled = true;
  try {
    await task(own.signal);
    if (running === own) status.done();
  } catch (error) {
    if (running === own) failed(error, () => run(task));
  } finally {
    if (running === own) {
      running = null;
      byId("again").disabled = !current;
    }
  }
}

function failed(error, again) {
  if (current && !current.detection) showNoVerdict("Not judged");
  if (error.name === "AbortError") {
    status.done();
    announce("Cancelled.");
  } else if (!(error instanceof Problem)) {
    status.fail("Something went wrong on this page. Load it again.");
    throw error;
  } else if (error.status === 401) {
    resume = again;
    const wrong = byId("key").value ? "This API key is not accepted." : "This server asks for an API key.";
    status.fail(`${wrong} Enter one above; it goes on then.`, error.requestId);
    byId("key").focus();
  } else {
    status.fail(asSentence(error.message), error.requestId);
  }
}

function waiting(seconds, problem) {
  const more = seconds ? `in ${seconds} s` : "now";
  status.show(`${asSentence(problem.message)} It is tried again`, null, more);
}

function models() {
  return run(async (signal) => {
    cardOf = await loadModels(api, signal);
    byId("problem").hidden = true;
  });
}

function start(file, note = "") {
  return run(async (signal) => {
    clear(file, note);
    current = { file, options: null, detection: null };
    const loading = player.load(file);
    cardOf ??= await loadModels(api, signal);
    const options = (current.options = { model: byId("model").value, frames: byId("frames").value });
    const duration = await loading;
    const card = cardOf(options.model);
    const seen = {
      ...stages(file),
      growing: (points) => showPoints({ timeline: points, ...(card ?? HALF), duration }),
    };
    const { detection, requestId } = await judge(api, file, options, duration, signal, seen);
    finish(detection, detection.request_id || requestId);
  });
}

function clear(file, note) {
  document.title = TITLE;
  evidence.clear();
  timeline.clear();
  for (const id of ["intro", "problem", "actions", "evidence", "facts"]) byId(id).hidden = true;
  showNoVerdict("Being judged");
  byId("name").textContent = file.name || "pasted image";
  byId("view-note").textContent = note;
  byId("result").hidden = false;
  byId("view").scrollIntoView({ block: "nearest" });
}

function stages(file) {
  return {
    uploading: (share) => status.show("Uploading", share, `${size(share * file.size)} of ${size(file.size)}`),
    judging: (share, attempts = 1) => {
      const more = attempts > 1 ? "begun again after an interruption" : "";
      status.show(share === null ? "Sent; waiting for the detector" : "Looking at the frames", share, more);
    },
  };
}

function finish(detection, requestId) {
  const { file } = current;
  const card = cardOf(detection.model.name);
  current.detection = detection;
  showPoints({ ...detection, duration: detection.duration_s ?? 0 });
  byId("actions").hidden = false;
  announce(showVerdict(detection, card?.calibrated ?? null));
  document.title = `${byId("headline").textContent}: ${byId("name").textContent}`;
  byId("evidence").hidden = !detection.timeline.length;
  const digest = showFacts(file, detection, card, new Date(), requestId);
  sha256(file).then((text) => (digest.textContent = text));
}

function showPoints(data) {
  player.show(data.timeline, data);
  timeline.show(data);
  timeline.at(player.time, player.now());
}

function pick(point, time = point.time_s) {
  timeline.choose(point);
  player.seek(time);
  if (point) evidence.near(point);
}

function why() {
  return run(async (signal) => {
    const { file, options, detection } = current;
    const judging = () => status.show("Looking for what the detector heeds; this takes a while");
    const seen = { ...stages(file), judging };
    const { detection: again, requestId } = await explain(api, file, options, signal, seen);
    const exchanged = again.model.fingerprint !== detection.model.fingerprint;
    // Pictures beside the verdict of another detector would explain what it did not say.
    if (exchanged) finish(again, again.request_id || requestId);
    evidence.take(again.evidence, again.duration_s === null, timeline.chosen);
    if (exchanged) byId("view-note").textContent = EXCHANGED;
    announce(exchanged ? EXCHANGED : "The evidence is shown.");
  });
}
