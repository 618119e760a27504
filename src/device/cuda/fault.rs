//! Driver errors as errors of this crate.

use cudarc::driver::sys::CUresult as Code;
use cudarc::driver::{DriverError, sys};

use crate::error::Error;

/// For `map_err`: says what was being done.
pub fn driver(what: &str) -> impl FnOnce(DriverError) -> Error + use<> {
    let what = what.to_owned();
    move |e| match e.0 {
        Code::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory(format!("{what}: {e}")),
        code if poisons(code) => Error::Device(format!(
            "{what}: {e}. A kernel has failed, now or earlier (kernels run behind the calls that start \
             them); the context cannot be used any more. Start the program again from its last \
             checkpoint; `compute-sanitizer` names the kernel, `--device emulated` runs it under \
             full checks"
        )),
        Code::CUDA_ERROR_NO_BINARY_FOR_GPU => Error::Unsupported(format!(
            "{what}: this binary has no machine code for this GPU; build it with GLMAE_CUDA_ARCHS"
        )),
        Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION | Code::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
            Error::Unsupported(format!(
                "{what}: {e}. The driver is older than the compiler of the kernels; it must support \
                 CUDA 13.0 (R580)"
            ))
        }
        _ => Error::Device(format!("{what}: {e}")),
    }
}

/// Whether every later call in the context will fail as well.
pub fn poisons(code: sys::CUresult) -> bool {
    matches!(
        code,
        Code::CUDA_ERROR_ILLEGAL_ADDRESS
            | Code::CUDA_ERROR_LAUNCH_FAILED
            | Code::CUDA_ERROR_LAUNCH_TIMEOUT
            | Code::CUDA_ERROR_ASSERT
            | Code::CUDA_ERROR_HARDWARE_STACK_ERROR
            | Code::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | Code::CUDA_ERROR_MISALIGNED_ADDRESS
            | Code::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | Code::CUDA_ERROR_INVALID_PC
            | Code::CUDA_ERROR_ECC_UNCORRECTABLE
            | Code::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | Code::CUDA_ERROR_CONTAINED
            | Code::CUDA_ERROR_TENSOR_MEMORY_LEAK
            | Code::CUDA_ERROR_UNKNOWN
    )
}
