//! Checkpoints: folders `checkpoints/step_00001200` that are there whole or not at all.
//!
//! A folder of pre-training holds `model.safetensors` (the student, under its official PyTorch names, with
//! the fixed tables `pos_embed` and `decoder_pos_embed` of the local grid), `teacher.safetensors`,
//! `optimizer.safetensors` (`m.NAME`, `v.NAME`, `center`) and `state.json`: format number, counters,
//! configuration, seed, a fingerprint of the data, and size and CRC-32C of every file and tensor. One of
//! fine-tuning ([`segmenter`]) has no teacher, and names its network and its task.
//! `state.json` ends with a checksum of itself. The files beside it are known by fixed names, so that a
//! checkpoint can be moved; paths in it (of the data, of the encoder) are notes that nothing opens.
//!
//! Writing goes to a hidden folder which is renamed when all of it is durable, so that a kill at any
//! moment leaves the older checkpoints and at most a stray hidden folder ([`remove_strays`]).

mod folder;
mod glance;
mod info;
mod load;
mod moments;
mod publish;
mod save;
mod seal;
pub mod segmenter;
mod state;
mod tensors;

pub use folder::{folder_name, latest, list, resolve};
pub use glance::{Glance, glance};
pub use info::{CheckpointInfo, read_info};
pub use load::{Student, load_state, load_student};
pub use publish::{remove, remove_strays};
pub use save::{Snapshot, save, save_to};
pub use state::{
    Counters, DataFingerprint, FinetuneState, State, activation_dtype, activation_dtype_of,
    inference_dtype,
};
pub use tensors::{FileInfo, TensorFile, Tensors, write_tensors};

/// The format this version writes; it reads formats 1 to this.
pub const FORMAT: u32 = 1;
/// Folder of the checkpoints within a run folder.
pub const FOLDER: &str = "checkpoints";
/// The file that names the newest checkpoint, for people and scripts.
pub const LATEST: &str = "latest";
pub const MODEL: &str = "model.safetensors";
pub const TEACHER: &str = "teacher.safetensors";
pub const OPTIMIZER: &str = "optimizer.safetensors";
pub const STATE: &str = "state.json";
