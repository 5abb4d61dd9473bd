//! Conditionings put together, and changed in what they say or when.

use distorch_runtime::Tensor;

use crate::context::Context;
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};
use distorch_pipeline::diffusion::conditioning::{Cond, Conditioning};

pub(super) const OUTPUT: &[Output] = &[Output::new(Type::Conditioning)];

pub(super) const CONDITIONING: Input =
    Input::link("conditioning", Type::Conditioning).tooltip("The conditioning.");

/// Two conditionings that count side by side.
pub const COMBINE: Node = Node {
    class: "ConditioningCombine",
    title: "Conditioning (Combine)",
    category: "model/conditioning/transform",
    about: "Lets two conditionings count side by side: the model is asked for both, and the mean \
            of its guesses is taken.",
    inputs: &[
        Input::link("conditioning_1", Type::Conditioning).tooltip("The one."),
        Input::link("conditioning_2", Type::Conditioning).tooltip("The other."),
    ],
    outputs: OUTPUT,
    run: |_, inputs| {
        let (one, other) =
            (inputs.conditioning("conditioning_1")?, inputs.conditioning("conditioning_2")?);
        Ok(output(Conditioning::new([one.conds(), other.conds()].concat())))
    },
    ..Node::EMPTY
};

/// Tokens of one conditioning after those of another.
pub const CONCAT: Node = Node {
    class: "ConditioningConcat",
    title: "Conditioning (Concat)",
    category: "model/conditioning/transform",
    about: "Puts the tokens of one conditioning after those of another, as if they were one long \
            prompt.",
    inputs: &[
        Input::link("conditioning_to", Type::Conditioning)
            .tooltip("What comes first, and keeps its area, mask and sizes."),
        Input::link("conditioning_from", Type::Conditioning).tooltip("What comes after."),
    ],
    outputs: OUTPUT,
    run: |context, inputs| {
        let from = first(context, inputs, "conditioning_from")?;
        let to = inputs.conditioning("conditioning_to")?;
        let mut conds = Vec::new();
        for cond in to.conds() {
            expect_width(cond, &from)?;
            let context = Tensor::cat(vec![cond.context.clone(), from.context.clone()], 1);
            conds.push(Cond { context, ..cond.clone() });
        }
        Ok(output(Conditioning::new(conds)))
    },
    ..Node::EMPTY
};

/// A weighted mean of conditionings.
pub const AVERAGE: Node = Node {
    class: "ConditioningAverage",
    title: "Conditioning (Average)",
    category: "model/conditioning/transform",
    about: "Mixes two conditionings token by token into one.",
    inputs: &[
        Input::link("conditioning_to", Type::Conditioning)
            .tooltip("What is left alone at a strength of 1. It keeps its area, mask and sizes."),
        Input::link("conditioning_from", Type::Conditioning)
            .tooltip("What is taken whole at a strength of 0."),
        Input::float("conditioning_to_strength", 1.0, 0.0, 1.0, 0.01)
            .tooltip("How much conditioning_to counts."),
    ],
    outputs: OUTPUT,
    run: |context, inputs| {
        let from = first(context, inputs, "conditioning_from")?;
        let strength = inputs.float("conditioning_to_strength")?;
        let to = inputs.conditioning("conditioning_to")?;
        let mut conds = Vec::new();
        for cond in to.conds() {
            expect_width(cond, &from)?;
            conds.push(mixed(cond, &from, strength)?);
        }
        Ok(output(Conditioning::new(conds)))
    },
    ..Node::EMPTY
};

/// A part of the way from noise to picture.
pub const SET_TIMESTEP_RANGE: Node = Node {
    class: "ConditioningSetTimestepRange",
    title: "ConditioningSetTimestepRange",
    category: "model/conditioning/transform",
    about: "Lets a conditioning count for a part of the way from noise (0) to picture (1) only.",
    inputs: &[
        CONDITIONING,
        Input::float("start", 0.0, 0.0, 1.0, 0.001).tooltip("Where it begins to count."),
        Input::float("end", 1.0, 0.0, 1.0, 0.001).tooltip("Where it ends to count."),
    ],
    outputs: OUTPUT,
    run: |_, inputs| {
        let (start, end) = (inputs.float("start")?, inputs.float("end")?);
        let conditioning = inputs.conditioning("conditioning")?;
        Ok(output(conditioning.map(|cond| Cond { start, end, ..cond.clone() })))
    },
    ..Node::EMPTY
};

/// A conditioning that says nothing.
pub const ZERO_OUT: Node = Node {
    class: "ConditioningZeroOut",
    title: "Conditioning Zero Out",
    category: "model/conditioning/transform",
    about: "Sets all values of a conditioning to 0, which is not what an empty prompt encodes to.",
    inputs: &[CONDITIONING],
    outputs: OUTPUT,
    run: |_, inputs| {
        let zeroed = |cond: &Cond| Cond {
            context: cond.context.zeros_like(),
            pooled: cond.pooled.as_ref().map(Tensor::zeros_like),
            ..cond.clone()
        };
        Ok(output(inputs.conditioning("conditioning")?.map(zeroed)))
    },
    ..Node::EMPTY
};

pub(super) fn output(conditioning: Conditioning) -> Vec<Value> {
    vec![Value::Conditioning(conditioning)]
}

/// The first of the conditionings of an input, with a warning where there are more.
fn first(context: &Context<'_>, inputs: &Inputs, name: &str) -> Result<Cond, NodeError> {
    let conditioning = inputs.conditioning(name)?;
    let (first, rest) = conditioning
        .conds()
        .split_first()
        .ok_or_else(|| NodeError::input(name, "there is nothing in it"))?;
    if !rest.is_empty() {
        let count = rest.len() + 1;
        context.warn(&format!("{name} has {count} conditionings, of which only the first counts"));
    }
    Ok(first.clone())
}

fn expect_width(to: &Cond, from: &Cond) -> Result<(), NodeError> {
    let ([_, _, to], [_, _, from]) = (to.context.dims(), from.context.dims());
    if to == from {
        return Ok(());
    }
    let problem = format!(
        "tokens have {from} values, those of conditioning_to {to}: both must come from text \
         encoders of one family"
    );
    Err(NodeError::input("conditioning_from", problem))
}

/// `to·strength + from·(1 - strength)`, with as many tokens as `to`; where `from` has fewer, zeros
/// stand for the rest.
fn mixed(to: &Cond, from: &Cond, strength: f64) -> Result<Cond, NodeError> {
    let [_, tokens, _] = to.context.dims();
    let [_, own, _] = from.context.dims();
    let from_context = from.context.clone().narrow(1, 0, own.min(tokens));
    // Left, right, top, bottom.
    let from_context = from_context.pad((0, 0, 0, tokens.saturating_sub(own)), 0.0);
    let context = to.context.clone() * strength + from_context * (1.0 - strength);
    let pooled = match (&to.pooled, &from.pooled) {
        (Some(to), Some(from)) if to.dims() != from.dims() => {
            let problem = "its pooled output has another width than that of conditioning_to";
            return Err(NodeError::input("conditioning_from", problem));
        }
        (Some(to), Some(from)) => Some(to.clone() * strength + from.clone() * (1.0 - strength)),
        // Mixing what only one has with itself gives the same.
        (to, from) => to.clone().or_else(|| from.clone()),
    };
    Ok(Cond { context, pooled, ..to.clone() })
}
