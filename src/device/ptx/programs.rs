//! The kernels of this binary, decoded when they are first launched.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use glmae_simt::program::{Numerics, Program};
use glmae_simt::ptx::ast::Module;

use super::{Arch, modules};
use crate::device::launch::Kernel;
use crate::error::{Error, Result};

type Key = (Arch, &'static str, Numerics);

/// The program of a kernel, as it was compiled for `arch`.
///
/// Errors: `Unsupported` when this binary has none, or when something in it is not implemented, by line;
/// `Device` when it was compiled for fewer threads than the kernel's export says.
pub(super) fn find(
    kernel: &'static Kernel,
    arch: Arch,
    numerics: Numerics,
) -> Result<Arc<Program>> {
    static PROGRAMS: Mutex<Option<HashMap<Key, Arc<Program>>>> = Mutex::new(None);
    let key = (arch, kernel.name, numerics);
    let lock = || PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = lock().get_or_insert_default().get(&key) {
        return Ok(found.clone());
    }
    let program = Arc::new(decode(modules::find(kernel.file, arch)?, kernel, arch, numerics)?);
    lock().get_or_insert_default().insert(key, program.clone());
    Ok(program)
}

/// Decodes a kernel of a module; errors as those of [`find`].
pub(super) fn decode(
    module: &Module,
    kernel: &Kernel,
    arch: Arch,
    numerics: Numerics,
) -> Result<Program> {
    let program = Program::new(module, kernel.name, numerics)
        .map_err(|e| Error::Unsupported(format!("{}: {e}", modules::name(kernel.file, arch))))?;
    let most = program.most_threads().map_or(u64::from(u32::MAX), u64::from);
    let stated = kernel.signature().max_threads;
    if most < u64::from(stated) {
        return Err(Error::Device(format!(
            "kernel {}: compiled for {most} threads, its export says {stated}",
            kernel.name
        )));
    }
    Ok(program)
}
