// The WebSocket: progress and previews. Each message becomes an event `ws:TYPE`.

import { emit } from "./events.js";

/** This page's name towards the server; a reload in the same tab keeps it, and with it the state of a run. */
export const clientId = remembered();

function remembered() {
  const known = sessionStorage.getItem("distorch.client");
  const id = known ?? crypto.randomUUID?.() ?? `page-${Math.random().toString(16).slice(2)}`;
  sessionStorage.setItem("distorch.client", id);
  return id;
}

let wait = 500;

/** Connects, and again whenever the connection ends. */
export function connect() {
  const base = new URL("ws", document.baseURI);
  base.protocol = base.protocol.replace("http", "ws");
  base.searchParams.set("clientId", clientId);
  const socket = new WebSocket(base);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    wait = 500;
    socket.send(JSON.stringify({ type: "feature_flags", data: { supports_preview_metadata: true } }));
    emit("connection", "open");
  };
  socket.onmessage = ({ data }) => (typeof data === "string" ? text(data) : binary(data));
  socket.onclose = () => {
    emit("connection", "closed");
    setTimeout(connect, wait);
    wait = Math.min(wait * 2, 8000);
  };
}

function text(data) {
  const { type, data: detail } = JSON.parse(data);
  emit(`ws:${type}`, detail ?? {});
}

const PREVIEW = 1;
const PREVIEW_WITH_METADATA = 4;

function binary(buffer) {
  const view = new DataView(buffer);
  const kind = view.getUint32(0);
  if (kind === PREVIEW) {
    const type = view.getUint32(4) === 2 ? "image/png" : "image/jpeg";
    emit("preview", { picture: new Blob([buffer.slice(8)], { type }) });
  } else if (kind === PREVIEW_WITH_METADATA) {
    const length = view.getUint32(4);
    const metadata = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
    const type = metadata.image_type ?? "image/jpeg";
    emit("preview", { picture: new Blob([buffer.slice(8 + length)], { type }), prompt: metadata.prompt_id });
  }
}
