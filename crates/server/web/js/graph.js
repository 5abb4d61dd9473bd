// The prompt of a new picture: a graph in the format of ComfyUI's API.

export const LOADER = "CheckpointLoaderAdvancedDisTorch2MultiGPU";

/** The graph that makes a picture of `picture` (the form's values) with the weights placed as `loader` (the loader's inputs) says. */
export function pictureGraph(picture, loader) {
  const node = (class_type, title, inputs) => ({ class_type, inputs, _meta: { title } });
  return {
    3: node("KSampler", "Sampler", {
      seed: picture.seed,
      steps: picture.steps,
      cfg: picture.cfg,
      sampler_name: picture.sampler,
      scheduler: picture.scheduler,
      denoise: 1.0,
      model: ["4", 0],
      positive: ["6", 0],
      negative: ["7", 0],
      latent_image: ["5", 0],
    }),
    4: node(LOADER, "Load checkpoint (DisTorch2)", loader),
    5: node("EmptyLatentImage", "Size", { width: picture.width, height: picture.height, batch_size: picture.batch }),
    6: node("CLIPTextEncode", "Prompt", { text: picture.prompt, clip: ["4", 1] }),
    7: node("CLIPTextEncode", "Negative prompt", { text: picture.negative, clip: ["4", 1] }),
    8: node("VAEDecode", "Decode", { samples: ["3", 0], vae: ["4", 2] }),
    9: node("SaveImage", "Save", { filename_prefix: "distorch", images: ["8", 0] }),
  };
}

const isLink = (value) => Array.isArray(value) && value.length === 2 && typeof value[1] === "number";

/** What a person may want to change in any graph before it is queued: texts, seeds, steps. */
export function quickFields(graph) {
  const fields = [];
  const add = (id, input, kind, label) => fields.push({ id, input, kind, label, value: graph[id].inputs[input] });
  for (const [id, { class_type, inputs = {}, _meta }] of Object.entries(graph)) {
    const title = _meta?.title ?? class_type;
    for (const [input, value] of Object.entries(inputs)) {
      if (isLink(value)) continue;
      if (typeof value === "string" && /^CLIPTextEncode/.test(class_type)) add(id, input, "text", title);
      if (typeof value === "number" && /^(noise_)?seed$/.test(input)) add(id, input, "seed", `${title}: seed`);
      if (typeof value === "number" && input === "steps") add(id, input, "number", `${title}: steps`);
    }
  }
  return fields;
}

/** A seed as ComfyUI has them, of as many bits as JavaScript's numbers are exact for. */
export function randomSeed() {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  return (high & 0x1fffff) * 2 ** 32 + low;
}

/** One line that says what a graph makes. */
export function describe(graph) {
  const texts = Object.values(graph ?? {}).filter((node) => /^CLIPTextEncode/.test(node.class_type ?? ""));
  const first = texts.map((node) => node.inputs?.text).find((text) => typeof text === "string" && text.trim());
  return first?.trim() ?? `${Object.keys(graph ?? {}).length} nodes`;
}
