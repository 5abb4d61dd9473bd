// One colour a device, the same everywhere on the page.

const COLOURS = 6;
let order = [];

/** The devices of the machine in their order; the host is always grey. */
export function setDevices(ids) {
  order = ids.filter((id) => id !== "cpu");
}

/** The name of the colour's property. */
export function deviceProperty(id) {
  if (id === "cpu") return "--device-host";
  const index = Math.max(0, order.indexOf(id));
  return `--device-${index % COLOURS}`;
}

/** The colour as CSS takes it. */
export const deviceColour = (id) => `var(${deviceProperty(id)})`;

/** The colour as a canvas takes it. */
export function canvasColour(id) {
  const probe = document.createElement("span");
  probe.style.color = deviceColour(id);
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}
