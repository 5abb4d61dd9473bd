// What each device needs at its peak by the plan, against what is free there.

import { element } from "./element.js";
import { bytes } from "./format.js";
import { deviceColour } from "./device_colour.js";

/** One bar a device. */
export function peakBars(devices) {
  return element("ul", { class: "peaks" }, devices.map(bar));
}

function bar(device) {
  const scale = Math.max(device.total, device.peak_bytes, 1);
  const part = (count) => `${(100 * count) / scale}%`;
  const transient = device.peak_bytes - device.held_bytes;
  const words = `${bytes(device.peak_bytes)} of ${bytes(device.free)} free`;
  return element("li", { class: `peak${device.fits ? "" : " over"}`, "data-device": device.id },
    element("div", { class: "peak-head" },
      element("span", { class: "mono" }, device.id), device.simulated && element("span", { class: "hint" }, "(simulated)"),
      element("span", { class: "peak-words" }, element("b", { class: "mono" }, words), element("span", { class: "verdict" }, device.fits ? "fits" : "does not fit"))),
    element("div", { class: "bar", role: "img", "aria-label": `${device.id}: ${bytes(device.held_bytes)} of weights, ${bytes(transient)} while it computes, ${words}` },
      element("span", { class: "bar-part", style: { width: part(device.held_bytes), background: deviceColour(device.id) } }),
      element("span", { class: "bar-part hatched", style: { width: part(transient), "--device": deviceColour(device.id) } }),
      element("span", { class: "bar-limit", style: { left: part(device.free) } })));
}
