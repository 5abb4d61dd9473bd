// The panel of the queue.

import { api, pictureUrl } from "./api.js";
import { element, icon } from "./element.js";
import { emit, on } from "./events.js";
import { describe } from "./graph.js";
import * as jobs from "./jobs.js";
import { notify } from "./notices.js";

const CROSS = ["M6 6l12 12", "M18 6 6 18"];
const list = document.getElementById("job-list");
const clear = document.getElementById("clear-queue");
let shown = "";

/** Draws the queue whenever it changes. */
export function startQueue() {
  clear.addEventListener("click", () => attempt(api.clearQueue()));
  on("jobs", draw);
  draw();
}

/** Ends a job, wherever it is. */
export function cancel(job) {
  return attempt(jobs.running?.id === job.id ? api.interrupt(job.id) : api.cancelWaiting([job.id]));
}

async function attempt(request) {
  try {
    await request;
  } catch (error) {
    notify(error.message, "error");
  }
  jobs.refresh();
}

function draw() {
  const { running, waiting, ended } = jobs;
  progress(running);
  const now = JSON.stringify([running?.id, running?.graph && 1, waiting.map((job) => job.id), ended.map((job) => [job.id, job.status])]);
  if (now === shown) return;
  shown = now;
  clear.disabled = waiting.length === 0;
  const rows = [running && row(running, "running"), ...waiting.map((job, index) => row(job, "waiting", index + 1)), ...ended.map((job) => row(job, "ended"))];
  const empty = element("li", { class: "empty hint" }, "Nothing waits. What you queue shows here.");
  list.replaceChildren(...(rows.some(Boolean) ? rows.filter(Boolean) : [empty]));
  progress(running);
}

function progress(running) {
  const place = list.querySelector(".job.running");
  if (!place || !running) return;
  const part = running.max ? running.value / running.max : 0;
  place.querySelector(".job-progress").style.setProperty("--done", `${part * 100}%`);
  place.querySelector(".job-state").textContent = stateOf(running);
}

/** What a running job does, in words. */
export function stateOf(job) {
  const node = job.graph?.[job.node];
  const title = node?._meta?.title ?? node?.class_type;
  const steps = job.max > 1 ? ` ${job.value}/${job.max}` : "";
  return title ? `${title}${steps}` : "starting";
}

function row(job, kind, place) {
  const failed = kind === "ended" && job.status === "error";
  const interrupted = failed && job.messages.some(([name]) => name === "execution_interrupted");
  const states = { running: "starting", waiting: `waits, number ${place}`, ended: interrupted ? "stopped" : failed ? reason(job) : "done" };
  const [picture] = job.pictures ?? [];
  const words = describe(job.graph);
  return element("li", { class: `job ${kind}${failed && !interrupted ? " failed" : ""}`, "data-job": job.id },
    kind === "ended"
      ? picture
        ? element("button", { type: "button", class: "thumb", "aria-label": `Show: ${words}`, onclick: () => emit("view", { pictures: job.pictures, index: 0 }) }, element("img", { src: pictureUrl(picture, true), alt: "", loading: "lazy" }))
        : element("span", { class: "thumb" })
      : element("span", { class: `pulse ${kind}`, "aria-hidden": "true" }),
    element("div", { class: "job-text" }, element("p", { class: "job-words", title: words }, words),
      element("p", { class: "job-state hint" }, states[kind]),
      kind === "running" && element("div", { class: "job-progress", "aria-hidden": "true" })),
    kind !== "ended" && element("button", { type: "button", class: "button quiet small icon", "aria-label": `Cancel: ${words}`, onclick: () => cancel(job) }, icon(...CROSS)));
}

function reason(job) {
  const [, detail] = job.messages.find(([name]) => name === "execution_error") ?? [];
  return detail?.exception_message?.trim() ?? "failed";
}
