//! How a file names an autoencoder's modules: as CompVis does, which is canonical, or as diffusers does.

use super::inventory::Scope;

/// The layouts of an autoencoder's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// As CompVis' latent-diffusion does.
    CompVis,
    /// As diffusers' `AutoencoderKL` does. The decoder's levels count from the lowest resolution there.
    Diffusers,
}

/// The projections of the attention: canonical, today's in diffusers, the older one there.
const PROJECTIONS: [(&str, &str, &str); 4] = [
    ("q", "to_q", "query"),
    ("k", "to_k", "key"),
    ("v", "to_v", "value"),
    ("proj_out", "to_out.0", "proj_attn"),
];

impl Names {
    /// The layout of the autoencoder under a prefix, if there is one.
    pub fn detect(scope: Scope<'_>) -> Option<Names> {
        [Names::CompVis, Names::Diffusers].into_iter().find(|names| match names {
            Names::CompVis => scope.count("decoder.up") > 0,
            // Diffusers' UNets have lists of these names too, but no decoder.
            Names::Diffusers => {
                scope.count("decoder.up_blocks") > 0 && scope.has("decoder.conv_in.weight")
            }
        })
    }

    /// The encoder's list of levels.
    pub fn levels(self) -> &'static str {
        match self {
            Names::CompVis => "encoder.down",
            Names::Diffusers => "encoder.down_blocks",
        }
    }

    /// The list of residual blocks in a level.
    pub fn blocks(self) -> &'static str {
        match self {
            Names::CompVis => "block",
            Names::Diffusers => "resnets",
        }
    }

    /// The file's name of a layer of an autoencoder with so many levels.
    pub fn of(self, scope: Scope<'_>, layer: &str, levels: usize) -> String {
        match self {
            Names::CompVis => within(scope, layer).unwrap_or(layer).to_owned(),
            Names::Diffusers => diffusers(scope, layer, levels).unwrap_or_else(|| layer.to_owned()),
        }
    }
}

/// Black Forest Labs' name of a layer in Flux.2's autoencoder, where it is another.
fn within(scope: Scope<'_>, layer: &str) -> Option<&'static str> {
    let name = match layer {
        "quant_conv" => "encoder.quant_conv",
        "post_quant_conv" => "decoder.post_quant_conv",
        _ => return None,
    };
    scope.has(&format!("{name}.weight")).then_some(name)
}

/// Diffusers' name of a layer; `None` where it is the canonical one.
fn diffusers(scope: Scope<'_>, layer: &str, levels: usize) -> Option<String> {
    let (half, rest) = layer.split_once('.')?;
    if rest == "norm_out" {
        return Some(format!("{half}.conv_norm_out"));
    }
    if let Some(rest) = rest.strip_prefix("mid.") {
        let (part, module) = rest.split_once('.')?;
        let middle = format!("{half}.mid_block");
        return Some(match part {
            "block_1" => format!("{middle}.resnets.0.{}", in_block(module)),
            "block_2" => format!("{middle}.resnets.1.{}", in_block(module)),
            _ if module == "norm" => format!("{middle}.attentions.0.group_norm"),
            _ => {
                let (_, new, old) = PROJECTIONS.iter().find(|(own, ..)| *own == module)?;
                let name = |module: &str| format!("{middle}.attentions.0.{module}");
                let older = scope.has(&format!("{}.weight", name(old)));
                name(if older { old } else { new })
            }
        });
    }
    let (direction, rest) = rest.split_once('.')?;
    let (level, rest) = rest.split_once('.')?;
    let level: usize = level.parse().ok()?;
    let (level, list) = match direction {
        "down" => (level, "down_blocks"),
        "up" => (levels.checked_sub(1)?.checked_sub(level)?, "up_blocks"),
        _ => return None,
    };
    let module = match rest {
        "downsample.conv" => "downsamplers.0.conv".to_owned(),
        "upsample.conv" => "upsamplers.0.conv".to_owned(),
        _ => {
            let (block, module) = rest.strip_prefix("block.")?.split_once('.')?;
            format!("resnets.{block}.{}", in_block(module))
        }
    };
    Some(format!("{half}.{list}.{level}.{module}"))
}

fn in_block(module: &str) -> &str {
    if module == "nin_shortcut" { "conv_shortcut" } else { module }
}
