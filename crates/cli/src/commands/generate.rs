//! `distorch generate`: a picture from a checkpoint and a prompt.
//!
//! The options make a workflow, and the workflow makes the picture: what is saved in it can be
//! opened in ComfyUI, or run again.

mod options;
mod workflow;

use std::io;
use std::path::{Path, PathBuf};

use distorch_workflow::graph::Prompt;
use distorch_workflow::nodes::eight_bit;
use distorch_workflow::picture::Pictures;
use distorch_workflow::picture::png_file::ascii_json;
use distorch_workflow::value::Value;

use super::print_text;
use crate::args::{GenerateArgs, SeedArg, Shared};
use crate::failure::Failure;
use crate::studio;
use crate::watch::Watch;
use options::Meaning;
use workflow::DECODE;

/// Makes pictures.
pub fn run(shared: &Shared, args: &GenerateArgs) -> Result<(), Failure> {
    let paths = paths(args)?;
    let mut executor = studio::executor(shared, &args.compute)?;
    let meaning = Meaning::new(executor.environment(), args)?;
    let prompt = workflow::workflow(&mut executor, args, &meaning)?;
    let watch = Watch::new(false);
    let result = executor.run_nodes(&prompt, &[DECODE], &watch);
    watch.finish();
    let report = result.map_err(options::failure)?;
    let values = report.values.get(DECODE).map_or(&[][..], Vec::as_slice);
    let Some(Value::Image(pictures)) = values.first() else {
        return Err(Failure::machine("the workflow gave no picture"));
    };
    save(pictures, &paths, &prompt, args, &meaning)?;
    let mut text = studio::memory(&executor);
    if args.seed == SeedArg::Random {
        text += &format!("\nseed {}", meaning.seed);
    }
    for path in &paths {
        text += &format!("\nsaved {}", path.display());
    }
    print_text(text.trim_start_matches('\n'))
}

/// Where the pictures go.
fn paths(args: &GenerateArgs) -> Result<Vec<PathBuf>, Failure> {
    let output = &args.output;
    let wrong =
        |problem: &str| Failure::input(format!("`--output {}`: {problem}", output.display()));
    if output.is_dir() {
        return Err(wrong("this is a folder; name a file in it, such as `out.png`"));
    }
    let is_png = output.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("png"));
    let stem = output
        .file_stem()
        .filter(|_| is_png)
        .ok_or_else(|| wrong("pictures are saved as PNG; name a file that ends in `.png`"))?;
    writable(output).map_err(|(folder, error)| {
        wrong(&format!("no file can be made in `{}`: {error}", folder.display()))
    })?;
    if args.batch == 1 {
        return Ok(vec![output.clone()]);
    }
    let stem = stem.to_string_lossy();
    Ok((1..=args.batch).map(|n| output.with_file_name(format!("{stem}_{n:05}.png"))).collect())
}

/// Fails, with the folder that is to blame, where no file of this path could be made: better now than
/// after the last step. Folders that are missing are made when the file is.
fn writable(path: &Path) -> Result<(), (PathBuf, io::Error)> {
    let mut folders = path.ancestors().skip(1);
    let there = folders.find(|folder| folder.as_os_str().is_empty() || folder.exists());
    let folder = there.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let wrong = |error| (folder.to_owned(), error);
    tempfile::Builder::new().prefix(".distorch-").tempfile_in(folder).map(drop).map_err(wrong)
}

fn save(
    pictures: &Pictures,
    paths: &[PathBuf],
    prompt: &Prompt,
    args: &GenerateArgs,
    meaning: &Meaning,
) -> Result<(), Failure> {
    let texts = [
        ("parameters".to_owned(), parameters(args, meaning, pictures)),
        ("prompt".to_owned(), ascii_json(&prompt.to_json())),
    ];
    for (picture, path) in eight_bit(pictures).zip(paths) {
        picture.save(path, &texts, true).map_err(Failure::machine)?;
    }
    Ok(())
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
