// The page of our own, as a person uses it.

import fs from "node:fs";
import path from "node:path";
import { drop, openPage } from "./browser.mjs";
import { check, until } from "./check.mjs";

const PROMPT = "a red circle on a white background";

/** The colours of a strip's pixels, in a text that is another for another picture. */
const pixels = (page, selector) => page.locator(`${selector} canvas`).evaluate((canvas) => canvas.toDataURL());

/** All that is checked of the page at `url`, in a repository; `pictures` is a folder for screenshots, or none. */
export async function checkOwnPage(url, repository, pictures) {
  const { page, errors, elsewhere, close } = await openPage(url);
  const shoot = async (name, options = {}) => pictures && page.screenshot({ path: path.join(pictures, `${name}.png`), ...options });
  await until("the plan of the shipped checkpoint is drawn", page.locator("#placement-summary", { hasText: "SD 1.x" }).waitFor());
  check("three devices are there, two of them simulated", (await page.locator(".device").count()) === 3 && (await page.locator(".device", { hasText: "(simulated)" }).count()) === 2);

  await checkPlan(page);
  await checkQueue(page, shoot);
  await checkViewer(page, shoot);
  await checkDrop(page, repository);
  await checkLooks(page, shoot);

  check("the page asks no other host", elsewhere.size === 0, [...elsewhere].join());
  check("the console has no errors", errors.length === 0, errors.join("\n     "));
  await close();
}

async function checkPlan(page) {
  const strip = '[aria-label="Layers of the diffusion model"]';
  const before = await pixels(page, strip);
  await page.locator("#unet-slider").focus();
  for (let i = 0; i < 8; i += 1) await page.keyboard.press("PageUp");
  await until("moving the slider moves layers to the host", page.locator('[aria-label="Diffusion model"] .legend li', { hasText: "cpu" }).waitFor());
  // The colours fade over.
  await page.waitForFunction(([selector, old]) => document.querySelector(`${selector} canvas`).toDataURL() !== old, [strip, before]);
  check("the strip is drawn anew", true);
  await page.locator(strip).focus();
  await page.keyboard.press("End");
  const words = await page.locator(strip).getAttribute("aria-valuetext");
  check("a layer says its name, size and device", /^out\..*iB|^out\..* B/.test(words) && / on (cuda:0|cpu)$/.test(words), words);
  await until("and shows them", page.locator("#tip", { hasText: words.split(",")[0] }).waitFor());
  await page.keyboard.press("Tab");

  await page.getByRole("radio", { name: "Expert string" }).first().check({ force: true });
  await page.fill("#unet-expert", "cuda:0,50%;cuda:3,30%;cpu,20%");
  await until("a wrong device is named with its place", page.locator(".expert-message", { hasText: "Entry 2, character 12: no device `cuda:3`" }).waitFor());
  const mark = page.locator(".caret-mark").first();
  check("a mark of six characters stands under it", (await mark.textContent()) === "^".repeat(6));
  // The mark is where the browser draws the twelfth character of the text.
  const off = await mark.evaluate((node) => {
    const input = document.querySelector("#unet-expert");
    const style = getComputedStyle(input);
    const pen = document.createElement("canvas").getContext("2d");
    pen.font = `${style.fontSize} ${style.fontFamily}`;
    const start = input.getBoundingClientRect().left + parseFloat(style.borderLeftWidth) + parseFloat(style.paddingLeft);
    return Math.abs(node.getBoundingClientRect().left - (start + pen.measureText(input.value.slice(0, 11)).width));
  });
  check("exactly there", off < 2.5, `${off} pixels off`);
  await page.locator(".expert-error").getByRole("button", { name: "cuda:1" }).first().click();
  await until("a suggestion mends it", page.locator('[aria-label="Diffusion model"] .legend li', { hasText: "cuda:1" }).waitFor());
  check("in the text", (await page.inputValue("#unet-expert")) === "cuda:0,50%;cuda:1,30%;cpu,20%");
}

async function checkQueue(page, shoot) {
  await page.fill("#picture-prompt", PROMPT);
  await page.fill("#picture-cfg", "2");
  await page.fill("#picture-seed", "6");
  await page.locator("#picture-random").uncheck();
  await page.keyboard.press("Control+Enter");
  await until("a preview comes", page.locator("img.preview:visible").waitFor({ timeout: 60_000 }));
  await until("progress is told", page.waitForFunction(() => Number(document.querySelector("#stage-bar .meter")?.getAttribute("aria-valuenow")) > 0, undefined, { timeout: 60_000 }));
  await shoot("running");
  await until("the picture is shown", page.locator(".stage-picture img").waitFor({ timeout: 90_000 }));
  await until("and in the gallery", page.locator(".tile").first().waitFor());
  await until("the queue says that it is done", page.locator(".job.ended", { hasText: "done" }).waitFor());
  await until("the devices hold the model", page.locator(".device-models li", { hasText: "tiny-shapes" }).first().waitFor({ timeout: 15_000 }));

  await page.fill("#picture-seed", "7");
  await page.click("#make");
  await page.fill("#picture-seed", "8");
  await page.click("#make");
  await page.locator(".job.waiting").first().waitFor({ timeout: 30_000 });
  await page.click("#clear-queue");
  await until("clearing takes what waits out of the queue", page.waitForFunction(() => !document.querySelector(".job.waiting")));
  if (await page.locator(".job.running button").count()) await page.locator(".job.running button").click();
  await until("cancelling ends what runs", page.waitForFunction(() => !document.querySelector(".job.running"), undefined, { timeout: 60_000 }));
}

async function checkViewer(page, shoot) {
  await page.locator(".tile").last().click();
  await until("an enlarged picture says how it was made", page.locator("#viewer .facts", { hasText: "tiny-shapes.safetensors" }).waitFor());
  check("with its prompt", (await page.locator(".viewer-prompt").textContent()) === PROMPT);
  check("and its seed", (await page.locator("#viewer .facts").textContent()).includes("Seed6"));
  const saved = page.waitForEvent("download");
  await page.locator("#viewer").getByRole("link", { name: "Save workflow" }).click();
  const graph = JSON.parse(fs.readFileSync(await (await saved).path(), "utf8"));
  check("its workflow can be saved", graph["3"]?.inputs.seed === 6);
  await shoot("viewer");
  await page.keyboard.press("Escape");
}

async function checkDrop(page, repository) {
  await drop(page, "#stage-frame", path.join(repository, "docs/pictures/txt2img_distorch2.png"), "image/png");
  const dialog = page.locator("#opened");
  await until("a dropped picture opens its workflow", dialog.getByRole("button", { name: "Queue" }).waitFor());
  check("with its prompt to change", (await dialog.locator("textarea").first().inputValue()) === PROMPT);
  await dialog.getByRole("button", { name: "Close" }).click();
  await drop(page, "#stage-frame", path.join(repository, "examples/editor.json"), "application/json");
  await until("so does a workflow of the editor", dialog.locator("h2", { hasText: "editor.json" }).waitFor());
  await dialog.getByRole("button", { name: "Close" }).click();
}

async function checkLooks(page, shoot) {
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const dark = await ground();
  await shoot("dark");
  await page.click("#theme");
  const light = await ground();
  check("the button changes between dark and light", dark !== light, `${dark} ${light}`);
  await shoot("light");
  await page.reload();
  await page.locator("#placement-summary", { hasText: "SD 1.x" }).waitFor();
  check("the choice is kept", (await ground()) === light);
  await page.click("#theme");
  await page.setViewportSize({ width: 390, height: 844 });
  check("nothing is wider than a phone", (await page.evaluate(() => document.documentElement.scrollWidth)) === 390);
  check("a phone has a bar of sections", await page.locator(".tabs").isVisible());
  await checkSections(page);
  await shoot("phone", { fullPage: true });
}

async function checkSections(page) {
  const current = (name) => page.locator('.tabs a[aria-current="true"]', { hasText: name }).waitFor({ timeout: 10_000 });
  const scroll = (place) => page.evaluate(([selector, part]) => {
    const { top } = document.querySelector(selector).getBoundingClientRect();
    scrollBy({ top: top - part * innerHeight, behavior: "instant" });
  }, place);
  // The border of both is where a section counts as in view; then only the lower one is.
  await scroll(["#placement", 0.36]);
  await until("where two sections meet, the upper one is marked", current("Create"));
  await scroll(["#placement", 0.2]);
  await until("behind it, the lower one", current("Placement"));
  await scroll(["html", 0]);
}
