// From a file to a detection: at once for what is short, as a job with a growing timeline for the rest.

import { pause, Problem, TOO_LONG } from "./api.js";

const SHORT_S = 5;
const POLL_MS = [400, 700, 1000, 1500];

/**
 * Judges a file.
 *
 * `options`: `model` and `frames`, each "" for the server's own. `duration`: seconds, null where it is
 * not known, 0 for an image. `seen`: told `uploading(share)`, `judging(share or null)` and
 * `growing(timeline)`. An abort by `signal` cancels it on the server too.
 *
 * Gives {detection, requestId}.
 */
export async function judge(api, file, options, duration, signal, seen) {
  const post = (path) => api.post(path + query(options), file, signal, sending(seen));
  if (duration !== null && duration <= SHORT_S) {
    try {
      const { answer, requestId } = await post("detect");
      return { detection: answer, requestId };
    } catch (problem) {
      if (problem.reason !== TOO_LONG) throw problem; // a job may take longer
    }
  }
  const { answer, requestId } = await post("jobs");
  return { detection: await jobsEnd(api, answer, signal, seen), requestId };
}

/** The same file once more, with the pictures that explain the verdict; gives what `judge` gives. */
export async function explain(api, file, options, signal, seen) {
  const path = `detect${query({ ...options, explain: "true" })}`;
  const { answer, requestId } = await api.post(path, file, signal, sending(seen));
  return { detection: answer, requestId };
}

const sending = (seen) => (share) => (share < 1 ? seen.uploading(share) : seen.judging(null));

async function jobsEnd(api, job, signal, seen) {
  const path = `jobs/${encodeURIComponent(job.id)}`;
  const remove = () => api.remove(path);
  addEventListener("pagehide", remove);
  try {
    for (let polls = 0; job.state === "queued" || job.state === "running"; polls++) {
      seen.judging(job.state === "running" ? job.progress : null, job.attempts);
      seen.growing(job.timeline);
      await pause(POLL_MS[Math.min(polls, POLL_MS.length - 1)], signal);
      job = (await api.get(path, signal)).answer;
    }
  } finally {
    removeEventListener("pagehide", remove);
    remove();
  }
  if (job.state === "done" && job.detection) return job.detection;
  const { detail, status, request_id: requestId } = job.problem ?? {};
  throw new Problem(detail || `The job has ${job.state} on the server.`, { status, requestId });
}

function query(values) {
  const given = Object.entries(values).filter(([, value]) => value);
  return given.length ? `?${new URLSearchParams(given)}` : "";
}
