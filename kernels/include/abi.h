// Plain structs and constants shared by the kernels, the emulator and Rust. `src/device/abi.rs` is
// the mirror; a test compares every size and offset with the constants of `emulate/layout.cpp`.
// Rules: fixed-width members in decreasing alignment, no padding that is not named, no bool.
#pragma once
#include <stdint.h>

// How a backward kernel writes a gradient: the first writer overwrites, later ones add.
#define GLMAE_GRAD_OVERWRITE 0
#define GLMAE_GRAD_ACCUMULATE 1

// One kernel of the emulated build: how to call it, and what it must be called with.
struct GlmaeKernelInfo {
    const char* name;
    void (*call)(void** args);  // one slot per argument, as in cuLaunchKernel
    const uint8_t* kinds;       // GLMAE_ARG_*, one per argument
    const uint32_t* sizes;      // bytes, one per argument
    uint32_t count;
    uint32_t max_threads;  // per block, from GLMAE_KERNEL(name, threads)
};

#define GLMAE_ARG_POINTER 0
#define GLMAE_ARG_SIGNED 1
#define GLMAE_ARG_UNSIGNED 2
#define GLMAE_ARG_FLOAT 3
#define GLMAE_ARG_STRUCT 4

// What a running emulated thread knows about itself; one per OS thread, rewritten at each switch.
struct GlmaeEmuThread {
    void* block;  // the Rust side's state of the running block
    void* dynamic_shared;
    uint64_t stack_low, stack_bytes;  // of the running fibre
    uint32_t thread_idx[3], block_idx[3], block_dim[3], grid_dim[3];
};

// What the emulator (Rust) does for the shim (C++). `pc` is the address the kernel called from.
struct GlmaeEmuCallbacks {
    void (*access)(void* block, const void* at, uint64_t bytes, uint32_t kind, const void* pc);
    uint32_t (*barrier)(void* block, uint32_t id, uint32_t threads, uint32_t reduce, uint32_t value,
                        const void* pc);
    void (*warp)(void* block, uint32_t op, uint32_t mask, void* payload,
                 void (*complete)(void* const* payloads, uint32_t mask), const void* pc);
    void (*copy)(void* block, void* to, const void* from, uint32_t bytes, uint32_t from_bytes,
                 const void* pc);
    void (*copy_commit)(void* block);
    void (*copy_wait)(void* block, uint32_t pending, const void* pc);
    void (*fault)(void* block, uint32_t code, const void* pc);
};

// Weights of a weighted sum, passed by value.
#define GLMAE_WEIGHTS 32
struct GlmaeWeights {
    float weight[GLMAE_WEIGHTS];
};

// One update of the optimiser, the same for all parameters; rest1 = 1 - beta1 and so on. In device
// memory, because a captured graph replays with other values.
struct GlmaeAdamScalars {
    float beta1, rest1, beta2, rest2, eps, grad_scale, ema, ema_rest;
};
// A range of the flat buffers with settings of its own: lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t),
// 1 - lr weight_decay.
struct GlmaeAdamSegment {
    int64_t begin, end;
    float step_size, root, keep;
    uint32_t flags;  // GLMAE_ADAM_*
};
#define GLMAE_ADAM_ACTIVE 1u
#define GLMAE_ADAM_TEACHER 2u

// The box of a view, along d, h, w, as 32.32 fixed point: output voxel i lies at position
// start + i * step of the volume. A mirrored axis has a negative step.
struct GlmaeViewBox {
    int64_t start[3], step[3];
};

// Where the voxels of a resampled volume lie in its source: output voxel (i_d, i_h, i_w) at
// start + i_d step[0] + i_h step[1] + i_w step[2], along d, h, w, as 24.40 fixed point. Passed by value.
struct GlmaeAffineMap {
    int64_t start[3], step[3][3];
};

// A tensor map (CUtensorMap), which only the device that made it can read. Passed by value.
struct alignas(64) GlmaeTensorMap {
    uint64_t opaque[16];
};

#define GLMAE_ACCESS_READ 0
#define GLMAE_ACCESS_WRITE 1
#define GLMAE_ACCESS_ATOMIC 2

#define GLMAE_REDUCE_NONE 0
#define GLMAE_REDUCE_OR 1
#define GLMAE_REDUCE_AND 2
#define GLMAE_REDUCE_COUNT 3

#define GLMAE_FAULT_FLOAT_ATOMIC 0
#define GLMAE_FAULT_SHUFFLE_SOURCE 1
#define GLMAE_FAULT_MISALIGNED 2
#define GLMAE_FAULT_TRAP 3
#define GLMAE_FAULT_ARRAY_INDEX 4
#define GLMAE_FAULT_OVERFLOW 5
#define GLMAE_FAULT_DIVISION 6
#define GLMAE_FAULT_SHIFT 7
#define GLMAE_FAULT_UNDEFINED 8
