//! `distorch generate`: a picture from a checkpoint and a prompt.
//!
//! The picture carries the workflow that its options stand for, which can be opened in ComfyUI, or run again.

mod options;
mod target;
mod workflow;

use std::io::Write;
use std::path::PathBuf;

use distorch_pipeline::ImageToImage;
use distorch_pipeline::image::Pictures;
use distorch_pipeline::image::png_file::{Picture8, ascii_json};
use distorch_workflow::nodes::eight_bit;

use super::print_text;
use crate::args::{GenerateArgs, SeedArg, Shared};
use crate::error::CliError;
use crate::progress_reporter::ProgressReporter;
use crate::session;
use options::Meaning;
use target::Target;

/// Makes pictures.
pub fn run(shared: &Shared, args: &GenerateArgs) -> Result<(), CliError> {
    let target = Target::new(args)?;
    let (session, cancel) = session::session(shared, &args.compute)?;
    let meaning = Meaning::new(&session, args)?;
    let request = meaning.request(args);
    let generation = match &meaning.image {
        None => session.text_to_image(request),
        Some(image) => session.image_to_image(ImageToImage::new(request, image.pictures.clone())),
    };
    let generation = generation.map_err(options::failure)?.cancelled_by(cancel);
    let reporter = ProgressReporter::new(false);
    let result = generation.run_with(&reporter);
    reporter.finish();
    let made = result.map_err(options::failure)?;
    let saved = save(&made.pictures, &target, args, &meaning)?;
    let mut text = session::memory(&session);
    if args.seed == SeedArg::Random {
        text += &format!("\nseed {}", meaning.seed);
    }
    for path in saved {
        text += &format!("\nsaved {}", path.display());
    }
    print_text(text.trim_start_matches('\n'))
}

fn save(
    pictures: &Pictures,
    target: &Target,
    args: &GenerateArgs,
    meaning: &Meaning,
) -> Result<Vec<PathBuf>, CliError> {
    let prompt = workflow::workflow(args, meaning)?;
    let texts = [
        ("parameters".to_owned(), parameters(args, meaning, pictures)),
        ("prompt".to_owned(), ascii_json(&prompt.to_json())),
    ];
    let save = |(place, picture): (usize, Picture8)| {
        let write = |file: &mut dyn Write| picture.write(file, &texts);
        target.save(args, place, write).map_err(|error| {
            CliError::internal(format!("cannot save `{}`: {error}", args.output.display()))
        })
    };
    eight_bit(pictures).enumerate().map(save).collect()
}

/// The parameters as other programs write them into pictures.
fn parameters(args: &GenerateArgs, meaning: &Meaning, pictures: &Pictures) -> String {
    let [_, height, width, _] = pictures.shape();
    let GenerateArgs { steps, sampler, scheduler, cfg, denoise, .. } = args;
    let Meaning { checkpoint, loras, seed, .. } = meaning;
    let negative = match args.negative.is_empty() {
        true => String::new(),
        false => format!("Negative prompt: {}\n", args.negative),
    };
    let loras = loras.iter().map(|(name, strength)| format!("LoRA: {name}:{strength}, "));
    format!(
        "{}\n{negative}Steps: {steps}, Sampler: {sampler}, Schedule type: {scheduler}, \
         CFG scale: {cfg}, Seed: {seed}, Size: {width}x{height}, Model: {checkpoint}, {}\
         Denoising strength: {denoise}, Version: distorch {}",
        args.prompt,
        loras.collect::<String>(),
        env!("CARGO_PKG_VERSION"),
    )
}
