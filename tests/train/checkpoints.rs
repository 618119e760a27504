//! Damage, full disks, retention.

use std::cell::Cell;
use std::fs;
use std::io;
use std::path::Path;
use std::rc::Rc;

use glmae::Error;
use glmae::atomic::{Disk, Storage, SyncWrite};
use glmae::checkpoint::{self, Snapshot};
use glmae::device::{DType, Device};
use glmae::glmae::model::Networks;
use glmae::rng::{Purpose, Rng};

use super::{config, newest_sound, run, tensors, volumes};

#[test]
fn a_flipped_bit_is_refused_by_name_and_the_previous_checkpoint_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let data = volumes(folder.path(), 5);
    let config = config(&data, &["train.steps=10"]);
    let out = folder.path().join("run");
    run(&config, &out).unwrap();
    let weights = tensors(&out, 10);
    let nets = Networks::new(&Device::Cpu, DType::F32, &config).unwrap();
    let newest = out.join("checkpoints/step_00000010");
    let mut rng = Rng::new(5, Purpose::Test, 0, 0, 0);
    for name in ["model.safetensors", "teacher.safetensors", "optimizer.safetensors", "state.json"]
    {
        let path = newest.join(name);
        let sound = fs::read(&path).unwrap();
        for i in 0..20 {
            let mut bytes = sound.clone();
            let at = rng.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << rng.below(8);
            fs::write(&path, &bytes).unwrap();
            let error = checkpoint::load_state(&newest, &Device::Cpu, &config, &nets).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(name), "{name} byte {at}: {text}");
            if i == 0 {
                let resumed = newest_sound(&out, &config);
                assert_eq!(resumed.step, 5);
                assert!(resumed.warnings[0].contains(name), "{:?}", resumed.warnings);
            }
        }
        // The last value of the last tensor.
        if name == "model.safetensors" {
            let mut bytes = sound.clone();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(&path, &bytes).unwrap();
            let error = checkpoint::load_state(&newest, &Device::Cpu, &config, &nets).unwrap_err();
            assert!(error.to_string().contains("'decoder_pos_embed'"), "{error}");
        }
        fs::write(&path, &sound[..sound.len() - 1]).unwrap();
        assert!(checkpoint::load_state(&newest, &Device::Cpu, &config, &nets).is_err());
        fs::write(&path, &sound).unwrap();
    }
    // A run goes on from step 5 and puts the damaged step 10 aside.
    fs::write(newest.join("state.json"), "{}").unwrap();
    let summary = run(&config, &out).unwrap();
    assert!(summary.warnings.iter().any(|w| w.contains("state.json")), "{:?}", summary.warnings);
    assert!(tensors(&out, 10) == weights);
}

#[test]
fn a_checkpoint_of_another_model_names_the_tensor_and_both_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let data = volumes(folder.path(), 5);
    let out = folder.path().join("run");
    let small = config(&data, &["train.steps=1"]);
    run(&small, &out).unwrap();
    // The weights of a wider model under the state of the small one.
    let other = folder.path().join("other");
    run(&config(&data, &["train.steps=1", "model.dim=24"]), &other).unwrap();
    let nets = Networks::new(&Device::Cpu, DType::F32, &small).unwrap();
    let step = "checkpoints/step_00000001";
    let mut info = checkpoint::read_info(&other).unwrap();
    info.config = small.clone();
    for file in ["model.safetensors", "teacher.safetensors", "optimizer.safetensors"] {
        fs::copy(other.join(step).join(file), out.join(step).join(file)).unwrap();
    }
    let error = checkpoint::load_state(&out, &Device::Cpu, &small, &nets).unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    let file = info.files["model.safetensors"].clone();
    let read = checkpoint::TensorFile::read(&out.join(step).join("model.safetensors"), &file);
    let expected = vec![("cls_token".to_owned(), vec![1, 1, 12])];
    let error = read.unwrap().open(&expected).err().unwrap().to_string();
    assert!(error.contains("'cls_token' is [1, 1, 24]") && error.contains("[1, 1, 12]"), "{error}");
    let error = checkpoint::read_info(&data).unwrap_err().to_string();
    assert!(error.contains("neither a checkpoint"), "{error}");
}

/// A disk that is full after some bytes.
struct Full {
    left: Rc<Cell<u64>>,
}

struct FullFile {
    file: Box<dyn SyncWrite>,
    left: Rc<Cell<u64>>,
}

impl io::Write for FullFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.left.get() < data.len() as u64 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.left.set(self.left.get() - data.len() as u64);
        self.file.write(data)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl SyncWrite for FullFile {
    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }
}

impl Storage for Full {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn SyncWrite>> {
        let file = Disk.create_new(path)?;
        Ok(Box::new(FullFile { file, left: Rc::clone(&self.left) }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk.rename(from, to)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        Disk.sync_dir(dir)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        Disk.remove(path)
    }
}

#[test]
fn a_full_disk_leaves_the_older_checkpoint_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let data = volumes(folder.path(), 5);
    let config = config(&data, &["train.steps=1"]);
    let out = folder.path().join("run");
    run(&config, &out).unwrap();
    let nets = Networks::new(&Device::Cpu, DType::F32, &config).unwrap();
    let (info, mut state) = checkpoint::load_state(&out, &Device::Cpu, &config, &nets).unwrap();
    state.counters.step = 2;
    let data = info.data;
    let snapshot = Snapshot { config: &config, nets: &nets, state: &state, data, run: "test" };
    let total: u64 = info.files.values().map(|f| f.bytes).sum();
    for share in [0, 1, 3, 5, 8] {
        let left = Rc::new(Cell::new(total * share / 8));
        let error = checkpoint::save_to(&Full { left }, &out, &snapshot).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        assert!(error.to_string().contains("disk full"), "{error}");
        let names: Vec<_> = fs::read_dir(out.join("checkpoints"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names, ["step_00000001"]);
    }
    let left = Rc::new(Cell::new(2 * total + 100_000));
    checkpoint::save_to(&Full { left }, &out, &snapshot).unwrap();
    assert_eq!(fs::read_to_string(out.join("latest")).unwrap(), "checkpoints/step_00000002\n");
}

#[test]
fn the_newest_and_every_nth_checkpoint_stay() {
    let folder = tempfile::tempdir().unwrap();
    let data = volumes(folder.path(), 5);
    let set = ["train.save_every=2", "train.keep_every=8", "train.steps=17"];
    let out = folder.path().join("run");
    fs::create_dir_all(out.join("checkpoints/.step_00000004.tmp-1-0")).unwrap();
    run(&config(&data, &set), &out).unwrap();
    let mut names: Vec<_> = fs::read_dir(out.join("checkpoints"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["step_00000008", "step_00000016", "step_00000017"]);
    // The official names, and the fixed tables of the local grid.
    let bytes = fs::read(out.join("checkpoints/step_00000017/model.safetensors")).unwrap();
    let model = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (name, shape) in [
        ("cls_token", vec![1, 1, 12]),
        ("pos_embed", vec![1, 9, 12]),
        ("decoder_pos_embed", vec![1, 9, 12]),
        ("patch_embed.proj.weight", vec![12, 1, 4, 4, 4]),
        ("blocks.0.attn.qkv.weight", vec![36, 12]),
        ("head.last_layer.weight_v", vec![12, 8]),
        ("mask_token", vec![1, 1, 12]),
        ("decoder_pred.bias", vec![64]),
    ] {
        assert_eq!(model.tensor(name).unwrap().shape(), shape, "{name}");
    }
    assert!((model.tensor("pos_embed").unwrap().data()[..48]).iter().all(|b| *b == 0));
}
