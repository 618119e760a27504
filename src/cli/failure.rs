//! Errors as a user meets them: what happened, why, what to do next, and the exit code.

use std::io::ErrorKind;

use glmae::Error;
use glmae::error::exit;
use glmae::limits::REMEDY;

use super::term;

/// Prints an error with its causes and remedy on stderr, if that can be done; returns the exit code.
pub fn report(error: &anyhow::Error) -> u8 {
    let ours = error.chain().find_map(|e| e.downcast_ref::<Error>());
    let mut said = error.to_string();
    let mut text = format!("error: {said}\n");
    for cause in error.chain().skip(1).map(|e| e.to_string()) {
        // Library errors already contain what the operating system said.
        if !said.contains(&cause) {
            text += &format!("  because: {cause}\n");
            said += &cause;
        }
    }
    if let Some(remedy) = ours.and_then(|e| remedy(e, &said)) {
        text += &format!("  try: {remedy}\n");
    }
    term::say(text.trim_end());
    ours.map_or(exit::FAILURE, Error::exit_code)
}

/// What to do next, where the message itself does not say it.
fn remedy(error: &Error, said: &str) -> Option<&'static str> {
    Some(match error {
        Error::Config(_) if said.contains("unknown key") => {
            "`glmae presets --keys` lists every key with its default"
        }
        Error::Config(_) if said.contains("neither a file nor a preset") => {
            "`glmae presets` describes the presets"
        }
        Error::Config(_) => return None,
        Error::Unsupported(_) => "`glmae doctor` shows the devices and features of this binary",
        Error::Io { path, .. } if path.as_os_str() == "stdout" => {
            "the work itself is done; send the output elsewhere, or free some space"
        }
        Error::Io { source, .. } => match source.kind() {
            ErrorKind::NotFound => "check the path; relative paths start at the current folder",
            ErrorKind::PermissionDenied => {
                "check the owner and the mode of the file and its folder"
            }
            ErrorKind::StorageFull => {
                "free some space or choose another --out; what was written before is intact"
            }
            _ => return None,
        },
        Error::OutOfMemory(_) => REMEDY,
        Error::Device(_) if said.contains("driver is installed") => {
            "--device cpu or --device emulated here; on a machine with a GPU, its NVIDIA driver"
        }
        Error::Device(_) => "run again with --resume auto; `glmae doctor` shows the devices",
        Error::NotFinite(_) => {
            "a smaller optim.lr, or optim.clip_grad = 1; the run folder holds the batch"
        }
        Error::Data { .. } | Error::Shape { .. } | Error::Stopped { .. } => return None,
    })
}
