//! Kernels of a GPU: loaded from the fatbins when they are first asked for, and started.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use cudarc::driver::sys::{
    CUfunction_attribute_enum as OfFunction, CUlaunchAttributeID_enum as Attribute,
};
use cudarc::driver::{CudaFunction, CudaModule, sys};
use cudarc::nvrtc::Ptx;

use super::Cuda;
use super::fault::driver;
use crate::device::launch::{Arg, FATBINS, Kernel, LaunchConfig, Shared, Slots, check};
use crate::error::{Error, Result};

#[derive(Clone)]
pub(super) struct Function {
    pub function: CudaFunction,
    pub shared: Shared,
}

impl Cuda {
    pub(super) fn functions(&self) -> MutexGuard<'_, HashMap<&'static str, Function>> {
        self.functions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a kernel.
    ///
    /// Errors: `Unsupported` for a kernel that this binary does not have; `Device` for a wrong launch.
    pub fn launch(&self, name: &str, config: &LaunchConfig, args: &[Arg]) -> Result<()> {
        let kernel = Kernel::find(name)?;
        let found = self.function(kernel)?;
        self.capturing.takes_in(name)?;
        check(kernel, config, args, &self.limits, found.shared)?;
        let mut may_start_early = sys::CUlaunchAttribute {
            id: Attribute::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let ([gx, gy, gz], [bx, by, bz]) = (config.grid, config.block);
        let is_hopper = kernel.needs_hopper();
        let launch = sys::CUlaunchConfig {
            // Hopper's are persistent: more blocks than there are SMs would only queue up. Clusters have two at most.
            gridDimX: if is_hopper { gx.min(self.processors.next_multiple_of(2)) } else { gx },
            gridDimY: gy,
            gridDimZ: gz,
            blockDimX: bx,
            blockDimY: by,
            blockDimZ: bz,
            sharedMemBytes: config.shared_bytes,
            hStream: self.stream.cu_stream(),
            attrs: &raw mut may_start_early,
            // They also wait by themselves for the kernel before them; the others need it to have ended.
            numAttrs: u32::from(is_hopper && self.overlaps),
        };
        let mut slots = Slots::new(args);
        let mut pointers = slots.pointers();
        // SAFETY: count, kinds and sizes of the arguments were checked against the kernel's type; the driver copies
        // them, and the attribute, before it returns. That pointers are valid is the caller's promise, which the
        // emulator tests.
        let code = unsafe {
            sys::cuLaunchKernelEx(
                &raw const launch,
                found.function.cu_function(),
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        code.result().map_err(driver(&format!("kernel {name}")))
    }

    pub(super) fn function(&self, kernel: &'static Kernel) -> Result<Function> {
        // Loading and asking need the context of this thread, too.
        self.bind()?;
        let mut functions = self.functions();
        if let Some(found) = functions.get(kernel.name) {
            return Ok(found.clone());
        }
        let function = self
            .module(kernel.file)?
            .load_function(kernel.name)
            .map_err(driver(&format!("kernel {} in {}.cu", kernel.name, kernel.file)))?;
        // What a kernel's export says must not drift apart from what was compiled.
        let attribute = |which| {
            let value = function.get_attribute(which).map_err(driver("function attribute"))?;
            u32::try_from(value)
                .map_err(|_| Error::Device(format!("attribute {which:?} is {value}")))
        };
        let most = attribute(OfFunction::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?;
        let stated = kernel.signature().max_threads;
        if most < stated {
            return Err(Error::Device(format!(
                "kernel {}: compiled for {most} threads, its export says {stated}",
                kernel.name
            )));
        }
        let static_bytes = attribute(OfFunction::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?;
        let found = Function { function, shared: Shared { static_bytes, opted_in: 0 } };
        functions.insert(kernel.name, found.clone());
        Ok(found)
    }

    fn module(&self, file: &'static str) -> Result<Arc<CudaModule>> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(file) {
            return Ok(module.clone());
        }
        let (_, fatbin) = FATBINS.iter().find(|f| f.0 == file).ok_or_else(|| {
            Error::Unsupported(format!("the kernels of {file}.cu were not compiled for GPUs"))
        })?;
        let module = self.context.load_module(Ptx::from_binary(fatbin.to_vec())).map_err(
            driver(&format!("loading {file}.cu (is the driver of CUDA 13.0 or newer?)")),
        )?;
        modules.insert(file, module.clone());
        Ok(module)
    }
}

/// `GLMAE_CUDA_OVERLAP=0`: every kernel starts when the one before it has ended.
///
/// Errors: `Config` for a value that is not known.
pub(super) fn overlaps() -> Result<bool> {
    const NAME: &str = "GLMAE_CUDA_OVERLAP";
    match std::env::var(NAME).as_deref() {
        Err(_) | Ok("" | "1") => Ok(true),
        Ok("0") => Ok(false),
        Ok(other) => Err(Error::Config(format!("{NAME} is '{other}'; it can be '0' or '1'"))),
    }
}
