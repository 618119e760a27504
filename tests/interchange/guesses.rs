//! What shapes do not tell: it is read where a file says it, and asked for where it does not.

use std::path::{Path, PathBuf};

use glmae::interchange::export::{ExportOptions, Target, export};
use glmae::interchange::file::write;
use glmae::interchange::{ImportOptions, monai, read_encoder, read_encoder_with};
use glmae::nn::pos_embed::sincos_3d;
use glmae::train::finetune::encoder;
use glmae::{Error, Result};
use tempfile::tempdir;

use super::{Named, checkpoint, drawn, official, put, read_one_head};

/// Width 128 with 4 heads, grid 1 x 2 x 4: both would be guessed wrong.
const SET: &[&str] = &[
    "model.dim=128",
    "model.heads=4",
    "model.depth=1",
    "views.local_size=[4, 8, 16]",
    "views.global_size=[4, 8, 16]",
];

/// An export with a part of its metadata.
fn exported(folder: &Path, target: Target, options: &ExportOptions, keys: &[&str]) -> PathBuf {
    let run = folder.join("run");
    if !run.exists() {
        checkpoint(&run, SET);
    }
    let exported = export(&run, target, options).unwrap();
    let path = folder.join("exported.safetensors");
    exported.write(&path, target).unwrap();
    let source = glmae::interchange::file::TensorSource::open(&path).unwrap();
    let notes: Vec<(&str, String)> =
        keys.iter().map(|&key| (key, source.note(key).unwrap().to_owned())).collect();
    write(&path, &exported.tensors, &notes).unwrap();
    path
}

/// The message of a refusal, and its exit code.
fn refused<T: std::fmt::Debug>(result: Result<T>) -> (u8, String) {
    let error = result.unwrap_err();
    (error.exit_code(), error.to_string())
}

#[test]
fn our_own_exports_say_heads_grid_and_eps() {
    let folder = tempdir().unwrap();
    for target in Target::ALL {
        for (perceptron, keys) in [
            (false, &["glmae.encoder", "glmae.construct"][..]),
            (true, &["glmae.encoder"]),
            // Older ones have the Python alone.
            (false, &["glmae.construct"]),
            (true, &["glmae.construct"]),
        ] {
            if target == Target::Timm && perceptron {
                continue;
            }
            let options = ExportOptions { perceptron, ..Default::default() };
            let path = exported(folder.path(), target, &options, keys);
            let ours = read_encoder(&folder.path().join("run"), false).unwrap();
            for encoder in [read_encoder(&path, false), encoder::read(&path, false)] {
                let encoder = encoder.unwrap_or_else(|e| panic!("{target} {keys:?}: {e}"));
                assert_eq!(encoder.config, ours.config, "{target} {keys:?}");
                assert_eq!((encoder.config.heads, encoder.config.norm_eps), (4, 1e-6));
                assert_eq!(encoder.grid, Some([1, 2, 4]), "{target} {keys:?}");
                let table = &encoder.tensors["pos_embed"];
                assert_eq!(table, &ours.tensors["pos_embed"], "{target} {keys:?}");
            }
        }
    }
}

#[test]
fn metadata_that_contradicts_the_tensors_names_both() {
    let folder = tempdir().unwrap();
    let target = Target::Monai(monai::Version::V1_6);
    let path = exported(folder.path(), target, &ExportOptions::default(), &[]);
    let tensors = export(&folder.path().join("run"), target, &ExportOptions::default()).unwrap();
    let vit = |heads: &str, image: &str, patch: usize| {
        let text = format!(
            "monai.networks.nets.ViT(in_channels=1, img_size={image}, patch_size=({patch}, {patch}, \
             {patch}), hidden_size=128, mlp_dim=512, num_layers=1, num_heads={heads}, qkv_bias=True)"
        );
        ("glmae.construct", text)
    };
    let json = |dim: &str, heads: &str, eps: &str, grid: &str| {
        let text = format!(
            r#"{{"in_chans":1,"patch":4,"dim":{dim},"depth":1,"heads":{heads},"mlp_hidden":512,"norm_eps":{eps},"grid":{grid}}}"#
        );
        ("glmae.encoder", text)
    };
    let image = "(4, 8, 16)";
    for (note, words) in [
        (vit("4", image, 4), &[][..]),
        (json("128", "4", "1e-6", "[1,2,4]"), &[]),
        (vit("3", image, 4), &["3 heads", "width 128"]),
        (vit("0", image, 4), &["0 heads", "width 128"]),
        (vit("4", "(8, 8, 8)", 4), &[]),
        (vit("4", "(8, 8, 16)", 4), &["8 rows", "[2, 2, 4]"]),
        (vit("4", "(4, 8, 15)", 4), &["[4, 8, 15]", "edge 4"]),
        (vit("4", "(18446744073709551615, 4, 4)", 4), &["edge 4"]),
        (vit("4", image, 8), &["edge 8", "edge 4"]),
        (json("64", "4", "1e-6", "[1,2,4]"), &["dim: 64", "dim: 128"]),
        (json("128", "18446744073709551615", "1e-6", "[1,2,4]"), &["18446744073709551615 heads"]),
        (json("128", "4", "1e300", "[1,2,4]"), &["norm_eps"]),
        (json("128", "4", "1e-6", "[4294967296,4294967296,4294967296]"), &["8 rows"]),
        (json("128", "4", "1e-6", "[-1,2,4]"), &["glmae.encoder"]),
        (("glmae.encoder", "{".into()), &["glmae.encoder"]),
    ] {
        let notes = [note];
        write(&path, &tensors.tensors, &notes).unwrap();
        let read = read_encoder(&path, false);
        if words.is_empty() {
            assert!(read.is_ok(), "{notes:?}: {read:?}");
            continue;
        }
        let (code, text) = refused(read);
        assert_eq!(code, 3, "{text}");
        assert!(words.iter().all(|w| text.contains(w)), "{words:?}: {text}");
    }
    // A flag may repeat what the file says, no more.
    write(&path, &tensors.tensors, &[json("128", "4", "1e-6", "[1,2,4]")]).unwrap();
    let same = ImportOptions {
        heads: Some(4),
        grid: Some([1, 2, 4]),
        patch: Some(4),
        norm_eps: Some(1e-6),
        ..Default::default()
    };
    assert_eq!(read_encoder_with(&path, &same).unwrap().config.heads, 4);
    for (options, flag) in [
        (ImportOptions { heads: Some(2), ..same.clone() }, "--heads"),
        (ImportOptions { grid: Some([2; 3]), ..same.clone() }, "--grid"),
        (ImportOptions { norm_eps: Some(1e-5), ..same.clone() }, "--norm-eps"),
        (ImportOptions { patch: Some(8), ..same.clone() }, "--patch"),
    ] {
        let (code, text) = refused(read_encoder_with(&path, &options));
        assert!(code == 2 && text.contains(flag) && text.contains("says"), "{code} {text}");
    }
}

#[test]
fn heads_that_nothing_tells_are_asked_for() {
    let folder = tempdir().unwrap();
    let path = put(folder.path(), &drawn(&official(), 3));
    for words in ["--heads", "width 64", "possible: 1, 2, 4", "64 channels a head would be 1"] {
        let (code, text) = refused(read_encoder(&path, false));
        assert!(code == 2 && text.contains(words), "{text}");
    }
    // As `finetune --encoder` says it.
    let (code, text) = refused(encoder::read(&path, false));
    assert!(code == 2 && text.contains("give --heads to `glmae import`"), "{text}");
    assert!(text.contains("weights.safetensors"), "{text}");
    // The eps of timm's norms is taken, and said.
    let encoder = read_one_head(&path, false).unwrap();
    assert_eq!(encoder.config.norm_eps, 1e-6);
    let assumed = encoder.report.assumed.join("\n");
    assert!(assumed.contains("norm eps: 1e-6") && assumed.contains("--norm-eps"), "{assumed}");
    let options =
        ImportOptions { heads: Some(4), norm_eps: Some(1e-5), ..ImportOptions::default() };
    let encoder = read_encoder_with(&path, &options).unwrap();
    assert_eq!((encoder.config.heads, encoder.config.norm_eps), (4, 1e-5));
}

/// [`official`] with another table of positions.
fn with_rows(rows: usize, cls_token: bool) -> Named {
    let mut names = official();
    names[1].1[1] = rows;
    let mut tensors = drawn(&names, 17);
    if !cls_token {
        tensors.remove("cls_token");
    }
    tensors
}

#[test]
fn a_table_without_a_cls_row_is_no_table_with_one() {
    let folder = tempdir().unwrap();
    for (rows, cls_token, grid, cls_row) in [
        // timm's no_embed_class.
        (8, true, [2; 3], false),
        (27, true, [3; 3], false),
        // A row for the cls token.
        (9, true, [2; 3], true),
        (28, true, [3; 3], true),
        (8, false, [2; 3], false),
        (28, false, [3; 3], true),
    ] {
        let tensors = with_rows(rows, cls_token);
        let encoder = read_one_head(&put(folder.path(), &tensors), false).unwrap();
        assert_eq!(encoder.grid, Some(grid), "{rows} {cls_token}");
        let (shape, table) = encoder.get("pos_embed").unwrap();
        let theirs = &tensors["pos_embed"].1;
        assert_eq!(shape, &[1, 1 + grid[0].pow(3), 64]);
        if cls_row {
            assert_eq!(table, theirs);
        } else {
            assert!(table[..64].iter().all(|v| *v == 0.0));
            assert_eq!(&table[64..], theirs);
            let adapted = encoder.report.adapted.join("\n");
            assert!(adapted.contains("zeros for the cls token"), "{adapted}");
        }
        // The cube is a guess, and said to be one.
        let assumed = encoder.report.assumed.join("\n");
        assert!(assumed.contains("--grid tells another"), "{assumed}");
        if rows == 8 && cls_token {
            assert!(assumed.contains("no_embed_class") && assumed.contains("2 x 2 x 2"));
        }
    }
}

#[test]
fn grids_that_nothing_tells_are_asked_for() {
    let folder = tempdir().unwrap();
    let path = put(folder.path(), &with_rows(25, true));
    let (code, text) = refused(read_one_head(&path, false));
    assert!(code == 2 && text.contains("2,3,4") && text.ends_with("give --grid"), "{text}");
    let told = |grid| ImportOptions { heads: Some(1), grid: Some(grid), ..Default::default() };
    let encoder = read_encoder_with(&path, &told([4, 3, 2])).unwrap();
    assert_eq!(encoder.grid, Some([4, 3, 2]));
    assert!(encoder.report.assumed.iter().all(|line| !line.contains("grid")));
    let path = put(folder.path(), &with_rows(24, true));
    let encoder = read_encoder_with(&path, &told([4, 3, 2])).unwrap();
    assert!(encoder.get("pos_embed").unwrap().1[..64].iter().all(|v| *v == 0.0));
    // Sines and cosines tell it, even where a cube has as many tokens.
    for (grid, cls_row) in [([1, 2, 4], true), ([4, 1, 2], false), ([2, 3, 4], true)] {
        let mut tensors = with_rows(25, true);
        let skipped = if cls_row { 0 } else { 64 };
        let table: Vec<f32> = sincos_3d(grid, 64)[skipped..].iter().map(|&v| v as f32).collect();
        tensors.insert("pos_embed".into(), (vec![1, table.len() / 64, 64], table));
        let encoder = read_one_head(&put(folder.path(), &tensors), false).unwrap();
        assert_eq!(encoder.grid, Some(grid));
    }
}

#[test]
fn a_patch_edge_is_concluded_or_asked_for() {
    let folder = tempdir().unwrap();
    let perceptron = |weights: usize| {
        let mut tensors = drawn(&official(), 5);
        let (_, bias) =
            (tensors.remove("patch_embed.proj.weight"), tensors.remove("patch_embed.proj.bias"));
        tensors.insert("patch_embedding.patch_embeddings.1.bias".into(), bias.unwrap());
        let name = "patch_embedding.patch_embeddings.1.weight".to_owned();
        tensors.extend(drawn(&[(name, vec![64, weights])], 6));
        put(folder.path(), &tensors)
    };
    for (weights, patch, channels) in [(4096, 16, 1), (16384, 16, 4), (512, 8, 1), (32768, 32, 1)] {
        let encoder = read_one_head(&perceptron(weights), false).unwrap();
        assert_eq!((encoder.config.patch, encoder.config.in_chans), (patch, channels));
        let assumed = encoder.report.assumed.join("\n");
        assert!(assumed.contains(&format!("edge {patch}")) && assumed.contains("--patch"));
    }
    let (code, text) = refused(read_one_head(&perceptron(11 * 64), false));
    assert!(code == 2 && text.contains("4 with 11 channels") && text.contains("--patch"), "{text}");
    let (code, text) = refused(read_one_head(&perceptron(17), false));
    assert!(code == 2 && text.contains("--patch"), "{text}");
}

#[test]
fn an_encoder_under_any_prefix_is_found_and_named() {
    let folder = tempdir().unwrap();
    let plain = drawn(&official(), 4);
    let under = |prefix: &str| -> Named {
        plain.iter().map(|(name, values)| (format!("{prefix}{name}"), values.clone())).collect()
    };
    let told = |prefix: &str| ImportOptions {
        heads: Some(1),
        prefix: Some(prefix.to_owned()),
        ..Default::default()
    };
    let prefixes =
        ["image_encoder.", "visual.trunk.", "model.encoder.eva.", "ssl_model.vit.", "trunk."];
    for prefix in prefixes {
        let mut tensors = under(prefix);
        tensors.insert("text.blocks.0.norm1.bias".into(), (vec![4], vec![0.0; 4]));
        let path = put(folder.path(), &tensors);
        for options in [told(prefix), told(prefix.trim_end_matches('.'))] {
            assert_eq!(read_encoder_with(&path, &options).unwrap().tensors, plain, "{prefix}");
        }
        // The only one there is needs no flag, and the report says where it was.
        let encoder = read_one_head(&path, false).unwrap();
        assert_eq!(encoder.tensors, plain, "{prefix}");
        assert!(encoder.report.source.contains(prefix), "{:?}", encoder.report);
        assert_eq!(encoder.report.ignored, ["text.blocks.0.norm1.bias"]);
        let (code, text) = refused(read_encoder_with(&path, &told("other.")));
        assert!(code == 2 && text.contains("--prefix"), "{text}");
        assert!(text.contains("'other.'") && text.contains(&format!("'{prefix}'")), "{text}");
    }
    // Of several it must be said; known wrappers are no candidates to lose.
    let mut both = under("image_encoder.");
    both.extend(under("visual.trunk."));
    let path = put(folder.path(), &both);
    let error = read_one_head(&path, false).unwrap_err();
    assert!(matches!(error, Error::Data { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("'image_encoder.', 'visual.trunk.'"), "{text}");
    assert!(text.ends_with("give --prefix"), "{text}");
    let text = refused(encoder::read(&path, false)).1;
    assert!(text.contains("give --prefix to `glmae import`"), "{text}");
    assert_eq!(read_encoder_with(&path, &told("visual.trunk.")).unwrap().tensors, plain);
    both.extend(under("module.backbone."));
    let path = put(folder.path(), &both);
    assert!(read_one_head(&path, false).unwrap().report.source.contains("module.backbone."));
    // Control characters of a name do not reach the terminal.
    let mut odd = under("a\u{1b}[2J.");
    odd.extend(under("b."));
    let text = refused(read_one_head(&put(folder.path(), &odd), false)).1;
    assert!(!text.contains('\u{1b}') && text.contains("--prefix"), "{text}");
}
