//! `glmae inspect`: what is in a file or folder. Reads formats, never the engine's state.

mod nifti;
mod run_folder;
mod tensors;

use std::path::{Path, PathBuf};

use anyhow::Result;
use glmae::Error;
use glmae::error::exit;

use super::term;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glmae inspect runs/ct                                 configuration, last metrics, checkpoints; of
                                                        fine-tuning also the best validation
  glmae inspect runs/ct/checkpoints/step_00001200       tensors of a checkpoint
  glmae inspect model.safetensors                       tensors of any safetensors file
  glmae inspect scan.nii.gz                             geometry, type, intensities

Free-text fields of a NIfTI header may name a patient; they are shown only with --show-identifiers.")]
pub struct Args {
    /// A run folder, a checkpoint folder, a safetensors file or a NIfTI file
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Show the free-text fields of a NIfTI header
    #[arg(long)]
    show_identifiers: bool,
    /// Do not read voxels: geometry only
    #[arg(long)]
    header_only: bool,
}

pub fn run(args: &Args) -> Result<u8> {
    let path = args.path.as_path();
    let meta = std::fs::metadata(path).map_err(Error::io(path, "read"))?;
    let text = if meta.is_dir() {
        folder(path)?
    } else if has_extension(path, "safetensors") {
        tensors::file(path)?
    } else if is_nifti(path) {
        nifti::file(path, args.show_identifiers, args.header_only)?
    } else {
        let expected = "a .safetensors file, a NIfTI file (.nii, .nii.gz, .hdr, .img), a run folder \
                        or a checkpoint folder";
        return Err(
            Error::data(path, format!("nothing glmae knows; it inspects {expected}")).into()
        );
    };
    term::print(&text)?;
    Ok(exit::OK)
}

fn folder(path: &Path) -> Result<String> {
    if path.join("state.json").is_file() {
        return tensors::checkpoint(path);
    }
    if path.join("config.toml").is_file() || path.join("checkpoints").is_dir() {
        return run_folder::folder(path);
    }
    let reason = "neither a run folder (config.toml) nor a checkpoint folder (state.json)";
    Err(Error::data(path, reason).into())
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(wanted))
}

fn is_nifti(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let plain = name.strip_suffix(".gz").unwrap_or(&name);
    [".nii", ".hdr", ".img"].iter().any(|end| plain.ends_with(end))
}
