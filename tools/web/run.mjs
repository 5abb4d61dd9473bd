// Checks the web pages in Chromium: `node run.mjs --distorch PROGRAM [--frontend FOLDER] [--pictures FOLDER]`.

import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { failures } from "./check.mjs";
import { checkOfficialFrontend } from "./official.mjs";
import { checkOwnPage } from "./own_page.mjs";
import { serve } from "./server.mjs";

const { values } = parseArgs({ options: { distorch: { type: "string" }, frontend: { type: "string" }, pictures: { type: "string" } } });
if (!values.distorch) {
  console.error("name the program: --distorch target/debug/distorch");
  process.exit(2);
}
const repository = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
const distorch = path.resolve(values.distorch);
if (values.pictures) fs.mkdirSync(values.pictures, { recursive: true });

const pages = [["the page of our own", [], checkOwnPage]];
if (values.frontend) pages.push(["ComfyUI's frontend", ["--web", path.resolve(values.frontend)], checkOfficialFrontend]);
for (const [name, options, checkPage] of pages) {
  console.log(`\n${name}`);
  const server = await serve(distorch, repository, options);
  try {
    await checkPage(server.url, repository, values.pictures);
  } finally {
    await server.end();
  }
}
process.exit(failures() ? 1 : 0);
