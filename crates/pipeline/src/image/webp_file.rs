//! Pictures to WebP files, without loss: the only kind that the encoder makes.

use std::io::{self, Write};

use image_webp::{ColorType, EncodingError, WebPEncoder};

use super::png_file::Picture8;

impl Picture8 {
    /// Writes the picture to `to` as WebP without loss.
    ///
    /// # Errors
    /// When the picture has no form in WebP (sides of 1 to 16384 pixels), or `to` cannot be written.
    pub fn write_webp(&self, to: impl Write) -> io::Result<()> {
        let wrong = |message: String| io::Error::new(io::ErrorKind::InvalidInput, message);
        let [width, height] =
            [self.width, self.height].map(|side| u32::try_from(side).unwrap_or(0));
        let colours = match self.channels {
            1 => ColorType::L8,
            3 => ColorType::Rgb8,
            4 => ColorType::Rgba8,
            other => return Err(wrong(format!("WebP has no pictures of {other} channels"))),
        };
        // The encoder trusts this.
        let bytes = self.width.saturating_mul(self.height).saturating_mul(self.channels);
        if bytes != self.bytes.len() {
            return Err(wrong("the picture has another number of bytes than pixels".to_owned()));
        }
        let encoded = WebPEncoder::new(to).encode(&self.bytes, width, height, colours);
        encoded.map_err(|error| match error {
            EncodingError::IoError(error) => error,
            other => wrong(other.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::image::decode;

    #[test]
    fn a_picture_comes_back_as_it_was() {
        for channels in [3, 4] {
            let bytes: Vec<u8> =
                (0..7 * 5 * channels).map(|place| (place * 37 % 251) as u8).collect();
            let picture = Picture8 { width: 7, height: 5, channels, bytes };
            let mut file = Vec::new();
            picture.write_webp(&mut file).unwrap();
            let mut decoder = image_webp::WebPDecoder::new(Cursor::new(&file)).unwrap();
            let mut read = vec![0; decoder.output_buffer_size().unwrap()];
            decoder.read_image(&mut read).unwrap();
            assert_eq!((decoder.dimensions(), &read), ((7, 5), &picture.bytes));
            assert_eq!(
                decode::decode(&mut Cursor::new(&file), 35).unwrap().colours.shape()[1..3],
                [5, 7]
            );
        }
        let wrong = Picture8 { width: 2, height: 2, channels: 3, bytes: vec![0; 11] };
        assert!(wrong.write_webp(Vec::new()).is_err());
    }
}
