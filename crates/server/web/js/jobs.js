// What is queued, runs and has ended, as the server's queue and messages tell it.

import { api } from "./api.js";
import { emit, on } from "./events.js";

/** The job that runs: `{id, graph, node, value, max, preview}`, or null. */
export let running = null;
/** Those that wait, the next first. */
export let waiting = [];
/** Those that ended, the last first. */
export let ended = [];

const ENDED = 6;
let again = false;
let busy = false;

/** Starts to follow the queue. */
export function startJobs() {
  on("ws:status", refresh);
  on("connection", (state) => state === "open" && refresh());
  on("ws:execution_start", ({ prompt_id }) => {
    if (running?.id !== prompt_id) running = { id: prompt_id, graph: graphOf(prompt_id), started: Date.now() };
    emit("jobs");
    refresh();
  });
  on("ws:executing", ({ node, prompt_id }) => {
    if (node && running?.id === prompt_id) update({ node, value: 0, max: 0 });
  });
  on("ws:progress", ({ value, max, node, prompt_id }) => {
    if (running && (!prompt_id || running.id === prompt_id)) update({ node: node ?? running.node, value, max });
  });
  on("preview", ({ picture, prompt }) => {
    if (!running || (prompt && running.id !== prompt)) return;
    if (running.preview) URL.revokeObjectURL(running.preview);
    update({ preview: URL.createObjectURL(picture) });
  });
  on("ws:executed", ({ output, prompt_id }) => {
    const pictures = (output?.images ?? []).filter((each) => each.type === "output");
    if (pictures.length) emit("pictures", { id: prompt_id, pictures });
  });
  for (const name of ["execution_success", "execution_error", "execution_interrupted"]) {
    on(`ws:${name}`, (detail) => {
      if (running?.id === detail.prompt_id) running = null;
      emit("job-ended", { name, ...detail });
      emit("jobs");
      refresh();
    });
  }
  refresh();
}

function update(change) {
  running = { ...running, ...change };
  emit("jobs");
}

const graphOf = (id) => waiting.find((job) => job.id === id)?.graph;

/** Reads the queue anew; calls that come meanwhile lead to one more reading. */
export async function refresh() {
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  try {
    const [queue, history] = await Promise.all([api.queue(), api.history(ENDED)]);
    const job = ([number, id, graph]) => ({ number, id, graph });
    waiting = queue.queue_pending.map(job).sort((a, b) => a.number - b.number);
    const now = queue.queue_running.map(job)[0];
    if (now && running?.id === now.id) running = { ...running, graph: now.graph };
    else running = now ?? null;
    ended = Object.entries(history).map(([id, entry]) => ({
      id,
      graph: entry.prompt?.[2],
      status: entry.status?.status_str,
      messages: entry.status?.messages ?? [],
      pictures: Object.values(entry.outputs ?? {}).flatMap((output) => output.images ?? []),
    })).reverse();
    emit("jobs");
  } catch {
    // The connection's mark says that the server is away.
  }
  busy = false;
  if (again) {
    again = false;
    refresh();
  }
}
