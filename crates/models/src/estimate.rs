//! What a forward pass needs besides weights, before anything is loaded.
//!
//! The UNet and the VAE are walked through block by block: what is alive at once in a residual block, a
//! transformer or a change of resolution, with the skip connections that wait meanwhile, and what
//! the CPU's kernels work in. Held against what is measured (docs/measurements.md), the estimate is the
//! larger, by less than half. What an accelerator's kernels work in is not known; there a fixed sum
//! stands for it. The planner adds the estimate to the weights on the compute device;
//! [`activation_bytes`](crate::family::activation_bytes) makes it for a component.

use distorch_checkpoint::config::{
    ChromaConfig, ClipConfig, DecoderConfig, Flux2Config, FluxConfig, Krea2Config, MmditConfig,
    NextDitConfig, QwenImage21Config, QwenImageConfig, T5Config, TextEncoderConfig, TinyVaeConfig,
    UnetConfig, UpscalerConfig, VaeArchitecture, VaeConfig, VisionConfig,
};

/// What one forward pass computes: for text encoders, the pictures in a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Pictures at once; those in a prompt, as many of the largest one as there are pixels in all.
    pub batch: u32,
    /// Rows of the batch for each picture: 2 where the positive and the negative prediction are computed at once, 1
    /// where there is no room for both.
    pub cfg_batch: u32,
}

impl Workload {
    /// A prompt without pictures.
    pub const WORDS: Workload = Workload { width: 0, height: 0, batch: 0, cfg_batch: 1 };

    /// A prompt with a picture of a megapixel, which stands for prompts that are not known.
    pub const WORDS_AND_PICTURE: Workload =
        Workload { width: 1024, height: 1024, batch: 1, cfg_batch: 1 };

    /// A prompt with pictures of these heights and widths.
    pub fn of_prompt(pictures: impl IntoIterator<Item = [usize; 2]>) -> Workload {
        let pixels = |[height, width]: [usize; 2]| height.saturating_mul(width);
        let (mut largest, mut all) = ([0, 0], 0_usize);
        for size in pictures {
            all = all.saturating_add(pixels(size));
            if pixels(size) > pixels(largest) {
                largest = size;
            }
        }
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let [height, width] = largest.map(number);
        let batch = number(all.div_ceil(pixels(largest).max(1)));
        Workload { width, height, batch, ..Self::WORDS }
    }

    /// The same workload, one half of the guidance after the other.
    pub fn sequential_cfg(self) -> Workload {
        Workload { cfg_batch: 1, ..self }
    }

    /// Latents that go through a diffusion network at once.
    pub fn rows(self) -> u64 {
        u64::from(self.batch).saturating_mul(u64::from(self.cfg_batch))
    }

    /// Positions of a grid with cells of `cell` pixels, rounded up along each side.
    fn positions(self, cell: u64) -> u64 {
        u64::from(self.width).div_ceil(cell) * u64::from(self.height).div_ceil(cell)
    }
}

/// How a component computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compute {
    /// Bytes of an element of the compute dtype.
    pub element: u64,
    /// Whether the CPU's kernels compute: on `cpu`, and on simulated devices.
    pub host: bool,
}

/// Text chunks that are encoded together: the prompt and the empty one that weights are
/// interpolated against.
const TEXT_CHUNKS: u64 = 2;

/// What is needed at once at most.
#[derive(Clone, Copy, Default)]
pub struct Need {
    /// Of the compute dtype.
    pub elements: u64,
    /// Bytes that the CPU's kernels work in.
    pub workspace: u64,
}

/// A walk through a model's blocks.
#[derive(Default)]
struct Walk {
    most: Need,
    /// Elements that wait for later blocks.
    waiting: u64,
}

impl Walk {
    /// So many values at each of `positions` are alive at once.
    fn meet(&mut self, channels: usize, positions: u64) {
        let elements = (channels as u64).saturating_mul(positions);
        self.most.elements = self.most.elements.max(self.waiting.saturating_add(elements));
    }

    /// A 3×3 convolution.
    fn conv(&mut self, inputs: usize, outputs: usize, positions: u64) {
        let workspace = winograd_bytes(inputs as u64, outputs as u64, positions);
        self.most.workspace = self.most.workspace.max(workspace);
    }

    /// A residual block: its input, which is added at the end, beside normalised and convolved
    /// values.
    fn residual(&mut self, inputs: usize, outputs: usize, positions: u64) {
        self.meet((2 * inputs + outputs).max(inputs + 2 * outputs).max(3 * outputs), positions);
        self.conv(inputs, outputs, positions);
        self.conv(outputs, outputs, positions);
    }

    /// A transformer block's feed-forward layer: the pixels and the tokens that are added at its end, its
    /// normalised input, the 8-fold gated projection and the 4-fold product.
    fn transformer(&mut self, channels: usize, positions: u64) {
        self.meet(14 * channels, positions);
    }

    /// Twice the resolution: to `positions`.
    fn upsample(&mut self, channels: usize, positions: u64) {
        self.meet(2 * channels, positions);
        self.meet(channels, positions / 4);
        self.conv(channels, channels, positions);
    }
}

/// What a 3×3 convolution of the CPU's kernels works in (see its source): transformed tiles of 4×4
/// pixels in and out, up to 24 MiB of them going in, and transformed filters, up to 12 MiB for
/// each thread.
fn winograd_bytes(inputs: u64, outputs: u64, positions: u64) -> u64 {
    const VALUE: u64 = 36 * 4;
    const INPUT: u64 = 24 << 20;
    const FILTERS: u64 = 12 << 20;
    const THREADS: u64 = 4;
    // Fewer pixels, or few channels, are convolved without these transforms.
    if positions < 24 * 24 || inputs.min(outputs) < 32 {
        return 0;
    }
    let tile = VALUE.saturating_mul(inputs).max(1);
    let tiles = (positions / 16 + 16).min((INPUT / tile).max(128));
    let filters = tile.saturating_mul(outputs).min(THREADS * FILTERS);
    let together = (filters / tile).max(16).min(outputs);
    tiles * tile + filters + tiles * VALUE * together
}

/// Both ways of the UNet; on the way up each block takes in what waited.
pub(crate) fn unet(config: &UnetConfig, workload: Workload) -> Need {
    let rows = workload.rows();
    let mut walk = Walk::default();
    let level = |level: usize| {
        let mult = config.channel_mult.get(level).copied().unwrap_or(1);
        let positions = rows * workload.positions(8_u64 << level.min(32));
        (config.model_channels * mult, positions)
    };
    let mut skips = Vec::new();
    let mut wait = |walk: &mut Walk, (channels, positions): (usize, u64)| {
        walk.waiting += channels as u64 * positions;
        skips.push((channels, positions));
    };
    let mut channels = config.model_channels;
    wait(&mut walk, (channels, level(0).1));
    let mut depths = config.transformer_depth.iter();
    for (place, &count) in config.num_res_blocks.iter().enumerate() {
        let (outputs, positions) = level(place);
        for _ in 0..count {
            walk.residual(channels, outputs, positions);
            channels = outputs;
            if depths.next().is_some_and(|&depth| depth > 0) {
                walk.transformer(channels, positions);
            }
            wait(&mut walk, (channels, positions));
        }
        if place + 1 < config.num_res_blocks.len() {
            wait(&mut walk, (channels, level(place + 1).1));
        }
    }
    let last = level(config.num_res_blocks.len().saturating_sub(1));
    walk.residual(channels, channels, last.1);
    if config.transformer_depth_middle.is_some() {
        walk.transformer(channels, last.1);
    }
    let mut depths = config.transformer_depth_output.iter();
    for (place, &count) in config.num_res_blocks.iter().enumerate().rev() {
        let (outputs, positions) = level(place);
        for _ in 0..=count {
            let (skip, at) = skips.pop().unwrap_or((0, 0));
            walk.waiting = walk.waiting.saturating_sub(skip as u64 * at);
            // Both and what they are joined to.
            walk.meet(2 * (channels + skip), positions);
            walk.residual(channels + skip, outputs, positions);
            channels = outputs;
            if depths.next().is_some_and(|&depth| depth > 0) {
                walk.transformer(channels, positions);
            }
        }
        if place > 0 {
            walk.upsample(channels, level(place - 1).1);
        }
    }
    walk.most
}

/// Both streams of a joint block as their heads are joined: what comes in, its projections to queries, keys and values, and
/// these of both streams; in a block with a second attention, the picture's normalised tokens wait besides. The feed-forward
/// layers, which the CPU activates in place, take less. Elsewhere attention computes with copies in f32.
pub(crate) fn mmdit(config: &MmditConfig, workload: Workload, compute: Compute) -> Need {
    const TEXT_TOKENS: u64 = 77 + 77 + 256;
    let tokens = workload.positions(8 * config.patch_size.max(1) as u64) + TEXT_TOKENS;
    let features = config.width as u64 * if compute.host { 8 } else { 14 };
    let elements = workload.rows().saturating_mul(tokens).saturating_mul(features);
    Need { elements, workspace: 0 }
}

/// A single-stream block: its input, the fused projection of queries, keys, values and feed-forward, the heads and what
/// they attended to. The CPU's kernels activate and join where the projection is; elsewhere the activated features and the
/// joined ones are there besides.
pub(crate) fn flux(config: &FluxConfig, workload: Workload, compute: Compute) -> Need {
    flux_block(config.width, config.mlp_width, workload, compute)
}

fn flux_block(width: usize, mlp_width: usize, workload: Workload, compute: Compute) -> Need {
    const TEXT_TOKENS: u64 = 512;
    /// Packed keys and values, and packed matrices.
    const PACKED: u64 = 12 << 20;
    let tokens = workload.positions(16) + TEXT_TOKENS;
    let features = 8 * width + if compute.host { 1 } else { 3 } * mlp_width;
    let elements = workload.rows().saturating_mul(tokens).saturating_mul(features as u64);
    Need { elements, workspace: PACKED }
}

/// As Flux's, whose blocks it has.
pub(crate) fn chroma(config: &ChromaConfig, workload: Workload, compute: Compute) -> Need {
    flux_block(config.width, config.mlp_width, workload, compute)
}

/// A single-stream block as its feed-forward features are gated: its input, the fused projection, what was attended to, and
/// the gated features beside their factors.
pub(crate) fn flux2(config: &Flux2Config, workload: Workload, compute: Compute) -> Need {
    const TEXT_TOKENS: u64 = 512;
    let tokens = workload.positions(16) + TEXT_TOKENS;
    let attention = if compute.host { 8 } else { 14 } * config.width + 2 * config.mlp_width;
    let features = attention.max(6 * config.width + 5 * config.mlp_width) as u64;
    let elements = workload.rows().saturating_mul(tokens).saturating_mul(features);
    Need { elements, workspace: 0 }
}

/// A block for all tokens, as its feed-forward layer computes: its input, the normalised one, and three times the
/// features within. Elsewhere than on the CPU attention computes with copies in f32.
pub(crate) fn next_dit(config: &NextDitConfig, workload: Workload, compute: Compute) -> Need {
    const TEXT_TOKENS: u64 = 512;
    let tokens = workload.positions(8 * config.patch_size.max(1) as u64) + TEXT_TOKENS;
    let attention = if compute.host { 9 } else { 14 } * config.width;
    let features = attention.max(3 * config.width + 3 * config.mlp_width) as u64;
    let elements = workload.rows().saturating_mul(tokens).saturating_mul(features);
    Need { elements, workspace: 0 }
}

/// A block for all tokens, as its feed-forward layer computes or as its heads are joined; or one that reads all layers of
/// all of the text's tokens. Elsewhere than on the CPU attention computes with copies in f32.
pub(crate) fn krea2(config: &Krea2Config, workload: Workload, compute: Compute) -> Need {
    const TEXT_TOKENS: u64 = 512;
    let block = |width: usize, mlp_width: usize| {
        let attention = if compute.host { 9 } else { 14 } * width;
        attention.max(3 * width + 3 * mlp_width) as u64
    };
    let tokens = workload.positions(8 * config.patch_size.max(1) as u64) + TEXT_TOKENS;
    let picture = tokens.saturating_mul(block(config.width, config.mlp_width));
    let states = TEXT_TOKENS * config.text_layers as u64;
    let text = states.saturating_mul(block(config.text_width, config.text_mlp_width));
    Need { elements: workload.rows().saturating_mul(picture.max(text)), workspace: 0 }
}

/// A block as the picture's queries, keys and values are put side by side: its input, the normalised one, and these twice.
/// Elsewhere than on the CPU attention computes with copies in f32.
pub(crate) fn qwen_image(config: &QwenImageConfig, workload: Workload, compute: Compute) -> Need {
    const TEXT_TOKENS: u64 = 512;
    let tokens = workload.positions(16) + TEXT_TOKENS;
    let attention = if compute.host { 9 } else { 14 } * config.width;
    let features = attention.max(3 * config.width + config.mlp_width) as u64;
    let elements = workload.rows().saturating_mul(tokens).saturating_mul(features);
    Need { elements, workspace: 0 }
}

/// A block for all tokens, as its feed-forward features are gated or as queries, keys and values are put side by side.
/// Elsewhere than on the CPU attention computes with copies in f32.
pub(crate) fn qwen_image21(
    config: &QwenImage21Config,
    workload: Workload,
    compute: Compute,
) -> Need {
    const TEXT_TOKENS: u64 = 512;
    let tokens = workload.positions(16) + TEXT_TOKENS;
    let attention = if compute.host { 9 } else { 14 } * config.width;
    let features = attention.max(2 * config.width + 4 * config.mlp_width) as u64;
    let elements = workload.rows().saturating_mul(tokens).saturating_mul(features);
    Need { elements, workspace: 0 }
}

/// The decoder: from the lowest resolution to the picture. The encoder needs less.
pub(crate) fn vae(config: &VaeConfig, workload: Workload) -> Need {
    let mut walk = Walk::default();
    let level = |level: usize| {
        let mult = config.channel_mult.get(level).copied().unwrap_or(1);
        (config.decoder_channels() * mult, workload.positions(1 << level.min(32)))
    };
    let last = config.channel_mult.len().saturating_sub(1);
    let (mut channels, positions) = level(last);
    walk.residual(channels, channels, positions);
    // Attention of all pixels: input, normalised input, queries, keys, values and result.
    walk.meet(6 * channels, positions);
    for place in (0..=last).rev() {
        let (outputs, positions) = level(place);
        // What goes around the level waits for its end.
        let around = match config.architecture {
            VaeArchitecture::CausalResidual if place > 0 => channels as u64 * positions,
            _ => 0,
        };
        walk.waiting = around;
        walk.residual(channels, outputs, positions);
        walk.residual(outputs, outputs, positions);
        channels = outputs;
        if place > 0 {
            walk.upsample(channels, level(place - 1).1);
            if config.architecture == VaeArchitecture::CausalResidual {
                // The shortcut as it is spread over the pixels, beside what it is added to.
                walk.meet(3 * channels, level(place - 1).1);
            }
            if config.architecture == VaeArchitecture::Causal {
                channels = outputs / 2;
            }
        }
    }
    walk.most
}

/// A half of a tiny autoencoder, whose blocks have as many channels at the picture's size.
pub(crate) fn tiny_vae(config: &TinyVaeConfig, workload: Workload) -> Need {
    let mut walk = Walk::default();
    let positions = workload.positions(1);
    walk.meet(4 * config.channels, positions);
    walk.conv(config.channels, config.channels, positions);
    walk.most
}

/// A picture, or a tile of one, before it is enlarged.
pub(crate) fn upscaler(config: &UpscalerConfig, workload: Workload) -> Need {
    let mut walk = Walk::default();
    let small = workload.positions(1);
    let grown = |scale: usize| small.saturating_mul((scale * scale) as u64);
    match config {
        UpscalerConfig::Rrdb(config) => {
            let (features, growth) = (config.features, config.growth);
            let side = config.unshuffled.max(1) as u64;
            let small = workload.positions(side);
            // The first convolution's result and the block's input wait; a dense block's parts are there twice, apart and
            // joined.
            walk.meet(3 * features + 2 * (features + 4 * growth), small);
            walk.conv(features + 4 * growth, features, small);
            for doubling in 1..=config.doublings.min(8) {
                let positions = small.saturating_mul(1 << (2 * doubling));
                walk.meet(3 * features, positions);
                walk.conv(features, features, positions);
            }
            let large = small.saturating_mul(1 << (2 * config.doublings.min(8)));
            walk.meet(3 * features + config.out_channels, large);
        }
        UpscalerConfig::Compact(config) => {
            walk.meet(3 * config.features + config.in_channels, small);
            walk.conv(config.features, config.features, small);
            walk.meet(4 * config.out_channels, grown(config.scale));
        }
        UpscalerConfig::Span(config) => {
            // Five waiting parts and their joint, and three in a row that are twice as wide.
            walk.meet(14 * config.features, small);
            walk.conv(2 * config.features, 2 * config.features, small);
            walk.meet(3 * config.out_channels, grown(config.scale));
        }
    }
    walk.most
}

/// Tokens of each picture in a prompt: a square of two patches a side is one. The encoders bring pictures to these pixels
/// at least and at most.
fn picture_tokens(config: &VisionConfig, prompt: Workload) -> u64 {
    const LEAST: u64 = 56 * 56;
    const MOST: u64 = 12_845_056;
    if prompt.batch == 0 {
        return 0;
    }
    let side = 2 * config.patch_size.max(1) as u64;
    let area = side.saturating_mul(side);
    prompt.positions(side).clamp(LEAST.div_ceil(area), MOST.div_ceil(area))
}

/// Elements that an encoder of pictures has at once at most, for tokens of one picture, of which four patches are one: what
/// comes in and, in a layer, the normalised input with queries, keys, values and what these see, or the features within.
fn vision(config: &VisionConfig, tokens: u64) -> u64 {
    let features = 2 * 3 * config.patch_size * config.patch_size;
    let layer = config.width + (8 * config.width).max(2 * config.width + 3 * config.intermediate);
    let patch = layer.max(2 * features + config.width) as u64;
    tokens.saturating_mul(4).saturating_mul(patch)
}

/// Elements that a text encoder has at once at most, for a prompt with these pictures.
pub(crate) fn text(config: &TextEncoderConfig, prompt: Workload) -> u64 {
    match config {
        TextEncoderConfig::Clip(ClipConfig {
            max_positions, width, intermediate, heads, ..
        }) => {
            let scores = heads * max_positions;
            TEXT_CHUNKS * (max_positions * (6 * width + 2 * intermediate + scores)) as u64
        }
        TextEncoderConfig::T5(T5Config { width, intermediate, heads, .. }) => {
            const TOKENS: usize = 512;
            (TOKENS * (6 * width + 3 * intermediate + heads * TOKENS)) as u64
        }
        TextEncoderConfig::Decoder(DecoderConfig {
            width,
            intermediate,
            heads,
            head_dim,
            vision: sees,
            ..
        }) => {
            let of_picture = sees.as_ref().map_or(0, |config| picture_tokens(config, prompt));
            let of_pictures = of_picture.saturating_mul(prompt.batch.into());
            // Pictures are encoded one by one, and wait for the others.
            let waiting = sees.as_ref().map_or(0, |config| (1 + config.deepstack) * width) as u64;
            let others = of_pictures.saturating_sub(of_picture).saturating_mul(waiting);
            let seen = sees.as_ref().map_or(0, |config| vision(config, of_picture));
            let token = 3 * width + (3 * intermediate).max(7 * heads * head_dim);
            let text = of_pictures.saturating_add(512).saturating_mul(token as u64);
            text.max(seen.saturating_add(others))
        }
    }
}
