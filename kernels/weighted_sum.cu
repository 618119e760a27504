// The total loss from its terms, total (+)= sum_i weight_i loss_i, and back, dloss_i = weight_i dtotal.
//
// losses, dlosses [count], total, dtotal [1] f32; the weights are constants of a run and travel with the
// launch (GlmaeWeights, up to GLMAE_WEIGHTS of them), so a captured graph needs no table.
//
// Threads: one warp; lane 0 adds the terms in order. Shared memory: none. Bytes: 4 (count + 1).
// Floor: launch latency. Deterministic: one thread.
#include "prelude.cuh"

namespace GLMAE_NS {

GLMAE_EXPORT __global__ void __launch_bounds__(32)
    weighted_sum_fwd_f32(float* __restrict__ total, const float* __restrict__ losses,
                         GlmaeWeights weights, int count, int mode) {
    if (threadIdx.x != 0) return;
    float sum = mode == GLMAE_GRAD_ACCUMULATE ? total[0] : 0.0f;
#pragma unroll
    for (int i = 0; i < GLMAE_WEIGHTS; ++i)
        if (i < count) sum += weights.weight[i] * losses[i];
    total[0] = sum;
}
GLMAE_KERNEL(weighted_sum_fwd_f32, 32)

GLMAE_EXPORT __global__ void __launch_bounds__(32)
    weighted_sum_bwd_f32(float* __restrict__ dlosses, const float* __restrict__ dtotal,
                         GlmaeWeights weights, int count) {
    const int i = threadIdx.x;
    if (i < count) dlosses[i] = weights.weight[i] * dtotal[0];
}
GLMAE_KERNEL(weighted_sum_bwd_f32, 32)

}  // namespace GLMAE_NS
