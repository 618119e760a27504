//! MONAI 1.6: the names of `monai.networks.nets.UNETR` and its `vit`.

/// The name that MONAI gives to one of our parameters (`vit.` in front for the encoder). Shapes are the
/// same: the patch embedding is MONAI's `proj_type="conv"`.
///
/// Source: gl-mae 5.2 and 5.3.
pub fn name(ours: &str) -> String {
    if let Some(rest) = ours.strip_prefix("vit.patch_embed.proj.") {
        return format!("vit.patch_embedding.patch_embeddings.{rest}");
    }
    let pairs = [
        (".attn.proj.", ".attn.out_proj."),
        (".mlp.fc1.", ".mlp.linear1."),
        (".mlp.fc2.", ".mlp.linear2."),
    ];
    let encoder = ours.starts_with("vit.blocks.");
    match pairs.iter().find(|(a, _)| encoder && ours.contains(a)) {
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
