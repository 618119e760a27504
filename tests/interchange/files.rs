//! Files of other programs, there and back.

use glmae::device::{DType, Device};
use glmae::interchange::export::{ExportOptions, Target, encoder as export_encoder, export};
use glmae::interchange::file::{TensorSource, write};
use glmae::interchange::{ImportOptions, monai, read_encoder, read_encoder_with};
use glmae::nn::pos_embed::interpolate;
use glmae::nn::segmenter::Segmenter;
use glmae::nn::unetr::UnetrConfig;
use tempfile::tempdir;

use super::{Named, checkpoint, drawn, official, put, read_one_head};

const V16: Target = Target::Monai(monai::Version::V1_6);

#[test]
fn every_prefix_is_seen_through() {
    let folder = tempdir().unwrap();
    let plain = drawn(&official(), 3);
    for prefix in [
        "",
        "module.backbone.",
        "backbone.",
        "module.",
        "student.",
        "encoder.",
        "vit.",
        "student.module.backbone.",
    ] {
        let mut tensors: Named = plain
            .iter()
            .map(|(name, values)| (format!("{prefix}{name}"), values.clone()))
            .collect();
        tensors.insert(format!("{prefix}decoder_pred.bias"), (vec![3], vec![0.0; 3]));
        let encoder = read_one_head(&put(folder.path(), &tensors), false).unwrap();
        assert_eq!(encoder.tensors, plain, "{prefix}");
        assert_eq!((encoder.config.heads, encoder.config.mlp_hidden), (1, 80));
        assert_eq!((encoder.config.patch, encoder.config.in_chans), (4, 2));
        // 27 rows behind the cls row.
        assert_eq!(encoder.grid, Some([3; 3]));
        assert_eq!(encoder.report.ignored, [format!("{prefix}decoder_pred.bias")]);
    }
}

#[test]
fn of_student_and_teacher_the_student_is_read_unless_asked() {
    let folder = tempdir().unwrap();
    let (student, teacher) = (drawn(&official(), 4), drawn(&official(), 5));
    let under = |p: &str, t: &Named| -> Named {
        t.iter().map(|(name, values)| (format!("{p}{name}"), values.clone())).collect()
    };
    let mut both = under("student.module.backbone.", &student);
    both.extend(under("teacher.backbone.", &teacher));
    let path = put(folder.path(), &both);
    assert_eq!(read_one_head(&path, false).unwrap().tensors, student);
    let prefix = Some("teacher.backbone.".to_owned());
    let options = ImportOptions { prefix, heads: Some(1), ..Default::default() };
    assert_eq!(read_encoder_with(&path, &options).unwrap().tensors, teacher);
    let mut either = under("encoder.", &student);
    either.extend(under("vit.", &teacher));
    let text = read_encoder(&put(folder.path(), &either), false).unwrap_err().to_string();
    assert!(text.contains("'encoder.', 'vit.'") && text.contains("--prefix"), "{text}");
}

#[test]
fn every_monai_export_comes_back_as_it_was() {
    let run = tempdir().unwrap();
    let (.., folder) = checkpoint(run.path(), &["model.in_chans=2"]);
    let ours = read_encoder(&folder, false).unwrap();
    for target in Target::ALL {
        for perceptron in [false, true] {
            if target == Target::Timm && perceptron {
                continue;
            }
            let options = ExportOptions { perceptron, ..Default::default() };
            let exported = export(&folder, target, &options).unwrap();
            let path = run.path().join("out.safetensors");
            exported.write(&path, target).unwrap();
            let told = ImportOptions {
                heads: Some(2),
                grid: Some([2, 3, 4]),
                patch: Some(4),
                ..Default::default()
            };
            let back = read_encoder_with(&path, &told).unwrap();
            let is_monai = target != Target::Timm;
            // MONAI's networks have 1e-5; these weights were trained with ours, and the file says so.
            assert_eq!(back.config.norm_eps, 1e-6);
            assert_eq!((back.config.in_chans, back.config.patch), (2, 4));
            let mut expected = ours.tensors.clone();
            if is_monai {
                // Our cls row is zero, so only the token itself stays behind.
                expected.remove("cls_token");
                assert!(exported.lost.iter().any(|l| l.contains("cls_token")));
                assert!(exported.construct.contains("img_size=(8, 12, 16), patch_size=(4, 4, 4)"));
            }
            assert_eq!(back.tensors, expected, "{target}");
        }
    }
}

/// Names and shapes that released packages ask for (made with `state_dict()` of MONAI 1.0.0, 1.4.0
/// and 1.6.1: width 12, MLP 48, 1 channel, grid 2 x 3 x 4).
#[test]
fn monai_names_are_those_of_the_packages() {
    let run = tempdir().unwrap();
    let (.., folder) = checkpoint(run.path(), &["model.depth=1"]);
    let common: &[(&str, &[usize])] = &[
        ("patch_embedding.position_embeddings", &[1, 24, 12]),
        ("patch_embedding.patch_embeddings.weight", &[12, 1, 4, 4, 4]),
        ("patch_embedding.patch_embeddings.bias", &[12]),
        ("blocks.0.mlp.linear1.weight", &[48, 12]),
        ("blocks.0.mlp.linear1.bias", &[48]),
        ("blocks.0.mlp.linear2.weight", &[12, 48]),
        ("blocks.0.mlp.linear2.bias", &[12]),
        ("blocks.0.norm1.weight", &[12]),
        ("blocks.0.norm1.bias", &[12]),
        ("blocks.0.attn.out_proj.weight", &[12, 12]),
        ("blocks.0.attn.out_proj.bias", &[12]),
        ("blocks.0.attn.qkv.weight", &[36, 12]),
        ("blocks.0.attn.qkv.bias", &[36]),
        ("blocks.0.norm2.weight", &[12]),
        ("blocks.0.norm2.bias", &[12]),
        ("norm.weight", &[12]),
        ("norm.bias", &[12]),
    ];
    let norms: &[(&str, &[usize])] =
        &[("blocks.0.norm_cross_attn.weight", &[12]), ("blocks.0.norm_cross_attn.bias", &[12])];
    let cross: &[(&str, &[usize])] = &[
        ("blocks.0.cross_attn.out_proj.weight", &[12, 12]),
        ("blocks.0.cross_attn.out_proj.bias", &[12]),
        ("blocks.0.cross_attn.to_q.weight", &[12, 12]),
        ("blocks.0.cross_attn.to_q.bias", &[12]),
        ("blocks.0.cross_attn.to_k.weight", &[12, 12]),
        ("blocks.0.cross_attn.to_k.bias", &[12]),
        ("blocks.0.cross_attn.to_v.weight", &[12, 12]),
        ("blocks.0.cross_attn.to_v.bias", &[12]),
    ];
    for (name, parts) in [
        ("monai-1.0", vec![common]),
        ("monai-1.4", vec![common, norms, cross]),
        ("monai-1.6", vec![common, norms]),
    ] {
        let target = Target::parse(name).unwrap();
        let exported = export(&folder, target, &ExportOptions::default()).unwrap();
        let found = exported.tensors.iter().map(|(n, (shape, _))| (n.as_str(), shape.as_slice()));
        let mut expected: Vec<_> = parts.concat();
        expected.sort_unstable();
        assert_eq!(found.collect::<Vec<_>>(), expected, "{name}");
        let options =
            ExportOptions { without_qkv_bias: true, perceptron: true, encoder_only: false };
        let exported = export(&folder, target, &options).unwrap();
        let shape = &exported.tensors["patch_embedding.patch_embeddings.1.weight"].0;
        assert_eq!(shape, &[12, 64]);
        let biases =
            |n: &&String| n.contains(".qkv.bias") || n.contains(".to_") && n.ends_with("bias");
        assert_eq!(exported.tensors.keys().find(biases), None);
        assert!(exported.lost.iter().any(|l| l.contains("attn.qkv.bias")), "{:?}", exported.lost);
    }
    let text = Target::parse("monai-2").unwrap_err().to_string();
    assert!(text.contains("monai-1.6, monai-1.4, monai-1.0, timm"), "{text}");
}

#[test]
fn a_file_without_qkv_bias_gets_zeros_and_says_so() {
    let run = tempdir().unwrap();
    let (.., folder) = checkpoint(run.path(), &[]);
    let options = ExportOptions { without_qkv_bias: true, ..Default::default() };
    let path = run.path().join("out.safetensors");
    export(&folder, V16, &options).unwrap().write(&path, V16).unwrap();
    let told = ImportOptions { heads: Some(2), ..Default::default() };
    let back = read_encoder_with(&path, &told).unwrap();
    assert_eq!(back.get("blocks.2.attn.qkv.bias").unwrap(), &(vec![36], vec![0.0; 36]));
    assert!(back.report.adapted.iter().any(|l| l.contains("qkv.bias")), "{:?}", back.report);
    // One block without it is another matter.
    let mut tensors = drawn(&official(), 6);
    tensors.remove("blocks.1.attn.qkv.bias");
    let path = put(run.path(), &tensors);
    let text = read_one_head(&path, false).unwrap_err().to_string();
    assert!(text.contains("blocks.1.attn.qkv.bias") && text.contains("--partial"), "{text}");
}

#[test]
fn partial_loads_report_what_is_missing_and_unknown() {
    let folder = tempdir().unwrap();
    let mut tensors = drawn(&official(), 7);
    let removed = tensors.remove("norm.bias").unwrap();
    tensors.insert("blocks.0.ls1.gamma".into(), removed);
    let path = put(folder.path(), &tensors);
    assert!(read_one_head(&path, false).is_err());
    let encoder = read_one_head(&path, true).unwrap();
    assert_eq!(encoder.report.missing, ["norm.bias"]);
    assert_eq!(encoder.report.unexpected, ["blocks.0.ls1.gamma"]);
    assert_eq!(encoder.report.loaded.len(), official().len() - 1);
    tensors.insert("norm.bias".into(), (vec![64], vec![0.0; 64]));
    let text = read_one_head(&put(folder.path(), &tensors), false).unwrap_err().to_string();
    assert!(text.contains("blocks.0.ls1.gamma"), "{text}");
}

#[test]
fn channels_repeat_and_positions_are_interpolated() {
    let run = tempdir().unwrap();
    let (.., folder) = checkpoint(run.path(), &[]);
    let mut encoder = read_encoder(&folder, false).unwrap();
    let name = "patch_embed.proj.weight";
    let (_, kernel) = encoder.get(name).unwrap().clone();
    let table: Vec<f64> = encoder.get("pos_embed").unwrap().1.iter().map(|&v| v.into()).collect();
    encoder.adapt_channels(3).unwrap();
    encoder.adapt_grid([3, 5, 2]).unwrap();
    assert_eq!((encoder.config.in_chans, encoder.grid), (3, Some([3, 5, 2])));
    let (shape, repeated) = encoder.get(name).unwrap();
    assert_eq!(shape, &[12, 3, 4, 4, 4]);
    for (i, value) in repeated.iter().enumerate() {
        assert_eq!(*value, kernel[i / 192 * 64 + i % 64], "{i}");
    }
    let expected = interpolate(&table, 12, [2, 3, 4], [3, 5, 2]);
    let (shape, rows) = encoder.get("pos_embed").unwrap();
    assert_eq!(shape, &[1, 31, 12]);
    assert!(rows.iter().zip(expected).all(|(a, b)| *a == b as f32));
    assert_eq!(encoder.report.adapted.len(), 2);
    assert!(encoder.adapt_channels(4).is_err() && encoder.adapt_channels(0).is_err());
    assert!(encoder.adapt_grid([0, 1, 1]).is_err());
    assert!(encoder.adapt_grid([usize::MAX, 2, 2]).is_err());
}

#[test]
fn encoder_files_are_read_as_they_were_written() {
    let run = tempdir().unwrap();
    let (.., folder) = checkpoint(run.path(), &[]);
    let mut encoder = read_encoder(&folder, false).unwrap();
    encoder.adapt_channels(2).unwrap();
    let path = run.path().join("encoder.safetensors");
    encoder.write(&path).unwrap();
    let back = read_encoder(&path, false).unwrap();
    assert_eq!((back.config, back.grid), (encoder.config.clone(), encoder.grid));
    assert_eq!(back.tensors, encoder.tensors);
    assert_eq!(TensorSource::open(&path).unwrap().note("format"), Some("glmae-encoder-1"));
    // Metadata that contradicts the tensors is not believed.
    let notes = |width: usize| {
        let note = format!(
            r#"{{"in_chans":2,"patch":4,"dim":{width},"depth":3,"heads":2,"mlp_hidden":48,"norm_eps":1e-6,"grid":[2,3,4]}}"#
        );
        [("format", "glmae-encoder-1".to_owned()), ("config", note)]
    };
    write(&path, &encoder.tensors, &notes(12)).unwrap();
    read_encoder(&path, false).unwrap();
    write(&path, &encoder.tensors, &notes(24)).unwrap();
    assert!(read_encoder(&path, false).unwrap_err().to_string().contains("metadata"));
}

fn segmenter() -> Segmenter {
    let config = UnetrConfig {
        in_chans: 1,
        outputs: 3,
        roi: [32, 16, 16],
        patch: 16,
        dim: 12,
        depth: 12,
        heads: 2,
        mlp_hidden: 24,
        feature_size: 2,
        norm_eps: 1e-6,
    };
    let positions: Vec<f64> = (0..24).map(|i| f64::from(i) * 0.25).collect();
    let mut segmenter = Segmenter::zeros(&Device::Cpu, DType::F32, &config, &positions).unwrap();
    for (i, e) in segmenter.params.layout().entries().to_vec().into_iter().enumerate() {
        let named = [(e.name.clone(), e.shape.clone())];
        let values: Vec<f64> =
            drawn(&named, 100 + i as u64)[&e.name].1.iter().map(|&v| v.into()).collect();
        segmenter.params.value_mut(&e.name).unwrap().upload_f64(&values).unwrap();
    }
    segmenter
}

#[test]
fn segmenters_go_out_and_come_back() {
    use glmae::interchange::segmenter::SegmenterWeights;
    let folder = tempdir().unwrap();
    let path = folder.path().join("segmenter.safetensors");
    let weights = SegmenterWeights::of(&segmenter()).unwrap();
    weights.write(&path).unwrap();
    let back = SegmenterWeights::read(&path).unwrap();
    assert_eq!(back, weights);
    let loaded = back.load(&Device::Cpu, DType::F32).unwrap();
    assert_eq!(SegmenterWeights::of(&loaded).unwrap(), weights);
    // Tensors in the state dict of UNETR(img_size=(32, 16, 16), feature_size=2, hidden_size=12).
    for (name, count) in [("monai-1.0", 182), ("monai-1.4", 302), ("monai-1.6", 206), ("timm", 182)]
    {
        let target = Target::parse(name).unwrap();
        let exported = export(&path, target, &ExportOptions::default()).unwrap();
        assert_eq!(exported.tensors.len(), count, "{name}");
        for (ours, values) in &weights.tensors {
            let theirs = if target == Target::Timm { ours.clone() } else { monai::name(ours) };
            assert_eq!(exported.tensors.get(&theirs), Some(values), "{name}: {theirs}");
        }
        // The encoder of an exported network can be read again.
        let out = folder.path().join("out.safetensors");
        exported.write(&out, target).unwrap();
        let told = ImportOptions { heads: Some(2), grid: Some([2, 1, 1]), ..Default::default() };
        let encoder = read_encoder_with(&out, &told).unwrap();
        let qkv = "blocks.11.attn.qkv.weight";
        assert_eq!(encoder.get(qkv).unwrap(), &weights.tensors[&format!("vit.{qkv}")]);
        assert_eq!(encoder.get("pos_embed").unwrap().1[12..], weights.tensors["vit.pos_embed"].1);
    }
    // Another depth cannot be built there.
    let mut other = weights;
    other.config.depth = 13;
    let error = glmae::interchange::export::segmenter(&other, V16, &ExportOptions::default());
    assert!(error.unwrap_err().to_string().contains("12 blocks"));
}

#[test]
fn an_export_needs_the_grid() {
    let folder = tempdir().unwrap();
    let mut names = official();
    names[1].1 = vec![1, 25, 64];
    let path = put(folder.path(), &drawn(&names, 8));
    let options = ImportOptions { heads: Some(1), grid: Some([2, 3, 4]), ..Default::default() };
    let mut encoder = read_encoder_with(&path, &options).unwrap();
    encoder.grid = None;
    let text = export_encoder(&encoder, V16, &ExportOptions::default()).unwrap_err().to_string();
    assert!(text.contains("--grid"), "{text}");
    assert!(encoder.adapt_grid([2, 2, 2]).unwrap_err().to_string().contains("24 rows"));
    let options = ExportOptions { perceptron: true, ..Default::default() };
    let path = put(folder.path(), &drawn(&names, 8));
    assert!(export(&path, Target::Timm, &options).is_err());
}
