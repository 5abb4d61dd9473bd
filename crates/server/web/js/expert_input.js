// The text of an expert allocation, with a mark under the place that is wrong.

import { element } from "./element.js";

export class ExpertInput {
  constructor(id, text, changed) {
    this.changed = changed;
    this.input = element("input", {
      type: "text", class: "mono-input", id, value: text, spellcheck: "false", autocomplete: "off", autocapitalize: "off",
      placeholder: "cuda:0,70%;cpu,30%", "aria-describedby": `${id}-error ${id}-help`,
      oninput: () => this.changed(), onscroll: () => this.follow(),
    });
    this.mark = element("span", { class: "caret-mark" });
    this.ruler = element("div", { class: "caret-ruler", "aria-hidden": "true" }, this.mark);
    this.message = element("p", { class: "expert-message" });
    this.suggestions = element("div", { class: "chips" });
    this.error = element("div", { class: "expert-error", id: `${id}-error`, role: "alert", hidden: true }, this.message, this.suggestions);
    this.node = element("div", { class: "expert" },
      element("label", { class: "unseen", for: id }, "Expert string"), this.input, this.ruler, this.error,
      element("p", { class: "hint", id: `${id}-help` }, "Device and amount, ", element("code", {}, ";"), " between: parts ", element("code", {}, "cuda:0,70%;cpu,30%"), ", sizes ", element("code", {}, "cuda:0,2gb;cpu,*"), " or fractions of a device ", element("code", {}, "cuda:0,0.5")));
  }

  get text() {
    return this.input.value;
  }

  /** Shows what is wrong, or that nothing is. */
  show(error) {
    const wrong = Boolean(error);
    this.input.setAttribute("aria-invalid", String(wrong));
    this.ruler.hidden = !wrong || !error.character;
    this.error.hidden = !wrong;
    if (!wrong) return;
    this.ruler.dataset.character = String(error.character ?? "");
    this.mark.textContent = "^".repeat(Math.max(1, Math.min(error.length ?? 1, 40)));
    this.mark.style.setProperty("--at", String((error.character ?? 1) - 1));
    const place = error.character ? `Entry ${error.entry}, character ${error.character}: ` : "";
    this.message.textContent = place + error.problem;
    this.suggestions.replaceChildren(...(error.suggestions ?? []).map((text) =>
      element("button", { type: "button", class: "chip mono", onclick: () => this.replace(error, text) }, text)));
    this.follow();
  }

  /** Writes a suggestion in the place of what is wrong. */
  replace({ character, length }, text) {
    const letters = [...this.input.value];
    letters.splice(character - 1, length, text);
    this.input.value = letters.join("");
    this.input.focus();
    this.changed();
  }

  follow() {
    this.mark.style.setProperty("--scrolled", `${this.input.scrollLeft}px`);
  }
}
