//! Pictures do not depend on where weights live, and runs go on where memory ran out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use distorch_allocation::{DeviceId, DeviceInfo, Layout, LayoutChoice, Topology};
use distorch_checkpoint::decode::to_f32;
use distorch_checkpoint::folders::ModelFolders;
use distorch_checkpoint::{Checkpoint, Dtype};
use distorch_runtime::heap::CountingAllocator;
use distorch_test_support::model_file::ModelFile;
use distorch_test_support::repository;
use distorch_workflow::graph::Prompt;
use distorch_workflow::observe::{Event, Observer, Silent};
use distorch_workflow::value::Value;
use distorch_workflow::{Environment, ExecutionError, Executor, nodes};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

#[global_allocator]
static HEAP: CountingAllocator = CountingAllocator;

/// What a device really holds is counted over the whole process: runs take turns.
static TURN: Mutex<()> = Mutex::new(());

const UNET: &str = "model.diffusion_model.";

/// `auto` is `distorch2` where the window is as large as here.
const LAYOUTS: [LayoutChoice; 2] = [LayoutChoice::Auto, LayoutChoice::Fixed(Layout::Interleave)];

fn shipped() -> PathBuf {
    repository().join("models/checkpoints/tiny-shapes.safetensors")
}

/// The shipped checkpoint with the matrices of its UNet in another dtype.
fn convert(dtype: Dtype, path: &Path) {
    let checkpoint = Checkpoint::open(&shipped()).unwrap();
    let mut file = ModelFile::new();
    for (key, info) in checkpoint.tensors() {
        let mut bytes = vec![0; usize::try_from(info.bytes()).unwrap()];
        checkpoint.read_into(key, 0, &mut bytes).unwrap();
        let is_matrix = key.starts_with(UNET) && info.shape.len() > 1;
        if dtype == Dtype::F32 || (dtype == Dtype::F8E4M3 && is_matrix) {
            file.add(key, dtype, &info.shape, &to_f32(&bytes, info.dtype));
        } else {
            file.add_bytes(key, info.dtype, &info.shape, &bytes);
        }
    }
    file.write(path);
}

/// A LoRA on attention of the UNet and of the text encoder.
fn write_lora(path: &Path) {
    let checkpoint = Checkpoint::open(&shipped()).unwrap();
    let (mut file, mut adapters) = (ModelFile::new(), 0);
    for (key, info) in checkpoint.tensors() {
        let Some(layer) = key.strip_suffix(".weight") else { continue };
        let name = if let Some(rest) = layer.strip_prefix(UNET) {
            format!("lora_unet_{}", rest.replace('.', "_"))
        } else if let Some(rest) = layer.strip_prefix("cond_stage_model.transformer.") {
            format!("lora_te_{}", rest.replace('.', "_"))
        } else {
            continue;
        };
        if !["attn1_to_q", "attn2_to_v", "mlp_fc1"].iter().any(|end| name.ends_with(end)) {
            continue;
        }
        let &[out, inputs] = info.shape.as_slice() else { continue };
        for (part, shape) in [("up", vec![out, 2]), ("down", vec![2, inputs])] {
            let count = shape.iter().product::<usize>();
            let value = |i: usize| ((i * 37 + name.len()) % 17) as f32 / 60.0 - 0.13;
            let values: Vec<f32> = (0..count).map(value).collect();
            file.add(&format!("{name}.lora_{part}.weight"), Dtype::F32, &shape, &values);
            adapters += 1;
        }
    }
    assert!(adapters > 20, "{adapters}");
    file.write(path);
}

/// A folder with the shipped model in three dtypes and a LoRA.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let models = folder.path().join("models");
    for (name, dtype) in [("f32", Dtype::F32), ("f16", Dtype::F16), ("fp8", Dtype::F8E4M3)] {
        convert(dtype, &models.join(format!("checkpoints/{name}.safetensors")));
    }
    write_lora(&models.join("loras/lora.safetensors"));
    folder
}

fn executor(folder: &Path, simulated: &str, auto_retry: bool) -> Executor {
    let host = DeviceInfo::new(DeviceId::CPU, "host", 1 << 40);
    let topology = Topology::new(vec![host]).unwrap().simulate(simulated).unwrap();
    let environment = Environment::on(ModelFolders::new(folder, &[]).unwrap(), topology);
    Executor::new(
        environment.with_models(|models| models.with_auto_retry(auto_retry)),
        nodes::all(),
    )
}

/// How the UNet is placed.
#[derive(Clone, Copy, Debug)]
enum Placing {
    /// Parts of the UNet as virtual VRAM.
    Virtual(f64),
    Expert(&'static str),
}

/// A node's class and inputs.
fn node(class: &str, inputs: Json) -> Json {
    json!({ "class_type": class, "inputs": inputs })
}

struct Wanted {
    file: &'static str,
    placing: Placing,
    lora: bool,
    high_precision: bool,
    side: usize,
    steps: usize,
    vae_device: &'static str,
    /// Whether there are three conditionings, which take two calls.
    three: bool,
}

impl Wanted {
    fn new(file: &'static str, placing: Placing) -> Self {
        Self {
            file,
            placing,
            lora: false,
            high_precision: true,
            side: 64,
            steps: 2,
            vae_device: "cuda:0",
            three: false,
        }
    }

    fn prompt(&self) -> Prompt {
        let (gigabytes, expert) = match self.placing {
            Placing::Virtual(part) => (part, ""),
            Placing::Expert(allocation) => (0.0, allocation),
        };
        let from = if self.lora { "lora" } else { "ckpt" };
        let positive = if self.three { "both" } else { "positive" };
        let text = |text: &str| node("CLIPTextEncode", json!({ "clip": [from, 1], "text": text }));
        let nodes = json!({
            "ckpt": node("CheckpointLoaderAdvancedDisTorch2MultiGPU", json!({
                "ckpt_name": format!("{}.safetensors", self.file),
                "unet_compute_device": "cuda:0", "unet_virtual_vram_gb": gigabytes,
                "unet_donor_device": "cpu", "clip_compute_device": "cpu",
                "clip_virtual_vram_gb": 0.0, "clip_donor_device": "cpu", "vae_device": self.vae_device,
                "unet_expert_mode_allocations": expert, "clip_expert_mode_allocations": "",
                "high_precision_loras": self.high_precision, "eject_models": true,
            })),
            "lora": node("LoraLoader", json!({
                "model": ["ckpt", 0], "clip": ["ckpt", 1], "lora_name": "lora.safetensors",
                "strength_model": 0.8, "strength_clip": 0.5,
            })),
            "empty": node("EmptyLatentImage", json!({
                "width": self.side, "height": self.side, "batch_size": 1,
            })),
            "positive": text("a red circle on a white background"),
            "other": text("a blue square"),
            "both": node("ConditioningCombine", json!({
                "conditioning_1": ["positive", 0], "conditioning_2": ["other", 0],
            })),
            "negative": text(""),
            "sampler": node("KSampler", json!({
                "model": [from, 0], "positive": [positive, 0], "negative": ["negative", 0],
                "latent_image": ["empty", 0], "seed": 5, "steps": self.steps, "cfg": 2.0,
                "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
            })),
            "decode": node("VAEDecode", json!({ "samples": ["sampler", 0], "vae": ["ckpt", 2] })),
        });
        Prompt::from_json(&nodes.to_string(), &nodes::all()).unwrap()
    }

    fn try_make(
        &self,
        executor: &mut Executor,
        observer: &dyn Observer,
    ) -> Result<Vec<u32>, ExecutionError> {
        let report = executor.run_nodes(&self.prompt(), &["decode"], observer)?;
        let Value::Image(picture) = &report.values["decode"][0] else { panic!("no picture") };
        Ok(picture.values().iter().map(|value| value.to_bits()).collect())
    }

    fn make(&self, executor: &mut Executor) -> Vec<u32> {
        self.try_make(executor, &Silent).unwrap_or_else(|error| panic!("{error}"))
    }
}

fn check_peaks(executor: &Executor, of: &str) {
    let loaded = executor.environment().session.models.stats();
    assert!(!loaded.is_empty(), "{of}");
    for (part, stats) in loaded {
        for held in &stats.devices {
            assert!(held.peak_bytes <= held.planned_bytes, "{of}, {part:?}: {held:?}");
        }
    }
}

/// The same picture, bit for bit, for every allocation, each layout, with and without a LoRA, from
/// files of every dtype.
#[test]
fn a_picture_has_the_same_bits_wherever_the_weights_live() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = folder();
    let mut pictures = Vec::new();
    for file in ["f32", "f16", "fp8"] {
        let path = folder.path().join(format!("models/checkpoints/{file}.safetensors"));
        let checkpoint = Checkpoint::open(&path).unwrap();
        let unet = checkpoint.tensors().filter(|(key, _)| key.starts_with(UNET));
        let unet = unet.map(|(_, info)| info.bytes()).sum::<u64>() as f64 / f64::from(1 << 30);
        let places = [
            Placing::Virtual(0.0),
            Placing::Virtual(0.1 * unet),
            Placing::Virtual(0.5 * unet),
            Placing::Virtual(1.0 + unet),
            Placing::Expert("cuda:0,20%;cuda:1,50%;cpu,30%"),
            Placing::Expert("cuda:0,700kb;cuda:1,1mb;cpu,*"),
            Placing::Expert("cuda:0,0.002;cuda:1,0.002;cpu,0.5"),
        ];
        // All of them for each way of patching, the layouts by turns.
        for (lora, high_precision) in [(false, true), (true, true), (true, false)] {
            let mut expected = None;
            for layout in LAYOUTS {
                // One executor: the weights move from plan to plan.
                let mut executor = executor(folder.path(), "cuda:0=1GiB,cuda:1=1GiB", false);
                executor.environment_mut().unwrap().session.layout = layout;
                for placing in places {
                    let wanted = Wanted { lora, high_precision, ..Wanted::new(file, placing) };
                    let picture = wanted.make(&mut executor);
                    let of = format!("{file} {layout:?} {placing:?} {lora} {high_precision}");
                    let expected = expected.get_or_insert_with(|| picture.clone());
                    assert!(picture == *expected, "{of}");
                    // Patched layers in the compute dtype take more at their homes than planned.
                    if !(lora && high_precision) || file == "f32" {
                        check_peaks(&executor, &of);
                    }
                }
            }
            pictures.extend(expected);
        }
    }
    let differ = |a: usize, b: usize| assert!(pictures[a] != pictures[b], "{a} {b}");
    differ(0, 1);
    differ(0, 6);
    differ(7, 8);
}

/// Three conditionings take two calls of the model a step; its weights come once for both.
#[test]
fn calls_that_are_no_batch_share_what_comes_over_the_link() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = folder();
    let make = |placing, simulated: &str| {
        let wanted = Wanted { three: true, steps: 3, ..Wanted::new("f16", placing) };
        let mut executor = executor(folder.path(), simulated, false);
        let picture = wanted.make(&mut executor);
        let stats = executor.environment().session.models.stats();
        let (part, stats) =
            stats.into_iter().find(|(part, _)| part.plan().component == "unet").unwrap();
        (picture, part.plan(), stats)
    };
    let (expected, ..) = make(Placing::Virtual(0.0), "cuda:0=1GiB");
    let (picture, plan, stats) = make(Placing::Virtual(1.0), "cuda:0=1GiB@2GB/s");
    assert!(picture == expected);
    let step = plan.bytes - plan.resident_bytes;
    let moved = stats.bytes_moved;
    // What waits in the window at the end is for a step that does not come.
    assert!((3 * step..=3 * step + plan.window_bytes).contains(&moved), "{moved} of {step}");
}

/// Hears warnings, and from a step on holds memory as a larger picture would.
#[derive(Default)]
struct Greedy {
    from: usize,
    bytes: usize,
    held: Mutex<Vec<u8>>,
    told: Mutex<Vec<String>>,
}

impl Observer for Greedy {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Step { done, .. } if done == self.from => {
                *self.held.lock().unwrap() = vec![1; self.bytes];
            }
            Event::Warning { text, .. } => self.told.lock().unwrap().push(text.to_owned()),
            _ => {}
        }
    }
}

/// What the failed run said; the picture's numbers where it did not fail tell nothing.
fn failure(result: Result<Vec<u32>, ExecutionError>) -> String {
    let error = result.map(|_| ()).unwrap_err();
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The weights, the activations and the least window of a component as it was planned last.
fn planned(executor: &Executor, component: &str) -> [u64; 3] {
    let stats = executor.environment().session.models.stats();
    let plan = stats.iter().map(|(part, _)| part.plan()).find(|plan| plan.component == component);
    let plan = plan.unwrap();
    let largest = plan.blocks.iter().map(|block| block.bytes).max().unwrap();
    [plan.bytes, plan.activation_bytes, 2 * largest]
}

fn device_of(bytes: u64) -> String {
    format!("cuda:0={bytes}B")
}

/// Half of the weights have room beside the activations.
#[test]
fn a_part_that_does_not_fit_takes_the_allocation_that_the_error_names() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = folder();
    let wanted = Wanted { vae_device: "cpu", ..Wanted::new("f32", Placing::Virtual(0.0)) };
    let mut large = executor(folder.path(), "cuda:0=1GiB", false);
    let expected = wanted.make(&mut large);
    let [weights, activations, window] = planned(&large, "unet");
    let small = device_of(weights / 2 + activations + window);
    let error = failure(wanted.try_make(&mut executor(folder.path(), &small, false), &Silent));
    assert!(error.contains("cuda:0 (simulated) is out of memory"), "{error}");
    assert!(error.contains("unet_virtual_vram_gb 0.1 would fit"), "{error}");
    let mut retrying = executor(folder.path(), &small, true);
    let observer = Greedy::default();
    assert!(wanted.try_make(&mut retrying, &observer).unwrap() == expected);
    let told = observer.told.into_inner().unwrap();
    assert!(told.iter().any(|t| t.contains("going on with unet_virtual_vram_gb 0.1")), "{told:?}");
    check_peaks(&retrying, "after a retry");
    // The next run knows.
    retrying.cache().clear();
    let observer = Greedy::default();
    assert!(wanted.try_make(&mut retrying, &observer).unwrap() == expected);
    assert_eq!(observer.told.into_inner().unwrap(), Vec::<String>::new());
}

/// Memory runs out in the middle of sampling, beyond what was planned: the step is done again, and
/// none is lost.
#[test]
fn a_step_that_runs_out_of_memory_is_done_again() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = folder();
    let wanted = Wanted {
        steps: 4,
        vae_device: "cpu",
        ..Wanted::new("f32", Placing::Expert("cuda:0,100%"))
    };
    let mut large = executor(folder.path(), "cuda:0=1GiB", false);
    let expected = wanted.make(&mut large);
    let [weights, activations, window] = planned(&large, "unet");
    let more = activations + weights / 2;
    let greedy = || Greedy { from: 2, bytes: usize::try_from(more).unwrap(), ..Greedy::default() };
    let device = device_of(weights + activations + window);
    let error = failure(wanted.try_make(&mut executor(folder.path(), &device, false), &greedy()));
    assert!(error.contains("is out of memory") && error.contains("cuda:0,"), "{error}");
    let observer = greedy();
    let picture = wanted.try_make(&mut executor(folder.path(), &device, true), &observer);
    assert!(picture.unwrap() == expected);
    let told = observer.told.into_inner().unwrap();
    assert!(told.iter().any(|t| t.contains("going on with unet_expert_mode")), "{told:?}");
}

/// Where there is no room for both halves of the guidance at once, one comes after the other.
#[test]
fn halves_that_have_no_room_together_are_computed_one_at_a_time() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = folder();
    let wanted = Wanted {
        side: 256,
        steps: 2,
        vae_device: "cpu",
        ..Wanted::new("f32", Placing::Expert("cuda:0,100%"))
    };
    let make = |device: &str| {
        let mut executor = executor(folder.path(), device, false);
        let picture = wanted.make(&mut executor);
        let stats = executor.environment().session.models.stats();
        let taken = stats.iter().find(|(part, _)| part.plan().component == "unet");
        let taken = taken.unwrap().1.devices[0].activation_bytes;
        (picture, taken, planned(&executor, "unet"))
    };
    let (together, both, [weights, activations, _]) = make("cuda:0=4GiB");
    let (apart, one, _) = make(&device_of(weights + activations - activations / 20));
    assert!(one < both - both / 4, "{one} of {both}");
    let pairs = together.iter().zip(&apart);
    let apart = pairs.map(|(a, b)| (f32::from_bits(*a) - f32::from_bits(*b)).abs());
    // Kernels add up in another order for another number of rows.
    assert!(apart.fold(0.0, f32::max) < 1e-3);
}

/// A VAE that cannot decode the picture at once does it in tiles.
#[test]
fn a_picture_too_large_for_the_vae_is_decoded_in_tiles() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = folder();
    let wanted = Wanted { side: 320, steps: 1, ..Wanted::new("f16", Placing::Virtual(1.0)) };
    let mut large = executor(folder.path(), "cuda:0=4GiB", false);
    let whole = wanted.make(&mut large);
    let [weights, activations, _] = planned(&large, "vae");
    let device = device_of(weights + activations - activations / 20);
    let error = failure(wanted.try_make(&mut executor(folder.path(), &device, false), &Silent));
    assert!(error.contains("VAEDecodeTiled"), "{error}");
    let (mut retrying, observer) = (executor(folder.path(), &device, true), Greedy::default());
    let tiled = wanted.try_make(&mut retrying, &observer).unwrap();
    let told = observer.told.into_inner().unwrap();
    assert!(told.iter().any(|t| t.contains("in tiles of 256")), "{told:?}");
    check_peaks(&retrying, "in tiles");
    let both = tiled.iter().zip(&whole);
    let apart = both.map(|(a, b)| (f32::from_bits(*a) - f32::from_bits(*b)).abs());
    let mean = apart.sum::<f32>() / whole.len() as f32;
    assert!(mean < 0.05, "{mean}");
}
