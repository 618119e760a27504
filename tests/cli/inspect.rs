//! What `inspect` says of files whose contents are known.

use glmae::data::nifti::{Stored, write_volume};
use glmae::data::{Volume, geometry};

use super::run;
use crate::support::shared;

#[test]
fn a_scan_with_a_name_in_its_header() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("scan.nii");
    // 0, 1, ..., 23 on a grid that runs left, posterior, superior.
    let affine =
        [[-2.0, 0.0, 0.0, 5.0], [0.0, -1.5, 0.0, 0.0], [0.0, 0.0, 3.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
    assert_eq!(geometry::spacing_mm(&affine), [2.0, 1.5, 3.0]);
    let data = (0..24).map(|i| i as f32).collect();
    let volume = Volume::new(data, 1, [2, 3, 4], affine, 1).unwrap();
    write_volume(&path, &volume, Stored::F32).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[148..148 + 10].copy_from_slice(b"Doe^Jane\x1b[");
    std::fs::write(&path, bytes).unwrap();
    let path = path.to_str().unwrap();

    let (code, out, err) = run(&["inspect", path]);
    assert_eq!((code, err.as_str()), (0, ""));
    for words in [
        "2 x 3 x 4",
        "float32",
        "2.0000 x 1.5000 x 3.0000 mm",
        "LPS (turned to RAS",
        "scanner (code 1)",
        "11.5000",
        "6.9222",
        "not shown (--show-identifiers)",
    ] {
        assert!(out.contains(words), "'{words}' is not in: {out}");
    }
    assert!(!out.contains("Doe"), "{out}");

    let (_, out, _) = run(&["inspect", path, "--show-identifiers", "--header-only"]);
    assert!(out.contains("Doe^Jane") && !out.contains('\u{1b}'), "{out}");
    assert!(!out.contains("median"), "{out}");
}

#[test]
fn a_reference_case() {
    let Some(case) = shared("peer/cases/mini.safetensors") else { return };
    let (code, out, _) = run(&["inspect", case.to_str().unwrap()]);
    assert_eq!(code, 0);
    assert!(
        out.contains("format: glmae-case-1") && out.contains("init.student.cls_token"),
        "{out}"
    );
    assert!(out.trim_end().lines().last().unwrap().contains("tensors, "), "{out}");
}

#[test]
fn a_run_folder_and_its_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("config.toml", "[train]\nsteps = 77\n");
    write("env.json", r#"{"device": "cpu", "threads": 2}"#);
    write("metrics.csv", "step,loss,heldout\n0,2.5,\n10,1.25,0.5\n20,0.75,\n");
    let checkpoint = "checkpoints/step_00000020";
    let counters = r#"{"step": 20, "updates": 19}"#;
    let state = format!(r#"{{"format": 1, "counters": {counters}, "config": "long text"}}"#);
    write(&format!("{checkpoint}/state.json"), &state);
    let bytes = safetensors::serialize(
        [(
            "w",
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2, 3], &[0; 24])
                .unwrap(),
        )],
        None,
    );
    let model = dir.path().join(checkpoint).join("model.safetensors");
    std::fs::write(&model, bytes.unwrap()).unwrap();

    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (code, out, err) = run(&["inspect", dir.path().to_str().unwrap()]);
    assert_eq!(code, 0, "{err}");
    let out = squeeze(&out);
    for words in [
        "train.steps 77 (default 24000)",
        "device cpu",
        "loss 2.50000 0.75000",
        "heldout 0.50000 0.50000",
        "step_00000020",
    ] {
        assert!(out.contains(words), "'{words}' is not in: {out}");
    }

    let (_, out, _) = run(&["inspect", model.parent().unwrap().to_str().unwrap()]);
    let out = squeeze(&out);
    assert!(out.contains("counters: step 20, updates 19"), "{out}");
    assert!(out.contains("model.safetensors") && out.contains(" 1 6"), "{out}");
    assert!(!out.contains("long text"), "{out}");
    let (_, out, _) = run(&["inspect", model.to_str().unwrap()]);
    assert!(squeeze(&out).contains("w f32 2 x 3 6"), "{out}");

    // A damaged configuration is an error that names the file.
    write("config.toml", "[train]\nstep = 77\n");
    let (code, _, err) = run(&["inspect", dir.path().to_str().unwrap()]);
    assert!(code == 2 && err.contains("config.toml") && err.contains("'train.steps'"), "{err}");
}

#[test]
fn a_run_of_fine_tuning() {
    use glmae::config::finetune::FinetuneConfig;
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let set = ["model.feature_size=16", "optim.lr=2e-3"].map(String::from);
    let config = FinetuneConfig::load("author", &set).unwrap().to_toml().unwrap();
    write("config.toml", &config);
    let state = |best: serde_json::Value| {
        serde_json::json!({
            "format": 1, "kind": "unetr", "step": 30, "updates": 29, "best": best,
            "config": "long text", "task": "title = \"Livers\"\nother = \"long text\"",
            "network": "in_chans = 1\nroi = [32, 48, 32]\nfeature_size = 16\n",
        })
    };
    for (name, best) in [
        ("best", serde_json::json!([5, "0.75"])),
        ("step_00000010", serde_json::Value::Null),
        ("step_00000030", serde_json::json!([7, "0.8125"])),
    ] {
        write(&format!("checkpoints/{name}/state.json"), &state(best).to_string());
    }
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (code, out, err) = run(&["inspect", dir.path().to_str().unwrap()]);
    assert_eq!(code, 0, "{err}");
    let out = squeeze(&out);
    for words in [
        "configuration of fine-tuning",
        "model.feature_size 16 (default 48)",
        "optim.lr 0.002 (default 0.0001)",
        "step_00000010",
        "best validation: Dice 0.8125 at epoch 7",
    ] {
        assert!(out.contains(words), "'{words}' is not in: {out}");
    }
    let folder = dir.path().join("checkpoints/best");
    let (code, out, err) = run(&["inspect", folder.to_str().unwrap()]);
    assert_eq!(code, 0, "{err}");
    let out = squeeze(&out);
    for words in [
        "kind: unetr",
        "step: 30",
        "task: Livers",
        "network: UNETR, feature_size 16, in_chans 1, roi [32, 48, 32]",
        "best validation: Dice 0.7500 at epoch 5",
    ] {
        assert!(out.contains(words), "'{words}' is not in: {out}");
    }
    assert!(!out.contains("long text"), "{out}");
    // A key of pre-training is none of fine-tuning.
    write("config.toml", &config.replace("[infer]", "[infer]\nmask_ratio = 0.5"));
    let (code, _, err) = run(&["inspect", dir.path().to_str().unwrap()]);
    assert!(code == 2 && err.contains("infer.mask_ratio"), "{err}");
}

#[test]
fn settings_of_fine_tuning_are_listed_printed_and_explained() {
    let (code, out, _) = run(&["presets"]);
    assert!(code == 0 && out.contains("vit-b") && out.contains("author"), "{out}");
    let (_, out, _) = run(&["presets", "--finetune"]);
    assert!(!out.contains("vit-b") && out.contains("hippocampus"), "{out}");
    // `hippocampus` names a preset of both verbs, `author` of one.
    let (_, pretraining, _) = run(&["presets", "hippocampus"]);
    let (_, finetuning, _) = run(&["presets", "hippocampus", "--finetune"]);
    assert!(pretraining.contains("[views]") && !pretraining.contains("validate_every"));
    assert!(finetuning.contains("validate_every") && !finetuning.contains("[views]"));
    let (_, author, _) = run(&["presets", "author", "--resolved"]);
    assert!(author.contains("[infer]") && author.contains("feature_size = 48"), "{author}");
    let (_, keys, _) = run(&["presets", "--keys", "--finetune"]);
    assert!(keys.contains("augment.rot90") && !keys.contains("views.mask_ratio"), "{keys}");
    let (code, _, err) = run(&["presets", "nonsense", "--finetune"]);
    assert!(code == 2 && err.contains("author, hippocampus"), "{err}");
}
