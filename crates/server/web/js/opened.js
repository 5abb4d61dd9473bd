// A workflow that was dropped or opened: its texts and seeds to change, and a button that queues it.

import { api } from "./api.js";
import { element } from "./element.js";
import { emit, on } from "./events.js";
import { quickFields, randomSeed } from "./graph.js";
import { notify } from "./notices.js";

const dialog = document.getElementById("opened");
const veil = document.getElementById("veil");

/** Takes files that are dropped on the page or chosen. */
export function startOpening() {
  const chosen = document.getElementById("open-file");
  chosen.addEventListener("change", () => {
    if (chosen.files[0]) open(chosen.files[0]);
    chosen.value = "";
  });
  let depth = 0;
  const files = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => files(event) && (depth += 1, veil.classList.add("shown")));
  addEventListener("dragleave", () => (depth = Math.max(0, depth - 1)) === 0 && veil.classList.remove("shown"));
  addEventListener("dragover", (event) => files(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!files(event)) return;
    event.preventDefault();
    depth = 0;
    veil.classList.remove("shown");
    if (event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => event.clipboardData?.files[0] && open(event.clipboardData.files[0]));
  on("open-graph", show);
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
}

async function open(file) {
  try {
    show({ name: file.name, ...(await api.workflow(await file.arrayBuffer())) });
  } catch (error) {
    notify(`${file.name}: ${error.message}`, "error");
  }
}

function show({ name, prompt, workflow, summary, notes = [] }) {
  const graph = structuredClone(prompt);
  const fields = quickFields(graph);
  const inputs = fields.map((field, index) => input(field, index, (value) => (graph[field.id].inputs[field.input] = value)));
  const form = element("form", { class: "opened-form", onsubmit: (event) => {
    event.preventDefault();
    dialog.close();
    emit("queue-graph", { graph, workflow });
  } },
    element("div", { class: "panel-head" }, element("h2", { id: "opened-title" }, name), element("span", { class: "hint" }, `${Object.keys(graph).length} nodes${summary?.model ? ` · ${summary.model}` : ""}`)),
    ...inputs,
    notes.length > 0 && element("ul", { class: "plan-notes" }, notes.map((note) => element("li", {}, note))),
    element("div", { class: "opened-actions" },
      element("button", { type: "button", class: "button quiet", onclick: () => dialog.close() }, "Close"),
      element("button", { type: "submit", class: "button" }, "Queue")));
  dialog.replaceChildren(form);
  if (!dialog.open) dialog.showModal();
  form.querySelector("textarea, input, [type=submit]").focus();
}

function input(field, index, set) {
  const id = `opened-${index}`;
  const label = element("label", { for: id }, field.label);
  if (field.kind === "text") {
    return element("div", { class: "field" }, label, element("textarea", { id, rows: "3", oninput: (event) => set(event.target.value) }, field.value));
  }
  const node = element("input", { type: "number", id, min: "0", step: "any", value: String(field.value), oninput: (event) => set(Number(event.target.value)) });
  const dice = field.kind === "seed" && element("button", { type: "button", class: "button quiet", onclick: () => set(Number((node.value = String(randomSeed())))) }, "New");
  return element("div", { class: "field" }, label, element("div", { class: "seed-row" }, node, dice));
}
