//! The workflow that a picture carries: in texts of PNG, in EXIF data or comments of JPEG and WebP.

use std::io::{self, BufRead, Read, Seek, SeekFrom};

use flate2::read::ZlibDecoder;
use serde_json::Value as Json;

use super::decode::{Format, start};
use super::exif::Exif;
use super::jpeg_file::Header;

/// Bytes of one text, however well it is compressed.
const MOST_TEXT: u64 = 64 << 20;
/// Chunks of a file that are looked at.
const MOST_CHUNKS: usize = 1 << 20;

/// What a picture says of how it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Embedded {
    /// What was run: the format of ComfyUI's API.
    pub prompt: Option<String>,
    /// As the editor had it.
    pub workflow: Option<String>,
}

impl Embedded {
    /// What a picture carries; `None` where the file is no picture.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read<R: BufRead + Seek>(reader: &mut R) -> io::Result<Option<Self>> {
        let mut found = Embedded::default();
        let format = Format::of(&start(reader)?);
        match format {
            None => return Ok(None),
            Some(Format::Png) => found.add_png(reader)?,
            Some(Format::Jpeg) => {
                if let Some(header) = Header::read(reader)? {
                    found.add_exif(header.exif.as_deref());
                    header.comments.iter().for_each(|text| found.add_text(text));
                }
            }
            Some(Format::WebP) => found.add_webp(reader)?,
            Some(Format::Gif | Format::Bmp | Format::Tiff) => {}
        }
        Ok(Some(found))
    }

    /// Takes a text if it is under one of the names and the first that is. Other programs keep plain
    /// text under `prompt`; what looks like JSON is taken, so that a reader can say what is wrong with it.
    fn take(&mut self, name: &str, text: &str) {
        let place = match name.trim().to_ascii_lowercase().as_str() {
            "prompt" => &mut self.prompt,
            "workflow" => &mut self.workflow,
            _ => return,
        };
        if place.is_none() && text.trim_start().starts_with(['{', '[']) {
            *place = Some(text.to_owned());
        }
    }

    /// Takes what is in a text: `prompt:{…}` or `workflow:{…}`, an object with both, or a workflow.
    fn add_text(&mut self, text: &str) {
        if !text.trim_start().starts_with('{') {
            if let Some((name, text)) = text.split_once(':') {
                self.take(name, text);
            }
            return;
        }
        let Ok(Json::Object(fields)) = serde_json::from_str(text) else { return };
        let mut inside = false;
        for name in ["prompt", "workflow"] {
            match fields.get(name) {
                Some(Json::String(text)) => self.take(name, text),
                Some(value @ Json::Object(_)) if value.get("class_type").is_none() => {
                    self.take(name, &value.to_string());
                }
                _ => continue,
            }
            inside = true;
        }
        let is_prompt = || fields.values().any(|node| node.get("class_type").is_some());
        match inside {
            true => {}
            false if fields.get("nodes").is_some_and(Json::is_array) => self.take("workflow", text),
            false if is_prompt() => self.take("prompt", text),
            false => {}
        }
    }

    fn add_exif(&mut self, exif: Option<&[u8]>) {
        let texts = exif.and_then(Exif::read).map(|exif| exif.texts);
        texts.iter().flatten().for_each(|text| self.add_text(text));
    }

    /// The texts of a PNG file, before the picture or behind it. A file that breaks off has those that
    /// came before.
    fn add_png<R: Read + Seek>(&mut self, reader: &mut R) -> io::Result<()> {
        reader.seek(SeekFrom::Start(8))?;
        for _ in 0..MOST_CHUNKS {
            let Some([length, kind]) = pair(reader)? else { return Ok(()) };
            let length = u64::from(u32::from_be_bytes(length));
            let mut chunk = reader.by_ref().take(length);
            match &kind {
                b"tEXt" | b"zTXt" | b"iTXt" if length <= MOST_TEXT => {
                    let mut data = Vec::new();
                    chunk.read_to_end(&mut data)?;
                    if let Some((name, text)) = png_text(&kind, &data) {
                        self.take(&name, &text);
                    }
                }
                b"eXIf" if length <= MOST_TEXT => {
                    let mut data = Vec::new();
                    chunk.read_to_end(&mut data)?;
                    self.add_exif(Some(&data));
                }
                b"IEND" => return Ok(()),
                _ => {}
            }
            // What was not read, and the checksum.
            let rest = chunk.limit() as i64 + 4;
            reader.seek(SeekFrom::Current(rest))?;
        }
        Ok(())
    }

    fn add_webp<R: Read + Seek>(&mut self, reader: &mut R) -> io::Result<()> {
        reader.seek(SeekFrom::Start(12))?;
        for _ in 0..MOST_CHUNKS {
            let Some([kind, length]) = pair(reader)? else { return Ok(()) };
            let length = u64::from(u32::from_le_bytes(length));
            let mut chunk = reader.by_ref().take(length);
            if &kind == b"EXIF" && length <= MOST_TEXT {
                let mut data = Vec::new();
                chunk.read_to_end(&mut data)?;
                self.add_exif(Some(&data));
            }
            // Chunks have an even length.
            let rest = chunk.limit() as i64 + (length % 2) as i64;
            reader.seek(SeekFrom::Current(rest))?;
        }
        Ok(())
    }
}

/// Two times four bytes; `None` at the end.
fn pair<R: Read>(reader: &mut R) -> io::Result<Option<[[u8; 4]; 2]>> {
    let mut bytes = Vec::new();
    reader.take(8).read_to_end(&mut bytes)?;
    Ok(match *bytes {
        [a, b, c, d, e, f, g, h] => Some([[a, b, c, d], [e, f, g, h]]),
        _ => None,
    })
}

/// The keyword and the text of a chunk; `None` for other keywords, and where it is broken.
fn png_text(kind: &[u8; 4], data: &[u8]) -> Option<(String, String)> {
    let end = |data: &[u8]| data.iter().position(|byte| *byte == 0);
    let zero = end(data)?;
    let name = latin(data.get(..zero)?);
    if !["prompt", "workflow"].iter().any(|known| known.eq_ignore_ascii_case(&name)) {
        return None;
    }
    let rest = data.get(zero + 1..)?;
    let text = match kind {
        b"tEXt" => latin(rest),
        b"zTXt" => latin(&inflated(rest.get(1..)?)?),
        _ => {
            let (flags, rest) = rest.split_at_checked(2)?;
            let language = end(rest)?;
            let rest = rest.get(language + 1..)?;
            let translated = end(rest)?;
            let text = rest.get(translated + 1..)?;
            match flags {
                [1, _] => String::from_utf8(inflated(text)?).ok()?,
                _ => String::from_utf8(text.to_vec()).ok()?,
            }
        }
    };
    Some((name, text))
}

/// Text in Latin 1; programs that write UTF-8 where it does not belong are understood.
fn latin(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|byte| char::from(*byte)).collect(),
    }
}

/// What was compressed; `None` where it is broken or too large.
fn inflated(data: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    ZlibDecoder::new(data).take(MOST_TEXT + 1).read_to_end(&mut text).ok()?;
    (text.len() as u64 <= MOST_TEXT).then_some(text)
}
