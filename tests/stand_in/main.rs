//! A stand-in for the CUDA driver: a `libcuda.so.1` for machines without a GPU, which executes kernels on the
//! host. Put where the loader finds it first, it lets everything above the driver run as it would on a
//! card: `src/device/cuda`, graphs, uploads on two streams, the scripts of a day on a GPU.
//!
//! It is stricter than a driver where that finds faults. Work is queued and runs as late as the
//! rules of streams and events allow (`GLMAE_STAND_IN_ORDER`: `lazy`, `eager`, or `seed:N`), so a buffer
//! that is reused too early gives wrong numbers. Fresh memory holds NaN. Every call wants a current
//! context on its thread. A capture refuses what a driver refuses. Only kernels that wait for the one before
//! them may be allowed to start early. `GLMAE_STAND_IN_CHECKED=1` runs the kernels with every memory access
//! checked. `faults.rs` says how to make it fail on purpose.
//!
//! It plays a card of compute capability 9.0, or of 8.0 with `GLMAE_STAND_IN_CAPABILITY=8.0`. Kernels for
//! Hopper alone are executed from their PTX, all others as C++ (`card.rs`). A tensor map is made by the rules
//! of the driver's manual, of what the caller says (`tensor_maps.rs`).
//!
//! Nothing measured on it means anything: its device is named so that no result can be mistaken.
//! Build: `cargo build --features cuda --example cuda_stand_in`. Without the feature it is empty, as the
//! program has no driver layer then.
#![cfg(feature = "cuda")]

mod card;
mod faults;
mod kernels;
mod queue;
mod tensor_maps;

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};

use glmae::device::on_host::Engine;

use card::Card;
use queue::{Driver, Host, Work};

/// A `CUresult`.
type Code = u32;
const OK: Code = 0;
const INVALID_VALUE: Code = 1;
const OUT_OF_MEMORY: Code = 2;
const NOT_INITIALIZED: Code = 3;
const NO_DEVICE: Code = 100;
const INVALID_DEVICE: Code = 101;
const INVALID_IMAGE: Code = 200;
const INVALID_CONTEXT: Code = 201;
const NO_BINARY_FOR_GPU: Code = 209;
const INVALID_HANDLE: Code = 400;
const NOT_FOUND: Code = 500;
const ILLEGAL_ADDRESS: Code = 700;
const NOT_SUPPORTED: Code = 801;
const CAPTURE_UNSUPPORTED: Code = 900;
const CAPTURE_INVALIDATED: Code = 901;
const CAPTURE_IMPLICIT: Code = 906;

const CODES: [(Code, &CStr); 15] = [
    (OK, c"CUDA_SUCCESS"),
    (INVALID_VALUE, c"CUDA_ERROR_INVALID_VALUE"),
    (OUT_OF_MEMORY, c"CUDA_ERROR_OUT_OF_MEMORY"),
    (NOT_INITIALIZED, c"CUDA_ERROR_NOT_INITIALIZED"),
    (NO_DEVICE, c"CUDA_ERROR_NO_DEVICE"),
    (INVALID_DEVICE, c"CUDA_ERROR_INVALID_DEVICE"),
    (INVALID_IMAGE, c"CUDA_ERROR_INVALID_IMAGE"),
    (INVALID_CONTEXT, c"CUDA_ERROR_INVALID_CONTEXT"),
    (NO_BINARY_FOR_GPU, c"CUDA_ERROR_NO_BINARY_FOR_GPU"),
    (INVALID_HANDLE, c"CUDA_ERROR_INVALID_HANDLE"),
    (NOT_FOUND, c"CUDA_ERROR_NOT_FOUND"),
    (ILLEGAL_ADDRESS, c"CUDA_ERROR_ILLEGAL_ADDRESS"),
    (NOT_SUPPORTED, c"CUDA_ERROR_NOT_SUPPORTED"),
    (CAPTURE_UNSUPPORTED, c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"),
    (CAPTURE_INVALIDATED, c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"),
];

const NAME: &[u8] = b"stand-in (kernels run on the host)";
/// The one context; any value but null.
const CONTEXT: usize = 0xC0;

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

type Answer = Result<(), Code>;

/// Nothing before it is initialised.
fn driver() -> MutexGuard<'static, Option<Driver>> {
    static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A call that needs no context.
fn call(body: impl FnOnce(&mut Driver) -> Answer) -> Code {
    match &mut *driver() {
        Some(driver) => body(driver).err().unwrap_or(OK),
        None => NOT_INITIALIZED,
    }
}

/// What a caller did wrong, said where somebody reads it.
fn refuse(why: impl Display) -> Code {
    eprintln!("stand-in: {why}");
    INVALID_VALUE
}

/// A call in the current context, which a fault of a kernel ends for good.
fn within(body: impl FnOnce(&mut Driver) -> Answer) -> Code {
    if CURRENT.get() != CONTEXT {
        return INVALID_CONTEXT;
    }
    call(|driver| {
        driver.alive()?;
        driver.shuffle()?;
        body(driver)
    })
}

/// Writes a result to where the caller wants it.
fn give<T>(to: *mut T, value: T) -> Answer {
    if to.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: the caller of the driver passes the address of a place for a `T`.
    unsafe { to.write(value) }
    Ok(())
}

fn handle(value: u64) -> *mut c_void {
    std::ptr::without_provenance_mut(value as usize)
}

fn id(handle: *mut c_void) -> u64 {
    handle.addr() as u64
}

// The functions of the driver, in the order of its manual. Their contracts are those of cuda.h; a name
// with a version is the one that CUDA 13 resolves to.

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorName(code: Code, name: *mut *const c_char) -> Code {
    let found = CODES.iter().find(|c| c.0 == code).map_or(c"CUDA_ERROR_UNKNOWN", |c| c.1);
    give(name, found.as_ptr()).err().unwrap_or(OK)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorString(code: Code, text: *mut *const c_char) -> Code {
    // SAFETY: as the caller's.
    unsafe { cuGetErrorName(code, text) }
}

#[unsafe(no_mangle)]
extern "C" fn cuInit(flags: c_uint) -> Code {
    if flags != 0 {
        return INVALID_VALUE;
    }
    let mut driver = driver();
    if driver.is_none() {
        match Card::from_environment() {
            Ok(card) => *driver = Some(Driver::new(card)),
            Err(e) => return refuse(e),
        }
    }
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> Code {
    give(version, 13000).err().unwrap_or(OK)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> Code {
    call(|driver| give(count, c_int::from(driver.faults.has_device)))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> Code {
    call(|driver| match (driver.faults.has_device, ordinal) {
        (false, _) => Err(NO_DEVICE),
        (true, 0) => give(device, 0),
        _ => Err(INVALID_DEVICE),
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, len: c_int, _: c_int) -> Code {
    let len = usize::try_from(len).unwrap_or(0);
    if name.is_null() || len <= NAME.len() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's buffer has `len` bytes, more than are written.
    unsafe {
        std::ptr::copy_nonoverlapping(NAME.as_ptr(), name.cast(), NAME.len());
        name.add(NAME.len()).write(0);
    }
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, _: c_int) -> Code {
    call(|driver| give(bytes, driver.faults.memory))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, _: c_int) -> Code {
    call(|driver| {
        let card = driver.card();
        let limits = card.limits();
        let found: u32 = match attribute {
            1 => limits.threads as u32,
            2..=4 => limits.block[attribute as usize - 2],
            5..=7 => limits.grid[attribute as usize - 5],
            8 => limits.shared_bytes,
            16 => card.processors,
            // Compute mode: the default one.
            20 => 0,
            75 => card.capability[0],
            76 => card.capability[1],
            97 => limits.shared_bytes_opt_in,
            // Memory pools.
            115 => 1,
            _ => return Err(INVALID_VALUE),
        };
        give(value, found as c_int)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, _: c_int) -> Code {
    call(|_| give(context, handle(CONTEXT as u64)))
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(_: c_int) -> Code {
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetCurrent(context: *mut *mut c_void) -> Code {
    call(|_| give(context, handle(CURRENT.get() as u64)))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(context: *mut c_void) -> Code {
    match context.addr() {
        0 | CONTEXT => {
            CURRENT.set(context.addr());
            // A broken context cannot be made current.
            call(|driver| driver.alive())
        }
        _ => INVALID_CONTEXT,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> Code {
    within(|driver| {
        driver.not_capturing(None)?;
        driver.finish_all()
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Code {
    within(|driver| {
        give(free, driver.faults.memory.saturating_sub(driver.allocated()))?;
        give(total, driver.faults.memory)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(at: *mut u64, bytes: usize) -> Code {
    within(|driver| {
        driver.not_unsafe_in_capture()?;
        give(at, driver.alloc(bytes)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(at: u64) -> Code {
    within(|driver| {
        driver.not_unsafe_in_capture()?;
        driver.free(at)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemHostAlloc(to: *mut *mut c_void, bytes: usize, _: c_uint) -> Code {
    within(|driver| {
        driver.not_unsafe_in_capture()?;
        give(to, driver.alloc_host(bytes)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeHost(at: *mut c_void) -> Code {
    within(|driver| driver.free_host(at))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    stream: *mut c_void,
) -> Code {
    within(|driver| {
        let from = match driver.is_pinned(from, bytes) {
            true => Host::Pinned(from.addr()),
            // Pageable memory has been read when a driver returns.
            // SAFETY: the caller's range.
            false => Host::Copied(unsafe {
                std::slice::from_raw_parts(from.cast::<u8>(), bytes).to_vec()
            }),
        };
        driver.start(id(stream), Work::Up { to, from, bytes })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    bytes: usize,
    stream: *mut c_void,
) -> Code {
    within(|driver| {
        driver.start(id(stream), Work::Down { to: to.addr(), from, bytes })?;
        // Into pageable memory a driver returns when it is done.
        if driver.is_pinned(to, bytes) { Ok(()) } else { driver.finish(id(stream)) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: *mut c_void) -> Code {
    within(|driver| driver.start(id(stream), Work::Copy { to, from, bytes }))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8Async(to: u64, byte: u8, bytes: usize, stream: *mut c_void) -> Code {
    within(|driver| driver.start(id(stream), Work::Fill { to, byte, bytes }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamCreate(stream: *mut *mut c_void, _: c_uint) -> Code {
    within(|driver| give(stream, handle(driver.new_stream())))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(stream: *mut c_void) -> Code {
    within(|driver| driver.drop_stream(id(stream)))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(stream: *mut c_void) -> Code {
    within(|driver| {
        driver.not_capturing(Some(id(stream)))?;
        driver.finish(id(stream))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(stream: *mut c_void, event: *mut c_void, _: c_uint) -> Code {
    within(|driver| driver.wait(id(stream), id(event)))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamBeginCapture_v2(stream: *mut c_void, mode: c_uint) -> Code {
    within(|driver| driver.begin_capture(id(stream), mode))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamEndCapture(stream: *mut c_void, graph: *mut *mut c_void) -> Code {
    within(|driver| give(graph, handle(driver.end_capture(id(stream))?)))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventCreate(event: *mut *mut c_void, _: c_uint) -> Code {
    within(|driver| give(event, handle(driver.new_event())))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(event: *mut c_void) -> Code {
    within(|driver| driver.drop_event(id(event)))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: *mut c_void, stream: *mut c_void) -> Code {
    within(|driver| driver.record(id(event), id(stream)))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: *mut c_void) -> Code {
    within(|driver| driver.await_event(id(event)))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime_v2(
    ms: *mut f32,
    begin: *mut c_void,
    end: *mut c_void,
) -> Code {
    within(|driver| give(ms, driver.elapsed_ms(id(begin), id(end))?))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphInstantiateWithFlags(
    executable: *mut *mut c_void,
    graph: *mut c_void,
    _: u64,
) -> Code {
    within(|driver| give(executable, handle(driver.instantiate(id(graph))?)))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphUpload(executable: *mut c_void, _: *mut c_void) -> Code {
    within(|driver| driver.graph(id(executable)).map(|_| ()))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphLaunch(executable: *mut c_void, stream: *mut c_void) -> Code {
    within(|driver| {
        let graph = driver.graph(id(executable))?;
        driver.start(id(stream), Work::Graph(graph))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecDestroy(executable: *mut c_void) -> Code {
    within(|driver| driver.drop_graph(id(executable)))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphDestroy(graph: *mut c_void) -> Code {
    within(|driver| driver.drop_graph(id(graph)))
}

#[unsafe(no_mangle)]
extern "C" fn cuProfilerStart() -> Code {
    within(|_| Ok(()))
}

#[unsafe(no_mangle)]
extern "C" fn cuProfilerStop() -> Code {
    within(|_| Ok(()))
}
