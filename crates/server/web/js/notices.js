// Short messages at the edge of the page.

import { element } from "./element.js";

/** Shows a message; errors stay until they are closed. */
export function notify(text, kind = "info") {
  const close = element("button", { type: "button", class: "button quiet small", onclick: () => notice.remove() }, "Close");
  const notice = element("div", { class: `notice ${kind}`, role: kind === "error" ? "alert" : undefined }, element("p", {}, text), close);
  document.getElementById("notices").append(notice);
  if (kind !== "error") setTimeout(() => notice.remove(), 5000);
}
