//! Tells adapter files apart: whose naming they follow, and what model they were made for.

use std::collections::HashMap;
use std::fmt;

/// Whose naming an adapter file follows, or which kind of factors it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LoraKind {
    /// `lora_unet_….lora_down.weight`, the usual form.
    Kohya,
    /// `unet.….lora_A.weight`, Diffusers with PEFT.
    Peft,
    /// `….lora.down.weight` or `…_lora.down.weight`, Diffusers before PEFT.
    DiffusersOld,
    /// Tucker-decomposed convolutions (`lora_mid`).
    LoCon,
    /// Hadamard products.
    LoHa,
    /// Kronecker products.
    LoKr,
    /// Orthogonal rotations.
    Oft,
    /// Pairs with learned magnitudes.
    Dora,
    /// Generalised LoRA.
    Glora,
    /// Learned scales.
    Ia3,
    /// Full differences.
    Full,
}

impl fmt::Display for LoraKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LoraKind::Kohya => "kohya naming",
            LoraKind::Peft => "PEFT naming",
            LoraKind::DiffusersOld => "old Diffusers naming",
            LoraKind::LoCon => "LyCORIS LoCon",
            LoraKind::LoHa => "LyCORIS LoHa",
            LoraKind::LoKr => "LyCORIS LoKr",
            LoraKind::Oft => "OFT",
            LoraKind::Dora => "DoRA",
            LoraKind::Glora => "LyCORIS GLoRA",
            LoraKind::Ia3 => "LyCORIS IA3",
            LoraKind::Full => "LyCORIS full difference",
        })
    }
}

/// The kind of adapter these tensors are, if they are one.
pub fn lora_kind<'a>(names: impl Iterator<Item = &'a str>) -> Option<LoraKind> {
    // The rarer kinds may mix with plain pairs in one file, so the most special one decides.
    const ENDINGS: [(&str, LoraKind); 22] = [
        (".hada_w1_a", LoraKind::LoHa),
        (".lokr_w1", LoraKind::LoKr),
        (".lokr_w1_a", LoraKind::LoKr),
        (".lokr_w2", LoraKind::LoKr),
        (".oft_blocks", LoraKind::Oft),
        (".oft_diag", LoraKind::Oft),
        (".a1.weight", LoraKind::Glora),
        (".b1.weight", LoraKind::Glora),
        (".on_input", LoraKind::Ia3),
        (".dora_scale", LoraKind::Dora),
        (".lora_mid.weight", LoraKind::LoCon),
        (".lora_down.weight", LoraKind::Kohya),
        (".lora_up.weight", LoraKind::Kohya),
        (".lora_A.weight", LoraKind::Peft),
        (".lora_B.weight", LoraKind::Peft),
        (".lora_A.default.weight", LoraKind::Peft),
        (".lora_B.default.weight", LoraKind::Peft),
        (".lora.down.weight", LoraKind::DiffusersOld),
        ("_lora.down.weight", LoraKind::DiffusersOld),
        (".diff", LoraKind::Full),
        (".diff_b", LoraKind::Full),
        (".w_norm", LoraKind::Full),
    ];
    let mut best: Option<usize> = None;
    for name in names {
        // Rotations of the parts of a joined layer are numbered.
        let name = name.trim_end_matches(|c: char| c.is_ascii_digit()).strip_suffix('.').unwrap_or(name);
        if let Some(rank) = ENDINGS.iter().position(|(ending, _)| name.ends_with(ending)) {
            best = Some(best.map_or(rank, |best| best.min(rank)));
        }
    }
    best.map(|rank| ENDINGS[rank].1)
}

/// The model family an adapter was made for, if its names tell.
pub fn lora_base(shapes: &HashMap<&str, &[usize]>) -> Option<&'static str> {
    let any = |part: &str| shapes.keys().any(|name| name.contains(part));
    if any("double_blocks") || any("single_transformer_blocks") {
        return Some("FLUX");
    }
    if any("joint_blocks") || any("transformer.transformer_blocks") {
        return Some("SD3");
    }
    if any("lora_unet_input_blocks") || any("lora_te2_") || any("text_encoder_2.") {
        return Some("SDXL");
    }
    if any("lora_unet_layers_") || any("transformer.layers.") || any("context_refiner") {
        return Some("Lumina");
    }
    let down = |name: &str| {
        let ends = ["lora_down.weight", "lora_A.weight", "lora.down.weight", "hada_w1_b"];
        ends.iter().any(|ending| name.ends_with(ending))
    };
    let context =
        shapes.iter().find(|(name, _)| (name.contains("attn2_to_k") || name.contains("attn2.to_k")) && down(name));
    match context.and_then(|(_, shape)| shape.get(1)) {
        Some(768) => Some("SD1"),
        Some(1024) => Some("SD2"),
        Some(2048) => Some("SDXL"),
        _ => None,
    }
}
