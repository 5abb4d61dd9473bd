// ComfyUI's official frontend on this server: the node is found, a picture's workflow opens, runs, and shows its picture.

import path from "node:path";
import { drop, openPage } from "./browser.mjs";
import { check, until } from "./check.mjs";

const LOADER = "CheckpointLoaderAdvancedDisTorch2MultiGPU";
const INPUTS = [
  "ckpt_name", "unet_compute_device", "unet_virtual_vram_gb", "unet_donor_device", "clip_compute_device", "clip_virtual_vram_gb", "clip_donor_device",
  "vae_device", "unet_expert_mode_allocations", "clip_expert_mode_allocations", "high_precision_loras", "eject_models",
];

// Errors that the frontend's console has on ComfyUI too, or because nothing leaves the machine.
const TOLERATED = [
  // It asks for lists and files that a new user has not saved yet, and reads from the 404 that they are not there.
  /404.*\/api\/userdata/,
  // It looks for news of itself, and for the sizes of models that its first workflow names.
  /https:\/\/(api\.comfy\.org|huggingface\.co)\/.*Content Security Policy/,
  // Pictures of templates, where the packages with them are not installed.
  /404.*\/templates\//, /^Failed to fetch: 404 .*GraphView/,
];

/** All that is checked of the frontend at `url`; `pictures` is a folder for screenshots, or none. */
export async function checkOfficialFrontend(url, repository, pictures) {
  // Without this, it opens its templates over the page at first.
  await fetch(`${url}/api/settings`, { method: "POST", body: JSON.stringify({ "Comfy.TutorialCompleted": true }) });
  const { page, errors, elsewhere, close } = await openPage(url, { tolerated: TOLERATED, answered: true });
  await until("the frontend loads with the nodes", page.waitForFunction((name) => window.app?.graph && window.LiteGraph?.registered_node_types?.[name], LOADER, { timeout: 60_000 }));
  await page.locator("#graph-canvas").waitFor();
  await checkNode(page);
  await checkRun(page, repository, pictures);
  check("no other host answered it", elsewhere.size === 0, [...elsewhere].join());
  check("the console has no errors but those that are tolerated", errors.length === 0, errors.join("\n     "));
  await close();
}

async function checkNode(page) {
  const tooltips = await page.evaluate((name) => {
    const { required, optional } = window.LiteGraph.registered_node_types[name].nodeData.input;
    return Object.fromEntries(Object.entries({ ...required, ...optional }).map(([input, spec]) => [input, spec[1]?.tooltip]));
  }, LOADER);
  check("the DisTorch2 node has its inputs in their order", Object.keys(tooltips).join() === INPUTS.join(), Object.keys(tooltips).join());
  check("each with a tooltip", Object.values(tooltips).every((text) => text?.length > 10), JSON.stringify(tooltips));
  const canvas = await page.locator("#graph-canvas").boundingBox();
  await until("a double click opens the search", (async () => {
    await page.mouse.dblclick(canvas.x + canvas.width / 2, canvas.y + 40);
    await page.locator("input:focus").waitFor();
  })());
  await page.keyboard.type("DisTorch2");
  await until("which finds the node", page.getByText(LOADER).first().waitFor());
  await page.keyboard.press("Escape");
}

async function checkRun(page, repository, pictures) {
  await page.evaluate(() => {
    window.seen = { progress: 0, previews: 0 };
    window.app.api.addEventListener("progress", () => (window.seen.progress += 1));
    for (const name of ["b_preview", "b_preview_with_metadata"]) window.app.api.addEventListener(name, () => (window.seen.previews += 1));
  });
  await drop(page, "#graph-canvas", path.join(repository, "docs/pictures/txt2img_distorch2.png"), "image/png");
  await until("a dropped picture opens its workflow", page.waitForFunction((name) => window.app.graph.nodes.length === 7 && window.app.graph.nodes.some((node) => node.type === name), LOADER));
  await page.keyboard.press("Control+Enter");
  await until("it is queued and its progress told", page.waitForFunction(() => window.seen.progress > 2, undefined, { timeout: 60_000 }));
  await until("previews come", page.waitForFunction(() => window.seen.previews > 0, undefined, { timeout: 60_000 }));
  const shown = () => page.waitForFunction(() => {
    const node = window.app.graph.nodes.find((each) => each.type === "SaveImage");
    return node.imgs?.[0]?.naturalWidth === 128;
  }, undefined, { timeout: 120_000 });
  // Only what is in view is drawn.
  await page.keyboard.press(".");
  await until("the picture is shown in its node", shown());
  if (pictures) {
    await page.waitForTimeout(1500);
    await page.screenshot({ path: path.join(pictures, "comfyui_frontend.png") });
  }
}
