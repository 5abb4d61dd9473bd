// A server of the program under test, in a folder of its own.

import { spawn } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";

const STARTS_WITHIN = 30_000;

/** Starts `distorch serve` on a free port with the shipped checkpoint; `options` are further ones, `prepare` fills its folder. */
export async function serve(distorch, repository, options = [], { devices = "cuda:0=64MiB,cuda:1=32MiB", prepare = () => {} } = {}) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "distorch-web-"));
  prepare(folder);
  const paths = path.join(folder, "shipped.yaml");
  fs.writeFileSync(paths, `shipped:\n  checkpoints: ${JSON.stringify(path.join(repository, "models/checkpoints"))}\n`);
  const command = ["serve", "--port", "0", "--base-dir", folder, "--extra-model-paths", paths, "--simulate", devices, ...options];
  const child = spawn(distorch, command, { stdio: ["ignore", "ignore", "pipe"] });
  let log = "";
  const url = await new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`the server did not start:\n${log}`)), STARTS_WITHIN);
    child.on("error", reject);
    child.on("exit", (code) => reject(new Error(`the server ended with ${code}:\n${log}`)));
    child.stderr.on("data", (data) => {
      log += data;
      const found = log.match(/listening on (http:\S+)/);
      if (!found) return;
      clearTimeout(late);
      resolve(found[1]);
    });
  });
  const end = () => new Promise((resolve) => {
    child.removeAllListeners("exit");
    child.once("exit", () => {
      fs.rmSync(folder, { recursive: true, force: true });
      resolve();
    });
    child.kill("SIGTERM");
  });
  return { url, folder, end };
}
