//! A block with weights for the picture's tokens and for the text's, which attend to each other.

use distorch_runtime::kernels::{Activation, Projected, Rotation, join_rotated_heads};
use distorch_runtime::{Scope, Tensor};

use crate::ModelError;
use crate::attention::{Mask, attention};
use crate::flux::blocks::{EPSILON, Step};
use crate::layers::{Linear, RmsNorm};

/// Both streams of a block.
pub(super) struct Block {
    picture: Stream,
    text: Stream,
    heads: usize,
}

/// What modulates the blocks, activated as each of them reads it.
pub(super) struct Times {
    /// `[batch, width]`, or `[2 × batch, width]` with that of references, which have no noise, behind.
    pub vectors: Tensor<2>,
    /// Tokens of the noisy latent; the others of the picture are references.
    pub noisy: usize,
}

impl Block {
    pub fn load(scope: &Scope, heads: usize) -> Result<Self, ModelError> {
        Ok(Self {
            picture: Stream::load(scope, &PICTURE, heads)?,
            text: Stream::load(scope, &TEXT, heads)?,
            heads,
        })
    }

    /// Text and picture, `[batch, tokens, width]` each; `rotation` is that of the text's tokens and the picture's behind
    /// them.
    pub fn forward(
        &self,
        [text, picture]: [Tensor<3>; 2],
        times: &Times,
        rotation: &Rotation,
    ) -> Result<[Tensor<3>; 2], ModelError> {
        let (batch, words, patches) = (text.dims()[0], text.dims()[1], picture.dims()[1]);
        let noisy = times.noisy.min(patches);
        let of_picture = self.picture.steps(&times.vectors, batch, [noisy, patches - noisy])?;
        let vector = times.vectors.clone().narrow(0, 0, batch);
        let of_text = self.text.steps(&vector, batch, [words, 0])?;

        let from_picture = self.picture.project(of_picture.enter(0, picture.clone()))?;
        let from_text = self.text.project(of_text.enter(0, text.clone()))?;
        let both = vec![from_text, from_picture];
        let [query, key, value] = join_rotated_heads(both, self.heads, EPSILON, rotation);
        let precision = self.picture.out.precision();
        let seen = attention(query, key, value, self.heads, Mask::None, precision);

        let step = self.picture.out.tokens(seen.clone().narrow(1, words, patches))?;
        let picture = of_picture.leave(0, picture, step);
        let step = self.picture.feed_forward(of_picture.enter(1, picture.clone()))?;
        let picture = of_picture.leave(1, picture, step);

        let step = self.text.out.tokens(seen.narrow(1, 0, words))?;
        let text = of_text.leave(0, text, step);
        let step = self.text.feed_forward(of_text.enter(1, text.clone()))?;
        let text = of_text.leave(1, text, step);
        Ok([text, picture])
    }
}

/// The names of a stream's layers.
struct Names {
    modulation: &'static str,
    qkv: [&'static str; 3],
    norms: [&'static str; 2],
    out: &'static str,
    feed_forward: &'static str,
}

const PICTURE: Names = Names {
    modulation: "img_mod.1",
    qkv: ["to_q", "to_k", "to_v"],
    norms: ["norm_q", "norm_k"],
    out: "to_out.0",
    feed_forward: "img_mlp.net",
};

const TEXT: Names = Names {
    modulation: "txt_mod.1",
    qkv: ["add_q_proj", "add_k_proj", "add_v_proj"],
    norms: ["norm_added_q", "norm_added_k"],
    out: "to_add_out",
    feed_forward: "txt_mlp.net",
};

/// The weights of one stream.
struct Stream {
    modulation: Linear,
    qkv: [Linear; 3],
    norms: [RmsNorm; 2],
    out: Linear,
    first: Linear,
    second: Linear,
    heads: usize,
}

impl Stream {
    fn load(scope: &Scope, names: &Names, heads: usize) -> Result<Self, ModelError> {
        let attention = scope.at("attn");
        let feed_forward = scope.at(names.feed_forward);
        let linear = |name: &str| Linear::load(&attention, name);
        let norm = |name: &str| RmsNorm::load(&attention, name, EPSILON);
        let [q, k, v] = names.qkv;
        let [of_query, of_key] = names.norms;
        Ok(Self {
            modulation: Linear::load(scope, names.modulation)?,
            qkv: [linear(q)?, linear(k)?, linear(v)?],
            norms: [norm(of_query)?, norm(of_key)?],
            out: linear(names.out)?,
            first: Linear::load(&feed_forward, "0.proj")?,
            second: Linear::load(&feed_forward, "2")?,
            heads,
        })
    }

    /// How the stream's tokens, so many at each of two times, are modulated; all by the first where there is one only.
    fn steps(
        &self,
        vectors: &Tensor<2>,
        batch: usize,
        tokens: [usize; 2],
    ) -> Result<Steps, ModelError> {
        let [rows, width] = vectors.dims();
        let all = self.modulation.forward_to(vectors.clone(), 6 * width)?;
        let of = |all: Tensor<2>| {
            let part = |at: usize| all.clone().narrow(1, at * width, width);
            let step = |at: usize| Step::new(part(at), part(at + 1), part(at + 2));
            [step(0), step(3)]
        };
        let [first, second] = tokens;
        Ok(Steps(match second > 0 && rows == 2 * batch {
            true => {
                let at = |start: usize| of(all.clone().narrow(0, start, batch));
                vec![(first, at(0)), (second, at(batch))]
            }
            false => vec![(first + second, of(all))],
        }))
    }

    fn project(&self, x: Tensor<3>) -> Result<Projected, ModelError> {
        let width = x.dims()[2];
        let [q, k, v] = &self.qkv;
        let qkv = vec![
            q.tokens_to(x.clone(), width)?,
            k.tokens_to(x.clone(), width)?,
            v.tokens_to(x, width)?,
        ];
        let head = width / self.heads.max(1);
        let [query, key] = &self.norms;
        let norms = Some([query.weight(head)?, key.weight(head)?]);
        Ok(Projected { qkv: Tensor::cat(qkv, 2), norms })
    }

    fn feed_forward(&self, x: Tensor<3>) -> Result<Tensor<3>, ModelError> {
        let width = x.dims()[2];
        self.second.tokens_to(self.first.tokens_activated(x, Activation::GeluTanh)?, width)
    }
}

/// The modulations of runs of tokens, one after the other: of the attention and of the feed-forward layer.
struct Steps(Vec<(usize, [Step; 2])>);

impl Steps {
    /// The normalised tokens, scaled and shifted.
    fn enter(&self, layer: usize, x: Tensor<3>) -> Tensor<3> {
        self.each(layer, |step, start, count| step.enter(x.clone().narrow(1, start, count)))
    }

    /// The tokens with what a layer made of them.
    fn leave(&self, layer: usize, x: Tensor<3>, made: Tensor<3>) -> Tensor<3> {
        self.each(layer, |step, start, count| {
            step.leave(x.clone().narrow(1, start, count), made.clone().narrow(1, start, count))
        })
    }

    fn each(&self, layer: usize, of: impl Fn(&Step, usize, usize) -> Tensor<3>) -> Tensor<3> {
        let mut start = 0;
        let mut parts = Vec::with_capacity(self.0.len());
        for (count, [attention, feed_forward]) in &self.0 {
            let step = if layer == 0 { attention } else { feed_forward };
            parts.push(of(step, start, *count));
            start += count;
        }
        if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, 1) }
    }
}
