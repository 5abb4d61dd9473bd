//! Pictures as PNG files that carry what made them.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use thiserror::Error;

/// Why a picture was not saved.
#[derive(Debug, Error)]
#[error("cannot save `{}`: {source}", path.display())]
pub struct SaveError {
    /// The file.
    pub path: PathBuf,
    /// What went wrong.
    pub source: io::Error,
}

/// One picture with 8 bits a channel.
#[derive(Clone, Debug)]
pub struct Picture8 {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 1 (grey), 3 (colours) or 4 (with alpha).
    pub channels: usize,
    /// Row by row.
    pub bytes: Vec<u8>,
}

impl Picture8 {
    /// From values of 0 to 1; fractions of a step are cut off, as in ComfyUI.
    pub fn new(values: &[f32], [height, width, channels]: [usize; 3]) -> Self {
        let bytes = values.iter().map(|value| (value * 255.0).clamp(0.0, 255.0) as u8).collect();
        Self { width, height, channels, bytes }
    }

    /// Writes the picture to `to`, with texts by keyword.
    ///
    /// # Errors
    /// When the picture has no form in PNG, or `to` cannot be written.
    pub fn write(&self, to: impl Write, texts: &[(String, String)]) -> io::Result<()> {
        let [width, height] =
            [self.width, self.height].map(|side| u32::try_from(side).unwrap_or(0));
        let mut encoder = png::Encoder::new(to, width, height);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Fast);
        encoder.set_color(match self.channels {
            1 => png::ColorType::Grayscale,
            3 => png::ColorType::Rgb,
            4 => png::ColorType::Rgba,
            other => {
                let message = format!("PNG has no pictures of {other} channels");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
        });
        for (keyword, text) in texts {
            match text.chars().all(|c| u32::from(c) < 256) {
                true => encoder.add_text_chunk(keyword.clone(), text.clone())?,
                false => encoder.add_itxt_chunk(keyword.clone(), text.clone())?,
            }
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.bytes)?;
        writer.finish()?;
        Ok(())
    }

    /// Saves the picture: under another name first, so that a file of this name is whole or is not
    /// there. Folders are made. A file that is there is replaced only where `replace` says so.
    ///
    /// # Errors
    /// When it cannot be written; of the kind `AlreadyExists` when it is there and not to be
    /// replaced.
    pub fn save(
        &self,
        path: &Path,
        texts: &[(String, String)],
        replace: bool,
    ) -> Result<(), SaveError> {
        self.try_save(path, texts, replace)
            .map_err(|source| SaveError { path: path.to_owned(), source })
    }

    fn try_save(&self, path: &Path, texts: &[(String, String)], replace: bool) -> io::Result<()> {
        let mut file = beside(path)?;
        self.write(BufWriter::new(&mut file), texts)?;
        file.flush()?;
        match replace {
            true => file.persist(path).map_err(|error| error.error)?,
            false => file.persist_noclobber(path).map_err(|error| error.error)?,
        };
        Ok(())
    }
}

/// The texts that a PNG file carries before its picture, by keyword.
///
/// # Errors
/// When the bytes are no PNG file.
pub fn texts(file: &[u8]) -> io::Result<Vec<(String, String)>> {
    let reader = png::Decoder::new(io::Cursor::new(file)).read_info()?;
    let info = reader.info();
    let plain = info.uncompressed_latin1_text.iter();
    let mut texts: Vec<_> = plain.map(|text| (text.keyword.clone(), text.text.clone())).collect();
    for text in &info.compressed_latin1_text {
        texts.push((text.keyword.clone(), text.get_text()?));
    }
    for text in &info.utf8_text {
        texts.push((text.keyword.clone(), text.get_text()?));
    }
    Ok(texts)
}

/// A temporary file in the folder of `path`, which is made.
pub fn beside(path: &Path) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".distorch-");
    // Readable as the user's mask says, not only by its owner as is usual for temporary files.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// JSON with ASCII characters only, as Python writes it: what readers of pictures expect.
pub fn ascii_json(value: &serde_json::Value) -> String {
    let text = value.to_string();
    if text.is_ascii() {
        return text;
    }
    let mut ascii = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if character.is_ascii() {
            ascii.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                ascii += &format!("\\u{unit:04x}");
            }
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_picture_is_whole_and_carries_its_texts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/c.png");
        let picture = Picture8::new(&[0.0, 0.5, 1.0, -1.0, 2.0, 0.999], [1, 2, 3]);
        let texts = [("prompt".to_owned(), "{\"1\": 2}".to_owned()), ("k".into(), "лис".into())];
        picture.save(&path, &texts, false).unwrap();
        let decoder = png::Decoder::new(io::BufReader::new(fs::File::open(&path).unwrap()));
        let mut reader = decoder.read_info().unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut bytes).unwrap();
        reader.finish().unwrap();
        assert_eq!(bytes, [0, 127, 255, 0, 255, 254]);
        let info = reader.info();
        assert_eq!(info.uncompressed_latin1_text[0].text, "{\"1\": 2}");
        assert_eq!(info.utf8_text[0].get_text().unwrap(), "лис");
        let again = picture.save(&path, &[], false).unwrap_err();
        assert_eq!(again.source.kind(), io::ErrorKind::AlreadyExists);
        let read = super::texts(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(read, texts);
        assert!(super::texts(b"GIF89a").is_err());
        picture.save(&path, &[], true).unwrap();
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn json_is_written_in_ascii() {
        let json = serde_json::json!({"a": "лис 🦊"});
        assert_eq!(ascii_json(&json), r#"{"a":"\u043b\u0438\u0441 \ud83e\udd8a"}"#);
        let back: serde_json::Value = serde_json::from_str(&ascii_json(&json)).unwrap();
        assert_eq!(back, json);
    }
}
