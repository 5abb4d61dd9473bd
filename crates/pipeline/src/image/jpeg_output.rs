//! Pictures to JPEG files.

use std::io::{self, Write};

use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;

use super::png_file::Picture8;

impl Picture8 {
    /// Writes the picture to `to` as JPEG. `quality`, 1 to 100, scales the tables of the standard's Annex K as libjpeg does;
    /// what is beyond is the nearest of these.
    ///
    /// # Errors
    /// When the picture has no form in JPEG (alpha; sides of 1 to 65535 pixels), or `to` cannot be written.
    pub fn write_jpeg(&self, to: impl Write, quality: u8) -> io::Result<()> {
        let wrong = |message: String| io::Error::new(io::ErrorKind::InvalidInput, message);
        let [width, height] = [self.width, self.height].map(u16::try_from);
        let (Ok(width @ 1..), Ok(height @ 1..)) = (width, height) else {
            let [width, height] = [self.width, self.height];
            return Err(wrong(format!("JPEG has no pictures of {width}×{height} pixels")));
        };
        let colours = match self.channels {
            1 => ExtendedColorType::L8,
            3 => ExtendedColorType::Rgb8,
            other => return Err(wrong(format!("JPEG has no pictures of {other} channels"))),
        };
        // The encoder panics where this is not so.
        let bytes = self.width.saturating_mul(self.height).saturating_mul(self.channels);
        if bytes != self.bytes.len() {
            return Err(wrong("the picture has another number of bytes than pixels".to_owned()));
        }
        let mut encoder = JpegEncoder::new_with_quality(to, quality.clamp(1, 100));
        let encoded = encoder.encode(&self.bytes, width.into(), height.into(), colours);
        encoded.map_err(|error| match error {
            image::ImageError::IoError(error) => error,
            other => wrong(other.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::image::decode;

    /// A picture whose colours change slowly.
    fn picture() -> Picture8 {
        let bytes = (0..32 * 24).flat_map(|pixel: u32| {
            let (x, y) = (pixel % 32, pixel / 32);
            [8 * x, 10 * y, 255 - 8 * x].map(|value| value as u8)
        });
        Picture8 { width: 32, height: 24, channels: 3, bytes: bytes.collect() }
    }

    fn written(quality: u8) -> Vec<u8> {
        let mut file = Vec::new();
        picture().write_jpeg(&mut file, quality).unwrap();
        file
    }

    /// The first table of quantisation: of brightness.
    fn table(file: &[u8]) -> &[u8] {
        let start = file.windows(2).position(|pair| pair == [0xff, 0xdb]).unwrap();
        &file[start + 5..start + 5 + 64]
    }

    #[test]
    fn the_quality_is_libjpegs() {
        // Annex K.1, in zigzag order; 50 is the table itself, 25 twice, 75 half of it, 100 ones.
        let first = [16, 11, 12, 14, 12, 10, 16, 14];
        assert_eq!(table(&written(50))[..8], first);
        assert_eq!(table(&written(25))[..8], first.map(|value| value * 2));
        assert_eq!(table(&written(75))[..8], first.map(|value| value.div_ceil(2)));
        assert_eq!(table(&written(100)), [1; 64]);
        assert_eq!(written(0), written(1));
        assert_eq!(written(255), written(100));
    }

    #[test]
    fn a_picture_comes_back_nearly_as_it_was() {
        let file = written(95);
        let read = decode::decode(&mut Cursor::new(&file), 32 * 24).unwrap();
        assert_eq!(read.colours.shape(), [1, 24, 32, 3]);
        let expected = picture().bytes;
        let off = read.colours.values().iter().zip(&expected);
        let mean = off.map(|(read, was)| (read * 255.0 - f32::from(*was)).abs()).sum::<f32>();
        // Colours are halved in size in some encoders, so that single pixels may be far off.
        assert!(mean / (expected.len() as f32) < 4.0, "{mean}");
        assert!(written(10).len() < file.len());
    }

    #[test]
    fn what_has_no_form_in_jpeg_is_an_error() {
        for (width, height, channels, bytes) in
            [(0, 4, 3, 0), (70_000, 1, 1, 70_000), (2, 2, 4, 16), (2, 2, 3, 11)]
        {
            let picture = Picture8 { width, height, channels, bytes: vec![0; bytes] };
            assert!(picture.write_jpeg(Vec::new(), 90).is_err(), "{width}×{height}");
        }
    }
}
