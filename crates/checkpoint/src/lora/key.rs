//! Keys of LoRA files: the name of a module, then the tensor's role in its adapter.

/// What a tensor is to its adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Up,
    Down,
    Mid,
    UpBias,
    Alpha,
    /// The first or second product of a LoHa (0 or 1), and its part.
    Hada(usize, Part),
    /// The first or second factor of a LoKr (0 or 1), and its part.
    Lokr(usize, Part),
    /// DoRA's magnitudes, as LyCORIS and kohya name them.
    DoraScale,
    /// DoRA's magnitudes, as PEFT names them.
    MagnitudeVector,
    Diff,
    DiffBias,
    /// GLoRA's four: `a1`, `a2`, `b1`, `b2` are 0 to 3.
    Glora(usize),
    /// The blocks of an OFT or a BOFT.
    OftBlocks,
    /// The lengths that an OFT or a BOFT gives to the rows.
    Rescale,
    /// Weights that take the layer's place.
    Set,
    /// The shape that a weight is widened to.
    Reshape,
    /// A part of this kind of adapter, which is not supported.
    Foreign(&'static str),
}

/// A part of a factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    A,
    B,
    Core,
}

/// What a key may end in. An ending that ends in another one stands before it.
const ENDINGS: &[(&str, Role)] = &[
    // kohya's sd-scripts and LyCORIS.
    (".lora_up.weight", Role::Up),
    (".lora_down.weight", Role::Down),
    (".lora_mid.weight", Role::Mid),
    (".alpha", Role::Alpha),
    (".dora_scale", Role::DoraScale),
    (".hada_w1_a", Role::Hada(0, Part::A)),
    (".hada_w1_b", Role::Hada(0, Part::B)),
    (".hada_t1", Role::Hada(0, Part::Core)),
    (".hada_w2_a", Role::Hada(1, Part::A)),
    (".hada_w2_b", Role::Hada(1, Part::B)),
    (".hada_t2", Role::Hada(1, Part::Core)),
    (".lokr_w1", Role::Lokr(0, Part::Whole)),
    (".lokr_w1_a", Role::Lokr(0, Part::A)),
    (".lokr_w1_b", Role::Lokr(0, Part::B)),
    (".lokr_w2", Role::Lokr(1, Part::Whole)),
    (".lokr_w2_a", Role::Lokr(1, Part::A)),
    (".lokr_w2_b", Role::Lokr(1, Part::B)),
    (".lokr_t2", Role::Lokr(1, Part::Core)),
    (".diff", Role::Diff),
    (".diff_b", Role::DiffBias),
    (".a1.weight", Role::Glora(0)),
    (".a2.weight", Role::Glora(1)),
    (".b1.weight", Role::Glora(2)),
    (".b2.weight", Role::Glora(3)),
    (".oft_blocks", Role::OftBlocks),
    (".rescale", Role::Rescale),
    // ComfyUI's: the first names the parameter of an RMS norm.
    (".scale.set_weight", Role::Set),
    (".set_weight", Role::Set),
    (".reshape_weight", Role::Reshape),
    (".w_norm", Role::Diff),
    (".b_norm", Role::DiffBias),
    // diffusers before PEFT.
    (".lora.up.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    (".lora_linear_layer.down.weight", Role::Down),
    ("_lora.up.weight", Role::Up),
    ("_lora.down.weight", Role::Down),
    // PEFT; `NAMED` holds those that may have the adapter's name within.
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_B.bias", Role::UpBias),
    (".lora_magnitude_vector.weight", Role::MagnitudeVector),
    (".lora_magnitude_vector", Role::MagnitudeVector),
    // Others.
    (".lora_embedding_A", Role::Foreign("a LoRA of an embedding table")),
    (".lora_embedding_B", Role::Foreign("a LoRA of an embedding table")),
    (".oft_diag", Role::Foreign("an OFT adapter of an older layout")),
    (".oft_R.weight", Role::Foreign("an OFT adapter of PEFT's")),
    (".boft_R", Role::Foreign("a BOFT adapter of PEFT's")),
    (".on_input", Role::Foreign("an IA³ adapter")),
    (".ia3_l", Role::Foreign("an IA³ adapter")),
];

/// PEFT's tensors that carry the adapter's name in a state dict that was not saved by PEFT itself:
/// `….lora_A.default.weight`.
const NAMED: &[(&str, &str, Role)] = &[
    (".lora_A.", ".weight", Role::Down),
    (".lora_B.", ".weight", Role::Up),
    (".lora_B.", ".bias", Role::UpBias),
    (".lora_magnitude_vector.", ".weight", Role::MagnitudeVector),
    (".hada_w1_a.", "", Role::Hada(0, Part::A)),
    (".hada_w1_b.", "", Role::Hada(0, Part::B)),
    (".hada_t1.", "", Role::Hada(0, Part::Core)),
    (".hada_w2_a.", "", Role::Hada(1, Part::A)),
    (".hada_w2_b.", "", Role::Hada(1, Part::B)),
    (".hada_t2.", "", Role::Hada(1, Part::Core)),
    (".lokr_w1.", "", Role::Lokr(0, Part::Whole)),
    (".lokr_w1_a.", "", Role::Lokr(0, Part::A)),
    (".lokr_w1_b.", "", Role::Lokr(0, Part::B)),
    (".lokr_w2.", "", Role::Lokr(1, Part::Whole)),
    (".lokr_w2_a.", "", Role::Lokr(1, Part::A)),
    (".lokr_w2_b.", "", Role::Lokr(1, Part::B)),
    (".lokr_t2.", "", Role::Lokr(1, Part::Core)),
];

/// The module's name and the tensor's role; `None` for a key that is not a LoRA's.
pub(super) fn split(key: &str) -> Option<(&str, Role)> {
    let plain = ENDINGS.iter().find_map(|(ending, role)| Some((key.strip_suffix(ending)?, *role)));
    plain.or_else(|| x_labs(key)).or_else(|| {
        NAMED.iter().find_map(|(infix, ending, role)| {
            let (module, name) = key.strip_suffix(ending)?.rsplit_once(infix)?;
            (!name.is_empty() && !name.contains('.')).then_some((module, *role))
        })
    })
}

/// XLabs' LoRAs for Flux number those of a block with two streams: `….processor.qkv_lora1.down.weight` is the picture's,
/// `….processor.qkv_lora2.down.weight` the text's. The number belongs to the module's name.
fn x_labs(key: &str) -> Option<(&str, Role)> {
    let ends = [(".up.weight", Role::Up), (".down.weight", Role::Down)];
    let (module, role) =
        ends.iter().find_map(|(ending, role)| Some((key.strip_suffix(ending)?, *role)))?;
    (module.ends_with("_lora1") || module.ends_with("_lora2")).then_some((module, role))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_of_every_tool() {
        let cases = [
            ("lora_unet_mid.lora_up.weight", "lora_unet_mid", Role::Up),
            ("unet.a.to_q.lora.down.weight", "unet.a.to_q", Role::Down),
            ("a.attn1.processor.to_q_lora.up.weight", "a.attn1.processor.to_q", Role::Up),
            ("b.0.processor.qkv_lora2.up.weight", "b.0.processor.qkv_lora2", Role::Up),
            ("b.0.processor.proj_lora.down.weight", "b.0.processor.proj", Role::Down),
            ("te.q_proj.lora_linear_layer.up.weight", "te.q_proj", Role::Up),
            ("x.lora_A.weight", "x", Role::Down),
            ("x.lora_A.default.weight", "x", Role::Down),
            ("x.lora_B.default_0.bias", "x", Role::UpBias),
            ("x.lora_magnitude_vector.default.weight", "x", Role::MagnitudeVector),
            ("x.hada_w1_a.default", "x", Role::Hada(0, Part::A)),
            ("x.lokr_w2", "x", Role::Lokr(1, Part::Whole)),
            ("x.diff_b", "x", Role::DiffBias),
            ("x.w_norm", "x", Role::Diff),
            ("x.b1.weight", "x", Role::Glora(2)),
            ("x.oft_blocks", "x", Role::OftBlocks),
            ("x.key_norm.scale.set_weight", "x.key_norm", Role::Set),
            ("x.reshape_weight", "x", Role::Reshape),
        ];
        for (key, module, role) in cases {
            assert_eq!(split(key), Some((module, role)), "{key}");
        }
        for key in ["x.weight", "x.lora_A.a.b.weight", "x.lora_A..weight", "", "lora_up.weight"] {
            assert_eq!(split(key), None, "{key}");
        }
    }
}
