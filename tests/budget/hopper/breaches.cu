// What ptxas only mentions, and kernels for sm_90a must not do: as tests/budget/breaches.cu.
#include "prelude.cuh"

#include "hopper/wgmma.cuh"

namespace GLMAE_NS {

// No bound on the blocks of an SM: the registers stay where they are.
// breaks the file: ptxas says C7508
GLMAE_EXPORT __global__ void __launch_bounds__(128) breach_registers_kept(float* y) {
    take_registers<232>();
    y[threadIdx.x] = 1.0f;
}
GLMAE_KERNEL(breach_registers_kept, 128)

// Sums are read before the wait, so that another one is put in front.
// breaks the file: ptxas says C7517
// breaks: mma 1, not 0
GLMAE_EXPORT __global__ void __launch_bounds__(128) breach_serialised(float* y, uint64_t a, uint64_t b) {
    float d[32], c[4] = {};
    const uint32_t f[4] = {1, 2, 3, 4}, g[2] = {5, 6};
    mma_m16n8k16_bf16(c, f, g, c);
    wgmma_fence();
    wgmma<true, true>(d, a, b, 0);
    wgmma_commit();
    for (int i = 0; i < 32; ++i) y[i * 128 + threadIdx.x] = d[i] + c[i % 4];
    wgmma_wait<0>();
}
GLMAE_KERNEL(breach_serialised, 128)

// breaks: 4 waits for 1 products
GLMAE_EXPORT __global__ void __launch_bounds__(128) breach_waits(float* y, uint64_t a, uint64_t b) {
    float d[32];
    wgmma_fence();
    wgmma<true, true>(d, a, b, 0);
    wgmma_commit();
    wgmma_wait<3>();
    wgmma_wait<2>();
    wgmma_wait<1>();
    wgmma_wait<0>();
    for (int i = 0; i < 32; ++i) y[i * 128 + threadIdx.x] = d[i];
}
GLMAE_KERNEL(breach_waits, 128)

}  // namespace GLMAE_NS
