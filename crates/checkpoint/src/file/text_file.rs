//! Texts in place of a model: what a server answered to a download, or another file of a model's folder.

use serde_json::Value;

/// Longer JSON is not what a server answers; it is not read.
const LONGEST_ANSWER: usize = 64 << 10;

/// Longer texts are not shown.
const LONGEST_WORDS: usize = 512;

/// The names under which servers say what went wrong, the ones that say most first.
const MESSAGES: [&str; 9] = [
    "message",
    "detail",
    "error_description",
    "error",
    "errors",
    "msg",
    "title",
    "reason",
    "Message",
];

/// What a server says in JSON about a download that it refused; `None` for any other text.
pub(super) fn refusal(text: &[u8]) -> Option<String> {
    if text.len() > LONGEST_ANSWER || !text.starts_with(b"{") {
        return None;
    }
    let json: Value = serde_json::from_slice(text).ok()?;
    let object = json.as_object()?;
    let said: Vec<String> =
        MESSAGES.iter().filter_map(|name| message(object.get(*name)?, 0)).collect();
    let first = said.first()?.clone();
    // `{"error": "Unauthorized", "message": "Log in"}`: the short word before the sentence.
    let error = object.get("error").and_then(Value::as_str).filter(|error| **error != first);
    Some(error.map_or(first.clone(), |error| format!("{error}: {first}")))
}

/// The words of a message, which may be nested: `{"error": {"message": …}}`, `{"detail": [{"msg": …}]}`.
fn message(value: &Value, depth: usize) -> Option<String> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.trim().to_owned()),
        Value::Object(object) if depth < 3 => {
            MESSAGES.iter().find_map(|name| message(object.get(*name)?, depth + 1))
        }
        Value::Array(values) if depth < 3 => values.first().and_then(|v| message(v, depth + 1)),
        _ => None,
    }
}

/// Whether a text is, or begins like, a JSON object or array.
pub(super) fn is_json(text: &[u8]) -> bool {
    let Some((b'{' | b'[', rest)) = text.split_first() else { return false };
    matches!(rest.trim_ascii_start().first(), Some(b'"' | b'}' | b'{' | b'[' | b']'))
}

/// A short text for people, in one line.
pub(super) fn words(text: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= LONGEST_WORDS)?;
    let printable = text.chars().all(|c| !c.is_control() || c.is_ascii_whitespace());
    let line = text.lines().next().unwrap_or_default().trim();
    (printable && line.contains(' ') && line.chars().any(char::is_alphabetic)).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_say() {
        for (json, expected) in [
            (
                r#"{"error":"Unauthorized","message":"Log in to download this file"}"#,
                "Unauthorized: Log in to download this file",
            ),
            (r#"{"error": "Repository not found"}"#, "Repository not found"),
            (r#"{"detail": "Not authenticated"}"#, "Not authenticated"),
            (r#"{"error": {"code": 403, "message": "Forbidden"}}"#, "Forbidden"),
            (r#"{"detail": [{"loc": [], "msg": "field required"}]}"#, "field required"),
            (r#"{"status": 404, "title": "Not Found"}"#, "Not Found"),
        ] {
            assert_eq!(refusal(json.as_bytes()).as_deref(), Some(expected), "{json}");
        }
        for json in [
            r#"{"metadata": {"total_size": 3}, "weight_map": {}}"#,
            r#"{"error": null}"#,
            r#"{"message": 3}"#,
            r#"["error"]"#,
            "{",
            "",
        ] {
            assert_eq!(refusal(json.as_bytes()), None, "{json}");
        }
        let deep = format!("{}1{}", r#"{"error":"#.repeat(50), "}".repeat(50));
        assert_eq!(refusal(deep.as_bytes()), None);
    }

    #[test]
    fn json_and_words() {
        assert!(is_json(b"{ \"a\": 1}") && is_json(b"[[1]]") && is_json(b"{\r\n}"));
        assert!(!is_json(b"{x") && !is_json(b"[1") && !is_json(b"x"));
        assert_eq!(words(b"Access denied\nfor you"), Some("Access denied"));
        assert_eq!(words(b"random\x01 bytes"), None);
        assert_eq!(words(b"abcdefgh"), None);
        assert_eq!(words(&[b'a'; 600]), None);
    }
}
