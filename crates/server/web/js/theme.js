// Light, dark, or as the system has it.

import { element, icon } from "./element.js";

const KEY = "distorch.theme";
const SUN = ["M12 4V2", "M12 22v-2", "M4 12H2", "M22 12h-2", "M6 6 4.6 4.6", "M19.4 19.4 18 18", "M6 18l-1.4 1.4", "M19.4 4.6 18 6", "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8Z"];
const MOON = ["M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5Z"];

const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

function current() {
  return document.documentElement.dataset.theme ?? (systemIsDark.matches ? "dark" : "light");
}

/** Applies the kept choice and wires the button. */
export function startTheme(button, changed) {
  const show = () => {
    const other = current() === "dark" ? "light" : "dark";
    button.replaceChildren(icon(...(other === "light" ? SUN : MOON)), element("span", { class: "unseen" }, `Switch to the ${other} theme`));
    button.removeAttribute("aria-label");
    changed();
  };
  const kept = localStorage.getItem(KEY);
  if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
  button.addEventListener("click", () => {
    const next = current() === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    localStorage.setItem(KEY, next);
    show();
  });
  systemIsDark.addEventListener("change", show);
  show();
}
