//! The segmentation side against MONAI, with the code of `glmae verify`: every case passes, and no value,
//! name or shape of a case can be wrong without being noticed. Cases: `../shared/peer/cases`, and the
//! folder that `GLMAE_CASES` names.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use glmae::device::emulated::{Mode, Schedule};
use glmae::device::{DType, Device};
use glmae::lab::tensors::format_of;
use glmae::lab::unetr::FORMAT;
use glmae::lab::verify::{Verified, verify};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::support::shared;

/// All cases of the segmentation side, but not those of the parts `without`.
fn cases(without: &[&str]) -> Vec<PathBuf> {
    let folders = [shared("peer/cases"), std::env::var_os("GLMAE_CASES").map(PathBuf::from)];
    let mut files: Vec<PathBuf> = folders
        .into_iter()
        .flatten()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()))
        .filter(|f| f.extension().is_some_and(|e| e == "safetensors"))
        .filter(|f| format_of(f).unwrap() == FORMAT)
        .filter(|f| !without.contains(&File::read(f).metadata["part"].as_str()))
        .collect();
    files.sort();
    files
}

/// Least number of quantities that a part is judged by.
fn quantities(part: &str) -> usize {
    match part {
        "network" => 20,
        "layers" => 40,
        "window" => 9,
        "metrics" => 15,
        "prep" => 17,
        other => panic!("no part {other}"),
    }
}

fn check(device: &Device, dtype: DType, without: &[&str]) {
    for path in cases(without) {
        let name = path.file_name().unwrap().display();
        let done = verify(&path, device, dtype).unwrap();
        for row in &done.rows {
            println!("{name} {dtype} {:28} {:9.2e} of {:.0e}", row.quantity, row.rel_l2, row.bound);
        }
        let failed: Vec<_> = done.rows.iter().filter(|r| !r.pass).collect();
        assert!(failed.is_empty() && done.passes(), "{name} {dtype}: {failed:#?}");
        assert!(done.rows.len() >= quantities(&done.part), "{name}: {} rows", done.rows.len());
        // All but MONAI's parameters that take no part.
        let unread: Vec<_> = done.unread.iter().filter(|n| !n.contains("cross_attn")).collect();
        assert!(unread.is_empty(), "{name}: nobody looks at {unread:?}");
    }
}

#[test]
fn cases_agree_in_f64() {
    check(&Device::Cpu, DType::F64, &[]);
}

#[test]
fn cases_agree_in_f32() {
    check(&Device::Cpu, DType::F32, &[]);
}

/// The kernels. The network takes minutes there; its blocks are among the layers.
#[test]
fn cases_agree_on_the_emulated_device() {
    let device = Device::emulated(Mode::Checked, Schedule::Shuffled(3));
    check(&device, DType::F32, &["network"]);
}

/// A case file in parts that can be changed.
#[derive(Clone)]
struct File {
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
    metadata: HashMap<String, String>,
}

impl File {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.tensors().into_iter();
        Self {
            tensors: tensors
                .map(|(n, v)| (n, (v.dtype(), v.shape().to_vec(), v.data().to_vec())))
                .collect(),
            metadata: header.metadata().clone().unwrap(),
        }
    }

    fn verify(&self, folder: &Path) -> glmae::Result<Verified> {
        let path = folder.join("changed.safetensors");
        let views = self.tensors.iter().map(|(name, (dtype, shape, data))| {
            (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap())
        });
        let bytes = safetensors::serialize(views, Some(self.metadata.clone())).unwrap();
        std::fs::write(&path, bytes).unwrap();
        verify(&path, &Device::Cpu, DType::F64)
    }

    /// Changes a tensor: one whole number by one, others all by a thousandth. (A single value may have no
    /// say: the weight of a tap that sees nothing but padding, a logit that is far ahead.)
    fn disturb(&mut self, name: &str) {
        let (dtype, _, data) = self.tensors.get_mut(name).unwrap();
        let odd = |v: f64| if v.is_nan() { 0.5 } else { v * 1.001 };
        let other = |v: f64| if v == 0.0 { 1e-3 } else { odd(v) };
        match dtype {
            Dtype::F64 => data
                .as_chunks_mut()
                .0
                .iter_mut()
                .for_each(|b| *b = other(f64::from_le_bytes(*b)).to_le_bytes()),
            Dtype::F32 => data
                .as_chunks_mut()
                .0
                .iter_mut()
                .for_each(|b| *b = (other(f32::from_le_bytes(*b).into()) as f32).to_le_bytes()),
            // Little-endian: the lowest bit of the last value that is not 0, of the first if all are.
            Dtype::I32 | Dtype::I16 | Dtype::U8 => {
                let size = dtype.bitsize() / 8;
                let at = data.iter().rposition(|&b| b != 0).unwrap_or(0) / size * size;
                data[at] ^= 1;
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// Every tensor of the small cases: its value, its shape, that it is there.
#[test]
fn every_tensor_matters() {
    let folder = tempfile::tempdir().unwrap();
    let mut changes = 0;
    for path in cases(&["network"]).iter().filter(|p| p.starts_with(shared("peer").unwrap())) {
        let whole = File::read(path);
        let fails = |file: &File, what: String| match file.verify(folder.path()) {
            Ok(done) => assert!(!done.passes(), "{}: nobody noticed {what}", path.display()),
            Err(e) => assert_eq!(e.exit_code(), 3, "{what}: {e}"),
        };
        for (i, name) in whole.tensors.keys().enumerate() {
            // A voxel more or less that is left out changes nothing.
            if !name.ends_with(".ties") {
                let mut file = whole.clone();
                file.disturb(name);
                fails(&file, format!("another value in {name}"));
            }
            let mut file = whole.clone();
            if i % 2 == 0 {
                file.tensors.remove(name);
                fails(&file, format!("that {name} is missing"));
            } else {
                file.tensors.get_mut(name).unwrap().1.push(1);
                fails(&file, format!("another shape of {name}"));
            }
            changes += 2;
        }
    }
    println!("{changes} changes");
}

/// Metadata that say what cannot be, part by part.
#[test]
fn nonsense_in_the_metadata_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |file: &File, key: &str, text: &str, words: &[&str]| {
        let mut file = file.clone();
        file.metadata.insert(key.to_owned(), text.to_owned());
        let error = file.verify(folder.path()).err().unwrap_or_else(|| panic!("{key} = {text}"));
        assert_eq!(error.exit_code(), 3, "{key} = {text}: {error}");
        let said = error.to_string();
        assert!(words.iter().all(|w| said.contains(w)), "{key} = {text}: {said}");
    };
    for path in cases(&[]) {
        let file = File::read(&path);
        let part = file.metadata["part"].clone();
        refused(&file, "part", "nothing", &["nothing", "network, layers"]);
        let key = if part == "network" { "config" } else { "cases" };
        refused(&file, key, "{", &[key]);
        if part != "network" {
            refused(&file, "cases", "{}", &["nothing to check"]);
            refused(&file, "cases", r#"{"a": {"overlap": 0.5, "spacing": [1, 1, 1]}}"#, &["'a"]);
        }
        match part.as_str() {
            "network" => {
                let with = |from: &str, to: &str| {
                    let text = &file.metadata["config"];
                    assert!(text.contains(from), "{from} in {text}");
                    text.replace(from, to)
                };
                for (from, to, words) in [
                    ("\"feature_size\": 4", "\"feature_size\": 5", &["shape"][..]),
                    ("\"feature_size\": 4", "\"feature_size\": 99999999999", &["feature_size"]),
                    ("\"batch\": 2", "\"batch\": 0", &["batch"]),
                    ("\"batch\": 2", "\"batch\": 3", &["shape"]),
                    ("[48, 32, 16]", "[48, 32, 17]", &["multiples of the patch"]),
                    ("\"num_heads\": 2", "\"num_heads\": 3", &["heads"]),
                    ("\"patch\": 16", "\"patch\": 15", &["patch"]),
                    ("\"qkv_bias\": true", "\"qkv_bias\": false", &["qkv_bias", "false"]),
                    ("\"instance\"", "\"batch\"", &["norm_name", "batch"]),
                ] {
                    if path.ends_with("unetr_tiny.safetensors") {
                        refused(&file, "config", &with(from, to), words);
                    }
                }
                refused(&file, "steps", "0", &["steps"]);
                refused(&file, "steps", "999999999", &["no tensor 'fp64.step"]);
                refused(&file, "frozen", "[]", &["frozen"]);
            }
            "layers" => refused(&file, "loss", r#"{"softmax": false}"#, &["loss"]),
            "window" => {
                for text in ["0", "-1", "1e999", "null"] {
                    refused(&file, "sigma_scale", text, &["sigma_scale"]);
                }
            }
            "metrics" => {
                refused(&file, "classes", "[]", &["classes"]);
                refused(&file, "classes", "[1, 2, 300]", &["classes"]);
                refused(&file, "classes", "[0, 1, 2]", &["background"]);
                refused(&file, "tolerances_mm", "[-1.0]", &["tolerance"]);
            }
            _ => {
                refused(&file, "spacing", "[0, 1, 1]", &["spacing"]);
                refused(&file, "window", "[250, -175]", &["intensity"]);
            }
        }
    }
}

/// A few of the network's many tensors.
#[test]
fn a_changed_network_case_fails() {
    let Some(path) = shared("peer/cases/unetr_tiny.safetensors") else { return };
    let folder = tempfile::tempdir().unwrap();
    let whole = File::read(&path);
    for (name, quantity) in [
        ("fp64.step2.loss.dice", "loss.dice"),
        ("fp64.step0.act.encoder3", "step0.act.encoder3"),
        ("fp64.step0.grad.vit.patch_embedding.position_embeddings", "step0.gradients"),
        ("fp64.final.decoder2.conv_block.conv3.conv.weight", "final.decoder2 moved"),
    ] {
        let mut file = whole.clone();
        file.disturb(name);
        let done = file.verify(folder.path()).unwrap();
        let failed: Vec<_> = done.rows.iter().filter(|r| !r.pass).collect();
        assert!(failed.iter().any(|r| r.quantity == quantity), "{name}: {failed:?}");
        assert!(failed.iter().all(|r| r.worst == name[5..]), "{name}: {failed:?}");
        let mut file = whole.clone();
        file.tensors.remove(name);
        // Activations may be absent: they are not in cases that store f32.
        match file.verify(folder.path()) {
            Ok(done) => assert!(name.contains(".act.") && done.passes(), "{name}"),
            Err(e) => assert!(e.to_string().contains(name), "{e}"),
        }
    }
}
