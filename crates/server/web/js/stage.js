// The picture in the middle: the preview of the one that is being made, else the last one.

import { pictureUrl } from "./api.js";
import { element } from "./element.js";
import { emit, on } from "./events.js";
import { describe } from "./graph.js";
import * as jobs from "./jobs.js";
import { cancel, stateOf } from "./queue.js";

const frame = document.getElementById("stage-frame");
const bar = document.getElementById("stage-bar");
let last = null;

/** Shows what there is to show from now on. */
export function startStage() {
  on("jobs", draw);
  on("pictures", ({ pictures }) => {
    last = { pictures };
    draw();
  });
  on("gallery", ({ pictures }) => {
    if (!last && pictures.length) last = { pictures: [pictures[0]], words: pictures[0].summary?.prompt };
    draw();
  });
  on("job-ended", ({ name, exception_message, node_type }) => {
    if (name === "execution_error") last = { failed: `${node_type ? `${node_type}: ` : ""}${exception_message ?? "failed"}` };
    draw();
  });
  draw();
}

function draw() {
  const { running } = jobs;
  frame.dataset.state = running ? "running" : last?.failed ? "failed" : last ? "done" : "empty";
  if (running) drawRunning(running);
  else if (last?.failed) replace("failed", () => element("div", { class: "stage-note failed", role: "alert" }, element("b", {}, "The picture was not made"), element("p", {}, last.failed)));
  else if (last) drawPictures(last);
  else replace("empty", empty);
  if (!running) bar.replaceChildren();
}

let key = "";

/** Builds the frame's content where it is another than what is shown. */
function replace(name, build) {
  if (key === name) return;
  key = name;
  frame.replaceChildren(build());
}

function drawRunning(job) {
  replace(`running ${job.id}`, () => element("div", { class: "stage-live" }, element("img", { class: "preview", alt: "Preview of the picture that is being made", hidden: true }), element("div", { class: "stage-wait", "aria-hidden": "true" })));
  if (job.preview) {
    const image = frame.querySelector(".preview");
    image.src = job.preview;
    image.hidden = false;
    frame.querySelector(".stage-wait").hidden = true;
  }
  const part = job.max ? job.value / job.max : 0;
  if (bar.dataset.job !== job.id || !bar.firstChild) {
    bar.dataset.job = job.id;
    bar.replaceChildren(
      element("div", { class: "meter", role: "progressbar", "aria-label": "Progress", "aria-valuemin": "0", "aria-valuemax": "100" }, element("span", {})),
      element("p", { class: "stage-words" }), element("p", { class: "hint mono stage-state" }),
      element("button", { type: "button", class: "button quiet small", onclick: () => cancel(jobs.running ?? job) }, "Cancel"));
  }
  const meter = bar.querySelector(".meter");
  meter.setAttribute("aria-valuenow", String(Math.round(part * 100)));
  meter.firstChild.style.width = `${part * 100}%`;
  bar.querySelector(".stage-words").textContent = describe(job.graph);
  bar.querySelector(".stage-state").textContent = stateOf(job);
}

function drawPictures({ pictures }) {
  replace(pictures.map((picture) => picture.filename).join(), () => element("div", { class: `stage-pictures${pictures.length > 1 ? " many" : ""}` },
    pictures.map((picture, index) => element("button", { type: "button", class: "stage-picture", "aria-label": "Enlarge the picture", onclick: () => emit("view", { pictures, index }) },
      element("img", { src: pictureUrl(picture), alt: "The last picture" })))));
}

function empty() {
  const blocks = [[5, 0], [3, 1], [2, "host"], [4, 0], [2, 1], [4, "host"], [3, 0], [3, 1], [4, "host"]];
  return element("div", { class: "stage-note" },
    element("div", { class: "stage-mark", "aria-hidden": "true" }, blocks.map(([size, device]) => element("span", { style: { "flex-grow": String(size), background: `var(--device-${device})` } }))),
    element("b", {}, "No picture yet"),
    element("p", {}, "Write a prompt, or drop a workflow or a picture with one anywhere on this page."));
}
