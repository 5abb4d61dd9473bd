//! Models that enlarge pictures, from their file through the nodes. The networks themselves are held against others in
//! the crate of models; here are files whose pictures follow from a formula.

use std::sync::Mutex;

use distorch_test_support::model_file::ModelFile;
use distorch_test_support::runs::Harness;
use distorch_workflow::graph::Prompt;
use distorch_workflow::nodes;
use distorch_workflow::observe::{Event, Observer};
use serde_json::{Value as Json, json};

use super::pictures;

/// A compact network whose convolutions add `more` to each channel of the picture with its pixels repeated twice.
fn doubling(more: [f32; 3]) -> ModelFile {
    let shapes = [
        ("body.0.weight", vec![16, 3, 3, 3]),
        ("body.0.bias", vec![16]),
        ("body.1.weight", vec![16]),
        ("body.2.weight", vec![12, 16, 3, 3]),
        ("body.2.bias", vec![12]),
    ];
    ModelFile::of_values(shapes.map(|(name, shape)| {
        let count = shape.iter().product::<usize>();
        let values = match name {
            "body.2.bias" => (0..count).map(|place| more[place / 4]).collect(),
            _ => vec![0.0; count],
        };
        (name, shape, values)
    }))
}

fn enlarged(width: u64, height: u64) -> Json {
    json!({
        "image": {"class_type": "EmptyImage", "inputs":
                  {"width": width, "height": height, "batch_size": 2, "color": 0x0033_66cc}},
        "loader": {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "twice.safetensors"}},
        "node": {"class_type": "ImageUpscaleWithModel", "inputs":
                 {"upscale_model": ["loader", 0], "image": ["image", 0]}},
    })
}

fn doubler(simulated: &str) -> Harness {
    let harness = Harness::empty_on(simulated);
    doubling([0.25, -0.5, 0.5]).write(&harness.model_path("upscale_models/twice.safetensors"));
    harness
}

/// Hears warnings.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Observer for Heard {
    fn event(&self, event: Event<'_>) {
        if let Event::Warning { text, .. } = event {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }
}

#[test]
fn a_batch_is_enlarged_in_tiles_and_kept_within_0_and_1() {
    let mut harness = doubler("");
    // Two tiles wide.
    let made = pictures(&harness.run(&enlarged(600, 5), "node")[0]);
    assert_eq!(made.shape(), [2, 10, 1200, 3]);
    // 0.2 + 0.25, 0.4 - 0.5 and 0.8 + 0.5; fading tiles of one colour round a little.
    let expected = [0.45, 0.0, 1.0];
    for (at, value) in made.values().iter().enumerate() {
        assert!((value - expected[at % 3]).abs() < 1e-6, "{at}: {value}");
    }
    let one = pictures(&harness.run(&enlarged(3, 2), "node")[0]);
    assert_eq!(one.shape(), [2, 4, 6, 3]);
    let error = harness.fail(
        &json!({"1": {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "none.pth"}}}),
        "1",
    );
    assert!(error.contains("none.pth"), "{error}");
    assert!(nodes::all().provided_by("UpscaleModelLoader").is_none());
}

/// A device that holds half a tile, but not a whole one, enlarges in smaller tiles: to the same picture.
#[test]
fn tiles_are_halved_where_memory_is_short() {
    let mut harness = doubler("");
    let whole = pictures(&harness.run(&enlarged(512, 512), "node")[0]);
    let mut small = doubler("cuda:0=24MiB");
    let prompt = Prompt::from_json(&enlarged(512, 512).to_string(), &nodes::all()).unwrap();
    let heard = Heard::default();
    let report = small.executor.run_nodes(&prompt, &["node"], &heard).unwrap();
    let made = pictures(&report.values["node"][0]);
    let far = |(a, b): (&f32, &f32)| (a - b).abs();
    let most = made.values().iter().zip(whole.values()).map(far).fold(0.0, f32::max);
    assert!(most < 1e-6, "{most}");
    let heard = heard.0.into_inner().unwrap();
    assert!(heard.iter().any(|text| text.contains("in tiles of 256 pixels")), "{heard:?}");
    // One that holds no tile of 128 pixels either says so.
    let mut none = doubler("cuda:0=1MiB");
    let error = none.fail(&enlarged(512, 512), "node");
    assert!(error.contains("cuda:0") && error.contains("memory"), "{error}");
}
