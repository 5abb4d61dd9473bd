// The devices as they are now: what is held, by which model, and what is free.

import { api } from "./api.js";
import { deviceColour, setDevices } from "./device_colour.js";
import { element } from "./element.js";
import { emit, on } from "./events.js";
import { bytes } from "./format.js";
import { notify } from "./notices.js";

const list = document.getElementById("device-list");
const COMPONENTS = { unet: "diffusion model", clip: "text encoders", vae: "VAE" };
let frees = "";
let timer;

/** Starts to follow the devices. */
export function startDevices() {
  document.getElementById("free-memory").addEventListener("click", async () => {
    try {
      await api.freeMemory();
      notify("Models leave the devices when nothing runs.");
    } catch (error) {
      notify(error.message, "error");
    }
    refresh();
  });
  for (const name of ["ws:executing", "ws:execution_success", "ws:execution_error", "ws:execution_start", "ws:execution_interrupted"]) on(name, soon);
  on("ws:progress", soon);
  refresh();
  setInterval(() => document.visibilityState === "visible" && refresh(), 5000);
}

function soon() {
  clearTimeout(timer);
  timer = setTimeout(refresh, 250);
}

async function refresh() {
  try {
    const { devices } = await api.devices();
    setDevices(devices.map((device) => device.id));
    list.replaceChildren(...devices.map(card));
    const now = JSON.stringify(devices.map((device) => [device.id, Math.round(device.free / 2 ** 26)]));
    if (frees && now !== frees) emit("devices-changed");
    frees = now;
  } catch {
    // The connection's mark says that the server is away.
  }
}

function card(device) {
  const part = (count) => `${(100 * count) / Math.max(1, device.total)}%`;
  // What is used beyond the weights: the window and activations where a model computes, and what is not this program's.
  const beyond = Math.max(0, device.total - device.free - device.resident);
  const working = Math.min(beyond, device.window + device.activations);
  const others = beyond - working;
  const models = device.models.filter((model) => model.resident_bytes > 0 || model.window_bytes > 0);
  const words = `${bytes(device.free)} free of ${bytes(device.total)}`;
  return element("li", { class: "device", "data-device": device.id, style: { "--device": deviceColour(device.id) } },
    element("div", { class: "device-head" },
      element("span", { class: "swatch", "aria-hidden": "true" }), element("b", { class: "mono" }, device.id),
      device.simulated && element("span", { class: "hint" }, "(simulated)"),
      element("span", { class: "device-free mono" }, words)),
    element("div", { class: "bar", role: "img", "aria-label": `${device.id}: ${bytes(device.resident)} of weights, ${bytes(working)} of window and activations, ${bytes(others)} of others, ${words}` },
      ...models.map((model, index) => element("span", { class: `bar-part shade-${index % 3}`, style: { width: part(model.resident_bytes) } })),
      element("span", { class: "bar-part hatched", style: { width: part(working) } }),
      element("span", { class: "bar-part others", style: { width: part(others) } })),
    !device.simulated && element("p", { class: "device-name hint" }, device.name),
    models.length > 0 && element("ul", { class: "device-models" }, models.map((model, index) => element("li", {},
      element("span", { class: `swatch shade-${index % 3}`, "aria-hidden": "true" }),
      element("span", { class: "model-name", title: model.model }, `${COMPONENTS[model.component] ?? model.component}, ${model.model}`),
      element("b", { class: "mono", title: model.window_bytes > 0 ? `and a window of ${bytes(model.window_bytes)} at most` : undefined }, bytes(model.resident_bytes)))),
      device.window > 0 && element("li", {}, element("span", { class: "swatch hatched-swatch", "aria-hidden": "true" }), element("span", { class: "model-name" }, "window, at most"), element("b", { class: "mono" }, bytes(device.window)))));
}
