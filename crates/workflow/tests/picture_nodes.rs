//! Nodes that load, make and change pictures and masks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "picture_nodes/layouts.rs"]
mod layouts;
#[path = "picture_nodes/upscale.rs"]
mod upscale;

use std::fs;

use common::{fixture, fixtures, numbers};
use distorch_pipeline::image::{Mask, Pictures};
use distorch_test_support::runs::Harness;
use distorch_workflow::value::Value;
use distorch_workflow::{describe, nodes};
use serde_json::{Value as Json, json};

fn load(name: &str) -> Json {
    json!({"1": {"class_type": "LoadImage", "inputs": {"image": name}}})
}

fn pictures(value: &Value) -> Pictures {
    let Value::Image(pictures) = value else { panic!("{value:?} are no pictures") };
    pictures.clone()
}

fn mask(value: &Value) -> Mask {
    let Value::Mask(mask) = value else { panic!("{value:?} is no mask") };
    mask.clone()
}

/// Node 2 of this class, of the picture that node 1 loads.
fn changed(class: &str, picture: &str, inputs: &Json) -> Json {
    let mut prompt = load(picture);
    let mut inputs = inputs.clone();
    inputs["image"] = json!(["1", 0]);
    prompt["2"] = json!({"class_type": class, "inputs": inputs});
    prompt
}

fn near(values: &[f32], expected: &[f32], tolerance: f32, place: &str) {
    assert_eq!(values.len(), expected.len(), "{place}");
    for (index, (a, b)) in values.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance, "{place} at {index}: {a}, not {b}");
    }
}

/// Against PyAV, which ComfyUI decodes with (`tools/reference/make_pictures.py`). Decoders of formats
/// with loss may differ by 1 in each plane, which is up to 3 in colours.
#[test]
fn every_kind_of_picture_is_as_comfyui_reads_it() {
    let mut harness = Harness::empty();
    let expected = fixture("pictures.json");
    let expected = expected.as_object().unwrap();
    assert!(expected.len() > 70);
    let mut wrong = Vec::new();
    for (name, expected) in expected {
        harness.put(&fixtures().join(format!("pictures/{name}")));
        let values = match harness.try_run(&load(name), "1") {
            Ok(values) => values,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        let steps = |json: &Json| numbers(json).iter().map(|n| n / 65535.0).collect::<Vec<f32>>();
        let tolerance = match name.rsplit_once('.').unwrap() {
            (_, "jpg") => 3.01 / 255.0,
            (name, "webp") if name.starts_with("lossy") => 2.01 / 255.0,
            // A frame over another, and inks, are rounded in another way.
            ("frames" | "frames_alpha", "webp") | ("cmyk", _) => 1.2 / 255.0,
            // Colours that pass through libswscale's floats lose a little on the way.
            _ => 0.3 / 255.0,
        };
        let (loaded, mask) = (pictures(&values[0]), mask(&values[1]));
        let shape: [usize; 4] = serde_json::from_value(expected["shape"].clone()).unwrap();
        let differ = |values: &[f32], expected: &[f32]| {
            let far = |(a, b): (&f32, &f32)| (a - b).abs();
            values.iter().zip(expected).map(far).fold(0.0, f32::max)
        };
        if loaded.shape() != shape {
            wrong.push(format!("{name}: {:?}, not {shape:?}", loaded.shape()));
            continue;
        }
        let off = differ(loaded.values(), &steps(&expected["colours"]));
        if off > tolerance {
            wrong.push(format!("{name}: colours off by {} of 255", off * 255.0));
        }
        let (mask_shape, transparency, tolerance) = match expected.get("transparency") {
            Some(transparency) => {
                ([shape[0], shape[1], shape[2]], steps(transparency), 0.3 / 255.0)
            }
            None => ([shape[0], 64, 64], vec![0.0; shape[0] * 64 * 64], 0.0),
        };
        let off = differ(mask.values(), &transparency);
        if mask.shape() != mask_shape || off > tolerance {
            wrong.push(format!("{name}: mask {:?}, off by {} of 255", mask.shape(), off * 255.0));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn sixteen_bits_are_kept() {
    let mut harness = Harness::empty();
    let file = image::open(fixtures().join("pictures/grey16.png")).unwrap().into_luma16();
    let name = harness.put(&fixtures().join("pictures/grey16.png"));
    let loaded = pictures(&harness.run(&load(&name), "1")[0]);
    let expected: Vec<f32> = file.iter().map(|v| f32::from(*v) / 65535.0).collect();
    near(loaded.channel(1).values(), &expected, 1e-6, "grey16");
}

#[test]
fn a_mask_is_one_channel_of_every_frame() {
    let mut harness = Harness::empty();
    for name in ["rgba.png", "rgb.png", "kept.gif", "palette4.png", "420_12x10.jpg"] {
        harness.put(&fixtures().join(format!("pictures/{name}")));
        let whole = harness.run(&load(name), "1");
        let colours = pictures(&whole[0]);
        for (place, channel) in ["red", "green", "blue", "alpha"].into_iter().enumerate() {
            let prompt = json!({"1": {"class_type": "LoadImageMask",
                                      "inputs": {"image": name, "channel": channel}}});
            let found = mask(&harness.run(&prompt, "1")[0]);
            let expected = match channel {
                "alpha" => mask(&whole[1]),
                _ => colours.channel(place),
            };
            assert_eq!(found, expected, "{name} {channel}");
        }
    }
}

#[test]
fn names_are_checked_before_anything_runs() {
    let mut harness = Harness::empty();
    harness.put(&fixtures().join("pictures/rgb.png"));
    fs::create_dir(harness.path("input/sub")).unwrap();
    fs::copy(harness.path("input/rgb.png"), harness.path("input/sub/a.png")).unwrap();
    fs::copy(harness.path("input/rgb.png"), harness.path("output/b.png")).unwrap();
    fs::copy(harness.path("input/rgb.png"), harness.path("secret.png")).unwrap();
    for name in ["rgb.png", "sub/a.png", "sub\\a.png", "b.png [output]"] {
        assert_eq!(pictures(&harness.run(&load(name), "1")[0]).shape(), [1, 3, 5, 3], "{name}");
    }
    for (name, problem) in [
        ("../secret.png", "leads out of the input folder"),
        ("../secret.png [output]", "leads out of the output folder"),
        ("rbg.png", "near: `rgb.png`"),
        ("b.png", "there is no file `b.png` in the input folder"),
        ("sub", "there is no file"),
    ] {
        let error = harness.fail(&load(name), "1");
        assert!(error.contains(problem) && error.contains("node 1 (LoadImage)"), "{error}");
    }
}

#[test]
fn a_file_that_changes_is_read_again() {
    let mut harness = Harness::empty();
    harness.put(&fixtures().join("pictures/rgb.png"));
    let first = harness.report(&load("rgb.png"), "1").unwrap();
    assert_eq!(first.executed, ["1"]);
    let second = harness.report(&load("rgb.png"), "1").unwrap();
    assert_eq!((second.executed.len(), second.cached), (0, vec!["1".to_owned()]));
    fs::copy(fixtures().join("pictures/turned6.jpg"), harness.path("input/rgb.png")).unwrap();
    let third = harness.run(&load("rgb.png"), "1");
    assert_eq!(pictures(&third[0]).shape(), [1, 24, 16, 3]);
}

#[test]
fn broken_files_are_errors() {
    let mut harness = Harness::empty();
    for entry in fs::read_dir(fixtures().join("pictures")).unwrap() {
        let path = entry.unwrap().path();
        let whole = fs::read(&path).unwrap();
        for length in (0..whole.len()).step_by(whole.len().div_ceil(24)) {
            fs::write(harness.path("input/x.png"), &whole[..length]).unwrap();
            if let Err(error) = harness.try_run(&load("x.png"), "1") {
                let error = error.to_string();
                let place = format!("{} of {length}: {error}", path.display());
                assert!(error.contains("x.png") && !error.contains("internal error"), "{place}");
            }
        }
    }
    fs::write(harness.path("input/x.png"), "no picture").unwrap();
    assert!(harness.fail(&load("x.png"), "1").contains("no picture that can be read"));
    // A bitmap that says it has 60000 by 60000 pixels.
    let mut huge = fs::read(fixtures().join("pictures/palette.bmp")).unwrap();
    huge[18..22].copy_from_slice(&60000_u32.to_le_bytes());
    huge[22..26].copy_from_slice(&60000_u32.to_le_bytes());
    fs::write(harness.path("input/x.png"), huge).unwrap();
    let error = harness.fail(&load("x.png"), "1");
    assert!(error.contains("60000×60000 pixels are more than"), "{error}");
}

#[test]
fn pictures_are_scaled() {
    let mut harness = Harness::empty();
    let name = harness.put(&fixtures().join("pictures/turned1.jpg")); // 24×16
    let mut shape = |class: &str, inputs: Json| {
        pictures(&harness.run(&changed(class, &name, &inputs), "2")[0]).shape()
    };
    let scale = |method: &str, width: i64, height: i64, crop: &str| json!({"upscale_method": method, "width": width, "height": height, "crop": crop});
    assert_eq!(shape("ImageScale", scale("lanczos", 10, 20, "center")), [1, 20, 10, 3]);
    assert_eq!(shape("ImageScale", scale("area", 0, 5, "disabled")), [1, 5, 8, 3]); // 7.5
    assert_eq!(shape("ImageScale", scale("bicubic", 30, 0, "disabled")), [1, 20, 30, 3]);
    assert_eq!(shape("ImageScale", scale("bilinear", 0, 0, "disabled")), [1, 16, 24, 3]);
    let by = |factor: f64| json!({"upscale_method": "nearest-exact", "scale_by": factor});
    assert_eq!(shape("ImageScaleBy", by(0.28)), [1, 4, 7, 3]); // 4.48, 6.72
    assert_eq!(shape("FluxKontextImageScale", json!({})), [1, 832, 1248, 3]);
    let error = harness.fail(&changed("ImageScaleBy", &name, &by(0.01)), "2");
    assert!(error.contains("`scale_by`") && error.contains("leaves nothing"), "{error}");
}

/// The middle is cut out before, so that nothing is stretched.
#[test]
fn a_batch_has_the_size_of_its_first_picture() {
    let mut harness = Harness::empty();
    let (first, second) = (
        harness.put(&fixtures().join("pictures/rgb.png")),
        harness.put(&fixtures().join("pictures/grey.png")),
    );
    let prompt = json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": first}},
        "2": {"class_type": "LoadImage", "inputs": {"image": second}},
        "3": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["2", 0]}},
        "4": {"class_type": "ImageScale", "inputs": {"image": ["2", 0], "width": 5, "height": 3,
              "upscale_method": "bilinear", "crop": "center"}},
    });
    let batch = pictures(&harness.run(&prompt, "3")[0]);
    assert_eq!(batch.shape(), [2, 3, 5, 3]);
    let one = pictures(&harness.run(&prompt, "1")[0]);
    let two = pictures(&harness.run(&prompt, "4")[0]);
    assert_eq!(batch.values(), [one.values(), two.values()].concat());
}

#[test]
fn pictures_are_cut_inverted_and_made() {
    let mut harness = Harness::empty();
    let name = harness.put(&fixtures().join("pictures/rgb.png")); // 5×3
    let whole = pictures(&harness.run(&load(&name), "1")[0]);
    let crop = json!({"width": 512, "height": 2, "x": 3, "y": 1});
    let part = pictures(&harness.run(&changed("ImageCrop", &name, &crop), "2")[0]);
    let expected =
        Pictures::from_fn([1, 2, 2, 3], |picture, y, x, c| whole.at(picture, y + 1, x + 3, c));
    assert_eq!(part, expected);
    let beyond = json!({"width": 4, "height": 4, "x": 100, "y": 100});
    let corner = pictures(&harness.run(&changed("ImageCrop", &name, &beyond), "2")[0]);
    assert_eq!(corner.shape(), [1, 1, 1, 3]);
    assert_eq!(corner.at(0, 0, 0, 2), whole.at(0, 2, 4, 2));

    let inverted = pictures(&harness.run(&changed("ImageInvert", &name, &json!({})), "2")[0]);
    assert_eq!(inverted, whole.map(|value| 1.0 - value));
    let empty = |batch: u64, side: u64| {
        json!({"1": {"class_type": "EmptyImage", "inputs":
            {"width": side, "height": 2, "batch_size": batch, "color": 0x0033_66ff}}})
    };
    let plain = pictures(&harness.run(&empty(2, 3), "1")[0]);
    assert_eq!(plain, Pictures::from_fn([2, 2, 3, 3], |_, _, _, c| [0.2, 0.4, 1.0][c]));
    let mut large = empty(4096, 16384);
    large["1"]["inputs"]["height"] = json!(16384);
    assert!(harness.fail(&large, "1").contains("4096 pictures of 16384×16384"));
}

#[test]
fn masks_are_made_inverted_and_turned_to_pictures() {
    let mut harness = Harness::empty();
    let name = harness.put(&fixtures().join("pictures/rgba.png"));
    let mut prompt = load(&name);
    let mut node = |id: &str, class: &str, inputs: Json| {
        prompt[id] = json!({"class_type": class, "inputs": inputs});
    };
    node("2", "ImageToMask", json!({"image": ["1", 0], "channel": "green"}));
    node("3", "MaskToImage", json!({"mask": ["2", 0]}));
    node("4", "SolidMask", json!({"value": 0.25, "width": 3, "height": 2}));
    node("5", "InvertMask", json!({"mask": ["4", 0]}));
    node("6", "ImageToMask", json!({"image": ["1", 0], "channel": "alpha"}));
    let whole = pictures(&harness.run(&prompt, "1")[0]);
    let green = mask(&harness.run(&prompt, "2")[0]);
    assert_eq!(green, whole.channel(1));
    let grey = pictures(&harness.run(&prompt, "3")[0]);
    assert_eq!(grey.shape(), whole.shape());
    assert_eq!((grey.channel(0), grey.channel(2)), (green.clone(), green));
    let solid = mask(&harness.run(&prompt, "5")[0]);
    assert_eq!(solid, Mask::from_fn([1, 2, 3], |_, _, _| 0.75));
    assert!(harness.fail(&prompt, "6").contains("none of `alpha`"));
}

/// Against distances computed with NumPy (`tools/reference/make_workflow_files.py`).
#[test]
fn outpainting_fades_into_the_picture() {
    let mut harness = Harness::empty();
    for case in fixture("inpaint.json")["outpaint"].as_array().unwrap() {
        let side = |place: usize| case["border"][place].as_u64().unwrap();
        let (height, width) = (case["height"].as_u64().unwrap(), case["width"].as_u64().unwrap());
        let prompt = json!({
            "1": {"class_type": "EmptyImage", "inputs":
                  {"width": width, "height": height, "batch_size": 2, "color": 0x00ff_0000}},
            "2": {"class_type": "ImagePadForOutpaint", "inputs":
                  {"image": ["1", 0], "left": side(0), "top": side(1), "right": side(2),
                   "bottom": side(3), "feathering": case["feathering"]}},
        });
        let values = harness.run(&prompt, "2");
        let (padded, mask) = (pictures(&values[0]), mask(&values[1]));
        let (rows, columns) = (height + side(1) + side(3), width + side(0) + side(2));
        assert_eq!(padded.shape(), [2, rows as usize, columns as usize, 3]);
        assert_eq!(mask.shape(), [1, rows as usize, columns as usize]);
        near(mask.values(), &numbers(&case["mask"]), 1e-6, &case["border"].to_string());
        let inside = |y: u64, x: u64| {
            (side(1)..side(1) + height).contains(&y) && (side(0)..side(0) + width).contains(&x)
        };
        for (y, x) in (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x))) {
            let expected = if inside(y, x) { [1.0, 0.0, 0.0] } else { [0.5; 3] };
            let pixel = [0, 1, 2].map(|c| padded.at(1, y as usize, x as usize, c));
            assert_eq!(pixel, expected, "{y} {x}");
        }
    }
}

#[test]
fn clients_are_told_of_the_files_and_that_they_may_upload() {
    let harness = Harness::empty();
    for name in ["pictures/rgb.png", "pictures/kept.gif", "latents/new.latent"] {
        harness.put(&fixtures().join(name));
    }
    fs::create_dir(harness.path("input/folder.png")).unwrap();
    let info = |class: &str| {
        let registry = nodes::all();
        let node = registry.find(class).unwrap();
        describe::describe(node, harness.environment())["input"]["required"].clone()
    };
    let image = &info("LoadImage")["image"];
    assert_eq!(image[0], json!(["kept.gif", "rgb.png"]));
    assert_eq!(image[1]["image_upload"], json!(true));
    let latent = &info("LoadLatent")["latent"];
    assert_eq!(latent[0], json!(["new.latent"]));
    assert!(latent[1].get("image_upload").is_none());
}

/// A picture that is too large is refused by its size, whatever its kind, before it is decoded.
#[test]
fn pictures_that_are_too_large_are_refused() {
    let mut harness = Harness::empty();
    // Where each kind has its width and height, and in which order of bytes.
    let cases: [(&str, usize, bool, usize); 5] = [
        ("grey.png", 16, true, 4),
        ("grey2.png", 16, true, 4),
        ("rgb.bmp", 18, false, 4),
        ("420_12x10.jpg", 0, true, 2),
        ("one.gif", 6, false, 2),
    ];
    for (name, place, big_endian, bytes) in cases {
        let mut file = fs::read(fixtures().join("pictures").join(name)).unwrap();
        let frame = file.windows(2).position(|marker| marker == [0xff, 0xc0]);
        let place = if place == 0 { frame.unwrap() + 5 } else { place };
        for side in 0..2 {
            let number = &mut file[place + side * bytes..][..bytes];
            number.fill(0);
            number[if big_endian { bytes - 2 } else { 1 }] = 60000_u16.to_be_bytes()[0];
            number[if big_endian { bytes - 1 } else { 0 }] = 60000_u16.to_be_bytes()[1];
        }
        if name.ends_with(".png") {
            // The header's checksum, which the decoder holds the file to.
            let sum = crc32(&file[12..29]);
            file[29..33].copy_from_slice(&sum.to_be_bytes());
        }
        fs::write(harness.path("input/x"), file).unwrap();
        let error = harness.fail(&load("x"), "1");
        assert!(
            error.contains("60000×60000 pixels are more than the 268435456"),
            "{name}: {error}"
        );
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |sum: u32| (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg());
    !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| step(sum)))
}
