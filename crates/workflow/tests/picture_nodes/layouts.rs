//! Nodes that bring pictures or masks to other sizes in several ways, repeat them, place boxes on them and say where a
//! camera stands; texts filled in.

use distorch_pipeline::image::{Mask, Pictures};
use distorch_test_support::runs::Harness;
use distorch_workflow::value::{Type, Value};
use serde_json::{Value as Json, json};

use super::{changed, fixtures, pictures};

/// The size after `ResizeImageMaskNode` of an empty picture of 30 rows and 50 columns, or a mask of that size.
fn resized(harness: &mut Harness, of: &str, inputs: &Json) -> [usize; 2] {
    let mut inputs = inputs.clone();
    inputs["input"] = json!([of, 0]);
    inputs["scale_method"] = json!("bilinear");
    let prompt = json!({
        "image": {"class_type": "EmptyImage", "inputs":
                  {"width": 50, "height": 30, "batch_size": 2, "color": 255}},
        "mask": {"class_type": "SolidMask", "inputs": {"value": 0.5, "width": 50, "height": 30}},
        "other": {"class_type": "SolidMask", "inputs": {"value": 0.5, "width": 24, "height": 20}},
        "node": {"class_type": "ResizeImageMaskNode", "inputs": inputs},
    });
    match &harness.run(&prompt, "node")[0] {
        Value::Image(pictures) => {
            assert_eq!(of, "image");
            // A picture of one colour stays one, however it is resized.
            let blue = Pictures::from_fn(pictures.shape(), |_, _, _, c| [0.0, 0.0, 1.0][c]);
            assert_eq!(*pictures, blue);
            [pictures.shape()[1], pictures.shape()[2]]
        }
        Value::Mask(mask) => {
            assert_eq!(of, "mask");
            assert_eq!(*mask, Mask::from_fn(mask.shape(), |_, _, _| 0.5));
            [mask.shape()[1], mask.shape()[2]]
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_size_is_said_in_nine_ways() {
    let mut harness = Harness::empty();
    let way = |name: &str, values: Json| {
        let mut inputs = json!({"resize_type": name});
        for (key, value) in values.as_object().unwrap() {
            inputs[format!("resize_type.{key}")] = value.clone();
        }
        inputs
    };
    for (inputs, expected) in [
        (way("scale dimensions", json!({"width": 7, "height": 9, "crop": "center"})), [9, 7]),
        // 30·7/50 = 4.2
        (way("scale dimensions", json!({"width": 7, "height": 0, "crop": "center"})), [4, 7]),
        (way("scale dimensions", json!({"width": 0, "height": 0, "crop": "center"})), [30, 50]),
        (way("scale by multiplier", json!({"multiplier": 0.25})), [8, 12]), // 7.5 and 12.5, to even
        (way("scale longer dimension", json!({"longer_size": 25})), [15, 25]),
        (way("scale shorter dimension", json!({"shorter_size": 15})), [15, 25]),
        (way("scale width", json!({"width": 100})), [60, 100]),
        (way("scale height", json!({"height": 15})), [15, 25]),
        // √(10485 / 1500) = 2.6439: 79.3 and 132.2
        (way("scale total pixels", json!({"megapixels": 0.01})), [79, 132]),
        (way("match size", json!({"match": ["other", 0], "crop": "disabled"})), [20, 24]),
        (way("scale to multiple", json!({"multiple": 8})), [24, 48]),
        (way("scale to multiple", json!({"multiple": 64})), [30, 50]),
    ] {
        for of in ["image", "mask"] {
            assert_eq!(resized(&mut harness, of, &inputs), expected, "{of} {inputs}");
        }
    }
}

#[test]
fn resizing_is_that_of_other_nodes() {
    let mut harness = Harness::empty();
    let name = harness.put(&fixtures().join("pictures/rgb.png")); // 5×3
    let scale = json!({"upscale_method": "lanczos", "width": 4, "height": 6, "crop": "center"});
    let expected = pictures(&harness.run(&changed("ImageScale", &name, &scale), "2")[0]);
    let mut prompt = changed("ImageScale", &name, &scale);
    prompt["3"] = json!({"class_type": "ResizeImageMaskNode", "inputs": {
        "input": ["1", 0], "resize_type": "scale dimensions", "resize_type.width": 4,
        "resize_type.height": 6, "resize_type.crop": "center", "scale_method": "lanczos"}});
    assert_eq!(pictures(&harness.run(&prompt, "3")[0]), expected);
    // To multiples of 2 the picture covers 4×2, so that it is 4×3 of which the upper rows stay.
    prompt["3"]["inputs"]["resize_type"] = json!("scale to multiple");
    prompt["3"]["inputs"]["resize_type.multiple"] = json!(2);
    let scale = json!({"upscale_method": "lanczos", "width": 4, "height": 3, "crop": "disabled"});
    let covered = pictures(&harness.run(&changed("ImageScale", &name, &scale), "2")[0]);
    assert_eq!(pictures(&harness.run(&prompt, "3")[0]), covered.crop([0, 0], [2, 4]));
}

#[test]
fn pictures_are_repeated_and_padded() {
    let mut harness = Harness::empty();
    let name = harness.put(&fixtures().join("pictures/rgb.png")); // 5×3
    let repeat = changed("RepeatImageBatch", &name, &json!({"amount": 3}));
    let one = pictures(&harness.run(&repeat, "1")[0]);
    let three = pictures(&harness.run(&repeat, "2")[0]);
    assert_eq!(three.values(), [one.values(); 3].concat());
    // 5×3 in 10×9 is twice as large, with 1 row above and 2 below.
    let pad = json!({"target_width": 10, "target_height": 9, "padding_color": "white",
                     "interpolation": "nearest-exact"});
    let padded = pictures(&harness.run(&changed("ResizeAndPadImage", &name, &pad), "2")[0]);
    let expected = Pictures::from_fn([1, 9, 10, 3], |_, y, x, c| {
        if (1..7).contains(&y) { one.at(0, (y - 1) / 2, x / 2, c) } else { 1.0 }
    });
    assert_eq!(padded, expected);
}

/// Expected values are CPython's.
#[test]
fn texts_are_filled_in_as_python_does() {
    let mut harness = Harness::empty();
    let mut format = |text: &str, values: Json| {
        let mut prompt =
            json!({"node": {"class_type": "StringFormat", "inputs": {"f_string": text}}});
        for (letter, value) in values.as_object().unwrap() {
            prompt["node"]["inputs"][format!("values.{letter}")] = value.clone();
        }
        match harness.try_run(&prompt, "node").map(|values| values[0].clone()) {
            Ok(Value::String(text)) => text.to_string(),
            Ok(other) => panic!("{other:?}"),
            Err(error) => error.to_string(),
        }
    };
    for (text, values, expected) in [
        ("{a}:{b}, {c} x", json!({"a": 3, "b": 4.0, "c": "w"}), "3:4.0, w x"),
        (
            "{{{a:>6.2f}|{b:<5}|{c:^7}}}",
            json!({"a": 2.34567, "b": 12, "c": "mid"}),
            "{  2.35|12   |  mid  }",
        ),
        (
            "{a:,} {a:+d} {a:08d} {b:.1%} {b:e} {a:x} {b}",
            json!({"a": 1_234_567, "b": 0.0625}),
            "1,234,567 +1234567 01234567 6.2% 6.250000e-02 12d687 0.0625",
        ),
        (
            "{a!r} {b} {c:.3}",
            json!({"a": "it's\n", "b": 1e22, "c": "abcdef"}),
            "\"it's\\n\" 1e+22 abc",
        ),
        ("{a:*=10.1f} {a} {b}", json!({"a": -2.5, "b": true}), "-******2.5 -2.5 True"),
        ("{a:e} {a}", json!({"a": -0.00001234}), "-1.234000e-05 -1.234e-05"),
        ("{a:,.2f}", json!({"a": 9_876_543.215}), "9,876,543.21"),
    ] {
        assert_eq!(format(text, values), expected, "{text}");
    }
    for (text, problem) in [
        ("{b}", "nothing is linked to a value `b`"),
        ("{a", "has no `}`"),
        ("a}", "stands alone"),
        ("{a:q}", "no format"),
        ("{a:.9999999999f}", "no format"),
        ("{a:d}", "no such form"),
    ] {
        let found = format(text, json!({"a": 1.5}));
        assert!(found.contains(problem), "{text}: {found}");
    }
}

#[test]
fn a_value_of_the_first_record_in_a_text() {
    let mut harness = Harness::empty();
    let mut extract = |text: &str, key: &str| {
        let prompt = json!({"node": {"class_type": "JsonExtractString", "inputs":
            {"json_string": text, "key": key}}});
        let Value::String(found) = &harness.run(&prompt, "node")[0] else { panic!() };
        found.to_string()
    };
    let text = "So: {not} ```json\n{\"a\": \"x\", \"b\": [1, 2.0, null, true, \"y\"], \"c\": null}``` {\"a\": 2}";
    assert_eq!(extract(text, "a"), "x");
    assert_eq!(extract(text, "b"), "[1, 2.0, None, True, 'y']");
    assert_eq!(extract(text, "c"), "");
    assert_eq!(extract(text, "d"), "");
    assert_eq!(extract("none", "a"), "");
}

/// Sectors and terms from ComfyUI's documentation of the node; places from their trigonometry.
#[test]
fn a_camera_is_placed_and_described() {
    let mut harness = Harness::empty();
    let mut place = |around: i64, above: i64, zoom: f64| {
        let prompt = json!({"node": {"class_type": "CameraAngle", "inputs":
            {"horizontal_angle": around, "vertical_angle": above, "zoom": zoom}}});
        let values = harness.run(&prompt, "node");
        let (Value::Data(Type::Camera, camera), Value::String(text)) = (&values[0], &values[1])
        else {
            panic!("{values:?}")
        };
        (camera.clone(), text.to_string())
    };
    for (around, above, zoom, expected) in [
        (0, 0, 5.0, "front view eye-level shot medium shot"),
        (22, -15, 1.9, "front view eye-level shot wide shot"),
        (23, -16, 2.0, "front-right quarter view low-angle shot medium shot"),
        (90, 15, 6.0, "right side view elevated shot close-up"),
        (333, 17, 5.0, "front-left quarter view elevated shot medium shot"),
        (338, 45, 10.0, "front view high-angle shot close-up"),
        (360, 60, 0.0, "front view high-angle shot wide shot"),
    ] {
        assert_eq!(place(around, above, zoom).1, expected, "{around} {above} {zoom}");
    }
    let (camera, _) = place(90, 30, 10.0);
    let number = |pointer: &str| camera.pointer(pointer).unwrap().as_f64().unwrap();
    for (pointer, expected) in [
        ("/position/x", 27.0_f64.sqrt()), // 6·cos 30°
        ("/position/y", 3.5),
        ("/position/z", 0.0),
        ("/target/y", 0.5),
        ("/zoom", 1.875),
        ("/fov", 35.0),
    ] {
        assert!((number(pointer) - expected).abs() < 1e-9, "{pointer}: {}", number(pointer));
    }
}

#[test]
fn boxes_are_pixels_and_thousandths() {
    let mut harness = Harness::empty();
    let mut run = |inputs: Json| {
        let mut inputs = inputs;
        inputs["width"] = json!(200);
        inputs["height"] = json!(100);
        let prompt = json!({
            "text": {"class_type": "PrimitiveString", "inputs": {"value":
                r##"[{"bbox": [500, 100, 0, 250], "desc": "a hat", "type": "obj", "color_palette": ["#0f0"]}]"##}},
            "node": {"class_type": "CreateBoundingBoxes", "inputs": inputs},
            "flux": {"class_type": "Flux3LayoutPrompt", "inputs": {"prompt": "x", "element": ["node", 2]}},
        });
        let values = harness.run(&prompt, "node");
        let (Value::Data(_, boxes), Value::Data(_, elements)) = (&values[1], &values[2]) else {
            panic!("{values:?}")
        };
        let passed = harness.try_run(&prompt, "flux").map_err(|error| error.to_string());
        let passed = passed.map(|values| match &values[0] {
            Value::String(text) => text.to_string(),
            other => panic!("{other:?}"),
        });
        (pictures(&values[0]), (**boxes).clone(), (**elements).clone(), passed)
    };
    let drawn = json!([
        {"x": 20, "y": 10, "width": 100, "height": 50,
         "metadata": {"type": "text", "text": "MOSS", "desc": "a sign", "palette": ["f00", "#00FF00", "no"]}},
        {"x": 150, "y": 90, "width": -50, "height": 30}
    ]);
    let (preview, boxes, elements, passed) = run(json!({"editor_state": drawn}));
    assert_eq!(
        boxes,
        json!([[{"x": 20, "y": 10, "width": 100, "height": 50}, {"x": 100, "y": 90, "width": 50, "height": 30}]])
    );
    assert_eq!(
        elements,
        json!([
            {"type": "text", "bbox": [100, 100, 600, 600], "text": "MOSS", "desc": "a sign",
             "color_palette": ["#FF0000", "#00FF00"]},
            {"type": "obj", "bbox": [900, 500, 1000, 750], "desc": ""}
        ])
    );
    assert!(passed.unwrap_err().contains("layout of 2 boxes is not built"));
    assert_eq!(preview.shape(), [1, 100, 200, 3]);
    let pixel = |y: usize, x: usize| [0, 1, 2].map(|c| preview.at(0, y, x, c));
    assert_eq!(pixel(60, 50), [1.0, 0.0, 0.0], "the lower edge");
    assert_eq!(pixel(12, 110), [0.0, 1.0, 0.0], "the second colour");
    assert!(pixel(5, 5).iter().all(|value| (value - 32.0 / 255.0).abs() < 1e-6), "the ground");
    // Nothing drawn: the prompt passes.
    let (_, boxes, elements, passed) = run(json!({"editor_state": []}));
    assert_eq!((boxes, elements, passed.as_deref()), (json!([]), json!([]), Ok("x")));
    // What is linked counts until it was drawn on.
    let (_, boxes, elements, _) = run(json!({"editor_state": drawn, "bboxes": ["text", 0]}));
    assert_eq!(boxes, json!([[{"x": 20, "y": 0, "width": 30, "height": 50}]]));
    assert_eq!(elements[0]["bbox"], json!([0, 100, 500, 250]));
    let last = json!([{"x": 20, "y": 0, "width": 30, "height": 50, "metadata":
        {"type": "obj", "text": "", "desc": "a hat", "palette": ["#0f0"]}}]);
    let inputs = json!({"editor_state": drawn, "bboxes": ["text", 0], "last_incoming": last});
    assert_eq!(run(inputs).1[0][0]["width"], json!(100));
}

/// Each picture is encoded by itself, as `VAEEncode` does, and added behind those that are there.
#[test]
fn several_pictures_are_referenced() {
    let mut harness = Harness::sd1();
    let image = |side: u64, color: u64| {
        json!({"class_type": "EmptyImage", "inputs":
            {"width": side, "height": 32, "batch_size": 1, "color": color}})
    };
    let mut prompt = json!({
        "ckpt": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "tiny.safetensors"}},
        "text": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["ckpt", 1], "text": "a fox"}},
        "a": image(32, 255), "b": image(64, 65280),
        "encoded": {"class_type": "VAEEncode", "inputs": {"vae": ["ckpt", 2], "pixels": ["b", 0]}},
        "node": {"class_type": "ReferenceMultiLatent", "inputs": {
            "positive": ["text", 0], "vae": ["ckpt", 2], "resolution": "keep resolution",
            "images.image0": ["a", 0], "images.image2": ["b", 0]}},
    });
    let Value::Latent(encoded) = &harness.run(&prompt, "encoded")[0].clone() else { panic!() };
    let values = harness.run(&prompt, "node");
    let (Value::Conditioning(positive), Value::Conditioning(negative), Value::Latent(empty)) =
        (&values[0], &values[1], &values[2])
    else {
        panic!("{values:?}")
    };
    let references = |conditioning: &distorch_pipeline::diffusion::conditioning::Conditioning| {
        conditioning.conds().iter().map(|cond| cond.reference_latents.clone()).next().unwrap()
    };
    let downscale = 32 / empty.samples.dims()[2];
    assert_eq!(empty.samples.dims()[3], 32 / downscale);
    assert_eq!(references(positive).len(), 2);
    assert_eq!(references(positive)[1].clone().into_data(), encoded.samples.clone().into_data());
    assert_eq!(
        references(negative)[0].clone().into_data(),
        references(positive)[0].clone().into_data()
    );
    // To 0.01 megapixels: 32×32 becomes √10485.76 = 102.4, so 102 rows and columns.
    prompt["node"]["inputs"]["resolution"] = json!("resize");
    prompt["node"]["inputs"]["resolution.megapixels"] = json!(0.01);
    let Value::Latent(empty) = &harness.run(&prompt, "node")[2].clone() else { panic!() };
    assert_eq!(empty.samples.dims()[2], 102 / downscale);
}

#[test]
fn empty_latents_of_pixels_and_another_routine_of_attention() {
    let mut harness = Harness::sd1();
    let sampler = |model: &str| {
        json!({"class_type": "KSampler", "inputs": {
            "model": [model, 0], "positive": ["text", 0], "negative": ["text", 0],
            "latent_image": ["empty", 0], "seed": 1, "steps": 2, "cfg": 1.0,
            "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}})
    };
    let prompt = json!({
        "pixels": {"class_type": "EmptyChromaRadianceLatentImage", "inputs":
                   {"width": 48, "height": 32, "batch_size": 2}},
        "ckpt": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "tiny.safetensors"}},
        "text": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["ckpt", 1], "text": "a fox"}},
        "empty": {"class_type": "EmptyLatentImage", "inputs":
                  {"width": 32, "height": 32, "batch_size": 1}},
        "other": {"class_type": "ModelAttentionBackend", "inputs":
                  {"model": ["ckpt", 0], "attention": "comfy kitchen attention"}},
        "one": sampler("ckpt"),
        "two": sampler("other"),
    });
    assert_eq!(harness.latent(&prompt, "pixels", 0), vec![0.0; 2 * 3 * 32 * 48]);
    assert_eq!(harness.latent(&prompt, "one", 0), harness.latent(&prompt, "two", 0));
}
