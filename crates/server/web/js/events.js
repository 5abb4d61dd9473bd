// Messages between the parts of the page.

const bus = new EventTarget();

/** Tells whoever listens. */
export function emit(name, detail) {
  bus.dispatchEvent(new CustomEvent(name, { detail }));
}

/** Listens. */
export function on(name, listener) {
  bus.addEventListener(name, (event) => listener(event.detail));
}
