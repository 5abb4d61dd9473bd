// A small card beside the pointer.

import { element } from "./element.js";
import { deviceColour } from "./device_colour.js";

const tip = document.getElementById("tip");

export function showTip({ title, lines, device }, x, y) {
  tip.replaceChildren(element("b", { class: "mono" }, title), ...lines.map((line) => element("span", {}, line)));
  tip.style.setProperty("--device", device ? deviceColour(device) : "transparent");
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - width - 8))}px`;
  tip.style.top = `${y + 18 + height > innerHeight - 8 ? y - height - 12 : y + 18}px`;
}

export function hideTip() {
  tip.hidden = true;
}
