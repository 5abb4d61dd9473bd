//! Tensors that real checkpoints carry and no model uses.

/// Why the tensor of this key is not needed; `None` where nothing is known about it.
pub(super) fn reason(key: &str) -> Option<&'static str> {
    let last = key.rsplit('.').next().unwrap_or(key);
    let within = || {
        key.contains(".time_conv.").then_some("joins frames of a video, of which a picture has one")
    };
    whole_key(key).or_else(|| last_segment(last)).or_else(|| beginning(key)).or_else(within)
}

fn whole_key(key: &str) -> Option<&'static str> {
    Some(match key {
        "betas"
        | "alphas_cumprod"
        | "alphas_cumprod_prev"
        | "sqrt_alphas_cumprod"
        | "sqrt_one_minus_alphas_cumprod"
        | "log_one_minus_alphas_cumprod"
        | "sqrt_recip_alphas_cumprod"
        | "sqrt_recipm1_alphas_cumprod"
        | "posterior_variance"
        | "posterior_log_variance_clipped"
        | "posterior_mean_coef1"
        | "posterior_mean_coef2"
        | "denoiser.sigmas"
        | "denoiser.log_sigmas"
        | "model_sampling.sigmas"
        | "model_sampling.log_sigmas" => "the noise schedule, which is computed",
        "lvlb_weights" | "logvar" => "weights of the training loss",
        "scale_factor" => "the latent's scale, which the family gives",
        "norm_final.weight" | "model.diffusion_model.norm_final.weight" => {
            "a norm that Z-Image and Lumina 2 do not use"
        }
        "__index_timestep_zero__" | "model.diffusion_model.__index_timestep_zero__" => {
            "marks that references have no noise"
        }
        "v_pred" => "marks v-prediction",
        "no_norm" => "marks a network whose pictures are not centred",
        "ztsnr" => "marks a zero-terminal-SNR schedule",
        _ => return None,
    })
}

fn last_segment(name: &str) -> Option<&'static str> {
    Some(match name {
        "position_ids" => "the numbers from 0, which are computed",
        "num_batches_tracked" => "a counter of training",
        "logit_scale" => "the temperature of CLIP's training loss",
        "attn_mask" => "the causal mask, which is computed",
        "scaled_fp8" | "comfy_quant" => "marks scaled FP8",
        "spiece_model" | "tekken_model" => "the tokenizer's model",
        _ => return None,
    })
}

fn beginning(key: &str) -> Option<&'static str> {
    let under = |prefix: &str| {
        key.starts_with(prefix)
            || ["first_stage_model.", "vae."]
                .iter()
                .any(|vae| key.strip_prefix(vae).is_some_and(|rest| rest.starts_with(prefix)))
    };
    if under("model_ema.") {
        Some("a moving average of the weights (EMA), for training")
    } else if under("loss.") {
        Some("the training loss with its discriminator")
    } else if key.starts_with("params.") {
        Some("an upscaler's weights before they were averaged")
    } else if key.contains(".eval_conv.") {
        Some("a convolution that is made of others")
    } else if key.starts_with("embedding_manager.") {
        Some("a textual inversion in training")
    } else {
        None
    }
}

/// The beginnings of the names of encoders of pictures beside text encoders.
const VISION: [&str; 8] = [
    "vision_model.",
    "visual.",
    "visual_projection.",
    "model.visual.",
    "vision_tower.",
    "model.vision_tower.",
    "multi_modal_projector.",
    "model.multi_modal_projector.",
];

/// Why a tensor of a recognised text encoder's file is not needed, by its name under the
/// encoder's prefix.
pub(super) fn reason_beside_text_encoder(name: &str) -> Option<&'static str> {
    if name == "encoder.embed_tokens.weight" || name == "shared.weight" {
        Some("the token table again")
    } else if name.ends_with("lm_head.weight") {
        Some("the layer that writes text")
    } else if matches!(
        name,
        "norm.weight" | "model.norm.weight" | "language_model.model.norm.weight"
    ) || name == "model.language_model.norm.weight"
    {
        Some("the norm behind the last layer, which is not read")
    } else if VISION.iter().any(|prefix| name.starts_with(prefix)) {
        Some("an encoder of pictures, which texts do without")
    } else {
        None
    }
}
