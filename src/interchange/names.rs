//! Which tensor of a file is which parameter of an encoder.

use std::collections::BTreeSet;

/// Parts of names that programs put in front of an encoder's.
const WRAPPERS: &[&str] = &[
    "module",
    "backbone",
    "student",
    "teacher",
    "encoder",
    "vit",
    "model",
    "network",
    "net",
    "state_dict",
    "model_state",
    "_orig_mod",
    "model_ema",
    "base_model",
];

/// The tensor that every encoder has, in each naming.
const PATCH: &[&str] = &[
    "patch_embed.proj.weight",
    "patch_embedding.patch_embeddings.weight",
    "patch_embedding.patch_embeddings.1.weight",
];

/// Prefixes under which a file holds an encoder, such as `module.backbone.`; `""` for none.
pub fn prefixes<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let found = names.filter_map(|name| PATCH.iter().find_map(|p| name.strip_suffix(p)));
    found.filter(|prefix| prefix.is_empty() || prefix.ends_with('.')).map(str::to_owned).collect()
}

/// Whether a prefix is a chain of known wrappers, which are seen through without a word.
pub fn is_wrapped(prefix: &str) -> bool {
    let Some(parts) = prefix.strip_suffix('.') else { return prefix.is_empty() };
    parts.split('.').all(|part| WRAPPERS.contains(&part))
}

/// What a tensor is.
#[derive(Debug, PartialEq, Eq)]
pub enum Role {
    /// A parameter of the encoder, under our name.
    Encoder(String),
    /// Known, and of no use in an encoder.
    Other,
    Unknown,
}

/// What `name`, without its prefix, is.
///
/// Source: docs/formats.md (official names), docs/interchange.md (MONAI 1.0 to 1.6).
pub fn role(name: &str) -> Role {
    let whole = match name {
        "cls_token" | "pos_embed" => Some(name),
        "patch_embed.proj.weight" | "patch_embed.proj.bias" | "norm.weight" | "norm.bias" => {
            Some(name)
        }
        "patch_embedding.position_embeddings" => Some("pos_embed"),
        "patch_embedding.patch_embeddings.weight" => Some("patch_embed.proj.weight"),
        "patch_embedding.patch_embeddings.1.weight" => Some("patch_embed.proj.weight"),
        "patch_embedding.patch_embeddings.bias" => Some("patch_embed.proj.bias"),
        "patch_embedding.patch_embeddings.1.bias" => Some("patch_embed.proj.bias"),
        _ => None,
    };
    if let Some(ours) = whole {
        return Role::Encoder(ours.to_owned());
    }
    if let Some((index, rest)) = name.strip_prefix("blocks.").and_then(|n| n.split_once('.')) {
        let is_index = index.parse::<usize>().is_ok_and(|i| i.to_string() == index);
        return match in_block(rest) {
            _ if !is_index => Role::Unknown,
            Some(ours) => Role::Encoder(format!("blocks.{index}.{ours}")),
            // Layers that MONAI makes and does not use.
            None if rest.starts_with("norm_cross_attn.") => Role::Other,
            None if rest.starts_with("cross_attn.") => Role::Other,
            None => Role::Unknown,
        };
    }
    match name.split('.').next().unwrap_or_default() {
        "mask_token" | "head" | "fc_norm" | "classification_head" => Role::Other,
        part if part.starts_with("decoder") || part.starts_with("local_decoder") => Role::Other,
        _ => Role::Unknown,
    }
}

fn in_block(rest: &str) -> Option<String> {
    let (layer, kind) = rest.rsplit_once('.')?;
    let ours = match layer {
        "norm1" | "norm2" | "attn.qkv" | "attn.proj" | "mlp.fc1" | "mlp.fc2" => layer,
        "attn.out_proj" => "attn.proj",
        "mlp.linear1" => "mlp.fc1",
        "mlp.linear2" => "mlp.fc2",
        _ => return None,
    };
    ["weight", "bias"].contains(&kind).then(|| format!("{ours}.{kind}"))
}

/// Parameters of one block under our names, with shapes, for a width and a hidden width.
pub fn block(dim: usize, hidden: usize) -> [(&'static str, Vec<usize>); 12] {
    [
        ("norm1.weight", vec![dim]),
        ("norm1.bias", vec![dim]),
        ("attn.qkv.weight", vec![3 * dim, dim]),
        ("attn.qkv.bias", vec![3 * dim]),
        ("attn.proj.weight", vec![dim, dim]),
        ("attn.proj.bias", vec![dim]),
        ("norm2.weight", vec![dim]),
        ("norm2.bias", vec![dim]),
        ("mlp.fc1.weight", vec![hidden, dim]),
        ("mlp.fc1.bias", vec![hidden]),
        ("mlp.fc2.weight", vec![dim, hidden]),
        ("mlp.fc2.bias", vec![dim]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Vec<String> {
        prefixes(names.iter().copied()).into_iter().collect()
    }

    #[test]
    fn prefixes_are_chains_of_known_wrappers() {
        for prefix in ["", "vit.", "module.backbone.", "student.module.backbone.", "encoder."] {
            assert_eq!(of(&[&format!("{prefix}patch_embed.proj.weight"), "norm.weight"]), [prefix]);
            assert!(is_wrapped(prefix));
        }
        for other in ["text.", "xvit.", ".", "vit..", "vit", "vit.trunk."] {
            assert!(!is_wrapped(other), "{other}");
        }
    }

    #[test]
    fn prefixes_end_at_a_point() {
        let names = ["visual.trunk.patch_embed.proj.weight", "my_patch_embed.proj.weight", "x"];
        assert_eq!(of(&names), ["visual.trunk."]);
        assert!(of(&["patch_embed.proj.weights", "patch_embed.proj"]).is_empty());
    }

    #[test]
    fn roles() {
        let ours = |n: &str| Role::Encoder(n.into());
        assert_eq!(role("blocks.3.mlp.linear2.bias"), ours("blocks.3.mlp.fc2.bias"));
        assert_eq!(role("patch_embedding.position_embeddings"), ours("pos_embed"));
        assert_eq!(role("decoder_blocks.0.norm1.weight"), Role::Other);
        assert_eq!(role("blocks.3.cross_attn.to_q.weight"), Role::Other);
        // LayerScale and normed queries are another architecture, not something to leave out.
        for name in ["blocks.0.ls1.gamma", "blocks.0.attn.q_norm.weight", "blocks.+1.norm1.bias"] {
            assert_eq!(role(name), Role::Unknown, "{name}");
        }
        for name in ["blocks.0.norm1.running_mean", "blocks.00.norm1.bias", "blocks", "x", ""] {
            assert_eq!(role(name), Role::Unknown, "{name}");
        }
    }
}
