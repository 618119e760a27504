// The prelude under the host compiler: CUDA's names with the meaning the emulator gives them.
//
// Everything, types and inline functions included, lives in the namespace of the build and the file
// (`glmae_checked_layer_norm`): the linker folds inline functions of equal names, and must never fold
// an instrumented one with one that is not, nor helpers of two kernel files.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime.h"

#ifndef GLMAE_NS
#error "build.rs says how to compile this: -DGLMAE_BUILD=glmae_plain -DGLMAE_NS=glmae_plain_<file>"
#endif

#define __global__
#define __device__
#define __host__
// Always, so that the emulator sees calls come from the kernel's own line.
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __constant__ static const
#define __grid_constant__
// A block runs on one OS thread, so its shared memory is that thread's.
#define __shared__ static thread_local
#define __restrict__ __restrict

#define GLMAE_EXPORT
// For code that touches memory on the emulator's behalf.
#define GLMAE_UNCHECKED \
    __attribute__((no_sanitize("thread"), no_sanitize("undefined"), noinline, unused)) static

#define GLMAE_DYNAMIC_SHARED(type, name) \
    type* const name = static_cast<type*>(glmae_emu_dynamic_shared())

#define threadIdx (glmae_emu_thread_idx())
#define blockIdx (glmae_emu_block_idx())
#define blockDim (glmae_emu_block_dim())
#define gridDim (glmae_emu_grid_dim())

#include "types.h"

#include "bf16.h"
#include "collectives.h"
#include "intrinsics.h"
#include "registry.h"
#include "tensor_core.h"
