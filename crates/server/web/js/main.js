// Starts the page.

import { api } from "./api.js";
import { element } from "./element.js";
import { on } from "./events.js";
import { startDevices } from "./devices.js";
import { startGallery } from "./gallery.js";
import { LOADER, pictureGraph } from "./graph.js";
import * as jobs from "./jobs.js";
import { notify } from "./notices.js";
import { startOpening } from "./opened.js";
import { buildPictureForm, setNativeSize } from "./picture_form.js";
import { buildPlacement, loaderInputs, recolour } from "./placement.js";
import { startQueue } from "./queue.js";
import { startSections } from "./sections.js";
import { clientId, connect } from "./socket.js";
import { startStage } from "./stage.js";
import { startTheme } from "./theme.js";
import { startViewer } from "./viewer.js";

const STATES = { open: "connected", closed: "not connected" };

startTheme(document.getElementById("theme"), recolour);
startViewer();
startOpening();
startSections();
on("connection", (state) => {
  const mark = document.getElementById("connection");
  mark.dataset.state = state;
  document.getElementById("connection-text").textContent = STATES[state];
});
on("planned", ({ model }) => setNativeSize(model.native));
on("make-picture", (picture) => queue(pictureGraph(picture, loaderInputs())));
on("queue-graph", ({ graph, workflow }) => queue(graph, workflow));
startQueue();
startStage();
startGallery();
connect();
jobs.startJobs();
startDevices();
startForms();

async function startForms() {
  try {
    const [sampler, loader] = await Promise.all([api.nodeInfo("KSampler"), api.nodeInfo(LOADER)]);
    buildPictureForm(document.getElementById("picture-form"), sampler, loader.input.required.ckpt_name[0]);
    buildPlacement(loader);
  } catch (error) {
    document.getElementById("picture-form").replaceChildren(element("p", { class: "plan-problem", role: "alert" }, `${error.message}; reload the page when it does.`));
  }
}

async function queue(prompt, workflow) {
  const extra_data = workflow ? { extra_pnginfo: { workflow } } : {};
  try {
    await api.prompt({ prompt, client_id: clientId, extra_data });
    jobs.refresh();
  } catch (error) {
    notify(error.message, "error");
  }
}
