//! Our own checkpoints as a source.

use glmae::interchange::{EncoderConfig, ImportOptions, read_encoder, read_encoder_with};
use tempfile::tempdir;

use super::{checkpoint, read_one_head};

#[test]
fn a_checkpoint_gives_the_students_encoder_bit_for_bit() {
    let run = tempdir().unwrap();
    let (config, nets, weights, folder) = checkpoint(run.path(), &[]);
    for path in [run.path(), &folder, &folder.join("model.safetensors")] {
        let encoder = read_encoder(path, false).unwrap();
        let expected = EncoderConfig {
            in_chans: 1,
            patch: 4,
            dim: 12,
            depth: 3,
            heads: 2,
            mlp_hidden: config.model.mlp_hidden(),
            norm_eps: 1e-6,
        };
        assert_eq!((encoder.config.clone(), encoder.grid), (expected, Some([2, 3, 4])));
        // cls, two of the patch embedding, two of the norm, twelve a block, and the table.
        assert_eq!(encoder.tensors.len(), 5 + 3 * 12 + 1);
        for (name, (shape, values)) in encoder.tensors.iter().filter(|(n, _)| *n != "pos_embed") {
            let saved = weights.student.value(name).unwrap();
            assert_eq!(saved.shape(), shape, "{name}");
            assert_eq!(&saved.to_f32_vec().unwrap(), values, "{name}");
        }
        let (shape, table) = encoder.get("pos_embed").unwrap();
        let native = glmae::nn::pos_embed::sincos_3d([2, 3, 4], 12);
        assert_eq!(shape, &[1, 25, 12]);
        assert!(native.iter().zip(table).all(|(a, b)| *a as f32 == *b));
        assert!(encoder.report.ignored.iter().any(|n| n == "decoder_pred.weight"));
        assert!(encoder.report.missing.is_empty() && encoder.report.unexpected.is_empty());
    }
    assert!(nets.student_layout.entries().len() > 42, "the rest of the student is left behind");
}

#[test]
fn the_teachers_file_gives_the_teacher() {
    let run = tempdir().unwrap();
    let (_, _, weights, folder) = checkpoint(run.path(), &[]);
    let encoder = read_encoder(&folder.join("teacher.safetensors"), false).unwrap();
    let name = "blocks.2.attn.qkv.weight";
    let teacher = weights.teacher.unwrap().value(name).unwrap().to_f32_vec().unwrap();
    assert_eq!(encoder.get(name).unwrap().1, teacher);
    assert_eq!(encoder.grid, Some([2, 3, 4]));
    assert!(encoder.report.source.contains("teacher"));
}

#[test]
fn a_copied_model_file_is_read_without_its_checkpoint() {
    let run = tempdir().unwrap();
    let (.., folder) = checkpoint(run.path(), &["model.dim=64", "model.heads=1"]);
    let copy = run.path().join("copy.safetensors");
    std::fs::copy(folder.join("model.safetensors"), &copy).unwrap();
    let (whole, alone) =
        (read_encoder(&folder, false).unwrap(), read_one_head(&copy, false).unwrap());
    assert_eq!((whole.tensors, whole.config), (alone.tensors, alone.config));
    // 24 rows are no cube, and a bare file does not say 2 x 3 x 4; its sines and cosines do.
    assert_eq!(alone.grid, Some([2, 3, 4]));
}

#[test]
fn a_damaged_checkpoint_is_refused() {
    let run = tempdir().unwrap();
    let (.., folder) = checkpoint(run.path(), &[]);
    let file = folder.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 5;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let text = read_encoder(&folder, false).unwrap_err().to_string();
    assert!(text.contains("damaged"), "{text}");
    // What a checkpoint says itself cannot be told otherwise.
    let told = ImportOptions { heads: Some(3), ..Default::default() };
    let text = read_encoder_with(run.path(), &told).unwrap_err().to_string();
    assert!(text.contains("itself"), "{text}");
    let empty = tempdir().unwrap();
    let text = read_encoder(empty.path(), true).unwrap_err().to_string();
    assert!(text.contains("state.json"), "{text}");
}
