//! Telling what a file is from its first bytes.
//!
//! Names lie: `.ckpt` files are mostly zip archives, sometimes safetensors; a failed download
//! is often a web page that is named like the model.

use std::borrow::Cow;

use super::error::{Problem, Quoted};
use super::safetensors::MAX_HEADER;
use super::text_file;

/// What to do about a page or a message in place of a file.
const FAILED_DOWNLOAD: &str =
    "the download failed or asked for a log-in; download it again, logged in if need be";

/// A kind of file that can be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Safetensors,
    TorchZip,
    TorchLegacy,
    /// A pickle on its own.
    Pickle,
}

/// `0x1950a86a20f9469cfc6c`, PyTorch's number for its first own format, as protocols 2 and later
/// pickle it (behind the protocol's number).
const LEGACY_MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// The same number as protocols 0 and 1 pickle it.
const LEGACY_MAGIC_TEXT: &[u8] = b"L119547037146038801333356L\n.";

/// Files that are taken for checkpoints, by their first bytes: what they are, and the way out.
const OTHERS: &[(&[u8], &str, &str)] = &[
    (b"GGUF", "a GGUF file", "GGUF is not read; get the .safetensors of the model"),
    (b"GGML", "a GGML file", "GGML is not read; get the .safetensors of the model"),
    (b"ggjt", "a GGML file", "GGML is not read; get the .safetensors of the model"),
    (
        b"version https://git-lfs",
        "a git-LFS pointer, not the model itself",
        "run `git lfs pull` where it was cloned, or download the model",
    ),
    (b"\x89HDF\r\n", "an HDF5 file (Keras)", "get the .safetensors of the model"),
    (b"\x93NUMPY", "a NumPy array", "get the .safetensors of the model"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"Rar!", "a RAR archive", "unpack it first"),
    (b"\xfd7zXZ\0", "an xz archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first"),
    (b"BZh", "a bzip2 archive", "unpack it first"),
    (b"\x89PNG", "a PNG picture", "name the model file"),
    (b"\xff\xd8\xff", "a JPEG picture", "name the model file"),
    (b"GIF8", "a GIF picture", "name the model file"),
    (b"RIFF", "a RIFF file (WebP, AVI or WAV)", "name the model file"),
    (b"%PDF", "a PDF document", "name the model file"),
    (b"\x7fELF", "a program", "name the model file"),
    (b"MZ", "a Windows program", "name the model file"),
    (b"PK\x05\x06", "an empty zip archive", "download it again"),
    (b"PK\x07\x08", "a part of a split zip archive", "join the parts first"),
];

/// What `bytes`, the whole of a file, are.
///
/// `hint` says that the file is named like a safetensors file, for files that nothing else tells.
///
/// # Errors
/// [`Problem::NotACheckpoint`] for files that are known to be something else, or nothing known.
pub(crate) fn sniff(bytes: &[u8], hint: bool) -> Result<Kind, Problem> {
    if bytes.is_empty() {
        return Err(other("an empty file", "download or copy it again"));
    }
    // Eight bytes of header length, then the header. No other kind below has a `{` there with so
    // small a number before it.
    let opens_json = bytes.get(8) == Some(&b'{');
    let length = bytes.first_chunk().map(|length| u64::from_le_bytes(*length));
    if opens_json && length.is_some_and(|length| length <= MAX_HEADER) {
        return Ok(Kind::Safetensors);
    }
    if bytes.starts_with(b"PK\x03\x04") {
        return Ok(Kind::TorchZip);
    }
    if bytes.starts_with(LEGACY_MAGIC_TEXT) {
        return Ok(Kind::TorchLegacy);
    }
    if let [0x80, 0..=5, rest @ ..] = bytes {
        // Protocol 4 puts a frame around the number, or not: frames are for longer pickles.
        let legacy = rest.starts_with(LEGACY_MAGIC)
            || (rest.first() == Some(&0x95)
                && rest.get(9..).is_some_and(|rest| rest.starts_with(LEGACY_MAGIC)));
        return Ok(if legacy { Kind::TorchLegacy } else { Kind::Pickle });
    }
    if let Some(problem) = known_other(bytes) {
        return Err(problem);
    }
    if opens_json || hint {
        return Ok(Kind::Safetensors);
    }
    Err(other(
        "of an unknown kind",
        "name a .safetensors file, or a .ckpt, .pt, .pth or .bin file written by torch.save",
    ))
}

/// The problem with a file that is known to be something else than a checkpoint.
fn known_other(bytes: &[u8]) -> Option<Problem> {
    if let Some((_, what, way_out)) = OTHERS.iter().find(|(magic, ..)| bytes.starts_with(magic)) {
        return Some(other(*what, way_out));
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return Some(other(
            "a tar archive (PyTorch's format before 0.1.10, or not a model)",
            "load it with an old PyTorch and save it anew",
        ));
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    if text.starts_with(b"<") {
        return Some(other("a web page or XML", FAILED_DOWNLOAD));
    }
    if let Some(answer) = text_file::refusal(text) {
        let looks_like = format!("a server's answer ({})", Quoted(&answer));
        return Some(other(looks_like, FAILED_DOWNLOAD));
    }
    if text_file::is_json(text) {
        return Some(other("JSON text", "name the model file, not its configuration or index"));
    }
    if let Some(words) = text_file::words(text) {
        let looks_like = format!("text ({})", Quoted(words));
        return Some(other(looks_like, "if it was downloaded, that failed: download it again"));
    }
    looks_like_onnx(bytes).then(|| other("an ONNX model", "get the .safetensors of the model"))
}

/// ONNX is a protobuf message that starts with the field `ir_version` (1, a small number) and, in
/// practice, the field `producer_name` (2) or `opset_import` (8).
fn looks_like_onnx(bytes: &[u8]) -> bool {
    matches!(bytes, [0x08, 1..=20, 0x12 | 0x42, length, rest @ ..] if rest.len() > usize::from(*length))
}

fn other(looks_like: impl Into<Cow<'static, str>>, way_out: &'static str) -> Problem {
    Problem::NotACheckpoint { looks_like: looks_like.into(), way_out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_decides() {
        assert_eq!(sniff(b"\x02\0\0\0\0\0\0\0{}", false).unwrap(), Kind::Safetensors);
        // A header of 640 bytes starts like a pickle of protocol 2.
        assert_eq!(sniff(b"\x80\x02\0\0\0\0\0\0{", false).unwrap(), Kind::Safetensors);
        assert_eq!(sniff(b"\0\0\0\0\0\0\0\x80{}", false).unwrap(), Kind::Safetensors);
        assert_eq!(sniff(b"PK\x03\x04\0\0\0\0\0\0", true).unwrap(), Kind::TorchZip);
        assert_eq!(sniff(b"\x80\x02}q\0.", false).unwrap(), Kind::Pickle);
        for magic in [
            &b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."[..],
            b"\x80\x04\x95\x0d\0\0\0\0\0\0\0\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
            b"L119547037146038801333356L\n.",
        ] {
            assert_eq!(sniff(magic, false).unwrap(), Kind::TorchLegacy);
        }
    }

    #[test]
    fn other_files_are_named() {
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        for (bytes, expected) in [
            (&b""[..], "an empty file"),
            (b"GGUF\x03\0\0\0", "a GGUF file"),
            (b"version https://git-lfs.github.com/spec/v1\noid", "git-LFS pointer"),
            (b"\n<!DOCTYPE html><html>", "a web page"),
            (b"\xef\xbb\xbf<html>", "a web page"),
            (b"{\"error\":\"not found\"}", "a server's answer (`not found`): the download failed"),
            (b"{\"sd_model\": {\"width\": 3}}", "JSON text"),
            (b"Entry not found", "text (`Entry not found`)"),
            (b"\x08\x08\x12\x07pytorch\x1a\x05", "an ONNX model"),
            (&tar, "a tar archive"),
            (b"\x01random bytes", "of an unknown kind"),
        ] {
            let message = sniff(bytes, false).unwrap_err().to_string();
            assert!(message.contains(expected), "{expected}: {message}");
        }
        // A web page that is named like a model is a web page all the same.
        assert!(sniff(b"<html>", true).is_err());
        assert_eq!(sniff(b"\x01random bytes", true).unwrap(), Kind::Safetensors);
    }
}
