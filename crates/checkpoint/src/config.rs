//! Model configurations: what detection reads off keys and shapes, and what a forward pass needs.

use serde::{Deserialize, Serialize};

/// What a diffusion model's output means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise.
    Epsilon,
    /// The velocity of Salimans & Ho, <https://arxiv.org/abs/2202.00512>.
    V,
    /// The clean latent.
    X0,
    /// The velocity of a rectified flow (SD3, Flux).
    Flow,
}

/// How a UNet's attention layers are cut into heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Heads {
    /// So many heads, whatever the width (SD 1.x: 8).
    Count(usize),
    /// Heads of so many channels (SD 2.x and SDXL: 64).
    Width(usize),
}

impl Heads {
    /// Heads of a layer with so many channels; at least 1.
    pub fn count(self, channels: usize) -> usize {
        match self {
            Heads::Count(count) => count.max(1),
            Heads::Width(width) => (channels / width.max(1)).max(1),
        }
    }
}

/// A latent-diffusion UNet (SD 1.x, SD 2.x, SDXL).
///
/// Levels count from the highest resolution; `transformer_depth` has one entry for each residual
/// block of each level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnetConfig {
    /// Channels of the input: 4, or 9 for inpainting (latent, mask, masked latent), or 8 for instruct-pix2pix.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Channels of the first level.
    pub model_channels: usize,
    /// Each level's channels as a multiple of `model_channels`.
    pub channel_mult: Vec<usize>,
    /// Residual blocks of each level on the way down; one more on the way up.
    pub num_res_blocks: Vec<usize>,
    /// Transformer blocks behind each residual block on the way down, level after level.
    pub transformer_depth: Vec<usize>,
    /// Residual blocks in the middle: 2; pruned models have 1 (SSD-1B) or 0 (KOALA).
    pub middle_res_blocks: usize,
    /// Transformer blocks in the middle; `None` where the middle has no attention.
    pub transformer_depth_middle: Option<usize>,
    /// Transformer blocks behind each residual block on the way up, in the order of
    /// `output_blocks` (lowest resolution first).
    pub transformer_depth_output: Vec<usize>,
    /// Width of the text conditioning that cross-attention reads.
    pub context_dim: usize,
    /// How attention is cut into heads.
    pub heads: Heads,
    /// Whether `proj_in` and `proj_out` of a transformer are linear (SD 2.x, SDXL) or 1×1
    /// convolutions (SD 1.x).
    pub linear_projections: bool,
    /// Width of the class (ADM) vector, where the model takes one.
    pub adm_in_channels: Option<usize>,
}

impl UnetConfig {
    /// SD's: 1.x with a number of heads and 1×1 convolutions, 2.x with heads of a width and linear layers.
    pub fn sd(context_dim: usize, heads: Heads) -> Self {
        Self {
            in_channels: 4,
            out_channels: 4,
            model_channels: 320,
            channel_mult: vec![1, 2, 4, 4],
            num_res_blocks: vec![2; 4],
            transformer_depth: vec![1, 1, 1, 1, 1, 1, 0, 0],
            middle_res_blocks: 2,
            transformer_depth_middle: Some(1),
            transformer_depth_output: vec![0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1],
            context_dim,
            heads,
            linear_projections: matches!(heads, Heads::Width(_)),
            adm_in_channels: None,
        }
    }

    /// That of SDXL's base model.
    pub fn sdxl() -> Self {
        Self {
            channel_mult: vec![1, 2, 4],
            num_res_blocks: vec![2; 3],
            transformer_depth: vec![0, 0, 2, 2, 10, 10],
            transformer_depth_middle: Some(10),
            transformer_depth_output: vec![10, 10, 10, 2, 2, 2, 0, 0, 0],
            adm_in_channels: Some(2816),
            ..Self::sd(2048, Heads::Width(64))
        }
    }
}

/// The activation of a CLIP text encoder's feed-forward layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClipActivation {
    /// `x · sigmoid(1.702 x)`: OpenAI's CLIP-L.
    QuickGelu,
    /// The exact GELU: OpenCLIP's H and G.
    Gelu,
}

/// A CLIP text encoder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClipConfig {
    /// Rows of the token table (49408).
    pub vocab_size: usize,
    /// Rows of the position table (77).
    pub max_positions: usize,
    /// Width of the hidden states.
    pub width: usize,
    /// Transformer layers that the file holds.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the feed-forward layers.
    pub intermediate: usize,
    /// Activation of the feed-forward layers.
    pub activation: ClipActivation,
    /// Width of the pooled output's projection, where the file holds one.
    pub projection: Option<usize>,
}

/// A T5 encoder (v1.1: gated GELU, no biases).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct T5Config {
    /// Rows of the token table (32128).
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub width: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width of the feed-forward layers.
    pub intermediate: usize,
    /// Rows of the relative position table.
    pub relative_buckets: usize,
}

/// What tells decoder-only language models apart besides their sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecoderKind {
    /// Qwen3: queries and keys are normalised head by head.
    #[default]
    Qwen3,
    /// The language model of Qwen3-VL: Qwen3 with longer periods of its positions.
    Qwen3Vl,
    /// The language model of Qwen2.5-VL: biases in place of norms of heads.
    Qwen25Vl,
    /// Mistral Small 3: no norms of heads.
    Mistral3,
    /// Gemma 2: a norm before and behind each branch, all with weights around 0.
    Gemma2,
}

/// A decoder-only language model that is read as a text encoder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecoderConfig {
    /// Which one it is.
    #[serde(default)]
    pub kind: DecoderKind,
    /// Rows of the token table (151936).
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub width: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Attention heads of queries.
    pub heads: usize,
    /// Attention heads of keys and values, which several heads of queries share.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width of the feed-forward layers.
    pub intermediate: usize,
    /// The encoder of pictures whose states stand among its tokens, where the file holds one that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vision: Option<VisionConfig>,
}

/// What tells encoders of pictures apart besides their sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VisionKind {
    /// That of Qwen2.5-VL: most layers see a window of the picture.
    Qwen25Vl,
    /// That of Qwen3-VL: all see the picture, some of their states go to the first layers of the language model.
    Qwen3Vl,
}

/// An encoder of pictures beside a language model, whose width its states have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VisionConfig {
    /// Which one it is.
    pub kind: VisionKind,
    /// Width of the hidden states (1280).
    pub width: usize,
    /// Transformer layers (32).
    pub layers: usize,
    /// Attention heads (16).
    pub heads: usize,
    /// Width of the feed-forward layers (3420).
    pub intermediate: usize,
    /// Pixels of a patch along a side (14).
    pub patch_size: usize,
    /// Entries of a table of places, a square of them; 0 where there is none.
    #[serde(default)]
    pub positions: usize,
    /// Layers whose states go to as many of the language model's.
    #[serde(default)]
    pub deepstack: usize,
}

/// How an autoencoder is built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VaeArchitecture {
    /// Latent diffusion's `AutoencoderKL`.
    #[default]
    Kl,
    /// That of Wan 2.1 and Qwen-Image: its convolutions run over a frame and those before it.
    Causal,
    /// That of Qwen-Image 2.1: built as Wan 2.2's, with a shortcut around each level, for single frames.
    CausalResidual,
}

/// An autoencoder of pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VaeConfig {
    /// How it is built.
    #[serde(default)]
    pub architecture: VaeArchitecture,
    /// Channels of the picture.
    pub in_channels: usize,
    /// Channels of the latent, packed where it is.
    pub latent_channels: usize,
    /// Channels of the first level.
    pub channels: usize,
    /// Each level's channels as a multiple of `channels`.
    pub channel_mult: Vec<usize>,
    /// What stands for `channels` in a decoder that is narrower or wider than the encoder (Flux.2's small decoder: 96 for
    /// 128; Qwen-Image 2.1's: 144 for 96).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder_channels: Option<usize>,
    /// Residual blocks of each level of the encoder; one more in the decoder.
    pub num_res_blocks: usize,
    /// Whether 1×1 convolutions stand between the latent and the autoencoder (`quant_conv`).
    pub quant_conv: bool,
    /// What a latent is multiplied with after `shift_factor` was taken off.
    pub scaling_factor: f64,
    /// What is taken off a latent before scaling.
    pub shift_factor: f64,
    /// Whether each 2×2 pixels of what the encoder makes are channels of one, which statistics of the file normalise
    /// (Flux.2).
    #[serde(default)]
    pub packed: bool,
}

impl VaeConfig {
    /// Pixels of the picture to one of the latent, along a side.
    pub fn downscale(&self) -> usize {
        1 << (self.channel_mult.len().saturating_sub(1) + usize::from(self.packed))
    }

    /// Channels of the decoder's first level.
    pub fn decoder_channels(&self) -> usize {
        self.decoder_channels.unwrap_or(self.channels)
    }

    /// Channels of the latent between encoder and decoder, before it is packed.
    pub fn unpacked_channels(&self) -> usize {
        if self.packed { self.latent_channels / 4 } else { self.latent_channels }
    }
}

/// A half of a tiny autoencoder (TAESD).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TinyVaeConfig {
    /// Which half.
    pub half: TinyVaeHalf,
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Channels between the convolutions.
    pub channels: usize,
}

/// A half of an autoencoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TinyVaeHalf {
    /// From pictures to latents.
    Encoder,
    /// From latents to pictures.
    Decoder,
}

/// A model that enlarges pictures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpscalerConfig {
    /// ESRGAN.
    Rrdb(RrdbConfig),
    /// Real-ESRGAN's compact network.
    Compact(CompactConfig),
    /// SPAN.
    Span(SpanConfig),
}

impl UpscalerConfig {
    /// The name that people know.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Rrdb(_) => "ESRGAN upscaler",
            Self::Compact(_) => "compact upscaler",
            Self::Span(_) => "SPAN upscaler",
        }
    }

    /// How many times as long the sides become.
    pub const fn scale(&self) -> usize {
        match self {
            Self::Rrdb(config) => config.scale(),
            Self::Compact(config) => config.scale,
            Self::Span(config) => config.scale,
        }
    }

    /// Channels of the picture that goes in.
    pub const fn in_channels(&self) -> usize {
        match self {
            Self::Rrdb(config) => config.in_channels,
            Self::Compact(config) => config.in_channels,
            Self::Span(config) => config.in_channels,
        }
    }
}

/// ESRGAN's network of residual-in-residual dense blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RrdbConfig {
    /// Channels of the picture that goes in.
    pub in_channels: usize,
    /// Channels of the picture that comes out.
    pub out_channels: usize,
    /// Channels between the blocks.
    pub features: usize,
    /// Channels that each convolution of a dense block adds.
    pub growth: usize,
    /// Residual blocks.
    pub blocks: usize,
    /// How often the sides are doubled.
    pub doublings: usize,
    /// The side of the squares of pixels that are channels of one before all else; 1 where they stay.
    pub unshuffled: usize,
    /// Whether dense blocks have ESRGAN+'s further paths.
    pub plus: bool,
}

impl RrdbConfig {
    /// How many times as long the sides become.
    pub const fn scale(&self) -> usize {
        (1 << self.doublings) / self.unshuffled
    }
}

/// Real-ESRGAN's compact network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactConfig {
    /// Channels of the picture that goes in.
    pub in_channels: usize,
    /// Channels of the picture that comes out.
    pub out_channels: usize,
    /// Channels between the convolutions.
    pub features: usize,
    /// Convolutions between the first and the last.
    pub convolutions: usize,
    /// How many times as long the sides become.
    pub scale: usize,
}

/// SPAN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanConfig {
    /// Channels of the picture that goes in.
    pub in_channels: usize,
    /// Channels of the picture that comes out.
    pub out_channels: usize,
    /// Channels between the blocks.
    pub features: usize,
    /// How many times as long the sides become.
    pub scale: usize,
    /// Whether the mean of its training pictures is taken off, and the rest brought to 255.
    pub centred: bool,
}

/// The MMDiT of SD3 and SD3.5.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MmditConfig {
    /// Channels of the latent.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Latent pixels of one patch, along a side.
    pub patch_size: usize,
    /// Joint blocks; in the published models the width is 64 × this.
    pub depth: usize,
    /// Width of the hidden states.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Side of the square table of position embeddings.
    pub pos_embed_max_size: usize,
    /// Width of the pooled text vector.
    pub adm_in_channels: usize,
    /// Width of the text conditioning.
    pub context_dim: usize,
    /// Whether queries and keys are RMS-normalised (SD3.5).
    pub qk_norm: bool,
    /// The joint blocks that carry a second, picture-only attention (SD3.5 medium).
    pub dual_attention_layers: Vec<usize>,
}

/// The Flux transformer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FluxConfig {
    /// Channels of one packed patch (64 = 16 latent channels × 2 × 2).
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Width of the hidden states.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the text conditioning.
    pub context_dim: usize,
    /// Width of the pooled text vector.
    pub vec_dim: usize,
    /// Double-stream blocks.
    pub depth: usize,
    /// Single-stream blocks.
    pub depth_single: usize,
    /// Width of the feed-forward layers.
    pub mlp_width: usize,
    /// Whether the guidance strength is an input (dev) or distilled away (schnell).
    pub guidance_embed: bool,
}

/// The Flux.2 transformer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flux2Config {
    /// Channels of the packed latent (128 = 32 channels × 2 × 2).
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Width of the hidden states.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the text conditioning.
    pub context_dim: usize,
    /// Double-stream blocks.
    pub depth: usize,
    /// Single-stream blocks.
    pub depth_single: usize,
    /// Width of the feed-forward layers, behind their gate.
    pub mlp_width: usize,
    /// Whether the guidance strength is an input (dev) or not (Klein).
    pub guidance_embed: bool,
}

/// Chroma's transformer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChromaConfig {
    /// Channels of one packed patch (64 = 16 latent channels × 2 × 2).
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Width of the hidden states.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the text conditioning.
    pub context_dim: usize,
    /// Double-stream blocks.
    pub depth: usize,
    /// Single-stream blocks.
    pub depth_single: usize,
    /// Width of the feed-forward layers.
    pub mlp_width: usize,
    /// What goes into the network that makes modulations (64).
    pub approximator_channels: usize,
    /// Width of that network.
    pub approximator_width: usize,
    /// Its layers.
    pub approximator_depth: usize,
}

/// What tells the NextDiT transformers apart besides their sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NextDitKind {
    /// Lumina-Image 2.0, whose time has an activation before it modulates blocks.
    Lumina2,
    /// Z-Image: tokens are filled up with learned ones.
    ZImage,
}

/// A NextDiT (Zhuo et al., <https://arxiv.org/abs/2406.18583>): the transformer of Lumina-Image 2.0 and Z-Image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextDitConfig {
    /// Whose it is.
    pub kind: NextDitKind,
    /// Channels of the latent.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Latent pixels of one patch, along a side.
    pub patch_size: usize,
    /// Width of the hidden states.
    pub width: usize,
    /// Attention heads of queries.
    pub heads: usize,
    /// Attention heads of keys and values, which several heads of queries may share.
    pub kv_heads: usize,
    /// Width of the text conditioning.
    pub context_dim: usize,
    /// Width of the feed-forward layers.
    pub mlp_width: usize,
    /// Width of the layer between the embedding of the time and the vector that modulates.
    pub time_width: usize,
    /// Width of the vector that modulates.
    pub modulation_width: usize,
    /// Blocks for the picture alone, and as many for the text alone.
    pub refiner_depth: usize,
    /// Blocks for both together.
    pub depth: usize,
}

/// Krea 2's transformer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Krea2Config {
    /// Channels of the latent.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Latent pixels of one patch, along a side.
    pub patch_size: usize,
    /// Width of the hidden states.
    pub width: usize,
    /// Attention heads of queries.
    pub heads: usize,
    /// Attention heads of keys and values, which several heads of queries share.
    pub kv_heads: usize,
    /// Width of the feed-forward layers.
    pub mlp_width: usize,
    /// Blocks.
    pub depth: usize,
    /// Width of the sinusoidal embedding of the time.
    pub time_frequencies: usize,
    /// Width of the hidden states of a layer of the text encoder.
    pub text_width: usize,
    /// Layers of the text encoder that are read.
    pub text_layers: usize,
    /// As `heads`, of the blocks that read the text.
    pub text_heads: usize,
    /// As `kv_heads`, of the same.
    pub text_kv_heads: usize,
    /// As `mlp_width`, of the same.
    pub text_mlp_width: usize,
    /// Blocks in which the layers of a token see each other.
    pub layerwise_depth: usize,
    /// Blocks in which the tokens of the text see each other.
    pub refiner_depth: usize,
}

/// Qwen-Image's transformer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QwenImageConfig {
    /// Channels of the latent.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Width of the hidden states.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the text conditioning.
    pub context_dim: usize,
    /// Width of the feed-forward layers.
    pub mlp_width: usize,
    /// Blocks.
    pub depth: usize,
    /// Whether reference latents are modulated as latents without noise are (Qwen-Image-Edit 2511).
    pub references_at_zero: bool,
}

/// Qwen-Image 2.1's transformer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QwenImage21Config {
    /// Channels of the latent.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Width of the hidden states.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the text conditioning.
    pub context_dim: usize,
    /// Width of the feed-forward layers.
    pub mlp_width: usize,
    /// Blocks.
    pub depth: usize,
    /// Whether a feed-forward layer's gate and what it gates are one matrix, as ComfyUI's files have it; diffusers has two.
    pub fused_gate: bool,
}

/// A diffusion model of any family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "architecture")]
pub enum DiffusionConfig {
    /// SD 1.x, SD 2.x, SDXL.
    Unet(UnetConfig),
    /// SD3, SD3.5.
    Mmdit(MmditConfig),
    /// Flux.
    Flux(FluxConfig),
    /// Lumina-Image 2.0, Z-Image.
    NextDit(NextDitConfig),
    /// Flux.2.
    Flux2(Flux2Config),
    /// Chroma.
    Chroma(ChromaConfig),
    /// Krea 2.
    Krea2(Krea2Config),
    /// Qwen-Image.
    QwenImage(QwenImageConfig),
    /// Qwen-Image 2.1.
    QwenImage21(QwenImage21Config),
}

/// A text encoder of any family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "architecture")]
pub enum TextEncoderConfig {
    /// CLIP-L, OpenCLIP-H, OpenCLIP-G.
    Clip(ClipConfig),
    /// T5-XXL.
    T5(T5Config),
    /// Qwen3, Mistral Small 3, Gemma 2.
    Decoder(DecoderConfig),
}

impl TextEncoderConfig {
    /// Width of the hidden states.
    pub fn width(&self) -> usize {
        match self {
            TextEncoderConfig::Clip(config) => config.width,
            TextEncoderConfig::T5(config) => config.width,
            TextEncoderConfig::Decoder(config) => config.width,
        }
    }
}
