//! The shipped checkpoint draws what it is asked for, and every example works.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod shipped;

use distorch_test_support::runs::Harness;
use distorch_workflow::nodes;
use distorch_workflow::observe::Silent;
use shipped::judge::{COLOURS, SHAPES, Seen, Wanted};

/// Shape and colour, and colour and background, that training left out (tools/train_tiny).
const HELD_OUT_SHAPES: [(&str, &str); 4] =
    [("triangle", "blue"), ("square", "orange"), ("circle", "purple"), ("triangle", "black")];
const HELD_OUT_BACKGROUNDS: [(&str, &str); 5] = [
    ("yellow", "purple"),
    ("red", "green"),
    ("white", "blue"),
    ("orange", "black"),
    ("green", "yellow"),
];

/// How many of 100 pictures must be right.
const RIGHT: usize = 90;

/// 100 prompts: two by name, all that was held out, and a spread over the rest.
fn hundred() -> Vec<Wanted> {
    let mut wanted =
        vec![Wanted::new("circle", "red", "white"), Wanted::new("square", "blue", "yellow")];
    for (shape, colour) in HELD_OUT_SHAPES {
        wanted.extend(["white", "red", "yellow"].map(|ground| Wanted::new(shape, colour, ground)));
    }
    for (colour, background) in HELD_OUT_BACKGROUNDS {
        wanted.extend(SHAPES.map(|shape| Wanted::new(shape, colour, background)));
    }
    // A stride that meets all combinations, since it has no factor in common with their number.
    let mut place = 0;
    while wanted.len() < 100 {
        place = (place + 77) % (8 * 8 * 3);
        let (colour, background) = (COLOURS[place % 8].0, COLOURS[place / 8 % 8].0);
        let count = if wanted.len() % 10 == 0 { 2 } else { 1 };
        let new = Wanted { count, ..Wanted::new(SHAPES[place / 64], colour, background) };
        if colour != background && !wanted.contains(&new) {
            wanted.push(new);
        }
    }
    wanted
}

/// What is wrong with the picture that an example makes of another prompt and seed.
fn faults(harness: &mut Harness, example: &str, seed: usize, wanted: &Wanted) -> Vec<String> {
    let mut prompt = harness.example(example);
    prompt.set(&format!("3.seed={seed}"), &nodes::all()).unwrap();
    prompt.set(&format!("6.text={}", wanted.prompt()), &nodes::all()).unwrap();
    let report = harness.executor.run(&prompt, &Silent).unwrap();
    Seen::open(&harness.saved(&report.outputs["9"])[0]).faults(wanted)
}

#[test]
fn most_of_a_hundred_pictures_show_their_prompt() {
    let mut harness = Harness::shipped();
    let mut right = 0;
    for (seed, wanted) in hundred().into_iter().enumerate() {
        let faults = faults(&mut harness, "txt2img_distorch2", seed, &wanted);
        match faults.is_empty() {
            true => right += 1,
            false => println!("{seed} {}: {}", wanted.prompt(), faults.join(", ")),
        }
    }
    println!("{right} of 100 right");
    assert!(right >= RIGHT, "{right} of 100");
}

/// Runs an example and gives its picture, judged.
fn check(name: &str, simulate: &str, wanted: &Wanted, size: [usize; 2]) {
    let mut harness = Harness::shipped_on(simulate);
    let prompt = harness.example(name);
    let report = harness.executor.run(&prompt, &Silent).unwrap();
    let seen = Seen::open(&harness.saved(&report.outputs["9"])[0]);
    assert_eq!([seen.width, seen.height], size, "{name}");
    assert_eq!(seen.faults(wanted), Vec::<String>::new(), "{name}");
}

#[test]
fn text_to_image() {
    check("txt2img_distorch2", "", &Wanted::new("circle", "red", "white"), [128, 128]);
}

#[test]
fn image_to_image() {
    check("img2img", "", &Wanted::new("triangle", "green", "white"), [128, 128]);
}

#[test]
fn inpainting() {
    check("inpaint", "", &Wanted::new("circle", "red", "yellow"), [128, 128]);
}

#[test]
fn hires_fix() {
    check("hires_fix", "", &Wanted::new("square", "blue", "yellow"), [192, 192]);
}

#[test]
fn two_simulated_gpus() {
    let gpus = "cuda:0=1GiB,cuda:1=600MiB@2GB/s";
    check("two_gpus", gpus, &Wanted::new("triangle", "yellow", "blue"), [128, 128]);
}

#[test]
fn flux_from_one_file() {
    let gpus = "cuda:0=1GiB,cuda:1=600MiB@2GB/s";
    let wanted = Wanted { count: 3, ..Wanted::new("circle", "red", "blue") };
    check("flux_distorch2", gpus, &wanted, [128, 128]);
}

/// Every fifth of the hundred, from the checkpoint in Flux's layout.
#[test]
fn most_pictures_of_the_tiny_flux_show_their_prompt() {
    let mut harness = Harness::shipped_on("cuda:0=1GiB,cuda:1=600MiB");
    let (mut right, mut of) = (0, 0);
    for (seed, wanted) in hundred().into_iter().enumerate().step_by(5) {
        let faults = faults(&mut harness, "flux_distorch2", seed, &wanted);
        println!("{seed} {}: {}", wanted.prompt(), faults.join(", "));
        right += usize::from(faults.is_empty());
        of += 1;
    }
    println!("{right} of {of} right");
    assert!(right * 20 >= of * 17, "{right} of {of}");
}

#[test]
fn lora() {
    let wanted = Wanted { outlined: true, ..Wanted::new("square", "blue", "yellow") };
    check("lora", "", &wanted, [128, 128]);
}

/// The LoRA makes shapes hollow, whatever their colour, though no word says so. Its outlines are less
/// even than the shapes of the checkpoint, so that not all pass for the shape that was asked for.
#[test]
fn a_lora_outlines_shapes() {
    let mut harness = Harness::shipped();
    let singles = hundred().into_iter().filter(|wanted| wanted.count == 1);
    let (mut outlined, mut right, mut of) = (0, 0, 0);
    for (seed, wanted) in singles.step_by(6).enumerate() {
        let wanted = Wanted { outlined: true, ..wanted };
        let faults = faults(&mut harness, "lora", seed, &wanted);
        println!("{seed} {}: {}", wanted.prompt(), faults.join(", "));
        outlined += usize::from(!faults.iter().any(|fault| fault == "hollow or not"));
        right += usize::from(faults.is_empty());
        of += 1;
    }
    println!("{outlined} outlined and {right} right of {of}");
    assert!(of >= 15 && outlined * 10 >= of * 8 && right * 2 >= of, "{outlined}, {right} of {of}");
}
