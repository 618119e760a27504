// Sizes and offsets of abi.h as this compiler lays them out, for the test of `src/device/abi.rs`.
#include <stddef.h>

#include "../include/abi.h"

extern "C" {
extern const uint64_t glmae_abi_layout[];
const uint64_t glmae_abi_layout[] = {
    sizeof(GlmaeKernelInfo),
    offsetof(GlmaeKernelInfo, name),
    offsetof(GlmaeKernelInfo, call),
    offsetof(GlmaeKernelInfo, kinds),
    offsetof(GlmaeKernelInfo, sizes),
    offsetof(GlmaeKernelInfo, count),
    offsetof(GlmaeKernelInfo, max_threads),
    sizeof(GlmaeEmuThread),
    offsetof(GlmaeEmuThread, block),
    offsetof(GlmaeEmuThread, dynamic_shared),
    offsetof(GlmaeEmuThread, stack_low),
    offsetof(GlmaeEmuThread, stack_bytes),
    offsetof(GlmaeEmuThread, thread_idx),
    offsetof(GlmaeEmuThread, block_idx),
    offsetof(GlmaeEmuThread, block_dim),
    offsetof(GlmaeEmuThread, grid_dim),
    sizeof(GlmaeEmuCallbacks),
    offsetof(GlmaeEmuCallbacks, access),
    offsetof(GlmaeEmuCallbacks, barrier),
    offsetof(GlmaeEmuCallbacks, warp),
    offsetof(GlmaeEmuCallbacks, copy),
    offsetof(GlmaeEmuCallbacks, copy_commit),
    offsetof(GlmaeEmuCallbacks, copy_wait),
    offsetof(GlmaeEmuCallbacks, fault),
    sizeof(GlmaeWeights),
    offsetof(GlmaeWeights, weight),
    sizeof(GlmaeAdamScalars),
    offsetof(GlmaeAdamScalars, beta1),
    offsetof(GlmaeAdamScalars, rest1),
    offsetof(GlmaeAdamScalars, beta2),
    offsetof(GlmaeAdamScalars, rest2),
    offsetof(GlmaeAdamScalars, eps),
    offsetof(GlmaeAdamScalars, grad_scale),
    offsetof(GlmaeAdamScalars, ema),
    offsetof(GlmaeAdamScalars, ema_rest),
    sizeof(GlmaeAdamSegment),
    offsetof(GlmaeAdamSegment, begin),
    offsetof(GlmaeAdamSegment, end),
    offsetof(GlmaeAdamSegment, step_size),
    offsetof(GlmaeAdamSegment, root),
    offsetof(GlmaeAdamSegment, keep),
    offsetof(GlmaeAdamSegment, flags),
    sizeof(GlmaeViewBox),
    offsetof(GlmaeViewBox, start),
    offsetof(GlmaeViewBox, step),
    sizeof(GlmaeAffineMap),
    offsetof(GlmaeAffineMap, start),
    offsetof(GlmaeAffineMap, step),
    sizeof(GlmaeTensorMap),
    alignof(GlmaeTensorMap),
};
extern const uint64_t glmae_abi_layout_count;
const uint64_t glmae_abi_layout_count = sizeof(glmae_abi_layout) / sizeof(uint64_t);
}
