// Written by scripts/generate-abi.sh with bindgen 0.72.1; not to be edited.
// FNV-1a of kernels/include/abi.h: 27c7382adbaf1cef

pub const GLMAE_GRAD_OVERWRITE: u32 = 0;
pub const GLMAE_GRAD_ACCUMULATE: u32 = 1;
pub const GLMAE_ARG_POINTER: u32 = 0;
pub const GLMAE_ARG_SIGNED: u32 = 1;
pub const GLMAE_ARG_UNSIGNED: u32 = 2;
pub const GLMAE_ARG_FLOAT: u32 = 3;
pub const GLMAE_ARG_STRUCT: u32 = 4;
pub const GLMAE_WEIGHTS: u32 = 32;
pub const GLMAE_ADAM_ACTIVE: u32 = 1;
pub const GLMAE_ADAM_TEACHER: u32 = 2;
pub const GLMAE_ACCESS_READ: u32 = 0;
pub const GLMAE_ACCESS_WRITE: u32 = 1;
pub const GLMAE_ACCESS_ATOMIC: u32 = 2;
pub const GLMAE_REDUCE_NONE: u32 = 0;
pub const GLMAE_REDUCE_OR: u32 = 1;
pub const GLMAE_REDUCE_AND: u32 = 2;
pub const GLMAE_REDUCE_COUNT: u32 = 3;
pub const GLMAE_FAULT_FLOAT_ATOMIC: u32 = 0;
pub const GLMAE_FAULT_SHUFFLE_SOURCE: u32 = 1;
pub const GLMAE_FAULT_MISALIGNED: u32 = 2;
pub const GLMAE_FAULT_TRAP: u32 = 3;
pub const GLMAE_FAULT_ARRAY_INDEX: u32 = 4;
pub const GLMAE_FAULT_OVERFLOW: u32 = 5;
pub const GLMAE_FAULT_DIVISION: u32 = 6;
pub const GLMAE_FAULT_SHIFT: u32 = 7;
pub const GLMAE_FAULT_UNDEFINED: u32 = 8;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct GlmaeKernelInfo {
    pub name: *const ::core::ffi::c_char,
    pub call: ::core::option::Option<unsafe extern "C" fn(args: *mut *mut ::core::ffi::c_void)>,
    pub kinds: *const u8,
    pub sizes: *const u32,
    pub count: u32,
    pub max_threads: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GlmaeKernelInfo"][::core::mem::size_of::<GlmaeKernelInfo>() - 40usize];
    ["Alignment of GlmaeKernelInfo"][::core::mem::align_of::<GlmaeKernelInfo>() - 8usize];
    ["Offset of field: GlmaeKernelInfo::name"]
        [::core::mem::offset_of!(GlmaeKernelInfo, name) - 0usize];
    ["Offset of field: GlmaeKernelInfo::call"]
        [::core::mem::offset_of!(GlmaeKernelInfo, call) - 8usize];
    ["Offset of field: GlmaeKernelInfo::kinds"]
        [::core::mem::offset_of!(GlmaeKernelInfo, kinds) - 16usize];
    ["Offset of field: GlmaeKernelInfo::sizes"]
        [::core::mem::offset_of!(GlmaeKernelInfo, sizes) - 24usize];
    ["Offset of field: GlmaeKernelInfo::count"]
        [::core::mem::offset_of!(GlmaeKernelInfo, count) - 32usize];
    ["Offset of field: GlmaeKernelInfo::max_threads"]
        [::core::mem::offset_of!(GlmaeKernelInfo, max_threads) - 36usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct GlmaeEmuThread {
    pub block: *mut ::core::ffi::c_void,
    pub dynamic_shared: *mut ::core::ffi::c_void,
    pub stack_low: u64,
    pub stack_bytes: u64,
    pub thread_idx: [u32; 3usize],
    pub block_idx: [u32; 3usize],
    pub block_dim: [u32; 3usize],
    pub grid_dim: [u32; 3usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GlmaeEmuThread"][::core::mem::size_of::<GlmaeEmuThread>() - 80usize];
    ["Alignment of GlmaeEmuThread"][::core::mem::align_of::<GlmaeEmuThread>() - 8usize];
    ["Offset of field: GlmaeEmuThread::block"]
        [::core::mem::offset_of!(GlmaeEmuThread, block) - 0usize];
    ["Offset of field: GlmaeEmuThread::dynamic_shared"]
        [::core::mem::offset_of!(GlmaeEmuThread, dynamic_shared) - 8usize];
    ["Offset of field: GlmaeEmuThread::stack_low"]
        [::core::mem::offset_of!(GlmaeEmuThread, stack_low) - 16usize];
    ["Offset of field: GlmaeEmuThread::stack_bytes"]
        [::core::mem::offset_of!(GlmaeEmuThread, stack_bytes) - 24usize];
    ["Offset of field: GlmaeEmuThread::thread_idx"]
        [::core::mem::offset_of!(GlmaeEmuThread, thread_idx) - 32usize];
    ["Offset of field: GlmaeEmuThread::block_idx"]
        [::core::mem::offset_of!(GlmaeEmuThread, block_idx) - 44usize];
    ["Offset of field: GlmaeEmuThread::block_dim"]
        [::core::mem::offset_of!(GlmaeEmuThread, block_dim) - 56usize];
    ["Offset of field: GlmaeEmuThread::grid_dim"]
        [::core::mem::offset_of!(GlmaeEmuThread, grid_dim) - 68usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct GlmaeEmuCallbacks {
    pub access: ::core::option::Option<
        unsafe extern "C" fn(
            block: *mut ::core::ffi::c_void,
            at: *const ::core::ffi::c_void,
            bytes: u64,
            kind: u32,
            pc: *const ::core::ffi::c_void,
        ),
    >,
    pub barrier: ::core::option::Option<
        unsafe extern "C" fn(
            block: *mut ::core::ffi::c_void,
            id: u32,
            threads: u32,
            reduce: u32,
            value: u32,
            pc: *const ::core::ffi::c_void,
        ) -> u32,
    >,
    pub warp: ::core::option::Option<
        unsafe extern "C" fn(
            block: *mut ::core::ffi::c_void,
            op: u32,
            mask: u32,
            payload: *mut ::core::ffi::c_void,
            complete: ::core::option::Option<
                unsafe extern "C" fn(payloads: *const *mut ::core::ffi::c_void, mask: u32),
            >,
            pc: *const ::core::ffi::c_void,
        ),
    >,
    pub copy: ::core::option::Option<
        unsafe extern "C" fn(
            block: *mut ::core::ffi::c_void,
            to: *mut ::core::ffi::c_void,
            from: *const ::core::ffi::c_void,
            bytes: u32,
            from_bytes: u32,
            pc: *const ::core::ffi::c_void,
        ),
    >,
    pub copy_commit: ::core::option::Option<unsafe extern "C" fn(block: *mut ::core::ffi::c_void)>,
    pub copy_wait: ::core::option::Option<
        unsafe extern "C" fn(
            block: *mut ::core::ffi::c_void,
            pending: u32,
            pc: *const ::core::ffi::c_void,
        ),
    >,
    pub fault: ::core::option::Option<
        unsafe extern "C" fn(
            block: *mut ::core::ffi::c_void,
            code: u32,
            pc: *const ::core::ffi::c_void,
        ),
    >,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GlmaeEmuCallbacks"][::core::mem::size_of::<GlmaeEmuCallbacks>() - 56usize];
    ["Alignment of GlmaeEmuCallbacks"][::core::mem::align_of::<GlmaeEmuCallbacks>() - 8usize];
    ["Offset of field: GlmaeEmuCallbacks::access"]
        [::core::mem::offset_of!(GlmaeEmuCallbacks, access) - 0usize];
    ["Offset of field: GlmaeEmuCallbacks::barrier"]
        [::core::mem::offset_of!(GlmaeEmuCallbacks, barrier) - 8usize];
    ["Offset of field: GlmaeEmuCallbacks::warp"]
        [::core::mem::offset_of!(GlmaeEmuCallbacks, warp) - 16usize];
    ["Offset of field: GlmaeEmuCallbacks::copy"]
        [::core::mem::offset_of!(GlmaeEmuCallbacks, copy) - 24usize];
    ["Offset of field: GlmaeEmuCallbacks::copy_commit"]
        [::core::mem::offset_of!(GlmaeEmuCallbacks, copy_commit) - 32usize];
    ["Offset of field: GlmaeEmuCallbacks::copy_wait"]
        [::core::mem::offset_of!(GlmaeEmuCallbacks, copy_wait) - 40usize];
    ["Offset of field: GlmaeEmuCallbacks::fault"]
        [::core::mem::offset_of!(GlmaeEmuCallbacks, fault) - 48usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct GlmaeWeights {
    pub weight: [f32; 32usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GlmaeWeights"][::core::mem::size_of::<GlmaeWeights>() - 128usize];
    ["Alignment of GlmaeWeights"][::core::mem::align_of::<GlmaeWeights>() - 4usize];
    ["Offset of field: GlmaeWeights::weight"]
        [::core::mem::offset_of!(GlmaeWeights, weight) - 0usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct GlmaeAdamScalars {
    pub beta1: f32,
    pub rest1: f32,
    pub beta2: f32,
    pub rest2: f32,
    pub eps: f32,
    pub grad_scale: f32,
    pub ema: f32,
    pub ema_rest: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GlmaeAdamScalars"][::core::mem::size_of::<GlmaeAdamScalars>() - 32usize];
    ["Alignment of GlmaeAdamScalars"][::core::mem::align_of::<GlmaeAdamScalars>() - 4usize];
    ["Offset of field: GlmaeAdamScalars::beta1"]
        [::core::mem::offset_of!(GlmaeAdamScalars, beta1) - 0usize];
    ["Offset of field: GlmaeAdamScalars::rest1"]
        [::core::mem::offset_of!(GlmaeAdamScalars, rest1) - 4usize];
    ["Offset of field: GlmaeAdamScalars::beta2"]
        [::core::mem::offset_of!(GlmaeAdamScalars, beta2) - 8usize];
    ["Offset of field: GlmaeAdamScalars::rest2"]
        [::core::mem::offset_of!(GlmaeAdamScalars, rest2) - 12usize];
    ["Offset of field: GlmaeAdamScalars::eps"]
        [::core::mem::offset_of!(GlmaeAdamScalars, eps) - 16usize];
    ["Offset of field: GlmaeAdamScalars::grad_scale"]
        [::core::mem::offset_of!(GlmaeAdamScalars, grad_scale) - 20usize];
    ["Offset of field: GlmaeAdamScalars::ema"]
        [::core::mem::offset_of!(GlmaeAdamScalars, ema) - 24usize];
    ["Offset of field: GlmaeAdamScalars::ema_rest"]
        [::core::mem::offset_of!(GlmaeAdamScalars, ema_rest) - 28usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct GlmaeAdamSegment {
    pub begin: i64,
    pub end: i64,
    pub step_size: f32,
    pub root: f32,
    pub keep: f32,
    pub flags: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GlmaeAdamSegment"][::core::mem::size_of::<GlmaeAdamSegment>() - 32usize];
    ["Alignment of GlmaeAdamSegment"][::core::mem::align_of::<GlmaeAdamSegment>() - 8usize];
    ["Offset of field: GlmaeAdamSegment::begin"]
        [::core::mem::offset_of!(GlmaeAdamSegment, begin) - 0usize];
    ["Offset of field: GlmaeAdamSegment::end"]
        [::core::mem::offset_of!(GlmaeAdamSegment, end) - 8usize];
    ["Offset of field: GlmaeAdamSegment::step_size"]
        [::core::mem::offset_of!(GlmaeAdamSegment, step_size) - 16usize];
    ["Offset of field: GlmaeAdamSegment::root"]
        [::core::mem::offset_of!(GlmaeAdamSegment, root) - 20usize];
    ["Offset of field: GlmaeAdamSegment::keep"]
        [::core::mem::offset_of!(GlmaeAdamSegment, keep) - 24usize];
    ["Offset of field: GlmaeAdamSegment::flags"]
        [::core::mem::offset_of!(GlmaeAdamSegment, flags) - 28usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct GlmaeViewBox {
    pub start: [i64; 3usize],
    pub step: [i64; 3usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GlmaeViewBox"][::core::mem::size_of::<GlmaeViewBox>() - 48usize];
    ["Alignment of GlmaeViewBox"][::core::mem::align_of::<GlmaeViewBox>() - 8usize];
    ["Offset of field: GlmaeViewBox::start"][::core::mem::offset_of!(GlmaeViewBox, start) - 0usize];
    ["Offset of field: GlmaeViewBox::step"][::core::mem::offset_of!(GlmaeViewBox, step) - 24usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct GlmaeAffineMap {
    pub start: [i64; 3usize],
    pub step: [[i64; 3usize]; 3usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GlmaeAffineMap"][::core::mem::size_of::<GlmaeAffineMap>() - 96usize];
    ["Alignment of GlmaeAffineMap"][::core::mem::align_of::<GlmaeAffineMap>() - 8usize];
    ["Offset of field: GlmaeAffineMap::start"]
        [::core::mem::offset_of!(GlmaeAffineMap, start) - 0usize];
    ["Offset of field: GlmaeAffineMap::step"]
        [::core::mem::offset_of!(GlmaeAffineMap, step) - 24usize];
};
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone)]
pub struct GlmaeTensorMap {
    pub opaque: [u64; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GlmaeTensorMap"][::core::mem::size_of::<GlmaeTensorMap>() - 128usize];
    ["Alignment of GlmaeTensorMap"][::core::mem::align_of::<GlmaeTensorMap>() - 64usize];
    ["Offset of field: GlmaeTensorMap::opaque"]
        [::core::mem::offset_of!(GlmaeTensorMap, opaque) - 0usize];
};
