// The pictures in the output folder, the newest first.

import { api, pictureUrl } from "./api.js";
import { element } from "./element.js";
import { emit, on } from "./events.js";

const PAGE = 48;
const grid = document.getElementById("picture-grid");
const count = document.getElementById("gallery-count");
const more = document.getElementById("gallery-more");
let pictures = [];

/** Shows the gallery, and what is added to it. */
export function startGallery() {
  more.addEventListener("click", () => load(pictures.length));
  on("job-ended", () => load(0));
  load(0);
}

async function load(offset) {
  let answer;
  try {
    answer = await api.gallery(offset ? PAGE : Math.max(PAGE, pictures.length), offset);
  } catch (error) {
    count.textContent = error.message;
    return;
  }
  pictures = offset ? [...pictures, ...answer.pictures] : answer.pictures;
  count.textContent = answer.total === 1 ? "1 picture" : `${answer.total} pictures`;
  more.hidden = pictures.length >= answer.total;
  grid.replaceChildren(...(pictures.length ? pictures.map(tile) : [element("li", { class: "empty hint" }, "Pictures that are made show here, with how they were made.")]));
  emit("gallery", { pictures });
}

function tile(picture, index) {
  const words = picture.summary?.prompt || picture.filename;
  return element("li", {},
    element("button", { type: "button", class: "tile", "aria-label": `Enlarge: ${words}`, onclick: () => emit("view", { pictures, index }) },
      element("img", { src: pictureUrl(picture, true), alt: "", loading: "lazy" }),
      element("span", { class: "tile-words" }, words)));
}
