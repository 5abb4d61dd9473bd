//! Widget values, which the editor keeps in a list, by the names of the class's inputs.

use indexmap::IndexMap;
use serde_json::Value as Json;

use super::file::EditorNode;
use crate::graph::InputValue;
use crate::signature::{Input, Kind, Node};

/// What a widget that changes a seed after each run may say. It is saved behind the seed.
const CONTROLS: [&str; 5] = ["fixed", "increment", "decrement", "randomize", "increment-wrap"];

/// What early editors wrote before the names of samplers.
const OLD_SAMPLER: &str = "sample_";

/// Values by the names of widgets.
pub(super) type Named = IndexMap<String, Json>;

/// The values of a node's widgets, by name. Widgets that are newer than the file have their defaults;
/// `given` are values from a graph around, which count more than the node's own.
pub(super) fn widgets(
    class: &Node,
    node: &EditorNode,
    given: Option<&Named>,
) -> IndexMap<String, InputValue> {
    let inputs: Vec<&Input> = class.inputs.iter().filter(|input| is_widget(input)).collect();
    let mut found = IndexMap::new();
    let mut place = 0;
    for (number, input) in inputs.iter().enumerate() {
        if !is_there(input, &found) {
            continue;
        }
        let own = match &node.widgets_values {
            Json::Object(named) => named.get(input.name),
            _ => node.value(place),
        };
        place += 1;
        if has_control(input)
            && let Some(value) = node.value(place)
            && (is_control(value) || is_old_control(value, inputs.get(number + 1).copied()))
        {
            place += 1;
        }
        let value = given.and_then(|given| given.get(input.name)).or(own).cloned();
        // A text or choice that says nothing is as new.
        let is_text = matches!(input.kind, Kind::String { .. } | Kind::Choice { .. });
        let value = value.filter(|value| !is_text || !value.is_null());
        let value = value.or_else(|| input.default_value());
        if let Some(value) = value.filter(|value| !value.is_null()) {
            found.insert(input.name.to_owned(), InputValue::Literal(value));
        }
    }
    found
}

/// Puts right what early editors wrote in another way.
pub(super) fn renew(inputs: &mut IndexMap<String, InputValue>) {
    if let Some(InputValue::Literal(Json::String(sampler))) = inputs.get_mut("sampler_name")
        && let Some(name) = sampler.strip_prefix(OLD_SAMPLER)
    {
        *sampler = name.to_owned();
    }
}

/// Whether the choice that an input belongs to has one of its values.
fn is_there(input: &Input, found: &IndexMap<String, InputValue>) -> bool {
    let Some((choice, values)) = input.when else { return true };
    match found.get(choice) {
        Some(InputValue::Literal(Json::String(value))) => values.contains(&value.as_str()),
        _ => true,
    }
}

fn is_widget(input: &Input) -> bool {
    !matches!(input.kind, Kind::Link(_))
}

/// Whether a widget that changes the value after each run stands behind.
pub(super) fn has_control(input: &Input) -> bool {
    matches!(input.kind, Kind::Int { control_after_generate: true, .. })
}

/// Whether a value is that of a widget that changes another after each run.
pub(super) fn is_control(value: &Json) -> bool {
    value.as_str().is_some_and(|text| CONTROLS.contains(&text))
}

/// Until 2023 such a widget was a switch: true for `randomize`, false for `fixed`.
fn is_old_control(value: &Json, next: Option<&Input>) -> bool {
    let is_value = next.is_some_and(|next| matches!(next.kind, Kind::Boolean { .. }));
    value.is_boolean() && !is_value
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::graph::Prompt;
    use crate::nodes;

    fn inputs(class: &str, values: Json) -> IndexMap<String, InputValue> {
        let file = json!({"nodes": [{"id": 1, "type": class, "widgets_values": values}]});
        Prompt::from_json(&file.to_string(), &nodes::all()).unwrap().nodes["1"].inputs.clone()
    }

    #[test]
    fn the_value_behind_a_seed_is_its_control() {
        let rest = [json!(2), json!(5.0), json!("euler"), json!("normal"), json!(0.5)];
        for control in [json!("fixed"), json!("randomize"), json!(true), json!(false)] {
            let values: Vec<Json> = [json!(7), control].into_iter().chain(rest.clone()).collect();
            let sampler = inputs("KSampler", Json::from(values));
            assert_eq!(sampler["seed"], InputValue::Literal(json!(7)));
            assert_eq!(sampler["steps"], InputValue::Literal(json!(2)));
            assert_eq!(sampler["denoise"], InputValue::Literal(json!(0.5)));
        }
        // None at all, in files that programs write.
        let values: Vec<Json> = [json!(7)].into_iter().chain(rest).collect();
        assert_eq!(inputs("KSampler", Json::from(values))["steps"], InputValue::Literal(json!(2)));
        let advanced = json!(["enable", 3, true, 20, 8.0, "euler", "normal", 0, 10000, "disable"]);
        let advanced = inputs("KSamplerAdvanced", advanced);
        assert_eq!(advanced["noise_seed"], InputValue::Literal(json!(3)));
        assert_eq!(advanced["steps"], InputValue::Literal(json!(20)));
        assert_eq!(advanced["return_with_leftover_noise"], InputValue::Literal(json!("disable")));
    }

    #[test]
    fn early_names_of_samplers() {
        let values = json!([7, true, 2, 5.0, "sample_dpmpp_2m", "normal", 1.0]);
        let sampler = inputs("KSampler", values);
        assert_eq!(sampler["sampler_name"], InputValue::Literal(json!("dpmpp_2m")));
    }

    #[test]
    fn a_class_with_a_blank_behind() {
        for file in [
            json!({"nodes": [{"id": 1, "type": "ConditioningAverage ", "widgets_values": [0.5]}]}),
            json!({"1": {"class_type": "ConditioningAverage ",
                         "inputs": {"conditioning_to_strength": 0.5}}}),
        ] {
            let prompt = Prompt::from_json(&file.to_string(), &nodes::all()).unwrap();
            assert_eq!(prompt.nodes["1"].class, "ConditioningAverage");
            let strength = &prompt.nodes["1"].inputs["conditioning_to_strength"];
            assert_eq!(*strength, InputValue::Literal(json!(0.5)));
        }
    }
}
