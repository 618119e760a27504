// All that a kernel file includes.
//
// A kernel file is compiled four times at most: by nvcc (feature `cuda`), and by the host compiler as
// C++17 for the emulator, once with every load and store reported (`checked`) and once without
// (`plain`). It looks like this:
//
//     #include "prelude.cuh"
//     namespace GLMAE_NS {
//     template <typename T> __device__ void body(...) { ... }
//     GLMAE_EXPORT __global__ void __launch_bounds__(128) op_fwd_f32(...) { body<float>(...); }
//     GLMAE_KERNEL(op_fwd_f32, 128)
//     }  // namespace GLMAE_NS
//
// Plain CUDA C++ goes through unchanged: threadIdx, __shared__, __syncthreads, shuffles, votes,
// integer atomics, bfloat16, vector types. What has no C++ form is behind a wrapper with a device and
// an emulated body of the same meaning: GLMAE_DYNAMIC_SHARED, load_whole, mma_m16n8k16_bf16,
// ldmatrix_*, cp_async_*, named_barrier_sync. Do not call std:: functions or memcpy in kernels.
#pragma once
#include "abi.h"

#ifdef __CUDACC__
#include "device.cuh"
#else
#include "../emulate/shim.h"
#endif

#include "vector.cuh"
#include "reduce.cuh"
