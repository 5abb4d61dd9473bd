//! The multimodal diffusion transformer.

use distorch_checkpoint::config::MmditConfig;
use distorch_runtime::kernels::silu;
use distorch_runtime::{Scope, Tensor, kernels};

use super::MODEL;
use super::block::{EPSILON, JointBlock, Modulation};
use super::patches::Patches;
use crate::ModelError;
use crate::layers::Linear;
use crate::network::{Network, NetworkInput};
use crate::timestep::{Mlp, timestep_embedding};

/// Width of the sinusoidal embedding of the timestep.
const TIME_FREQUENCIES: usize = 256;

/// The MMDiT of SD3 and SD3.5: predicts the velocity of a rectified flow.
///
/// Picture and text have streams with weights of their own, which meet in the attention of every joint block.
pub struct Mmdit {
    config: MmditConfig,
    patches: Patches,
    time: Mlp,
    pooled: Mlp,
    context: Linear,
    blocks: Vec<JointBlock>,
    last_modulation: Linear,
    last: Linear,
}

impl Mmdit {
    /// Finds the layers that the configuration asks for.
    ///
    /// # Errors
    /// When a layer is missing or the configuration contradicts itself.
    pub fn load(scope: &Scope, config: &MmditConfig) -> Result<Self, ModelError> {
        check(config)?;
        let blocks = scope.at("joint_blocks");
        let block = |at| JointBlock::load(&blocks.at(at), config, at);
        let last = scope.at("final_layer");
        Ok(Self {
            patches: Patches::load(scope, config)?,
            time: Mlp::load(&scope.at("t_embedder.mlp"))?,
            pooled: Mlp::load(&scope.at("y_embedder.mlp"))?,
            context: Linear::load(scope, "context_embedder")?,
            blocks: (0..config.depth).map(block).collect::<Result<_, _>>()?,
            last_modulation: Linear::load(&last, "adaLN_modulation.1")?,
            last: Linear::load(&last, "linear")?,
            config: config.clone(),
        })
    }

    /// The configuration.
    pub fn config(&self) -> &MmditConfig {
        &self.config
    }

    fn check_inputs(&self, input: &NetworkInput) -> Result<(), ModelError> {
        let MmditConfig { in_channels, context_dim, adm_in_channels, .. } = self.config;
        input.expect_latent(MODEL, in_channels)?;
        input.expect_timesteps(MODEL)?;
        input.expect_context(MODEL, context_dim)?;
        let batch = input.x.dims()[0];
        let vector = input.vector.as_ref().map(Tensor::dims);
        ModelError::expect(MODEL, "pooled text", &Some([batch, adm_in_channels]), &vector)
    }
}

impl Network for Mmdit {
    /// One evaluation. `vector` is the pooled text; guidance and reference latents are not read. A latent whose sides
    /// the patches do not divide is continued with its own beginning, and the result cut to its size.
    ///
    /// Block numbers beyond the last are passed over, as are those of single blocks.
    fn forward(&self, input: NetworkInput) -> Result<Tensor<4>, ModelError> {
        self.check_inputs(&input)?;
        let NetworkInput { x, timesteps, context, vector, skip, .. } = input;
        let dtype = x.dtype();
        let [_, _, height, width] = x.dims();
        let mut picture = self.patches.embed(x)?;
        let time = timestep_embedding(timesteps, TIME_FREQUENCIES).cast(dtype);
        let mut vectors = self.time.forward(time)?;
        if let Some(pooled) = vector {
            vectors = vectors + self.pooled.forward(pooled.cast(dtype))?;
        }
        // Every modulation begins with this activation.
        let vectors = silu(vectors);
        let mut text = self.context.tokens_to(context.cast(dtype), self.config.width)?;
        for (at, block) in self.blocks.iter().enumerate() {
            if !skip.double.contains(&at) {
                (text, picture) = block.forward(text, picture, &vectors)?;
            }
        }
        let modulation = Modulation::new(&self.last_modulation, vectors, self.config.width, 2)?;
        let picture =
            kernels::modulated_norm(picture, modulation.part(0), modulation.part(1), EPSILON);
        let features = self.patches.features(self.config.out_channels);
        let picture = self.last.tokens_to(picture, features)?;
        Ok(self.patches.picture(picture, height, width))
    }
}

fn check(config: &MmditConfig) -> Result<(), ModelError> {
    let MmditConfig { depth, width, heads, patch_size, pos_embed_max_size, .. } = *config;
    let reason = if depth == 0 {
        "it has no joint blocks".to_owned()
    } else if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
        format!("{heads} heads do not divide a width of {width}")
    } else if patch_size == 0 || pos_embed_max_size == 0 {
        format!("patches of {patch_size} pixels and {pos_embed_max_size} positions")
    } else if let Some(at) = config.dual_attention_layers.iter().find(|at| **at >= depth) {
        format!("a second attention in block {at} of {depth}")
    } else {
        return Ok(());
    };
    Err(ModelError::Config { model: MODEL, reason })
}
