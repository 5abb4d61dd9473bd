//! What EXIF data says of a picture: how it is to be turned, and texts.
//!
//! EXIF is a TIFF file without a picture: folders of entries, each with a tag, a type, a count and a
//! value or where it is.

/// How the picture is to be turned.
const ORIENTATION: u16 = 0x0112;
/// Where the folder of the camera's entries is.
const EXIF_FOLDER: u16 = 0x8769;
/// A text with the name of its encoding before it.
const USER_COMMENT: u16 = 0x9286;

/// Entries and folders that are looked at. Files have a few dozen and three.
const MOST_ENTRIES: usize = 1000;
const MOST_FOLDERS: usize = 8;

/// What is read of EXIF data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Exif {
    /// 1 to 8.
    pub orientation: Option<u16>,
    /// All texts, in order.
    pub texts: Vec<String>,
}

impl Exif {
    /// Reads EXIF data, with or without the words `Exif` before it; `None` where it is something else.
    /// Entries that are broken are left out.
    pub fn read(data: &[u8]) -> Option<Self> {
        let data = data.strip_prefix(b"Exif\0\0").unwrap_or(data);
        let big_endian = match data.get(..4)? {
            [b'I', b'I', 42, 0] => false,
            [b'M', b'M', 0, 42] => true,
            _ => return None,
        };
        let file = Tiff { data, big_endian };
        let mut exif = Exif::default();
        let mut folders = vec![file.long(4)?];
        let mut entries = 0;
        let mut next = 0;
        while let Some(&folder) = folders.get(next) {
            next += 1;
            let count = file.short(folder).unwrap_or(0);
            for place in 0..usize::from(count) {
                entries += 1;
                let Some(entry) = folder.checked_add(2 + 12 * place) else { break };
                if entries > MOST_ENTRIES || file.entry(entry, &mut exif, &mut folders).is_none() {
                    break;
                }
            }
            let after = folder.checked_add(2 + 12 * usize::from(count));
            folders.extend(after.and_then(|place| file.long(place)).filter(|place| *place != 0));
            folders.truncate(MOST_FOLDERS);
        }
        Some(exif)
    }
}

struct Tiff<'a> {
    data: &'a [u8],
    big_endian: bool,
}

impl Tiff<'_> {
    fn short(&self, place: usize) -> Option<u16> {
        let bytes = self.data.get(place..place.checked_add(2)?)?.try_into().ok()?;
        Some(if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn long(&self, place: usize) -> Option<usize> {
        let bytes = self.data.get(place..place.checked_add(4)?)?.try_into().ok()?;
        let number =
            if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
        usize::try_from(number).ok()
    }

    /// Reads an entry; `None` where the folder ends too early.
    fn entry(&self, place: usize, exif: &mut Exif, folders: &mut Vec<usize>) -> Option<()> {
        let (tag, kind) = (self.short(place)?, self.short(place + 2)?);
        let (count, value) = (self.long(place + 4)?, self.long(place + 8)?);
        match (tag, kind) {
            (ORIENTATION, 3) => exif.orientation = self.short(place + 8),
            (EXIF_FOLDER, 4) => folders.push(value),
            // ASCII, bytes, bytes of any use.
            (_, 2) | (USER_COMMENT, 1 | 7) => {
                let from = if count <= 4 { place + 8 } else { value };
                let text = from.checked_add(count).and_then(|end| self.data.get(from..end));
                exif.texts.extend(text.and_then(|text| self.text(text)));
            }
            _ => {}
        }
        Some(())
    }

    fn text(&self, bytes: &[u8]) -> Option<String> {
        if let Some(wide) = bytes.strip_prefix(b"UNICODE\0") {
            // Written in the file's order of bytes, or in the other, by different programs.
            let read = |big_endian: bool| {
                let unit = |pair: &[u8]| match (pair, big_endian) {
                    (&[high, low], true) | (&[low, high], false) => u16::from_be_bytes([high, low]),
                    _ => 0,
                };
                String::from_utf16(&wide.chunks_exact(2).map(unit).collect::<Vec<_>>()).ok()
            };
            let likely = |text: &String| text.chars().take(64).filter(char::is_ascii).count() > 1;
            let text = read(self.big_endian).filter(likely).or_else(|| read(!self.big_endian))?;
            return Some(text.trim_end_matches('\0').to_owned());
        }
        let bytes = bytes
            .strip_prefix(b"ASCII\0\0\0")
            .or_else(|| bytes.strip_prefix(&[0; 8]))
            .unwrap_or(bytes);
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_end_matches('\0');
        (!text.is_empty()).then(|| text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EXIF data with one folder of these entries: tag, type, value.
    fn data(big_endian: bool, entries: &[(u16, u16, &[u8])]) -> Vec<u8> {
        let short = |n: u16| if big_endian { n.to_be_bytes() } else { n.to_le_bytes() };
        let long = |n: u32| if big_endian { n.to_be_bytes() } else { n.to_le_bytes() };
        let mut out = if big_endian { b"MM\0*".to_vec() } else { b"II*\0".to_vec() };
        out.extend(long(8));
        out.extend(short(entries.len() as u16));
        let mut values = Vec::new();
        let after = 8 + 2 + 12 * entries.len() + 4;
        for (tag, kind, value) in entries {
            out.extend(short(*tag));
            out.extend(short(*kind));
            let count = if *kind == 3 { value.len() / 2 } else { value.len() };
            out.extend(long(count as u32));
            if value.len() <= 4 {
                out.extend(value.iter().chain(&[0; 4]).take(4));
            } else {
                out.extend(long((after + values.len()) as u32));
                values.extend_from_slice(value);
            }
        }
        out.extend(long(0));
        out.extend(values);
        out
    }

    #[test]
    fn orientation_and_texts_are_read_in_both_orders() {
        for big_endian in [false, true] {
            let six = if big_endian { [0, 6] } else { [6, 0] };
            let data = data(
                big_endian,
                &[
                    (ORIENTATION, 3, &six),
                    (0x010f, 2, b"workflow:{}\0"),
                    (0x0110, 2, b"ab\0"),
                    (USER_COMMENT, 7, b"UNICODE\0a\0b\0c\0"),
                    (USER_COMMENT, 7, b"ASCII\0\0\0plain"),
                ],
            );
            let exif = Exif::read(&data).unwrap();
            assert_eq!(exif.orientation, Some(6));
            assert_eq!(exif.texts, ["workflow:{}", "ab", "abc", "plain"]);
            let named = [b"Exif\0\0".as_slice(), &data].concat();
            assert_eq!(Exif::read(&named), Some(exif));
            for length in 0..data.len() {
                Exif::read(&data[..length]);
            }
        }
        assert_eq!(Exif::read(b"RIFF"), None);
    }

    #[test]
    fn folders_in_a_circle_end() {
        let mut data = data(false, &[(EXIF_FOLDER, 4, &[8, 0, 0, 0])]);
        let end = data.len() - 4;
        data[end] = 8;
        assert_eq!(Exif::read(&data), Some(Exif::default()));
    }
}
