// The inputs of the DisTorch2 loader: for the diffusion model and the text encoders a device, and either virtual VRAM or an
// expert string; for the VAE a device.

import { element } from "./element.js";
import { emit } from "./events.js";
import { ExpertInput } from "./expert_input.js";
import { gigabytes, bytes } from "./format.js";
import { deviceColour } from "./device_colour.js";

const KEY = "distorch.loader";
const GIB = 2 ** 30;
const STEPS = 200;

/** One component's part of the form. */
class ComponentForm {
  constructor(name, title, info, kept) {
    this.name = name;
    this.size = GIB;
    const given = (input, standard) => kept[`${name}_${input}`] ?? standard;
    const devices = (input) => info.input.required[`${name}_${input}`][0];
    const id = (input) => `${name}-${input}`;
    const select = (input, standard) => {
      const node = element("select", { id: id(input) }, devices(input).map((value) => element("option", { value }, value)));
      node.value = devices(input).includes(given(input)) ? given(input) : standard ?? devices(input)[0];
      return node;
    };
    this.device = select("compute_device");
    this.donor = select("donor_device");
    this.amount = element("input", { type: "number", class: "mono-input", id: id("gigabytes"), min: "0", max: "128", step: "any", "aria-label": `Virtual VRAM in GB, ${title}` });
    this.slider = element("input", { type: "range", id: id("slider"), min: "0", max: String(STEPS), step: "1", "aria-label": `Virtual VRAM, ${title}` });
    this.value = given("virtual_vram_gb", 0);
    this.expert = new ExpertInput(`${name}-expert`, given("expert_mode_allocations", ""), () => this.changed());
    this.mode = given("expert_mode_allocations", "") ? "expert" : "virtual";

    const radio = (mode, text) => element("label", {}, element("input", { type: "radio", name: `${name}-mode`, value: mode, checked: this.mode === mode, onchange: () => this.setMode(mode) }), element("span", {}, text));
    this.virtual = element("div", { class: "virtual" },
      element("div", { class: "slider-row" }, this.slider,
        element("span", { class: "amount" }, this.amount, element("span", { "aria-hidden": "true" }, "GB"))),
      element("div", { class: "virtual-foot" },
        element("label", { class: "inline" }, element("span", {}, "Moves to"), this.donor),
        element("button", { type: "button", class: "button quiet small", title: "The least that fits", onclick: () => emit("fit", name) }, "Least that fits")));
    this.strip = element("div", { class: "strip-place" });
    this.legend = element("ul", { class: "legend" });
    this.notes = element("ul", { class: "plan-notes" });
    this.facts = element("p", { class: "hint mono" });
    this.node = element("section", { class: "component", "aria-label": title },
      element("div", { class: "component-head" }, element("h3", {}, title), this.facts),
      this.strip, this.legend,
      element("div", { class: "component-form" },
        element("label", { class: "inline" }, element("span", {}, "Computes on"), this.device),
        element("div", { class: "segments", role: "radiogroup", "aria-label": `What is placed, ${title}` }, radio("virtual", "Virtual VRAM"), radio("expert", "Expert string"))),
      this.virtual, this.expert.node, this.notes);

    this.slider.addEventListener("input", () => this.setValue((this.slider.value / STEPS) * (this.size / GIB)));
    this.amount.addEventListener("input", () => this.setValue(Number(this.amount.value), false));
    for (const node of [this.device, this.donor]) node.addEventListener("change", () => this.changed());
    this.setMode(this.mode, false);
    this.show();
  }

  setMode(mode, tell = true) {
    this.mode = mode;
    this.virtual.hidden = mode !== "virtual";
    this.expert.node.hidden = mode !== "expert";
    if (tell) this.changed();
  }

  setValue(value, write = true) {
    const digits = this.size > GIB ? 2 : 6;
    this.value = Math.min(128, Math.max(0, Number((Number.isFinite(value) ? value : 0).toFixed(digits))));
    this.show(write);
    this.changed();
  }

  /** Bytes of the component: how far the slider goes. */
  setSize(size) {
    if (size === this.size) return;
    this.size = size;
    this.show();
  }

  show(write = true) {
    const part = Math.min(1, (this.value * GIB) / this.size);
    if (document.activeElement !== this.slider) this.slider.value = String(Math.round(part * STEPS));
    this.slider.style.setProperty("--filled", `${part * 100}%`);
    this.slider.setAttribute("aria-valuetext", `${bytes(part * this.size)} of ${bytes(this.size)}`);
    if (write) this.amount.value = gigabytes(this.value, this.size);
  }

  changed() {
    emit("loader-changed");
  }

  inputs() {
    const expert = this.mode === "expert" ? this.expert.text : "";
    return {
      [`${this.name}_compute_device`]: this.device.value,
      [`${this.name}_virtual_vram_gb`]: this.value,
      [`${this.name}_donor_device`]: this.donor.value,
      [`${this.name}_expert_mode_allocations`]: expert,
    };
  }

  /** Shows where the plan has the component's bytes. */
  showPlan(plan) {
    this.setSize(plan.bytes);
    this.facts.textContent = `${bytes(plan.bytes)} · ${plan.blocks.length} layers`;
    this.legend.replaceChildren(...plan.devices.filter((share) => share.bytes > 0).map((share) =>
      element("li", {}, element("span", { class: "swatch", style: { background: deviceColour(share.device) }, "aria-hidden": "true" }),
        element("span", { class: "mono" }, share.device), share.simulated && element("span", { class: "hint" }, "(simulated)"),
        element("b", { class: "mono" }, bytes(share.bytes)), element("span", { class: "hint" }, `${share.blocks} layers`))));
    this.notes.replaceChildren(...plan.messages.map((text) => element("li", {}, text)));
  }
}

/** The whole form. */
export class LoaderForm {
  constructor(info) {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    this.components = {
      unet: new ComponentForm("unet", "Diffusion model", info, kept),
      clip: new ComponentForm("clip", "Text encoders", info, kept),
    };
    const devices = info.input.required.vae_device[0];
    this.vae = element("select", { id: "vae-device", onchange: () => emit("loader-changed") }, devices.map((value) => element("option", { value }, value)));
    if (devices.includes(kept.vae_device)) this.vae.value = kept.vae_device;
    this.vaeNode = element("div", { class: "component vae" }, element("div", { class: "component-head" }, element("h3", {}, "VAE"), element("label", { class: "inline" }, element("span", {}, "Computes on"), this.vae)));
  }

  /** The loader node's inputs. */
  inputs(model) {
    return {
      ckpt_name: model,
      ...this.components.unet.inputs(),
      ...this.components.clip.inputs(),
      vae_device: this.vae.value,
      high_precision_loras: true,
      eject_models: true,
    };
  }

  save() {
    localStorage.setItem(KEY, JSON.stringify(this.inputs("")));
  }
}
