// All that a kernel file includes.
//
// A kernel file is compiled four times at most: by nvcc (feature `cuda`), and by the host compiler as
// C++17 for the emulator, once with every load and store reported (`checked`) and once without
// (`plain`). It looks like this:
//
//     #include "prelude.cuh"
//     namespace GLMAE_NS {
//     template <typename T> __device__ void op_fwd(T* y, const T* x, int n) { ... }
//     GLMAE_TWINS(op_fwd_f32, op_fwd_bf16, (128),
//         (T* __restrict__ y, const T* __restrict__ x, int n), op_fwd(y, x, n))
//     }  // namespace GLMAE_NS
//
// export.cuh has the other ways to export a kernel.
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

#include "export.cuh"
#include "vector.cuh"
#include "reduce.cuh"
