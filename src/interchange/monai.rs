//! MONAI: the names of `monai.networks.nets.ViT` and of `UNETR` around it, and what differs between
//! versions. Shapes are the same as ours with the patch embedding as a convolution.

/// A line of versions with the same state dict.
///
/// Read off the networks of the released packages (docs/interchange.md lists them).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 1.0 to 1.3: blocks of self-attention only.
    V1_0,
    /// 1.4 and 1.5: every block also has a cross-attention that it does not use.
    V1_4,
    /// 1.6: of that only its norm is left.
    V1_6,
}

impl Version {
    /// What the argument for the kind of patch embedding is called.
    pub fn projection_argument(self) -> &'static str {
        match self {
            Self::V1_0 => "pos_embed",
            Self::V1_4 | Self::V1_6 => "proj_type",
        }
    }

    /// Tensors of a block that take no part in its result but that a strict load asks for: name,
    /// shape, value of all elements.
    pub fn unused(self, dim: usize, qkv_bias: bool) -> Vec<(&'static str, Vec<usize>, f32)> {
        let mut all = Vec::new();
        if self != Self::V1_0 {
            all.push(("norm_cross_attn.weight", vec![dim], 1.0));
            all.push(("norm_cross_attn.bias", vec![dim], 0.0));
        }
        if self == Self::V1_4 {
            all.push(("cross_attn.out_proj.weight", vec![dim, dim], 0.0));
            all.push(("cross_attn.out_proj.bias", vec![dim], 0.0));
            for (weight, bias) in [
                ("cross_attn.to_q.weight", "cross_attn.to_q.bias"),
                ("cross_attn.to_k.weight", "cross_attn.to_k.bias"),
                ("cross_attn.to_v.weight", "cross_attn.to_v.bias"),
            ] {
                all.push((weight, vec![dim, dim], 0.0));
                if qkv_bias {
                    all.push((bias, vec![dim], 0.0));
                }
            }
        }
        all
    }
}

/// The name that MONAI's `UNETR` gives to one of our parameters (`vit.` in front for the encoder).
///
/// Source: docs/interchange.md.
pub fn name(ours: &str) -> String {
    match ours.strip_prefix("vit.") {
        Some(inner) => format!("vit.{}", encoder_name(inner)),
        None => ours.to_owned(),
    }
}

/// The name that MONAI's `ViT` gives to one of our encoder's parameters.
///
/// Source: docs/interchange.md.
pub fn encoder_name(ours: &str) -> String {
    if ours == "pos_embed" {
        return "patch_embedding.position_embeddings".into();
    }
    if let Some(rest) = ours.strip_prefix("patch_embed.proj.") {
        return format!("patch_embedding.patch_embeddings.{rest}");
    }
    let pairs = [
        (".attn.proj.", ".attn.out_proj."),
        (".mlp.fc1.", ".mlp.linear1."),
        (".mlp.fc2.", ".mlp.linear2."),
    ];
    match pairs.iter().find(|(a, _)| ours.starts_with("blocks.") && ours.contains(a)) {
        Some((a, b)) => ours.replace(a, b),
        None => ours.to_owned(),
    }
}

/// The position rows, `[1, tokens, dim]`: not a parameter of ours, for they are not trained.
pub const POSITIONS: &str = "vit.patch_embedding.position_embeddings";

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn encoder_names_are_translated_and_others_kept() {
        for (ours, theirs) in [
            ("vit.patch_embed.proj.bias", "vit.patch_embedding.patch_embeddings.bias"),
            ("vit.blocks.10.attn.proj.weight", "vit.blocks.10.attn.out_proj.weight"),
            ("vit.blocks.1.attn.qkv.bias", "vit.blocks.1.attn.qkv.bias"),
            ("vit.blocks.1.mlp.fc2.bias", "vit.blocks.1.mlp.linear2.bias"),
            ("encoder2.blocks.0.1.conv1.conv.weight", "encoder2.blocks.0.1.conv1.conv.weight"),
        ] {
            assert_eq!(name(ours), theirs);
        }
    }
}
