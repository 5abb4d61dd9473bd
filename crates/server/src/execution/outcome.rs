//! What is kept of a prompt that has ended: the entry of `/history`, and what listings show of it.

use distorch_queue::{Json, Outcome, Status};
use distorch_workflow::execute::Report;
use distorch_workflow::graph::{InputValue, Prompt};
use distorch_workflow::{ExecutionError, NodeError};
use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use super::observer::PromptObserver;

/// Characters of a text that listings show.
const SHOWN_TEXT: usize = 1024;

/// Characters of an input's value that an error says.
const SHOWN_INPUT: usize = 1000;

/// How a run ended, as it is told and kept.
pub(super) struct End {
    pub status: Status,
    pub outputs: IndexMap<String, Value>,
    /// The last message: its type and data.
    pub last: (&'static str, Value),
}

/// What a run's result comes to.
pub(super) fn end(
    result: Result<Report, ExecutionError>,
    prompt: &Prompt,
    observer: &PromptObserver,
) -> End {
    let (status, outputs, kind, mut data) = match result {
        Ok(report) => (Status::Success, report.outputs, "execution_success", Map::new()),
        Err(ExecutionError::Interrupted { node, class, executed }) => {
            let data = json!({ "node_id": node, "node_type": class, "executed": executed });
            (Status::Interrupted, IndexMap::new(), "execution_interrupted", fields(data))
        }
        Err(error) => {
            let data = fields(error_data(&error, prompt));
            (Status::Error, IndexMap::new(), "execution_error", data)
        }
    };
    let data = observer.keep(kind, &mut data);
    End { status, outputs, last: (kind, data) }
}

/// What the message of an error says.
fn error_data(error: &ExecutionError, prompt: &Prompt) -> Value {
    let (node, class, executed, kind) = match error {
        ExecutionError::Node { node, class, error, executed } => {
            let kind = match error {
                NodeError::Input { .. } => "ValueError",
                NodeError::Failed(_) | NodeError::Interrupted => "RuntimeError",
            };
            (node.as_str(), class.as_str(), executed.as_slice(), kind)
        }
        ExecutionError::Interrupted { node, class, executed } => {
            (node.as_str(), class.as_str(), executed.as_slice(), "InterruptProcessingException")
        }
        ExecutionError::Invalid(_) => ("", "", [].as_slice(), "ValueError"),
    };
    let text = error.to_string();
    let inputs: Map<String, Value> = prompt
        .nodes
        .get(node)
        .map(|node| node.inputs.iter().map(|(name, input)| (name.clone(), shown(input))).collect())
        .unwrap_or_default();
    json!({
        "node_id": node,
        "node_type": class,
        "executed": executed,
        "exception_message": text,
        "exception_type": kind,
        "traceback": text.lines().map(|line| format!("{line}\n")).collect::<Vec<_>>(),
        "current_inputs": inputs,
        "current_outputs": executed,
    })
}

/// An input as an error says it: a list, as ComfyUI has it.
fn shown(input: &InputValue) -> Value {
    let text = match input {
        InputValue::Literal(Value::String(text)) => text.clone(),
        other => other.to_json().to_string(),
    };
    json!([text.chars().take(SHOWN_INPUT).collect::<String>()])
}

fn fields(data: Value) -> Map<String, Value> {
    match data {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

impl End {
    /// What the queue keeps.
    pub fn outcome(&self, observer: &PromptObserver) -> Outcome {
        let meta = self.outputs.keys().map(|id| {
            let meta = json!({
                "node_id": id, "display_node": id, "parent_node": null, "real_node_id": id,
            });
            (id.clone(), meta)
        });
        let meta: Map<String, Value> = meta.collect();
        let outputs: Map<String, Value> = self.outputs.clone().into_iter().collect();
        let messages = Value::Array(observer.messages());
        Outcome {
            status: self.status,
            summary: Some(Json::from(summary(&outputs, self))),
            outputs: Json::from(Value::Object(outputs)),
            meta: Json::from(Value::Object(meta)),
            messages: Json::from(messages),
        }
    }
}

/// What listings of jobs show: how many outputs there are, one of them, and the error.
fn summary(outputs: &Map<String, Value>, end: &End) -> Value {
    let (mut count, mut previewable) = (0_u64, 0_u64);
    // Saved pictures come before temporary ones, and these before texts.
    let mut best: Option<(u8, Value)> = None;
    for (node, output) in outputs {
        let lists = output.as_object().into_iter().flatten();
        for (kind, item) in
            lists.filter(|(kind, _)| *kind != "animated").flat_map(|(kind, list)| {
                list.as_array().into_iter().flatten().map(move |item| (kind, item))
            })
        {
            let mut shown = match item {
                Value::Object(fields) => {
                    count += 1;
                    fields.clone()
                }
                Value::String(text) if kind == "text" => {
                    let mut fields = Map::new();
                    let content: String = text.chars().take(SHOWN_TEXT).collect();
                    if content.len() < text.len() {
                        fields.insert("truncated".to_owned(), json!(true));
                    }
                    fields.insert("content".to_owned(), json!(content));
                    fields
                }
                _ => continue,
            };
            let media = ["images", "video", "audio", "3d", "text"].contains(&kind.as_str());
            if !media {
                continue;
            }
            let rank = match (item, kind.as_str(), item["type"].as_str()) {
                (Value::Object(_), "text", _) => 2,
                (Value::Object(_), _, Some("output")) => 0,
                (Value::Object(_), ..) => 1,
                _ => 3,
            };
            previewable += u64::from(item.is_object());
            if best.as_ref().is_none_or(|(other, _)| rank < *other) {
                shown.insert("nodeId".to_owned(), json!(node));
                shown.entry("mediaType").or_insert_with(|| json!(kind));
                best = Some((rank, Value::Object(shown)));
            }
        }
    }
    let mut summary = json!({
        "outputs_count": count, "previewable_outputs_count": previewable,
    });
    if let Some((_, preview)) = best {
        summary["preview_output"] = preview;
    }
    if end.last.0 == "execution_error" {
        summary["execution_error"] = end.last.1.clone();
    }
    summary
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_show_saved_pictures_before_others() {
        let image =
            |name: &str, kind: &str| json!({ "filename": name, "subfolder": "", "type": kind });
        let outputs = fields(json!({
            "1": { "text": ["a text"] },
            "2": { "images": [image("t.png", "temp")], "animated": [false] },
            "3": { "images": [image("a.png", "output"), image("b.png", "output")] },
            "4": { "latents": [{ "filename": "l.latent", "subfolder": "", "type": "output" }] },
        }));
        let end = End {
            status: Status::Success,
            outputs: IndexMap::new(),
            last: ("execution_success", json!({ "timestamp": 7 })),
        };
        let summary = summary(&outputs, &end);
        assert_eq!(summary["outputs_count"], 4);
        assert_eq!(summary["previewable_outputs_count"], 3);
        assert_eq!(
            summary["preview_output"],
            json!({ "filename": "a.png", "subfolder": "", "type": "output", "nodeId": "3",
                    "mediaType": "images" })
        );
    }
}
