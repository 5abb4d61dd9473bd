// What the page asks the server. All of it is on this origin.

/** An answer that is no success; `body` is what the server sent. */
export class ApiError extends Error {
  constructor(status, body) {
    super(message(status, body));
    this.status = status;
    this.body = body;
  }
}

function message(status, body) {
  const error = body?.error;
  const text = typeof error === "string" ? error : error?.message;
  const details = typeof error === "object" && error?.details ? `: ${error.details}` : "";
  const nodes = Object.values(body?.node_errors ?? {}).flatMap((node) => node.errors ?? []);
  const first = nodes.length ? ` (${nodes.map((each) => each.details || each.message).join("; ")})` : "";
  return text ? `${text}${details}${first}` : `the server answered ${status}`;
}

async function send(path, options = {}) {
  let response;
  try {
    response = await fetch(`api${path}`, options);
  } catch {
    throw new ApiError(0, { error: "the server does not answer" });
  }
  const text = await response.text();
  let body = null;
  try {
    body = text ? JSON.parse(text) : null;
  } catch {
    body = { error: text.slice(0, 200) };
  }
  if (!response.ok) throw new ApiError(response.status, body);
  return body;
}

const post = (path, body, options = {}) => send(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), ...options });

export const api = {
  nodeInfo: async (name) => (await send(`/object_info/${encodeURIComponent(name)}`))[name],
  queue: () => send("/queue"),
  history: (count) => send(`/history?max_items=${count}`),
  job: (id) => send(`/history/${encodeURIComponent(id)}`),
  prompt: (body) => post("/prompt", body),
  cancelWaiting: (ids) => post("/queue", { delete: ids }),
  clearQueue: () => post("/queue", { clear: true }),
  interrupt: (id) => post("/interrupt", { prompt_id: id }),
  freeMemory: () => post("/free", { unload_models: true, free_memory: true }),
  devices: () => send("/distorch/devices"),
  plan: (body, signal) => post("/distorch/plan", body, { signal }),
  gallery: (limit, offset) => send(`/distorch/gallery?limit=${limit}&offset=${offset}`),
  workflow: (bytes) => send("/distorch/workflow", { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: bytes }),
  pictureWorkflow: (picture) => send(`/distorch/gallery/workflow?${place(picture)}`),
};

function place({ filename, subfolder, type }) {
  return new URLSearchParams({ filename, subfolder: subfolder ?? "", type: type ?? "output" });
}

/** Where a picture is. A preview is smaller to send. */
export function pictureUrl(picture, preview) {
  const query = place(picture);
  if (preview) query.set("preview", "webp;80");
  if (picture.modified) query.set("t", String(Math.round(picture.modified)));
  return `api/view?${query}`;
}
