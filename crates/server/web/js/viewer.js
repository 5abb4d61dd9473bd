// A picture enlarged, with how it was made; arrow keys go to its neighbours.

import { api, pictureUrl } from "./api.js";
import { element, icon } from "./element.js";
import { emit, on } from "./events.js";
import { ago, bytes } from "./format.js";
import { notify } from "./notices.js";

const dialog = document.getElementById("viewer");
let pictures = [];
let index = 0;

/** Opens whenever somebody wants to see a picture. */
export function startViewer() {
  on("view", (detail) => {
    ({ pictures, index } = detail);
    draw();
    if (!dialog.open) dialog.showModal();
  });
  dialog.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
    const move = moves[event.key];
    if (move === undefined) return;
    event.preventDefault();
    go(move);
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
}

function go(move) {
  const next = Math.min(pictures.length - 1, Math.max(0, index + move));
  if (next === index) return;
  index = next;
  draw();
}

async function draw() {
  const picture = pictures[index];
  const step = (move, label, path) => element("button", { type: "button", class: "button quiet icon step", "aria-label": label, disabled: pictures[index + move] === undefined, onclick: () => go(move) }, icon(path));
  const facts = element("dl", { class: "facts" });
  const actions = element("div", { class: "viewer-actions" });
  const words = element("p", { class: "viewer-prompt" });
  const image = element("img", { src: pictureUrl(picture), alt: picture.summary?.prompt ?? "Picture" });
  dialog.replaceChildren(
    element("figure", { class: "viewer-figure" }, image),
    element("div", { class: "viewer-side" },
      element("div", { class: "viewer-head" }, step(-1, "Previous picture", "M15 5l-7 7 7 7"), element("span", { class: "hint mono" }, `${index + 1} / ${pictures.length}`), step(1, "Next picture", "M9 5l7 7-7 7"),
        element("button", { type: "button", class: "button quiet icon close", "aria-label": "Close", onclick: () => dialog.close() }, icon("M6 6l12 12", "M18 6 6 18"))),
      words, facts, actions));
  dialog.querySelector(".close").focus();
  let about = { summary: picture.summary };
  try {
    about = await api.pictureWorkflow(picture);
  } catch (error) {
    if (error.status !== 404 && error.status !== 422) notify(error.message, "error");
  }
  if (pictures[index] !== picture) return;
  const summary = about.summary ?? picture.summary ?? {};
  await image.decode().catch(() => {});
  if (pictures[index] !== picture) return;
  words.textContent = summary.prompt ?? "This picture does not say how it was made.";
  fillFacts(facts, { ...picture, summary, width: image.naturalWidth, height: image.naturalHeight });
  const save = (name, text) => element("a", { class: "button quiet small", download: name, href: URL.createObjectURL(new Blob([text], { type: "application/json" })) }, "Save workflow");
  const base = picture.filename.replace(/\.[^.]+$/, "");
  actions.replaceChildren(...[
    about.prompt && element("button", { type: "button", class: "button small", onclick: () => { dialog.close(); emit("open-graph", { name: picture.filename, ...about }); } }, "Make again"),
    about.prompt && save(`${base}.json`, JSON.stringify(about.workflow ?? about.prompt, null, 2)),
    element("a", { class: "button quiet small", href: pictureUrl(picture), download: picture.filename }, "Save picture"),
  ].filter(Boolean));
}

function fillFacts(list, picture) {
  const { summary } = picture;
  const rows = [
    ["Not", summary.negative_prompt], ["Model", summary.model], ["Seed", summary.seed], ["Steps", summary.steps], ["CFG", summary.cfg],
    ["Sampler", [summary.sampler, summary.scheduler].filter(Boolean).join(", ")],
    ["Size", picture.width ? `${picture.width} × ${picture.height}` : null],
    ["File", `${picture.filename}${picture.size ? `, ${bytes(picture.size)}` : ""}${picture.modified ? `, ${ago(picture.modified)}` : ""}`],
  ];
  list.replaceChildren(...rows.filter(([, value]) => value !== undefined && value !== null && value !== "").flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))]));
}
