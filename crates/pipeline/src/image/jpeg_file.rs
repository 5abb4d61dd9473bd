//! What a JPEG file says before its picture: size, components, EXIF data, comments.

use std::io::{self, Read, Seek, SeekFrom};

/// Segments that are looked at.
const MOST_SEGMENTS: usize = 10_000;
/// Comments that are kept.
const MOST_COMMENTS: usize = 16;

/// The segments of a JPEG file up to its first scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Width and height.
    pub size: [u16; 2],
    /// Whether the picture comes in several turns, each finer than the last.
    pub progressive: bool,
    /// Identifier and sampling factors, across and down, of each component.
    pub components: Vec<(u8, [u8; 2])>,
    /// The colour transform of Adobe's segment.
    pub adobe: Option<u8>,
    /// EXIF data, without the words before it.
    pub exif: Option<Vec<u8>>,
    /// Comments.
    pub comments: Vec<String>,
}

impl Header {
    /// Reads the segments; `None` where the file ends, or becomes something else, without a frame.
    pub fn read<R: Read + Seek>(reader: &mut R) -> io::Result<Option<Self>> {
        let mut header = Header {
            size: [0; 2],
            progressive: false,
            components: Vec::new(),
            adobe: None,
            exif: None,
            comments: Vec::new(),
        };
        let mut has_frame = false;
        reader.seek(SeekFrom::Start(2))?;
        for _ in 0..MOST_SEGMENTS {
            let Some(marker) = marker(reader)? else { break };
            match marker {
                // The scan, or the end.
                0xda | 0xd9 => break,
                // Markers without a segment.
                0x01 | 0xd0..=0xd8 => {}
                _ => {
                    let Some(segment) = segment(reader)? else { break };
                    has_frame |= header.take(marker, segment).is_some();
                }
            }
        }
        Ok(has_frame.then_some(header))
    }

    /// Takes a segment; `Some` where it was the frame's.
    fn take(&mut self, marker: u8, segment: Vec<u8>) -> Option<()> {
        match marker {
            0xc0..=0xcf if ![0xc4, 0xc8, 0xcc].contains(&marker) => {
                let (head, rest) = segment.split_at_checked(6)?;
                let &[_, high, low, wide_high, wide_low, _] = head else { return None };
                self.size = [[wide_high, wide_low], [high, low]].map(u16::from_be_bytes);
                self.progressive = matches!(marker, 0xc2 | 0xc6 | 0xca | 0xce);
                self.components = rest
                    .chunks_exact(3)
                    .filter_map(|part| match *part {
                        [id, factors, _] => Some((id, [factors >> 4, factors & 15])),
                        _ => None,
                    })
                    .collect();
                Some(())
            }
            0xe1 if self.exif.is_none() => {
                self.exif = segment.strip_prefix(b"Exif\0\0").map(<[u8]>::to_vec);
                None
            }
            0xee if segment.starts_with(b"Adobe") => {
                self.adobe = segment.get(11).copied();
                None
            }
            0xfe if self.comments.len() < MOST_COMMENTS => {
                self.comments.push(String::from_utf8_lossy(&segment).into_owned());
                None
            }
            _ => None,
        }
    }

    /// Whether all components have as many samples.
    pub fn is_whole(&self) -> bool {
        self.components.windows(2).all(|pair| pair.first().map(|c| c.1) == pair.last().map(|c| c.1))
    }

    /// The identifiers.
    pub fn ids(&self) -> Vec<u8> {
        self.components.iter().map(|(id, _)| *id).collect()
    }

    /// Whether both planes of colour have half the samples of the brightness: across, and down. `None`
    /// for other shares.
    pub fn halved(&self) -> Option<[bool; 2]> {
        let [(_, luma), (_, blue), (_, red)] = self.components.as_slice() else { return None };
        match (blue == red).then_some([luma, blue])? {
            [luma, chroma] if luma == chroma => Some([false, false]),
            [[2, 1], [1, 1]] => Some([true, false]),
            [[2, 2], [1, 2]] => Some([true, false]),
            [[2, 2], [1, 1]] => Some([true, true]),
            _ => None,
        }
    }
}

/// The next marker; `None` at the end.
fn marker<R: Read>(reader: &mut R) -> io::Result<Option<u8>> {
    let Some(0xff) = byte(reader)? else { return Ok(None) };
    loop {
        match byte(reader)? {
            Some(0xff) => {}
            other => return Ok(other.filter(|byte| *byte != 0)),
        }
    }
}

fn byte<R: Read>(reader: &mut R) -> io::Result<Option<u8>> {
    let mut byte = [0];
    Ok((reader.read(&mut byte)? == 1).then_some(byte[0]))
}

/// The segment that follows a marker; `None` where the file ends in it.
fn segment<R: Read>(reader: &mut R) -> io::Result<Option<Vec<u8>>> {
    let (Some(high), Some(low)) = (byte(reader)?, byte(reader)?) else { return Ok(None) };
    let Some(length) = u16::from_be_bytes([high, low]).checked_sub(2) else { return Ok(None) };
    let mut segment = Vec::new();
    reader.take(length.into()).read_to_end(&mut segment)?;
    Ok((segment.len() == usize::from(length)).then_some(segment))
}
