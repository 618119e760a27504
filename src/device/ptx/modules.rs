//! The PTX of this binary, unpacked and parsed when it is first asked for.

use std::io::Read;
use std::sync::OnceLock;

use flate2::read::ZlibDecoder;
use glmae_simt::ptx::ast::Module;
use glmae_simt::ptx::parse;

use super::Arch;
use crate::device::launch::PTX;
use crate::error::{Error, Result};

/// One place per row of [`PTX`]: the module, or what is wrong with it.
static MODULES: [OnceLock<Result<Module, String>>; PTX.len()] =
    [const { OnceLock::new() }; PTX.len()];

fn row(file: &str, arch: Arch) -> Result<usize> {
    PTX.iter().position(|row| row.0 == file && row.1 == arch.name()).ok_or_else(|| {
        Error::Unsupported(format!("the kernels of {file}.cu were not compiled for {arch}"))
    })
}

/// What messages call the PTX of `kernels/FILE.cu`.
pub(super) fn name(file: &str, arch: Arch) -> String {
    format!("{file}.{arch}.ptx")
}

fn unpacked(at: usize, name: &str) -> Result<String, String> {
    let mut text = String::new();
    let read = ZlibDecoder::new(PTX[at].2).read_to_string(&mut text);
    read.map(|_| text).map_err(|e| format!("{name}: {e}"))
}

/// The text that nvcc made of `kernels/FILE.cu`.
///
/// Errors: `Unsupported` when this binary has none, or when it cannot be read.
pub(super) fn text(file: &str, arch: Arch) -> Result<String> {
    unpacked(row(file, arch)?, &name(file, arch)).map_err(Error::Unsupported)
}

/// The module of `kernels/FILE.cu`.
///
/// Errors: `Unsupported` when this binary has none, or when it cannot be read.
pub(super) fn find(file: &str, arch: Arch) -> Result<&'static Module> {
    let at = row(file, arch)?;
    let module = MODULES[at].get_or_init(|| {
        let name = name(file, arch);
        parse(&name, &unpacked(at, &name)?).map_err(|e| e.to_string())
    });
    module.as_ref().map_err(|message| Error::Unsupported(message.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::launch::KERNELS;

    /// Every kernel of every file that nvcc compiled is in the PTX of each architecture that was kept, and its
    /// sources are named by paths that do not depend on where they were compiled.
    #[test]
    fn every_kernel_is_there() {
        let mut kernels = 0;
        for arch in Arch::ALL {
            if PTX.iter().all(|row| row.1 != arch.name()) {
                continue;
            }
            for (file, ..) in PTX.iter().filter(|row| row.1 == arch.name()) {
                let module = find(file, arch).unwrap();
                assert_eq!(module.target, arch.to_string(), "{file}");
                for kernel in KERNELS.iter().filter(|kernel| kernel.file == *file) {
                    assert!(module.function(kernel.name).is_some(), "{} {arch}", kernel.name);
                    kernels += 1;
                }
                let own = format!("/{file}.cu");
                assert!(module.files.iter().any(|(_, path)| path.ends_with(&own)), "{file}");
                for (_, path) in &module.files {
                    assert!(path.starts_with("kernels/") || !path.contains('/'), "{path}");
                }
            }
        }
        assert!(kernels > 100, "only {kernels} kernels");
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error() {
        let message = find("nothing", Arch::Sm80).unwrap_err().to_string();
        assert!(message.contains("nothing.cu were not compiled for sm_80"), "{message}");
    }
}
