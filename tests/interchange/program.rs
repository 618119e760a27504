//! `glmae export` and `glmae import` from outside.

use assert_cmd::Command;
use glmae::interchange::read_encoder;
use tempfile::tempdir;

use super::checkpoint;

/// Exit code, stdout and stderr.
fn glmae(args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("glmae"));
    let output = command.env_remove("RUST_LOG").args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[test]
fn out_to_monai_and_back_in() {
    let folder = tempdir().unwrap();
    let run = folder.path().join("run");
    checkpoint(&run, &[]);
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (run, file, out) = (path("run"), path("vit.safetensors"), path("encoder"));
    let (code, text, error) = glmae(&["export", &run, "--target", "monai-1.6", "--out", &file]);
    assert_eq!(code, 0, "{error}");
    let line = "ViT(in_channels=1, img_size=(8, 12, 16), patch_size=(4, 4, 4), hidden_size=12, \
                mlp_dim=48, num_layers=3, num_heads=2, proj_type=\"conv\", qkv_bias=True)";
    assert!(text.contains(line) && text.contains("not carried") && text.contains("1e-6"), "{text}");
    let told = ["--heads", "2", "--grid", "2,3,4", "--to-grid", "2,2,2", "--in-chans", "2"];
    let (code, text, error) = glmae(&[&["import", &file, "--out", &out][..], &told[..]].concat());
    assert_eq!(code, 0, "{error}");
    assert!(text.contains("MONAI names") && text.contains("repeated 2 times"), "{text}");
    let back = read_encoder(&folder.path().join("encoder/encoder.safetensors"), false).unwrap();
    assert_eq!((back.config.heads, back.config.in_chans, back.grid), (2, 2, Some([2; 3])));
    let ours = read_encoder(&folder.path().join("run"), false).unwrap();
    let name = "blocks.1.mlp.fc1.weight";
    assert_eq!(back.tensors[name], ours.tensors[name]);
}

#[test]
fn refusals_say_what_to_do_and_leave_nothing() {
    let folder = tempdir().unwrap();
    let run = folder.path().join("run");
    checkpoint(&run, &[]);
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (run, file, out) = (path("run"), path("vit.safetensors"), path("encoder"));
    let (code, _, error) = glmae(&["export", &run, "--target", "monai-9", "--out", &file]);
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("monai-1.6, monai-1.4, monai-1.0, timm"), "{error}");
    let mut checkpoints = std::fs::read_dir(folder.path().join("run/checkpoints")).unwrap();
    let newest = checkpoints.next().unwrap().unwrap().path();
    let mut weights = std::fs::read_dir(&newest).unwrap().map(|f| f.unwrap().path());
    let weights = weights.find(|f| f.extension().is_some_and(|e| e == "safetensors")).unwrap();
    let (before, target) = (std::fs::read(&weights).unwrap(), weights.to_string_lossy());
    for source in [&run, &*newest.to_string_lossy()] {
        let args = ["export", source, "--target", "timm", "--out", &target];
        let (code, _, error) = glmae(&args);
        assert!(code == 2 && error.contains("name another file"), "{error}");
    }
    assert_eq!(std::fs::read(&weights).unwrap(), before);
    let (code, _, error) = glmae(&["import", &run, "--out", &out, "--grid", "1,2"]);
    assert_eq!(code, 2, "{error}");
    std::fs::write(path("weights.pth"), b"PK\x03\x04\x00\x00\x08\x08....").unwrap();
    let (code, _, error) = glmae(&["import", &path("weights.pth"), "--out", &out]);
    assert_eq!(code, 3, "{error}");
    assert!(error.contains("docs/interchange.md"), "{error}");
    assert!(
        !folder.path().join("encoder").exists() && !folder.path().join("vit.safetensors").exists()
    );
}
