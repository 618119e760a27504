//! Files that lie, and files that are something else.

use std::path::Path;

use glmae::Error;
use glmae::interchange::segmenter::SegmenterWeights;
use glmae::interchange::{ImportOptions, read_encoder, read_encoder_with};
use glmae::rng::{Purpose, Rng};
use half::{bf16, f16};
use serde_json::{Value, json};
use tempfile::tempdir;

use super::{Named, drawn, official, put, read_one_head};

/// A file of a header and bytes.
fn raw(path: &Path, header: &str, data: &[u8]) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    std::fs::write(path, bytes).unwrap();
}

/// The tensors in another dtype.
fn encode(path: &Path, tensors: &Named, dtype: &str, bytes_of: impl Fn(f32) -> Vec<u8>) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, (shape, values)) in tensors {
        let begin = data.len();
        values.iter().for_each(|v| data.extend(bytes_of(*v)));
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, data.len()] });
        header.insert(name.clone(), entry);
    }
    raw(path, &Value::Object(header).to_string(), &data);
}

/// The message of a refusal that blames the file.
fn refusal(path: &Path) -> String {
    match read_one_head(path, true) {
        Err(error @ Error::Data { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn half_and_double_precision_are_read() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let tensors = drawn(&official(), 9);
    encode(&path, &tensors, "F64", |v| f64::from(v).to_le_bytes().to_vec());
    assert_eq!(read_one_head(&path, false).unwrap().tensors, tensors);
    let rounded = |round: &dyn Fn(f32) -> f32| -> Named {
        let each = |v: &Vec<f32>| v.iter().map(|x| round(*x)).collect();
        tensors.iter().map(|(n, (s, v))| (n.clone(), (s.clone(), each(v)))).collect()
    };
    encode(&path, &tensors, "F16", |v| f16::from_f32(v).to_le_bytes().to_vec());
    let expected = rounded(&|v| f16::from_f32(v).to_f32());
    assert_eq!(read_one_head(&path, false).unwrap().tensors, expected);
    encode(&path, &tensors, "BF16", |v| bf16::from_f32(v).to_le_bytes().to_vec());
    let expected = rounded(&|v| bf16::from_f32(v).to_f32());
    assert_eq!(read_one_head(&path, false).unwrap().tensors, expected);
    encode(&path, &tensors, "I32", |v| (v as i32).to_le_bytes().to_vec());
    assert!(refusal(&path).contains("I32"));
    // Too large for f32.
    encode(&path, &tensors, "F64", |v| (f64::from(v) * 1e300).to_le_bytes().to_vec());
    assert!(refusal(&path).contains("not finite in f32"));
}

#[test]
fn values_that_are_not_finite_are_named() {
    let folder = tempdir().unwrap();
    for value in [f32::NAN, f32::INFINITY] {
        let mut tensors = drawn(&official(), 10);
        tensors.get_mut("blocks.1.mlp.fc2.bias").unwrap().1[7] = value;
        let text = refusal(&put(folder.path(), &tensors));
        assert!(text.contains("'blocks.1.mlp.fc2.bias'") && text.contains("element 7"), "{text}");
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let one = |entry: Value| json!({ "patch_embed.proj.weight": entry }).to_string();
    let huge = 1u64 << 62;
    for (header, data) in [
        (String::new(), 0),
        ("{".into(), 0),
        ("[]".into(), 0),
        ("{\"a\":1}".into(), 0),
        (json!({ "__metadata__": { "format": 3 } }).to_string(), 0),
        (one(json!({ "dtype": "F32", "shape": [4], "data_offsets": [0, 16] })), 12),
        (one(json!({ "dtype": "F32", "shape": [4], "data_offsets": [0, 16] })), 20),
        (one(json!({ "dtype": "F32", "shape": [4], "data_offsets": [16, 0] })), 16),
        (one(json!({ "dtype": "F32", "shape": [5], "data_offsets": [0, 16] })), 16),
        (one(json!({ "dtype": "F32", "shape": [-1], "data_offsets": [0, 16] })), 16),
        (one(json!({ "dtype": "F99", "shape": [4], "data_offsets": [0, 16] })), 16),
        (one(json!({ "dtype": "F32", "shape": [huge, 4], "data_offsets": [0, 16] })), 16),
        (one(json!({ "dtype": "F32", "shape": [huge], "data_offsets": [0, huge * 2] })), 16),
        (one(json!({ "dtype": "F32", "shape": [huge, 0], "data_offsets": [0, 0] })), 0),
    ] {
        raw(&path, &header, &vec![0; data]);
        let text = refusal(&path);
        assert!(!text.is_empty(), "{header}");
    }
    for bytes in [&b""[..], b"1234567", &[255; 8], &[255; 64], &(1u64 << 26).to_le_bytes()] {
        std::fs::write(&path, bytes).unwrap();
        assert!(refusal(&path).contains("not a sound safetensors file"));
    }
}

#[test]
fn absurd_sizes_are_refused_before_memory_is_taken() {
    let folder = tempdir().unwrap();
    let with = |name: &str, shape: &[usize]| {
        let mut tensors = drawn(&official(), 11);
        let count = shape.iter().product();
        tensors.insert(name.into(), (shape.to_vec(), vec![0.5; count]));
        put(folder.path(), &tensors)
    };
    // A block far beyond all others would make a list of as many missing names.
    let path = with("blocks.4000000000.norm1.bias", &[64]);
    assert!(refusal(&path).contains("block 4000000000"));
    assert!(refusal(&with("patch_embed.proj.weight", &[0, 2, 4, 4, 4])).contains("empty"));
    assert!(
        refusal(&with("patch_embed.proj.weight", &[64, 2, 4, 4, 5])).contains("[dim, C, p, p, p]")
    );
    assert!(refusal(&with("patch_embed.proj.weight", &[64, 2, 4, 4])).contains("2-D"));
    assert!(refusal(&with("norm.bias", &[65])).contains("[64] is needed"));
    assert!(refusal(&with("pos_embed", &[1, 0, 64])).contains("[1, tokens, 64]"));
    assert!(refusal(&with("pos_embed", &[1, 1, 64])).contains("no row but"));
    assert!(refusal(&with("blocks.0.attn.out_proj.bias", &[64])).contains("the same tensor"));
    let only = drawn(&official()[..6], 1);
    assert!(refusal(&put(folder.path(), &only)).contains("no block"));
    let path = put(folder.path(), &drawn(&official(), 1));
    for options in [
        ImportOptions { heads: Some(0), ..Default::default() },
        ImportOptions { heads: Some(7), ..Default::default() },
        ImportOptions { grid: Some([usize::MAX; 3]), ..Default::default() },
        ImportOptions { grid: Some([2, 3, 4]), ..Default::default() },
        ImportOptions { prefix: Some("vit.".into()), ..Default::default() },
        ImportOptions { patch: Some(8), ..Default::default() },
        ImportOptions { norm_eps: Some(f64::NAN), ..Default::default() },
    ] {
        let options = ImportOptions { heads: options.heads.or(Some(1)), ..options };
        assert!(read_encoder_with(&path, &options).is_err(), "{options:?}");
    }
}

#[test]
fn other_files_are_named_for_what_they_are() {
    let folder = tempdir().unwrap();
    let zip = b"PK\x03\x04\x00\x00\x08\x08 archive/data.pkl and more";
    let pickle = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";
    for (name, bytes) in [
        ("a.pth", &zip[..]),
        ("a.safetensors", zip),
        ("b.pt", pickle),
        ("b", pickle),
        ("c.pth.tar", b"\x00\x01 an old tar archive, whatever"),
        ("d.ckpt", b"tiny"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let text = refusal(&path);
        assert!(text.contains("docs/interchange.md"), "{name}: {text}");
    }
    let tensors = drawn(&[("layers.0.weight\u{1b}[2J".to_owned(), vec![2])], 1);
    let text = refusal(&put(folder.path(), &tensors));
    assert!(text.contains("no ViT encoder") && !text.contains('\u{1b}'), "{text}");
    let absent = read_encoder(&folder.path().join("absent"), false).unwrap_err();
    assert!(matches!(absent, Error::Io { .. }), "{absent}");
}

#[test]
fn random_damage_never_panics() {
    let folder = tempdir().unwrap();
    let path = put(folder.path(), &drawn(&official(), 12));
    let sound = std::fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(*sound.first_chunk().unwrap());
    let mut rng = Rng::new(1, Purpose::Test, 0, 0, 0);
    let mut refused = 0;
    for _ in 0..400 {
        let mut bytes = sound.clone();
        for _ in 0..1 + rng.below(3) {
            bytes[rng.below(header) as usize] = rng.below(256) as u8;
        }
        std::fs::write(&path, &bytes).unwrap();
        refused += usize::from(read_one_head(&path, false).is_err());
        let _ = (read_one_head(&path, true), read_encoder(&path, true));
        let _ = SegmenterWeights::read(&path);
    }
    // Only changes that leave the header's meaning alone can pass.
    assert!(refused > 390, "{refused}");
}

#[test]
fn segmenters_that_contradict_themselves_are_refused() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("s.safetensors");
    let config = |depth: u64, dim: u64, roi: u64| {
        json!({
            "in_chans": 1, "outputs": 3, "roi": [roi, 16, 16], "patch": 16, "dim": dim,
            "depth": depth, "heads": 1, "mlp_hidden": 8, "feature_size": 2, "norm_eps": 1e-6
        })
        .to_string()
    };
    let huge = 1u64 << 60;
    for note in [
        String::new(),
        "{}".into(),
        config(huge, 12, 16),
        config(12, huge, 16),
        config(12, 12, huge),
        config(12, 12, 16),
    ] {
        let header = json!({
            "__metadata__": { "format": "glmae-segmenter-1", "config": note },
            "vit.pos_embed": { "dtype": "F32", "shape": [1, 1, 12], "data_offsets": [0, 48] }
        });
        raw(&path, &header.to_string(), &[0; 48]);
        let error = SegmenterWeights::read(&path).unwrap_err();
        assert!(matches!(error, Error::Data { .. } | Error::Config(_)), "{error}");
    }
}
