// A component's layers in the order of their use, each as wide as its bytes and in the colour of its device.

import { element } from "./element.js";
import { bytes } from "./format.js";
import { canvasColour } from "./device_colour.js";
import { hideTip, showTip } from "./tip.js";

const ROW = 20;
const ROW_GAP = 4;
const REASONS = {
  tiny: "too small to be worth a transfer",
  head: "an embedding stays where it computes",
  param: "a module's own parameters stay where it computes",
  overflow: "fits into no share",
};
const calm = matchMedia("(prefers-reduced-motion: reduce)");

export class Strip {
  constructor(label) {
    this.blocks = [];
    this.current = -1;
    this.canvas = element("canvas", { class: "strip-canvas", "aria-hidden": "true" });
    this.node = element("div", { class: "strip", role: "slider", tabindex: "0", "aria-label": label, "aria-valuemin": "1", "aria-valuemax": "1", "aria-valuenow": "1", "aria-valuetext": "nothing planned yet" }, this.canvas);
    this.node.addEventListener("pointermove", (event) => this.pointed(event));
    this.node.addEventListener("pointerleave", () => this.leave());
    this.node.addEventListener("keydown", (event) => this.key(event));
    this.node.addEventListener("focus", () => this.select(Math.max(0, this.current), true));
    this.node.addEventListener("blur", () => this.leave());
    new ResizeObserver(() => this.draw()).observe(this.node);
  }

  /** Shows these layers; what changed its device fades over. */
  show(blocks) {
    this.before = blocks.length === this.blocks.length ? this.colours : null;
    this.blocks = blocks;
    let at = 0;
    this.starts = blocks.map((block) => (at += block.bytes) - block.bytes);
    this.total = at || 1;
    this.shades = shades(blocks);
    this.node.setAttribute("aria-valuemax", String(Math.max(1, blocks.length)));
    if (this.current >= blocks.length) this.current = -1;
    this.describe();
    this.recolour();
  }

  /** Takes the theme's colours and draws. */
  recolour() {
    const known = new Map();
    const colour = (id) => known.get(id) ?? known.set(id, rgb(canvasColour(id))).get(id);
    this.colours = this.blocks.map((block) => colour(block.device));
    cancelAnimationFrame(this.frame);
    if (!this.before || calm.matches) {
      this.before = null;
      this.draw();
      return;
    }
    const start = performance.now();
    const step = (now) => {
      this.mix = Math.min(1, (now - start) / 180);
      this.draw();
      if (this.mix < 1) this.frame = requestAnimationFrame(step);
      else this.before = null;
    };
    this.frame = requestAnimationFrame(step);
  }

  get rows() {
    const wide = this.node.clientWidth > 560;
    return this.blocks.length > 300 ? (wide ? 4 : 6) : this.blocks.length > 60 ? (wide ? 2 : 4) : 1;
  }

  draw() {
    const width = this.node.clientWidth;
    if (!width) return;
    const rows = this.rows;
    const height = rows * (ROW + ROW_GAP) - ROW_GAP;
    const scale = devicePixelRatio || 1;
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    this.canvas.style.height = `${height}px`;
    const context = this.canvas.getContext("2d");
    context.scale(scale, scale);
    this.blocks.forEach((_, index) => {
      const [red, green, blue] = this.mixed(index);
      context.fillStyle = `rgb(${red} ${green} ${blue} / ${this.shades[index]})`;
      for (const [x, y, w] of this.places(index, width, rows)) {
        context.fillRect(x, y, w > 2.5 ? w - 0.75 : w, ROW);
      }
    });
    if (this.current >= 0 && this.blocks.length) {
      context.fillStyle = getComputedStyle(this.node).color;
      for (const [x, y, w] of this.places(this.current, width, rows)) {
        context.fillRect(x - 1, y - 2, Math.max(3, w + 1), 3);
        context.fillRect(x - 1, y + ROW - 1, Math.max(3, w + 1), 3);
        context.fillRect(x - 1, y - 2, 1.5, ROW + 4);
        context.fillRect(x + Math.max(1, w - 0.5), y - 2, 1.5, ROW + 4);
      }
    }
  }

  mixed(index) {
    const to = this.colours[index];
    const from = this.before?.[index];
    if (!from) return to;
    return to.map((value, i) => Math.round(from[i] + (value - from[i]) * (this.mix ?? 1)));
  }

  /** Where a block is drawn: one rectangle for each row that it reaches into. */
  places(index, width, rows) {
    const perRow = this.total / rows;
    let from = this.starts[index];
    const end = from + this.blocks[index].bytes;
    const places = [];
    while (from < end) {
      const row = Math.min(rows - 1, Math.floor(from / perRow + 1e-9));
      const stop = row === rows - 1 ? end : Math.min(end, (row + 1) * perRow);
      places.push([((from - row * perRow) / perRow) * width, row * (ROW + ROW_GAP), ((stop - from) / perRow) * width]);
      if (stop <= from) break;
      from = stop;
    }
    return places;
  }

  pointed(event) {
    if (!this.blocks.length) return;
    const box = this.canvas.getBoundingClientRect();
    const row = Math.min(this.rows - 1, Math.max(0, Math.floor((event.clientY - box.top) / (ROW + ROW_GAP))));
    const perRow = this.total / this.rows;
    const at = row * perRow + Math.min(0.9999, Math.max(0, (event.clientX - box.left) / box.width)) * perRow;
    this.select(last(this.starts, at), false);
    showTip(this.words(), event.clientX, event.clientY);
  }

  key(event) {
    const moves = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10, Home: -Infinity, End: Infinity };
    const move = moves[event.key];
    if (move === undefined || !this.blocks.length) return;
    event.preventDefault();
    this.select(Math.min(this.blocks.length - 1, Math.max(0, this.current + move)), true);
  }

  select(index, byKey) {
    if (!this.blocks.length) return;
    this.current = index;
    this.describe();
    this.draw();
    if (byKey && this.node.matches(":focus-visible")) {
      const box = this.canvas.getBoundingClientRect();
      const [[x, y]] = this.places(index, box.width, this.rows);
      showTip(this.words(), box.left + x, box.top + y + ROW);
    }
  }

  leave() {
    hideTip();
    this.current = -1;
    this.draw();
  }

  words() {
    const { name, kind, bytes: size, device, reason } = this.blocks[this.current];
    return { title: name, lines: [`${kind}, ${bytes(size)}`, REASONS[reason] ? `${device}: ${REASONS[reason]}` : device], device };
  }

  describe() {
    const index = Math.max(0, this.current);
    const block = this.blocks[index];
    this.node.setAttribute("aria-valuenow", String(index + 1));
    if (block) this.node.setAttribute("aria-valuetext", `${block.name}, ${block.kind}, ${bytes(block.bytes)}, on ${block.device}`);
  }
}

/** The last start that is not beyond `at`. */
function last(starts, at) {
  let [low, high] = [0, starts.length - 1];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (starts[middle] <= at) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** Two shades that take turns from one module of the network to the next. */
function shades(blocks) {
  const group = (name) => name.split(".").slice(0, 3).join(".");
  let dark = false;
  return blocks.map((block, index) => {
    if (index && group(block.name) !== group(blocks[index - 1].name)) dark = !dark;
    return dark ? 0.78 : 1;
  });
}

function rgb(text) {
  return text.match(/[\d.]+/g).slice(0, 3).map(Number);
}
