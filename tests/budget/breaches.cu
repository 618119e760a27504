// Kernels that break one rule of the budget each: `scripts/kernel-budget.sh --self-test` requires
// that every breach named here is reported, and nothing else.
#include "prelude.cuh"

namespace GLMAE_NS {

// breaks: regs \d+ > 8
GLMAE_EXPORT __global__ void __launch_bounds__(128) breach_registers(float* y, const float* x) {
    float v[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) v[i] = x[i * 128 + threadIdx.x];
#pragma unroll
    for (int i = 0; i < 16; ++i) y[i * 128 + threadIdx.x] = v[i] * v[(i + 5) % 16] + v[(i + 1) % 16];
}
GLMAE_KERNEL(breach_registers, 128)

// breaks: shared \d+ > 512
GLMAE_EXPORT __global__ void __launch_bounds__(256) breach_shared(float* y, const float* x) {
    __shared__ float tile[256];
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[255 - threadIdx.x];
}
GLMAE_KERNEL(breach_shared, 256)

// breaks: stack \d+ > 0
// (the index of the array is known at run time only)
GLMAE_EXPORT __global__ void __launch_bounds__(128) breach_stack(float* y, const float* x, int at) {
    float v[64];
    for (int i = 0; i < 64; ++i) v[i] = x[i * 128 + threadIdx.x];
    for (int i = 0; i < 64; ++i) v[(i * at) & 63] += v[i];
    y[threadIdx.x] = v[at & 63];
}
GLMAE_KERNEL(breach_stack, 128)

// breaks: spills \d+
GLMAE_EXPORT __global__ void __launch_bounds__(1024) breach_spills(float* y, const float* x) {
    float v[96];
#pragma unroll
    for (int i = 0; i < 96; ++i) v[i] = x[i * 1024 + threadIdx.x];
#pragma unroll
    for (int i = 0; i < 96; ++i) y[i * 1024 + threadIdx.x] = v[i] * v[95 - i] + v[(i * 7) % 96];
}
GLMAE_KERNEL(breach_spills, 1024)

// breaks: \d+ float_atomic
GLMAE_EXPORT __global__ void __launch_bounds__(128) breach_float_atomic(float* y, const float* x) {
    atomicAdd(y, x[threadIdx.x]);
}
GLMAE_KERNEL(breach_float_atomic, 128)

// breaks: \d+ call
GLMAE_EXPORT __global__ void __launch_bounds__(128) breach_call(float* y, const float* x) {
    y[threadIdx.x] = x[threadIdx.x] / x[threadIdx.x + 128];
}
GLMAE_KERNEL(breach_call, 128)

// breaks: \d+ f64
GLMAE_EXPORT __global__ void __launch_bounds__(128) breach_f64(float* y, const float* x) {
    y[threadIdx.x] = x[threadIdx.x] * 1.1;
}
GLMAE_KERNEL(breach_f64, 128)

// breaks: load128 0 < 1
GLMAE_EXPORT __global__ void __launch_bounds__(128) breach_scalar_loads(float4* y, const float* x) {
    const float* p = x + 4 * threadIdx.x;
    y[threadIdx.x] = make_float4(p[0], p[1], p[2], p[3]);
}
GLMAE_KERNEL(breach_scalar_loads, 128)

// breaks: \d+ call
__device__ __noinline__ float outlined(const float* x, int i) { return x[i] * x[i + 1] + x[i + 2]; }
GLMAE_EXPORT __global__ void __launch_bounds__(128) breach_function(float* y, const float* x) {
    y[threadIdx.x] = outlined(x, threadIdx.x) + outlined(x, threadIdx.x + 64);
}
GLMAE_KERNEL(breach_function, 128)

// breaks: no row in .*
GLMAE_EXPORT __global__ void __launch_bounds__(128) breach_no_row(float* y) { y[threadIdx.x] = 0.0f; }
GLMAE_KERNEL(breach_no_row, 128)

// Within its budget, shuffle in code that may diverge included: must not be reported.
GLMAE_EXPORT __global__ void __launch_bounds__(128) budget_kept(float4* y, const float4* x, int n) {
    for (int i = threadIdx.x; i < n; i += 128) {
        float4 v = x[i];
        v.x = warp_sum(v.x);
        y[i] = v;
    }
}
GLMAE_KERNEL(budget_kept, 128)

}  // namespace GLMAE_NS
