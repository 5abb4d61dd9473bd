// `@saintno/comfyui-sdk`: node saintno.mjs URL PROMPT PICTURE

import fs from "node:fs";
import { CallWrapper, ComfyApi, PromptBuilder } from "@saintno/comfyui-sdk";

const [url, prompt, picture] = process.argv.slice(2);
const api = new ComfyApi(url);
await api.init().waitForReady();
const workflow = new PromptBuilder(JSON.parse(fs.readFileSync(prompt, "utf8")), [], ["images"]).setOutputNode("images", "9");
const steps = [];
const images = await new Promise((resolve, reject) => {
  new CallWrapper(api, workflow)
    .onProgress((step) => steps.push(step))
    .onFinished((made) => resolve(made.images.images))
    .onFailed(reject)
    .run();
});
const blob = await api.getImage(images[0]);
fs.writeFileSync(picture, Buffer.from(await blob.arrayBuffer()));
const last = steps.at(-1);
if (!last || last.value !== last.max) throw new Error(`no progress to the end: ${JSON.stringify(steps)}`);
console.log(`${steps.length} steps heard`);
process.exit(0);
