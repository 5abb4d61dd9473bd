//! Pictures of the shipped checkpoint beside ComfyUI's (0.29.0 on a CPU, in float32): what is sampled
//! with seed, steps and guidance of the table is equal to ±1 in 8 bits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::path::Path;

use distorch_pipeline::diffusion::noise::NoiseChoice;
use distorch_sampling::noise::NoiseDevice;
use distorch_test_support::repository;
use distorch_test_support::runs::Harness;
use distorch_workflow::graph::Prompt;
use distorch_workflow::nodes;
use distorch_workflow::observe::{Event, Observer, Silent};
use serde_json::{Value as Json, json};

fn node(class: &str, inputs: Json) -> Json {
    json!({ "class_type": class, "inputs": inputs })
}

/// What goes into a KSampler.
#[derive(Clone, Copy)]
struct Run<'a> {
    texts: [&'a str; 2],
    size: u32,
    seed: u64,
    steps: u32,
    cfg: f64,
    sampler: &'a str,
    scheduler: &'a str,
    /// Of ModelSamplingDiscrete.
    sampling: Option<&'a str>,
}

impl Run<'_> {
    fn prompt(self) -> Prompt {
        let text = |text: &str| node("CLIPTextEncode", json!({ "clip": ["1", 1], "text": text }));
        let (model, sampling) = match self.sampling {
            Some(sampling) => ("2", sampling),
            None => ("1", "eps"),
        };
        let prompt = json!({
            "1": node("CheckpointLoaderSimple", json!({ "ckpt_name": "tiny-shapes.safetensors" })),
            "2": node("ModelSamplingDiscrete", json!({
                "model": ["1", 0], "sampling": sampling, "zsnr": false,
            })),
            "3": text(self.texts[0]),
            "4": text(self.texts[1]),
            "5": node("EmptyLatentImage", json!({
                "width": self.size, "height": self.size, "batch_size": 1,
            })),
            "6": node("KSampler", json!({
                "model": [model, 0], "seed": self.seed, "steps": self.steps, "cfg": self.cfg,
                "sampler_name": self.sampler, "scheduler": self.scheduler, "positive": ["3", 0],
                "negative": ["4", 0], "latent_image": ["5", 0], "denoise": 1.0,
            })),
            "7": node("VAEDecode", json!({ "samples": ["6", 0], "vae": ["1", 2] })),
            "8": node("SaveImage", json!({ "images": ["7", 0], "filename_prefix": "x" })),
        });
        Prompt::from_json(&prompt.to_string(), &nodes::all()).unwrap()
    }
}

const TRIANGLE: Run<'_> = Run {
    texts: ["a green triangle on a white background", ""],
    size: 96,
    seed: 13,
    steps: 7,
    cfg: 2.0,
    sampler: "euler",
    scheduler: "karras",
    sampling: None,
};

/// The values of an 8-bit picture.
fn values(path: &Path) -> Vec<u8> {
    let mut reader =
        png::Decoder::new(std::io::BufReader::new(File::open(path).unwrap())).read_info().unwrap();
    let mut values = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut values).unwrap();
    assert_eq!((info.color_type, info.bit_depth), (png::ColorType::Rgb, png::BitDepth::Eight));
    values
}

fn made(harness: &mut Harness, prompt: &Prompt, output: &str) -> Vec<u8> {
    let report = harness.executor.run(prompt, &Silent).unwrap();
    values(&harness.saved(&report.outputs[output])[0])
}

fn expected(name: &str) -> Vec<u8> {
    let folder = repository().join("crates/workflow/tests/fixtures/comfyui_samplers");
    values(&folder.join(format!("{name}.png")))
}

/// The largest difference.
fn difference(one: &[u8], other: &[u8]) -> u8 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn samplers_give_comfyuis_pictures() {
    let circle = ["a red circle on a white background", ""];
    let mut runs: Vec<(String, Run<'_>)> = [
        "dpmpp_2m_cfg_pp",
        "dpmpp_2m_sde_heun",
        "dpmpp_2s_ancestral_cfg_pp",
        "er_sde",
        "euler_ancestral_cfg_pp",
        "euler_cfg_pp",
        "exp_heun_2_x0",
        "exp_heun_2_x0_sde",
        "gradient_estimation_cfg_pp",
        "res_multistep_ancestral",
        "res_multistep_ancestral_cfg_pp",
        "res_multistep_cfg_pp",
        "sa_solver",
        "sa_solver_pece",
        "seeds_2",
        "seeds_3",
    ]
    .map(|sampler| (format!("{sampler}_karras"), Run { sampler, ..TRIANGLE }))
    .to_vec();
    // The unconditional guess is asked for at scale 1 too.
    let unguided = Run { texts: [circle[0], "blue"], size: 64, seed: 15, steps: 6, ..TRIANGLE };
    runs.push((
        "euler_cfg_pp_cfg1".to_owned(),
        Run { cfg: 1.0, sampler: "euler_cfg_pp", ..unguided },
    ));
    let ipndm_v = Run { sampler: "ipndm_v", ..TRIANGLE };
    runs.push(("ipndm_v_karras5".to_owned(), Run { texts: circle, seed: 14, steps: 5, ..ipndm_v }));
    let normal = Run { scheduler: "normal", ..TRIANGLE };
    let ipndm_v = Run { sampler: "ipndm_v", ..normal };
    runs.push(("ipndm_v_normal".to_owned(), Run { seed: 11, steps: 8, ..ipndm_v }));
    // Schedules with a timestep of 499.5.
    runs.push(("euler_normal9".to_owned(), Run { seed: 12, steps: 9, ..normal }));
    let brackets = Run { texts: ["a [red] circle [[white]]", ""], size: 64, seed: 4, ..normal };
    runs.push(("euler_normal5".to_owned(), Run { steps: 5, ..brackets }));
    let lcm = Run { texts: circle, size: 128, seed: 21, steps: 2, cfg: 1.5, ..TRIANGLE };
    let lcm = Run { sampler: "lcm", scheduler: "sgm_uniform", sampling: Some("lcm"), ..lcm };
    runs.push(("lcm_sgm_uniform2".to_owned(), lcm));
    let flow = Run { sampling: Some("img_to_img_flow"), texts: ["a red circle", ""], ..normal };
    runs.push(("img_to_img_flow".to_owned(), Run { size: 64, seed: 4, steps: 4, ..flow }));

    let mut harness = Harness::shipped();
    let mut wrong = Vec::new();
    for (name, run) in &runs {
        let difference = difference(&made(&mut harness, &run.prompt(), "8"), &expected(name));
        println!("{name}: {difference}");
        if difference > 1 {
            wrong.push(format!("{name}: {difference}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The first part of a schedule cut at 0 has one sigma: its run adds the noise, and both its outputs
/// are that latent; the second part goes on from there.
#[test]
fn one_sigma_is_noise_and_no_step() {
    let guider =
        json!({ "model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0], "cfg": 3.0 });
    let scheduler = json!({ "model": ["1", 0], "scheduler": "karras", "steps": 6, "denoise": 1.0 });
    let text = |text: &str| node("CLIPTextEncode", json!({ "clip": ["1", 1], "text": text }));
    let sampler = |noise: &str, sigmas: u32, latent: &str| {
        node(
            "SamplerCustomAdvanced",
            json!({
                "noise": [noise, 0], "guider": ["4", 0], "sampler": ["9", 0],
                "sigmas": ["6", sigmas], "latent_image": [latent, 0],
            }),
        )
    };
    let decode =
        |id: &str, slot: u32| node("VAEDecode", json!({ "samples": [id, slot], "vae": ["1", 2] }));
    let save = |id: &str| node("SaveImage", json!({ "images": [id, 0], "filename_prefix": "x" }));
    let prompt = json!({
        "1": node("CheckpointLoaderSimple", json!({ "ckpt_name": "tiny-shapes.safetensors" })),
        "2": text("a red circle on a white background"),
        "3": text(""),
        "4": node("CFGGuider", guider),
        "5": node("BasicScheduler", scheduler),
        "6": node("SplitSigmas", json!({ "sigmas": ["5", 0], "step": 0 })),
        "7": node("RandomNoise", json!({ "noise_seed": 12 })),
        "8": node("EmptyLatentImage", json!({ "width": 64, "height": 64, "batch_size": 1 })),
        "9": node("KSamplerSelect", json!({ "sampler_name": "euler" })),
        "10": sampler("7", 0, "8"),
        "11": node("DisableNoise", json!({})),
        "13": sampler("11", 1, "10"),
        "14": decode("10", 0), "15": save("14"),
        "16": decode("10", 1), "17": save("16"),
        "18": decode("13", 0), "19": save("18"),
    });
    let prompt = Prompt::from_json(&prompt.to_string(), &nodes::all()).unwrap();
    let mut harness = Harness::shipped();
    let report = harness.executor.run(&prompt, &Silent).unwrap();
    let picture = |output: &str| values(&harness.saved(&report.outputs[output])[0]);
    assert!(difference(&picture("15"), &expected("one_sigma")) <= 1);
    assert_eq!(picture("17"), picture("15"));
    assert!(difference(&picture("19"), &expected("one_sigma_then_all")) <= 1);
}

/// CUDA's noise makes another picture of samplers that add noise between steps, and of no other; a
/// simulated device computes on the host and has its noise.
#[test]
fn noise_between_steps_is_chosen_in_the_environment() {
    let (mut on_host, mut simulating) = (Harness::shipped(), Harness::shipped_on("cuda:0=2GiB"));
    let mut picture = |noise: NoiseChoice, simulate: bool, sampler: &str| {
        let harness = if simulate { &mut simulating } else { &mut on_host };
        // Between two runs of one executor: the results that it keeps are of the other noise.
        harness.executor.environment_mut().unwrap().session.noise = noise;
        made(harness, &Run { sampler, steps: 3, size: 64, ..TRIANGLE }.prompt(), "8")
    };
    let cuda = NoiseChoice::Always(NoiseDevice::Cuda { blocks: NoiseDevice::BLOCKS });
    for (sampler, draws) in [
        ("euler_ancestral", true),
        ("dpmpp_2m_sde_gpu", true),
        ("dpmpp_2m_sde", false),
        ("euler", false),
    ] {
        let plain = picture(NoiseChoice::ByDevice, false, sampler);
        assert_eq!(picture(cuda, false, sampler) != plain, draws, "{sampler}");
        assert_eq!(picture(NoiseChoice::ByDevice, true, sampler), plain, "{sampler}");
    }
}

/// Notes steps done and all steps.
#[derive(Default)]
struct Steps(std::sync::Mutex<Vec<(usize, Option<usize>)>>);

impl Observer for Steps {
    fn event(&self, event: Event<'_>) {
        if let Event::Step { done, total, .. } = event {
            self.0.lock().unwrap().push((done, total));
        }
    }
}

/// `dpm_fast` makes fewer steps than asked, of more evaluations each; how many `dpm_adaptive` makes
/// is known at its end.
#[test]
fn the_steps_told_are_those_made() {
    let told = |sampler: &str| {
        let steps = Steps::default();
        let prompt = Run { sampler, steps: 7, size: 64, ..TRIANGLE }.prompt();
        Harness::shipped().executor.run(&prompt, &steps).unwrap();
        steps.0.into_inner().unwrap()
    };
    let counted = |total| (1..=total).map(|done| (done, Some(total))).collect::<Vec<_>>();
    assert_eq!(told("euler"), counted(7));
    assert_eq!(told("dpm_fast"), counted(3));
    let mut adaptive = told("dpm_adaptive");
    let last = adaptive.pop().unwrap();
    assert!(last.0 > 2 && last.1 == Some(last.0), "{last:?}");
    let expected: Vec<_> = (1..=last.0).map(|done| (done, None)).collect();
    assert_eq!(adaptive, expected);
}
