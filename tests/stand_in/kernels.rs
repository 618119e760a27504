//! Modules, the kernels in them, and their launches, by the one call that the program uses: it takes attributes.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use cudarc::driver::sys::{CUlaunchAttribute, CUlaunchAttributeID_enum, CUlaunchConfig};
use glmae::device::abi::ArgKind;
use glmae::device::fatbin;
use glmae::device::launch::{Arg, DevicePtr, KERNELS, Kernel, LaunchConfig, check};
use glmae::device::on_host::Engine;

use super::queue::Work;
use super::{
    Code, INVALID_HANDLE, INVALID_IMAGE, INVALID_VALUE, NO_BINARY_FOR_GPU, NOT_FOUND, give, handle,
    id, refuse, within,
};

/// A parameter of a launch.
pub struct Value {
    kind: ArgKind,
    bytes: Vec<u8>,
}

impl Value {
    fn arg(&self) -> Arg<'_> {
        let mut wide = [0; 8];
        let len = self.bytes.len().min(8);
        wide[..len].copy_from_slice(&self.bytes[..len]);
        let bits = u64::from_le_bytes(wide);
        match (self.kind, self.bytes.len() == 8) {
            (ArgKind::Pointer, _) => Arg::Ptr(DevicePtr(bits)),
            (ArgKind::Signed, true) => Arg::I64(bits as i64),
            (ArgKind::Signed, false) => Arg::I32(bits as u32 as i32),
            (ArgKind::Unsigned, true) => Arg::U64(bits),
            (ArgKind::Unsigned, false) => Arg::U32(bits as u32),
            (ArgKind::Float, _) => Arg::F32(f32::from_bits(bits as u32)),
            (ArgKind::Struct, _) => Arg::Pod(&self.bytes),
        }
    }
}

pub struct Launch {
    pub kernel: &'static Kernel,
    pub config: LaunchConfig,
    pub values: Vec<Value>,
}

impl Launch {
    pub fn args(&self) -> Vec<Arg<'_>> {
        self.values.iter().map(Value::arg).collect()
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoadData(module: *mut *mut c_void, image: *const c_void) -> Code {
    within(|driver| {
        if image.is_null() || !image.addr().is_multiple_of(8) {
            return Err(INVALID_IMAGE);
        }
        // SAFETY: an image begins with a fatbin's header: magic, version, its own size, and the
        // number of bytes that follow it.
        let image = unsafe {
            let bytes = image.cast::<u8>().add(8).cast::<u64>().read();
            std::slice::from_raw_parts(image.cast::<u8>(), 16 + bytes as usize)
        };
        let codes = fatbin::codes(image);
        if codes.is_empty() {
            return Err(INVALID_IMAGE);
        }
        if !codes.iter().any(|code| code.runs_on(driver.card().capability)) {
            return Err(NO_BINARY_FOR_GPU);
        }
        give(module, handle(driver.next()))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleUnload(_: *mut c_void) -> Code {
    within(|_| Ok(()))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetFunction(
    function: *mut *mut c_void,
    _: *mut c_void,
    name: *const c_char,
) -> Code {
    // SAFETY: a string that ends, by the driver's contract.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    within(|_| {
        let index = KERNELS.iter().position(|k| k.name == name).ok_or(NOT_FOUND)?;
        give(function, handle(index as u64 + 1))
    })
}

fn kernel(function: *mut c_void) -> Result<&'static Kernel, Code> {
    let index = usize::try_from(id(function)).ok().and_then(|i| i.checked_sub(1));
    index.and_then(|i| KERNELS.get(i)).ok_or(INVALID_HANDLE)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncGetAttribute(
    value: *mut c_int,
    attribute: c_uint,
    function: *mut c_void,
) -> Code {
    within(|driver| {
        let kernel = kernel(function)?;
        let found = match attribute {
            0 => kernel.signature().max_threads,
            1 => driver.shared(kernel)?.static_bytes,
            8 => driver.shared(kernel)?.opted_in,
            _ => return Err(INVALID_VALUE),
        };
        give(value, found as c_int)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetAttribute(function: *mut c_void, attribute: c_uint, value: c_int) -> Code {
    within(|driver| {
        let bytes = u32::try_from(value).ok().filter(|_| attribute == 8);
        driver.opt_in(kernel(function)?, bytes.ok_or(INVALID_VALUE)?)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernelEx(
    config: *const CUlaunchConfig,
    function: *mut c_void,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Code {
    within(|driver| {
        let kernel = kernel(function)?;
        // SAFETY: null, or a launch, by the driver's contract.
        let asked = unsafe { config.as_ref() }.ok_or(INVALID_VALUE)?;
        if parameters.is_null() || !extra.is_null() {
            return Err(INVALID_VALUE);
        }
        let mut may_start_early = false;
        for i in 0..asked.numAttrs as usize {
            // SAFETY: as many attributes as the launch says.
            may_start_early |= unsafe { allows_early_start(asked.attrs.add(i)) }?;
        }
        let config = LaunchConfig {
            grid: [asked.gridDimX, asked.gridDimY, asked.gridDimZ],
            block: [asked.blockDimX, asked.blockDimY, asked.blockDimZ],
            shared_bytes: asked.sharedMemBytes,
        };
        let signature = kernel.signature();
        let values = signature.args.iter().enumerate().map(|(i, &(kind, bytes))| {
            // SAFETY: as many parameters as the kernel has, each of its size. They are copied now, as
            // a driver does.
            let bytes = unsafe {
                std::slice::from_raw_parts((*parameters.add(i)).cast::<u8>(), bytes).to_vec()
            };
            Value { kind, bytes }
        });
        let launch = Launch { kernel, config, values: values.collect() };
        let card = driver.card();
        check(kernel, &config, &launch.args(), card.limits(), driver.shared(kernel)?)
            .and_then(|()| card.check(kernel, config.grid, may_start_early))
            .map_err(refuse)?;
        driver.start(id(asked.hStream.cast()), Work::Launch(launch))
    })
}

/// Whether an attribute says that the kernel may start before the one before it in the stream has ended.
///
/// # Safety
///
/// It points to an attribute, whatever kind.
unsafe fn allows_early_start(attribute: *const CUlaunchAttribute) -> Result<bool, Code> {
    const EARLY: CUlaunchAttributeID_enum =
        CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    // SAFETY: by the contract. The kind is read as a number, for it may be one that the enum does not have.
    let kind = unsafe { (&raw const (*attribute).id).cast::<u32>().read() };
    if kind != EARLY as u32 {
        return Err(refuse(format_args!("attribute {kind} of a launch")));
    }
    // SAFETY: the value of this kind.
    Ok(unsafe { (*attribute).value.programmaticStreamSerializationAllowed } != 0)
}
