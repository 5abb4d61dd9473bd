// Takes the pictures of docs/web.md: `node pictures.mjs --distorch PROGRAM --to FOLDER`.

import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { gunzipSync } from "node:zlib";
import { openPage } from "./browser.mjs";
import { serve } from "./server.mjs";

const LARGE = "sd_xl_base_1.0.safetensors";
const SMALL = "tiny-shapes.safetensors";
const MADE = [["a red circle on a white background", 6], ["a yellow triangle on a blue background", 3], ["a green square on a white background", 4]];

const { values } = parseArgs({ options: { distorch: { type: "string" }, to: { type: "string" } } });
if (!values.distorch || !values.to) {
  console.error("name the program and a folder: --distorch target/debug/distorch --to docs/pictures");
  process.exit(2);
}
const repository = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");

/** Writes a file with the header of SDXL's checkpoint and zeros for weights: a plan reads no more. */
function writeLarge(folder) {
  const keys = path.join(repository, "crates/checkpoint/tests/fixtures/keys/sdxl-base.json.gz");
  const { tensors } = JSON.parse(gunzipSync(fs.readFileSync(keys)));
  const header = {};
  let end = 0;
  for (const [key, shape] of Object.entries(tensors)) {
    const start = end;
    end += 2 * shape.reduce((product, side) => product * side, 1);
    header[key] = { dtype: "F16", shape, data_offsets: [start, end] };
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  const checkpoints = path.join(folder, "models/checkpoints");
  fs.mkdirSync(checkpoints, { recursive: true });
  const file = path.join(checkpoints, LARGE);
  fs.writeFileSync(file, Buffer.concat([length, text]));
  fs.truncateSync(file, 8 + text.length + end);
}

/** Queues a picture of the small checkpoint. */
async function make(page, prompt, seed, steps) {
  await page.selectOption("#picture-model", SMALL);
  for (const [name, value] of Object.entries({ prompt, seed, steps, width: 128, height: 128, cfg: 2 })) await page.fill(`#picture-${name}`, String(value));
  await page.click("#make");
}

/** The plan of the large checkpoint over three devices. */
async function plan(page) {
  await page.selectOption("#picture-model", LARGE);
  await page.locator("#placement-summary", { hasText: "SDXL" }).waitFor();
  await page.getByRole("radio", { name: "Expert string" }).first().check({ force: true });
  await page.fill("#unet-expert", "cuda:0,55%;cuda:1,30%;cpu,15%");
  await page.locator('[aria-label="Diffusion model"] .legend li', { hasText: "cuda:1" }).waitFor();
  await page.fill("#picture-steps", "20");
  await page.getByRole("button", { name: "Square", exact: true }).click();
  // The colours fade over.
  await page.waitForTimeout(800);
}

const options = ["--preview-method", "latent2rgb"];
const server = await serve(path.resolve(values.distorch), repository, options, { devices: "cuda:0=8GiB,cuda:1=6GiB", prepare: writeLarge });
const shoot = (page, name) => page.screenshot({ path: path.join(values.to, `${name}.png`) });
try {
  const { page, close } = await openPage(server.url, { height: 1000 });
  await page.locator("#placement-summary", { hasText: /SD/ }).waitFor();
  await page.locator("#picture-random").uncheck();
  for (const [prompt, seed] of MADE) await make(page, prompt, seed, 20);
  await page.waitForFunction((count) => document.querySelectorAll(".job.ended").length === count, MADE.length, { timeout: 300_000 });
  // Long enough to be in the middle of it.
  await make(page, "a blue circle on a yellow background", 5, 300);
  await make(page, "a red triangle on a yellow background", 8, 20);
  await plan(page);
  await page.waitForFunction(() => Number(document.querySelector("#stage-bar .meter")?.getAttribute("aria-valuenow")) > 55, undefined, { timeout: 300_000 });
  await page.evaluate(() => document.activeElement?.blur());
  await shoot(page, "web_dark");
  await close();

  const phone = await openPage(server.url, { scheme: "light", width: 390, height: 1280 });
  await phone.page.locator("#placement-summary", { hasText: /SD/ }).waitFor();
  await plan(phone.page);
  await phone.page.evaluate(() => document.activeElement?.blur());
  await phone.page.locator(".tabs a", { hasText: "Placement" }).click();
  await phone.page.mouse.move(0, 0);
  await phone.page.waitForTimeout(800);
  await shoot(phone.page, "web_phone");
  await phone.close();
} finally {
  await server.end();
}
