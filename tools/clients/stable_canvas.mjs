// `@stable-canvas/comfyui-client`: node stable_canvas.mjs URL PROMPT PICTURE

import fs from "node:fs";
import { Client } from "@stable-canvas/comfyui-client";
import WebSocket from "ws";

const [url, prompt, picture] = process.argv.slice(2);
const client = new Client({ api_host: new URL(url).host, WebSocket, fetch });
await client.connect();
const steps = [];
const made = await client.enqueue(JSON.parse(fs.readFileSync(prompt, "utf8")), {
  disable_random_seed: true,
  progress: (step) => steps.push(step),
});
const [image] = made.images;
const bytes = image.type === "url" ? await (await fetch(image.data)).arrayBuffer() : image.data;
fs.writeFileSync(picture, Buffer.from(bytes));
const last = steps.at(-1);
if (!last || last.value !== last.max) throw new Error(`no progress to the end: ${JSON.stringify(steps)}`);
console.log(`${steps.length} steps heard`);
process.exit(0);
