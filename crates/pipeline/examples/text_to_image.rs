//! A picture from a checkpoint and a prompt:
//! `text_to_image CHECKPOINT PROMPT OUT.png [SEED]`, in the folder that holds `models/`.

use std::error::Error;
use std::path::{Path, PathBuf};

use distorch_pipeline::request::ModelSource;
use distorch_pipeline::{Event, RunId, Session, TextToImage};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(checkpoint), Some(prompt), Some(out)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("text_to_image CHECKPOINT PROMPT OUT.png [SEED]".into());
    };
    let seed = arguments.next().map_or(Ok(0), |seed| seed.parse())?;
    // A name in the model folders, or the path of a file.
    let checkpoint: ModelSource = match Path::new(&checkpoint).is_file() {
        true => PathBuf::from(checkpoint).into(),
        false => checkpoint.into(),
    };

    let session = Session::new(".".as_ref())?;
    let generation =
        session.text_to_image(TextToImage { seed, ..TextToImage::new(checkpoint, prompt) })?;
    let made = generation.run_with(&|run: RunId, event: Event| match event {
        Event::Phase { phase } => eprintln!("{run}: {phase:?}"),
        Event::Step { done, total: Some(total), .. } => eprintln!("{run}: step {done} of {total}"),
        Event::Warning { text } => eprintln!("{run}: {text}"),
        _ => {}
    })?;
    made.pictures.save_png(0, out.as_ref(), &[])?;
    Ok(())
}
