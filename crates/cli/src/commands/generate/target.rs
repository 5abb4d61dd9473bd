//! Where `generate` puts its pictures.

use std::io::{self, BufWriter, IntoInnerError, Write};
use std::path::{Path, PathBuf};

use distorch_pipeline::image::output_file::{self, Unfinished};
use distorch_workflow::files::file_name::next_number;

use crate::args::GenerateArgs;
use crate::error::CliError;

/// Where the pictures go.
pub struct Target {
    folder: PathBuf,
    name: String,
    stem: String,
}

impl Target {
    /// Checks that a picture could be saved: better now than after the last step. Folders that are
    /// missing are made when it is.
    pub fn new(args: &GenerateArgs) -> Result<Self, CliError> {
        let output = &args.output;
        let wrong =
            |problem: &str| CliError::usage(format!("`--output {}`: {problem}", output.display()));
        if output.is_dir() {
            return Err(wrong("this is a folder; name a file in it, such as `out.png`"));
        }
        let is_png = output.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("png"));
        let parts = output.file_name().zip(output.file_stem()).filter(|_| is_png);
        let (name, stem) = parts
            .and_then(|(name, stem)| Some((name.to_str()?, stem.to_str()?)))
            .ok_or_else(|| wrong("pictures are saved as PNG; name a file that ends in `.png`"))?;
        let folder = output.parent().unwrap_or(Path::new(""));
        output_file::check(folder, &numbered(stem, 1))
            .map_err(|error| wrong(&error.to_string()))?;
        Ok(Self { folder: folder.to_owned(), name: name.to_owned(), stem: stem.to_owned() })
    }

    /// Saves a picture and returns where: under the name that was given, or under the next number where
    /// that is taken or there are several pictures. `place` counts them from 0.
    pub fn save(
        &self,
        args: &GenerateArgs,
        place: usize,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<PathBuf> {
        let mut file = BufWriter::new(Unfinished::in_folder(&self.folder)?);
        write(&mut file)?;
        let file = file.into_inner().map_err(IntoInnerError::into_error)?;
        let single = args.batch == 1;
        let name = if args.overwrite {
            let name =
                if single { self.name.clone() } else { numbered(&self.stem, place as u64 + 1) };
            file.replace(&name).map(|()| name)?
        } else {
            let next = next_number(&self.folder, &self.stem);
            let numbers = (next..).map(|number| numbered(&self.stem, number));
            file.publish(single.then(|| self.name.clone()).into_iter().chain(numbers))?
        };
        Ok(self.folder.join(name))
    }
}

fn numbered(stem: &str, number: u64) -> String {
    format!("{stem}_{number:05}.png")
}
