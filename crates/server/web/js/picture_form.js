// The form of a new picture.

import { element } from "./element.js";
import { emit } from "./events.js";
import { randomSeed } from "./graph.js";

const KEY = "distorch.picture";
const SHAPES = [["Square", 1, 1], ["Portrait", 3, 4], ["Landscape", 4, 3], ["Wide", 16, 9]];

const fields = {};
let native = { width: 512, height: 512 };
let shape = "Square";

const choice = (info, name) => info.input.required[name]?.[0] ?? [];
const options = (values) => values.map((value) => element("option", { value }, value));

/** Builds the form from what the server says of its nodes. */
export function buildPictureForm(form, sampler, models) {
  const kept = JSON.parse(localStorage.getItem(KEY) ?? "{}");
  const keep = (name, node, standard) => {
    node.name = name;
    node.value = kept[name] ?? standard;
    if (node.tagName === "SELECT" && node.selectedIndex < 0) node.value = standard;
    fields[name] = node;
    return node;
  };
  const number = (name, standard, limits) => keep(name, element("input", { type: "number", id: `picture-${name}`, ...limits }), standard);
  const select = (name, values, standard) => keep(name, element("select", { id: `picture-${name}` }, options(values)), values.includes(standard) ? standard : values[0]);
  const field = (label, node, ...more) => element("div", { class: "field" }, element("label", { for: node.id }, label), node, ...more);

  const prompt = keep("prompt", element("textarea", { id: "picture-prompt", rows: "4", placeholder: "a red circle on a white background" }), "");
  const negative = keep("negative", element("textarea", { id: "picture-negative", rows: "2", placeholder: "what it should not show" }), "");
  const randomise = element("input", { type: "checkbox", id: "picture-random", checked: kept.random ?? true });
  fields.random = randomise;
  const shapes = element("div", { class: "chips", role: "group", "aria-label": "Shape" }, SHAPES.map(([name, w, h]) =>
    element("button", { type: "button", class: "chip", "aria-pressed": "false", onclick: () => setShape(name, w, h) }, name)));
  fields.shapes = shapes;

  form.replaceChildren(
    field("Model", select("model", models, models[0])),
    field("Prompt", prompt),
    field("Negative prompt", negative),
    element("div", { class: "field" },
      element("span", { class: "label", id: "size-label" }, "Size"),
      element("div", { class: "size-row", role: "group", "aria-labelledby": "size-label" },
        number("width", 512, { min: "16", max: "16384", step: "8", "aria-label": "Width" }), element("span", { "aria-hidden": "true" }, "×"),
        number("height", 512, { min: "16", max: "16384", step: "8", "aria-label": "Height" })),
      shapes),
    element("div", { class: "field-row three" },
      field("Steps", number("steps", 20, { min: "1", max: "10000" })),
      field("CFG", number("cfg", 4, { min: "0", max: "100", step: "0.1" })),
      field("Pictures", number("batch", 1, { min: "1", max: "64" }))),
    element("div", { class: "field-row" },
      field("Sampler", select("sampler", choice(sampler, "sampler_name"), "euler")),
      field("Scheduler", select("scheduler", choice(sampler, "scheduler"), "normal"))),
    element("div", { class: "field" },
      element("div", { class: "label-row" }, element("label", { for: "picture-seed" }, "Seed"),
        element("label", { class: "check" }, randomise, "new one each time")),
      number("seed", 0, { min: "0", max: String(Number.MAX_SAFE_INTEGER), step: "1" })),
    element("button", { type: "submit", class: "button", id: "make" }, "Make picture", element("kbd", { "aria-hidden": "true" }, "Ctrl ↵")));

  form.addEventListener("input", (event) => {
    if (event.target === fields.width || event.target === fields.height) showShape("");
    save();
    if (["model", "width", "height", "batch"].includes(event.target.name)) emit("picture-changed", picture());
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (randomise.checked) fields.seed.value = randomSeed();
    const wrong = [...form.elements].find((node) => node.willValidate && !node.checkValidity());
    if (wrong) {
      wrong.reportValidity();
      return;
    }
    save();
    emit("make-picture", picture());
  });
  if (kept.width) showShape(kept.shape ?? "");
  fields.sized = Boolean(kept.width);
}

/** The form's values. */
export function picture() {
  const number = (name) => Number(fields[name].value);
  return {
    model: fields.model.value,
    prompt: fields.prompt.value,
    negative: fields.negative.value,
    width: number("width"),
    height: number("height"),
    batch: number("batch"),
    steps: number("steps"),
    cfg: number("cfg"),
    seed: number("seed"),
    sampler: fields.sampler.value,
    scheduler: fields.scheduler.value,
  };
}

/** What the model was trained on: the size until somebody sets another, and what the shapes start from. */
export function setNativeSize(size) {
  const same = size.width === native.width && size.height === native.height;
  native = size;
  if (fields.sized && same) return;
  if (fields.sized && !shape) return;
  const [name, w, h] = SHAPES.find(([each]) => each === shape) ?? SHAPES[0];
  fields.sized = true;
  setShape(name, w, h);
}

function setShape(name, w, h) {
  const area = native.width * native.height;
  const unit = Math.sqrt(area / (w * h));
  const step = Math.min(64, Math.max(8, native.width / 16));
  const side = (ratio) => Math.max(step, Math.round((unit * ratio) / step) * step);
  fields.width.value = side(w);
  fields.height.value = side(h);
  showShape(name);
  save();
  emit("picture-changed", picture());
}

function showShape(name) {
  shape = name;
  for (const chip of fields.shapes.children) chip.setAttribute("aria-pressed", String(chip.textContent === name));
}

function save() {
  localStorage.setItem(KEY, JSON.stringify({ ...picture(), random: fields.random.checked, shape }));
}
