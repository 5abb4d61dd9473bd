// The live plan: each change of the form asks the server where the layers would go.

import { api } from "./api.js";
import { setDevices } from "./device_colour.js";
import { element } from "./element.js";
import { emit, on } from "./events.js";
import { bytes } from "./format.js";
import { LoaderForm } from "./loader_form.js";
import { peakBars } from "./peaks.js";
import { picture } from "./picture_form.js";
import { Strip } from "./strip.js";

const WAIT = 40;
let form;
let strips;
let request;
let timer;
const summary = document.getElementById("placement-summary");
const peaks = element("div", { class: "peak-place" });
const problem = element("p", { class: "plan-problem", role: "alert", hidden: true });
const body = document.getElementById("placement-body");

/** Builds the panel from what the server says of the loader. */
export function buildPlacement(info) {
  form = new LoaderForm(info);
  strips = { unet: new Strip("Layers of the diffusion model"), clip: new Strip("Layers of the text encoders"), vae: new Strip("Layers of the VAE") };
  form.components.unet.strip.append(strips.unet.node);
  form.components.clip.strip.append(strips.clip.node);
  form.vaeNode.append(strips.vae.node);
  body.replaceChildren(problem, form.components.unet.node, form.components.clip.node, form.vaeNode,
    element("div", { class: "component" }, element("div", { class: "component-head" }, element("h3", {}, "Predicted peak"), element("p", { class: "key" },
      element("span", { class: "key-solid" }), "weights", element("span", { class: "key-hatched" }), "while it computes", element("span", { class: "key-limit" }), "free now")), peaks));
  on("loader-changed", () => replan(WAIT));
  on("picture-changed", () => replan(WAIT));
  on("devices-changed", () => replan(400));
  on("fit", fit);
  replan(0);
}

/** The loader node's inputs, as the form has them. */
export const loaderInputs = () => form.inputs(picture().model);

/** Draws the strips in the theme's colours. */
export function recolour() {
  for (const strip of Object.values(strips ?? {})) strip.recolour();
}

function replan(wait) {
  clearTimeout(timer);
  timer = setTimeout(plan, wait);
}

const asked = (more = {}) => {
  const { width, height, batch } = picture();
  return { ...loaderInputs(), width, height, batch_size: batch, ...more };
};

async function plan() {
  request?.abort();
  request = new AbortController();
  form.save();
  if (!picture().model) {
    show({ errors: [{ problem: "There is no checkpoint in models/checkpoints yet." }] });
    return;
  }
  try {
    show(await api.plan(asked(), request.signal));
  } catch (error) {
    if (error.name === "AbortError") return;
    show({ errors: [{ problem: error.message }] });
  }
}

function show(answer) {
  const errors = answer.errors ?? [];
  for (const [name, component] of Object.entries(form.components)) {
    component.expert.show(errors.find((error) => error.input === `${name}_expert_mode_allocations`));
  }
  const others = errors.filter((error) => !/_expert_mode_allocations$/.test(error.input ?? ""));
  problem.hidden = others.length === 0;
  problem.textContent = others.map((error) => (error.input ? `${error.input}: ${error.problem}` : error.problem)).join(" ");
  body.classList.toggle("stale", errors.length > 0);
  if (errors.length) {
    summary.textContent = "cannot be planned";
    return;
  }
  setDevices(answer.devices.map((device) => device.id));
  for (const name of ["unet", "clip", "vae"]) {
    const component = answer.components.find((each) => each.component === name);
    const node = form.components[name]?.node ?? form.vaeNode;
    node.hidden = !component;
    if (!component) continue;
    strips[name].show(component.blocks);
    form.components[name]?.showPlan(component);
  }
  peaks.replaceChildren(peakBars(answer.devices));
  summary.textContent = `${answer.model.label} · ${bytes(answer.model.bytes)} · ${answer.fits ? "fits" : "does not fit"}`;
  emit("planned", answer);
}

/** Asks for the least virtual VRAM that fits, and takes it. */
async function fit(name) {
  try {
    const answer = await api.plan(asked({ [`${name}_virtual_vram_gb`]: "auto" }));
    const plan = answer.components?.find((each) => each.component === name);
    if (plan) form.components[name].setValue(plan.virtual_vram_gb ?? 0);
    else show(answer);
  } catch (error) {
    show({ errors: [{ problem: error.message }] });
  }
}
