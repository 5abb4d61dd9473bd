// Chromium without a window, and what its pages say and ask.

import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { chromium } from "playwright-core";

const PROGRAM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

/**
 * A page of `url`, with the errors of its console and the hosts that it asked elsewhere; with `answered`, only those that
 * answered: what a page's own rules refuse is a request too. `tolerated` are patterns of errors that may be.
 */
export async function openPage(url, { scheme = "dark", width = 1440, height = 900, tolerated = [], answered = false } = {}) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "distorch-chromium-"));
  const context = await chromium.launchPersistentContext(folder, {
    executablePath: PROGRAM, headless: true, args: FLAGS, viewport: { width, height }, colorScheme: scheme,
  });
  const page = context.pages()[0] ?? (await context.newPage());
  const errors = [];
  const elsewhere = new Set();
  const heard = (text) => tolerated.some((pattern) => pattern.test(text)) || errors.push(text);
  page.on("console", (message) => message.type() === "error" && heard(`${message.text()} (${message.location().url})`));
  page.on("pageerror", (error) => heard(`${error.name}: ${error.message}`));
  page.on(answered ? "response" : "request", (event) => {
    const asked = new URL(event.url());
    if (/^(https?|wss?):$/.test(asked.protocol) && asked.origin !== new URL(url).origin) elsewhere.add(asked.origin);
  });
  await page.goto(url);
  const close = async () => {
    await context.close();
    fs.rmSync(folder, { recursive: true, force: true });
  };
  return { page, errors, elsewhere, close };
}

/** Drops a file on an element, as a person drags it from a folder. */
export async function drop(page, selector, file, type) {
  const bytes = fs.readFileSync(file).toString("base64");
  const transfer = await page.evaluateHandle(([text, name, kind]) => {
    const transfer = new DataTransfer();
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type: kind }));
    return transfer;
  }, [bytes, path.basename(file), type]);
  const place = await page.locator(selector).first().boundingBox();
  const at = { clientX: place.x + place.width / 2, clientY: place.y + place.height / 2 };
  for (const event of ["dragenter", "dragover", "drop"]) await page.locator(selector).first().dispatchEvent(event, { dataTransfer: transfer, ...at });
}
