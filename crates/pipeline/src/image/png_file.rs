//! Pictures to PNG files that carry what made them.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::Pictures;

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

impl Pictures {
    /// Saves one of the pictures, counted from 0, as a PNG of 8 bits a channel that carries these texts, each with its
    /// keyword. A file of that name is replaced.
    ///
    /// # Errors
    /// When there is no such picture, or the file cannot be written.
    pub fn save_png(
        &self,
        picture: usize,
        path: &Path,
        texts: &[(String, String)],
    ) -> io::Result<()> {
        let [batch, height, width, channels] = self.shape();
        let values = self.each().nth(picture).ok_or_else(|| {
            let problem = format!("there is no picture {picture} in a batch of {batch}");
            io::Error::new(io::ErrorKind::InvalidInput, problem)
        })?;
        let mut file = BufWriter::new(File::create(path)?);
        Picture8::new(values, [height, width, channels]).write(&mut file, texts)?;
        file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_whole_and_carries_its_texts() {
        let picture = Picture8::new(&[0.0, 0.5, 1.0, -1.0, 2.0, 0.999], [1, 2, 3]);
        let texts = [("prompt".to_owned(), "{\"1\": 2}".to_owned()), ("k".into(), "лис".into())];
        let mut file = Vec::new();
        picture.write(&mut file, &texts).unwrap();
        let decoder = png::Decoder::new(io::Cursor::new(&file));
        let mut reader = decoder.read_info().unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut bytes).unwrap();
        reader.finish().unwrap();
        assert_eq!(bytes, [0, 127, 255, 0, 255, 254]);
        let info = reader.info();
        assert_eq!(info.uncompressed_latin1_text[0].text, "{\"1\": 2}");
        assert_eq!(info.utf8_text[0].get_text().unwrap(), "лис");
    }

    #[test]
    fn json_is_written_in_ascii() {
        let json = serde_json::json!({"a": "лис 🦊"});
        assert_eq!(ascii_json(&json), r#"{"a":"\u043b\u0438\u0441 \ud83e\udd8a"}"#);
        let back: serde_json::Value = serde_json::from_str(&ascii_json(&json)).unwrap();
        assert_eq!(back, json);
    }
}
