//! Requests on the shipped checkpoint: what is checked before, what is reported, and how they end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use distorch_allocation::{Allocation, DeviceInfo, Topology, VirtualVram};
use distorch_checkpoint::folders::ModelFolders;
use distorch_pipeline::diffusion::conditioning::Guidance;
use distorch_pipeline::error::{Argument, PipelineError};
use distorch_pipeline::image::{Mask, Pictures};
use distorch_pipeline::models::{Loader, Tasks};
use distorch_pipeline::request::{ComponentPlacement, ModelSource, Placement};
use distorch_pipeline::steps::CHECKPOINT;
use distorch_pipeline::{
    CancelToken, DeviceSet, Event, EventSink, ImageToImage, Lora, Phase, RunEvent, RunId, Session,
    Silent, TextToImage,
};
use serde_json::Value as Json;

const CKPT: &str = "tiny-shapes.safetensors";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A session on the shipped models, with simulated devices beside the host.
fn session(simulate: &str) -> Session {
    let host = DeviceInfo::new("cpu".parse().unwrap(), "host", 64 << 30);
    let topology = Topology::new(vec![host]).unwrap();
    let topology = match simulate {
        "" => topology,
        devices => topology.simulate(devices).unwrap(),
    };
    Session::on(ModelFolders::new(&root(), &[]).unwrap(), topology)
}

/// A small picture in two steps.
fn small() -> TextToImage {
    TextToImage {
        width: Some(64),
        height: Some(64),
        steps: 2,
        cfg: 2.0,
        ..TextToImage::new(CKPT, "a red circle on a white background")
    }
}

/// Keeps all events.
#[derive(Default)]
struct Kept {
    events: Mutex<Vec<RunEvent>>,
    previews: bool,
}

impl EventSink for Kept {
    fn event(&self, run: RunId, event: Event) {
        self.events.lock().unwrap().push(RunEvent { run, event });
    }

    fn wants_previews(&self) -> bool {
        self.previews
    }
}

/// What is wrong with a request, as the argument and the message.
fn wrong(session: &Session, request: TextToImage) -> (Argument, String) {
    match session.text_to_image(request).map(drop) {
        Err(PipelineError::Argument { argument, problem }) => (argument, problem),
        other => panic!("{other:?}"),
    }
}

#[test]
fn everything_wrong_is_told_before_the_first_step() {
    let session = session("cuda:0=1GiB");
    let mut cases: Vec<(Argument, &str, TextToImage)> = Vec::new();
    let mut case = |argument, says, change: &dyn Fn(&mut TextToImage)| {
        let mut request = small();
        change(&mut request);
        cases.push((argument, says, request));
    };
    case(Argument::Model, "did you mean `tiny-shapes.safetensors`?", &|r| {
        r.checkpoint = "tiny-shape.safetensors".into();
    });
    let path = root().join("models/checkpoints/tiny-shaped.safetensors");
    case(Argument::Model, "checkpoints/tiny-shapes.safetensors`?", &|r| {
        r.checkpoint = path.clone().into();
    });
    let folder = root().join("models");
    case(Argument::Model, "is not a file", &|r| r.checkpoint = folder.clone().into());
    let lora = root().join("models/loras/tiny-outlines.safetensors");
    case(Argument::Model, "tiny-outlines", &|r| r.checkpoint = lora.clone().into());
    case(Argument::Width, "multiples of 8 with this model: try 64 or 72", &|r| {
        r.width = Some(65);
    });
    case(Argument::Height, "from 16 to 16384", &|r| r.height = Some(8));
    case(Argument::Batch, "from 1 to 4096", &|r| r.batch = 0);
    case(Argument::Steps, "from 1 to 10000", &|r| r.steps = 0);
    case(Argument::Cfg, "from 0 to 100", &|r| r.cfg = f64::NAN);
    case(Argument::Denoise, "from 0 to 1", &|r| r.denoise = 1.5);
    case(Argument::Guidance, "from 0 to 100", &|r| r.guidance = Guidance::Strength(-1.0));
    case(Argument::ClipSkip, "from 1 to 24", &|r| r.clip_skip = Some(0));
    case(Argument::Sampler, "near: euler", &|r| r.sampler = "eulr".into());
    case(Argument::Scheduler, "karras", &|r| r.scheduler = "karas".into());
    case(Argument::Steps, "1000000 at most", &|r| (r.steps, r.denoise) = (10_000, 0.001));
    case(Argument::Lora, "did you mean `tiny-outlines.safetensors`?", &|r| {
        r.loras.push(Lora::new("tiny-outline.safetensors", 1.0));
    });
    case(Argument::Lora, "the strength of `tiny-outlines.safetensors` is 101", &|r| {
        r.loras.push(Lora::new("tiny-outlines.safetensors", 101.0));
    });
    let checkpoint = root().join("models/checkpoints").join(CKPT);
    case(Argument::Lora, "tiny-shapes.safetensors", &|r| {
        r.loras.push(Lora::new(checkpoint.clone(), 1.0));
    });
    case(Argument::Placement, "no device `cuda:3`; present: cuda:0, cpu", &|r| {
        r.placement = Placement::on("cuda:3".parse().unwrap());
    });
    case(Argument::Placement, "diffusion model, expert allocation, entry 1", &|r| {
        r.placement.diffusion_model = ComponentPlacement {
            expert: Allocation::parse("cuda:0,9gb;cpu,*").unwrap(),
            ..ComponentPlacement::default()
        };
    });
    for (argument, says, request) in cases {
        let (found, problem) = wrong(&session, request);
        assert_eq!(found, argument, "{problem}");
        assert!(problem.contains(says), "{argument:?}: {problem}");
    }
    assert_eq!(session.models.stats().len(), 0, "nothing was loaded");
    // A LoRA that is not used is not looked into.
    let unused = Lora::new(root().join("models/checkpoints").join(CKPT), 0.0);
    let request = TextToImage { loras: vec![unused], ..small() };
    session.text_to_image(request).map(drop).unwrap();
}

#[test]
fn pictures_to_start_from_are_checked_too() {
    let session = session("");
    let start = |height, width, mask| {
        let request = TextToImage { width: None, height: None, ..small() };
        let image = Pictures::from_fn([1, height, width, 3], |_, _, _, _| 0.5);
        session.image_to_image(ImageToImage { mask, ..ImageToImage::new(request, image) }).map(drop)
    };
    start(70, 90, None).unwrap();
    let error = start(4, 64, None).unwrap_err().to_string();
    assert!(error.starts_with("the image: a picture of 64×4 pixels"), "{error}");
    let error = start(0, 64, None).unwrap_err().to_string();
    assert!(error.starts_with("the image: "), "{error}");
    let empty = Mask::from_fn([1, 0, 8], |_, _, _| 0.0);
    let error = start(64, 64, Some(empty)).unwrap_err().to_string();
    assert!(error.starts_with("the mask: "), "{error}");
}

#[test]
fn what_cannot_fit_is_told_before_anything_is_loaded() {
    let session = session("cuda:0=1MiB");
    let kept = Kept::default();
    let error = session.text_to_image(small()).unwrap().run_with(&kept).unwrap_err().to_string();
    assert!(error.contains("cuda:0") && error.contains("out of memory before"), "{error}");
    let events = kept.events.into_inner().unwrap();
    let events: Vec<Event> = events.into_iter().map(|kept| kept.event).collect();
    let [Event::Phase { phase: Phase::Load }, Event::Planned { plans, .. }] = &events[..] else {
        panic!("{events:?}");
    };
    assert!(plans.iter().any(|plan| !plan.fits));
}

#[test]
fn a_run_reports_its_phases_steps_and_previews_as_json() {
    let session = session("");
    let kept = Kept { previews: true, ..Kept::default() };
    let generation = session.text_to_image(small()).unwrap();
    let id = generation.id();
    let made = generation.run_with(&kept).unwrap();
    assert_eq!((made.run, made.seed), (id, 0));
    assert_eq!(made.pictures.shape(), [1, 64, 64, 3]);
    assert_eq!(made.latent.samples.dims(), [1, 4, 8, 8]);

    let number = id.to_string().strip_prefix("run ").unwrap().parse::<u64>().unwrap();
    let events = kept.events.into_inner().unwrap();
    let events: Vec<Json> =
        events.iter().map(|event| serde_json::to_value(event).unwrap()).collect();
    assert!(events.iter().all(|event| event["run"] == number));
    let of = |name: &str| events.iter().filter(|event| event["event"] == name).collect::<Vec<_>>();
    let phases: Vec<_> = of("phase").into_iter().map(|event| event["phase"].clone()).collect();
    assert_eq!(phases, ["load", "encode", "sample", "decode"]);
    assert_eq!(of("planned")[0]["model"], CKPT);
    assert_eq!(of("planned")[0]["plans"].as_array().unwrap().len(), 3);
    for component in ["diffusion model", "text encoder", "VAE"] {
        let of_it = |event: &&Json| event["what"].as_str().unwrap().starts_with(component);
        let last = of("loading").into_iter().rfind(of_it).unwrap();
        assert_eq!(last["done"], last["total"], "{component}");
    }
    let steps = of("step");
    assert_eq!(steps.len(), 2);
    for (step, done) in steps.iter().zip(1..) {
        assert_eq!((&step["done"], &step["total"]), (&done.into(), &2.into()));
        let preview = &step["preview"];
        assert_eq!((&preview["width"], &preview["height"]), (&8.into(), &8.into()));
        assert_eq!(preview["rgb"].as_array().unwrap().len(), 8 * 8 * 3);
    }

    // The same request again: the weights are there, and the picture is the same.
    let kept = Kept::default();
    let again = session.text_to_image(small()).unwrap().run_with(&kept).unwrap();
    assert_eq!(again.pictures, made.pictures);
    let events = kept.events.into_inner().unwrap();
    assert!(!events.iter().any(|kept| matches!(kept.event, Event::Loading { .. })));
    assert!(events.iter().all(|kept| kept.run == again.run && kept.run != id));
    let preview = |kept: &RunEvent| matches!(kept.event, Event::Step { preview: Some(_), .. });
    assert!(!events.iter().any(preview), "nobody wants them");
    session.unload();
    assert_eq!(session.models.stats().len(), 0);
}

#[test]
fn a_run_is_cancelled_before_it_starts_and_in_its_middle() {
    let session = session("");
    let kept = Kept::default();
    let generation = session.text_to_image(small()).unwrap();
    generation.cancel_token().cancel();
    let ended = generation.run_with(&kept);
    assert!(matches!(ended, Err(PipelineError::Cancelled)), "{ended:?}");
    assert!(kept.events.lock().unwrap().is_empty());

    let long = TextToImage { steps: 1000, ..small() };
    let generation = session.text_to_image(long).unwrap();
    let cancel = generation.cancel_token();
    let steps = Mutex::new(Vec::new());
    let ended = generation.run_with(&|_: RunId, event: Event| {
        if let Event::Step { done, .. } = event {
            steps.lock().unwrap().push(done);
            cancel.cancel();
        }
    });
    assert!(matches!(ended, Err(PipelineError::Cancelled)), "{ended:?}");
    assert_eq!(*steps.lock().unwrap(), [1]);
    // One token cancels one run.
    session.text_to_image(small()).unwrap().run().unwrap();
}

#[test]
fn runs_of_two_threads_have_their_own_events_and_pictures() {
    let session = session("");
    let request = |seed| TextToImage { seed, ..small() };
    let alone: Vec<Pictures> = [1, 2]
        .map(|seed| session.text_to_image(request(seed)).unwrap().run().unwrap().pictures)
        .into();
    assert_ne!(alone[0], alone[1]);
    let session = &session;
    let both: Vec<(RunId, Vec<RunEvent>, Pictures)> = std::thread::scope(|scope| {
        let threads = [1, 2].map(|seed| {
            scope.spawn(move || {
                let kept = Kept::default();
                let made = session.text_to_image(request(seed)).unwrap().run_with(&kept).unwrap();
                (made.run, kept.events.into_inner().unwrap(), made.pictures)
            })
        });
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_ne!(both[0].0, both[1].0);
    for ((id, events, pictures), alone) in both.iter().zip(&alone) {
        assert_eq!(pictures, alone);
        assert!(events.iter().all(|event| event.run == *id));
        let steps = events.iter().filter(|kept| matches!(kept.event, Event::Step { .. }));
        assert_eq!(steps.count(), 2);
    }
}

/// Where two runs wait for each other in the middle of their work.
#[derive(Default)]
struct Meeting {
    there: Mutex<usize>,
    changed: Condvar,
}

impl Meeting {
    /// Goes on once both are there. For a machine that is busy it waits long: what does not come is a failure, not a hang.
    fn meet(&self) {
        let mut there = self.there.lock().unwrap();
        *there += 1;
        self.changed.notify_all();
        let waited = self.changed.wait_timeout_while(there, Duration::from_secs(300), |n| *n < 2);
        assert!(!waited.unwrap().1.timed_out(), "the other run is not under way");
    }
}

/// A picture on a device. The diffusion model's weights come from the host layer by layer.
fn on(device: &str, seed: u64) -> TextToImage {
    let device = device.parse().unwrap();
    let mut placement = Placement::on(device);
    placement.diffusion_model.virtual_vram = VirtualVram::gigabytes(1.0).unwrap();
    TextToImage { seed, placement, ..small() }
}

#[test]
fn runs_that_share_no_device_compute_side_by_side() {
    let alone = session("");
    let expected =
        [1, 2].map(|seed| alone.text_to_image(TextToImage { seed, ..small() }).unwrap().run());
    let expected = expected.map(|made| made.unwrap().pictures);
    let session = session("cuda:0=2GiB,cuda:1=2GiB");
    let meeting = Meeting::default();
    let run = |device, seed| {
        let generation = session.text_to_image(on(device, seed)).unwrap();
        let made = generation.run_with(&|_: RunId, event: Event| {
            if let Event::Step { done: 1, .. } = event {
                meeting.meet();
            }
        });
        made.unwrap().pictures
    };
    // The same file, with weights of their own on each device.
    let made = std::thread::scope(|scope| {
        let other = scope.spawn(|| run("cuda:1", 2));
        [run("cuda:0", 1), other.join().unwrap()]
    });
    assert!(made == expected);
}

#[test]
fn one_of_two_runs_that_compute_is_cancelled_alone() {
    let session = session("cuda:0=2GiB,cuda:1=2GiB");
    let expected = session.text_to_image(on("cuda:1", 2)).unwrap().run().unwrap().pictures;
    let meeting = Meeting::default();
    let (cancel, cancelled) = (CancelToken::new(), Meeting::default());
    let long = TextToImage { steps: 1000, ..on("cuda:0", 1) };
    let first = session.text_to_image(long).unwrap().cancelled_by(cancel.clone());
    let second = session.text_to_image(on("cuda:1", 2)).unwrap();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            let ended = first.run_with(&|_: RunId, event: Event| {
                if let Event::Step { done: 1, .. } = event {
                    meeting.meet();
                }
            });
            cancelled.meet();
            ended
        });
        let made = second.run_with(&|_: RunId, event: Event| {
            if let Event::Step { done: 1, .. } = event {
                meeting.meet();
                cancel.cancel();
                // The other has ended; this one is in the middle.
                cancelled.meet();
            }
        });
        assert!(made.unwrap().pictures == expected);
        assert!(matches!(first.join().unwrap(), Err(PipelineError::Cancelled)));
    });
}

#[test]
fn a_run_computes_on_no_device_that_it_did_not_ask_for() {
    let session = session("cuda:0=2GiB,cuda:1=2GiB");
    let path = root().join("models/checkpoints").join(CKPT).into();
    let settings = |device: &str| {
        let settings = on(device, 0).placement.settings(session.topology(), session.layout);
        settings.unwrap()
    };
    let (cancel, both) = (CancelToken::new(), [settings("cuda:0"), settings("cuda:1")]);
    let loader = |settings| Loader {
        name: "tiny",
        files: &path,
        settings,
        kinds: CHECKPOINT,
        high_precision_loras: true,
        eject_models: true,
        tasks: Tasks::default(),
    };
    let devices = session.models.devices(&loader(&both[0]));
    assert_eq!(
        devices,
        DeviceSet::from_iter(["cuda:0".parse().unwrap()]),
        "cpu only holds weights"
    );
    let active = session.begin_on(devices, &cancel).unwrap();
    let run = active.reporting(&Silent);
    let checkpoint = run.load_checkpoint(&loader(&both[0])).unwrap();
    run.encode_prompt(&checkpoint.text_encoders, "a red circle").unwrap();
    let refused = run.load_checkpoint(&loader(&both[1])).unwrap_err().to_string();
    assert!(refused.contains("uses cuda:1") && refused.contains("it has cuda:0"), "{refused}");
    drop(active);
    // What was placed by one run is not used by another that has other devices.
    let active = session.begin_on(DeviceSet::host(), &cancel).unwrap();
    let refused = active.reporting(&Silent).encode_prompt(&checkpoint.text_encoders, "x");
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("uses cuda:0") && refused.contains("it has cpu"), "{refused}");
}

#[test]
fn the_size_is_the_trained_one_and_a_path_is_as_good_as_a_name() {
    let session = session("");
    let path = root().join("models/checkpoints").join(CKPT);
    let plans = |checkpoint: ModelSource, side: Option<u32>| {
        let request = TextToImage { checkpoint, width: side, height: side, ..small() };
        let plans = session.text_to_image(request).unwrap().plans().unwrap();
        plans.iter().map(|plan| plan.activation_bytes).collect::<Vec<_>>()
    };
    // The shipped checkpoint says 128×128.
    assert_eq!(plans(CKPT.into(), None), plans(CKPT.into(), Some(128)));
    assert_ne!(plans(CKPT.into(), None), plans(CKPT.into(), Some(64)));
    let by_path = TextToImage { checkpoint: path.into(), ..small() };
    let by_path = session.text_to_image(by_path).unwrap().run().unwrap();
    assert_eq!(by_path.pictures, session.text_to_image(small()).unwrap().run().unwrap().pictures);
}
