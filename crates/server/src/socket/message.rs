//! Messages to clients: JSON texts with `type` and `data`, and binary ones, which begin with their kind (big-endian).

use axum::body::Bytes;
use axum::extract::ws;
use serde_json::{Value, json};

/// The kind of a binary message that is a picture: its format follows, then its file.
const PICTURE: u32 = 1;
/// The kind of a binary message that is a text of a node: the length of the node's id follows, the id, the text.
const TEXT: u32 = 3;
/// The kind of a binary message that is a picture with data: the length of the JSON follows, the JSON, the file.
const PICTURE_WITH_DATA: u32 = 4;
/// The formats of pictures.
const JPEG: u32 = 1;
const PNG: u32 = 2;

/// A message. Copies share their bytes.
#[derive(Clone, Debug)]
pub enum Message {
    /// JSON.
    Text(ws::Utf8Bytes),
    /// A text that belongs to a node, in binary form.
    Binary(Bytes),
    /// The picture as it is now; only the newest is of interest.
    Preview(Preview),
}

/// A preview in the two forms that clients read.
#[derive(Clone, Debug)]
pub struct Preview {
    plain: Bytes,
    with_data: Bytes,
}

/// The format of a preview's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PictureFormat {
    /// JPEG.
    Jpeg,
    /// PNG.
    Png,
}

impl Message {
    /// A JSON message: `{"type": …, "data": …}`.
    pub fn json(kind: &str, data: &Value) -> Self {
        Self::Text(json!({ "type": kind, "data": data }).to_string().into())
    }

    /// A text that a node shows while it runs.
    pub fn node_text(node: &str, text: &str) -> Self {
        let length = u32::try_from(node.len()).unwrap_or(u32::MAX);
        let head = [TEXT.to_be_bytes(), length.to_be_bytes()].concat();
        Self::Binary([&head, node.as_bytes(), text.as_bytes()].concat().into())
    }

    /// As a WebSocket sends it to a client that reads data with previews or does not.
    pub(super) fn frame(self, reads_data: bool) -> ws::Message {
        match self {
            Self::Text(text) => ws::Message::Text(text),
            Self::Binary(bytes) => ws::Message::Binary(bytes),
            Self::Preview(preview) if reads_data => ws::Message::Binary(preview.with_data),
            Self::Preview(preview) => ws::Message::Binary(preview.plain),
        }
    }
}

impl Preview {
    /// A preview: the file of a picture, and of which node and prompt it is.
    pub fn new(file: &[u8], format: PictureFormat, node: &str, prompt: &str) -> Self {
        let (number, kind) = match format {
            PictureFormat::Jpeg => (JPEG, "image/jpeg"),
            PictureFormat::Png => (PNG, "image/png"),
        };
        let data = json!({
            "node_id": node, "display_node_id": node, "parent_node_id": null, "real_node_id": node,
            "prompt_id": prompt, "image_type": kind,
        })
        .to_string();
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes();
        let plain = [&PICTURE.to_be_bytes(), &number.to_be_bytes(), file].concat();
        let kind = PICTURE_WITH_DATA.to_be_bytes();
        let with_data = [&kind, &length, data.as_bytes(), file].concat();
        Self { plain: plain.into(), with_data: with_data.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_messages_have_their_kinds_and_lengths() {
        let Message::Binary(text) = Message::node_text("12", "hm") else { panic!() };
        assert_eq!(text, b"\0\0\0\x03\0\0\0\x0212hm".as_slice());
        let preview = Message::Preview(Preview::new(b"FILE", PictureFormat::Png, "3", "p"));
        let bytes = |reads_data| match preview.clone().frame(reads_data) {
            ws::Message::Binary(bytes) => bytes,
            other => panic!("{other:?}"),
        };
        assert_eq!(bytes(false), b"\0\0\0\x01\0\0\0\x02FILE".as_slice());
        let with_data = bytes(true);
        let length = u32::from_be_bytes(with_data[4..8].try_into().unwrap()) as usize;
        let data: Value = serde_json::from_slice(&with_data[8..8 + length]).unwrap();
        assert_eq!(with_data[..4], [0, 0, 0, 4]);
        assert_eq!(&with_data[8 + length..], b"FILE");
        let named = (&data["node_id"], &data["prompt_id"], &data["image_type"]);
        assert_eq!(named, (&json!("3"), &json!("p"), &json!("image/png")));
    }
}
