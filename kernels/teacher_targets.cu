// Centre and sharpness of the teacher's soft assignment, such that the targets are
// softmax((t - center) * inv_tau):
//
//     standardise: center = column mean, inv_tau = inv_tau_0 / s with s^2 = mean (t - center)^2
//     sinkhorn (SwAV, arXiv 2006.09882), three rounds of
//         f_k = log sum_i exp(t_ik * inv_tau_0 + g_i)      center_k = f_k / inv_tau_0
//         g_i = -log sum_k exp((t_ik - center_k) * inv_tau_0)
//
// logits [rows, k], center [k], inv_tau_0, inv_tau [1] f32. (The running centre needs no kernel.)
//
// Numerics: means are those of t - t_0k (first row), potentials those of t - t_00, so that a common
// offset of the logits does not cost digits; a batch without spread (s = 0) keeps inv_tau_0.
//
// Threads: one per column, 256 per block, lanes on neighbouring columns; the second pass over the rows
// comes from L2. _sinkhorn_rows, grid (pieces, rows): (maximum, sum of exponentials) per piece of 2048
// columns; the next _sinkhorn_columns merges them, every block for itself, into rows * 4 bytes of dynamic
// shared memory. Else 128 bytes of shared memory.
// Bytes moved: standardise 4 k (2 rows + 1), sinkhorn 4 k (8 rows + 5), DRAM once, then L2. FLOPs: about 5
// per element and pass; sinkhorn 5 exponentials. Floor (8 rows, K = 65536): 2.4 MB, 0.6 us: launch bound.
// Deterministic: rows in order within a thread, pieces and blocks depend on k alone.
#include "prelude.cuh"

#include "rows.cuh"

namespace GLMAE_NS {

constexpr int TARGET_THREADS = 256, TARGET_PER_THREAD = 8;
constexpr int TARGET_PIECE = TARGET_THREADS * TARGET_PER_THREAD;

// center [k]; squares [gridDim.x]: this block's sum of (t - center)^2.
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    teacher_targets_fwd_f32_mean(float* __restrict__ center, float* __restrict__ squares,
                                 const float* __restrict__ logits, int rows, int64_t k) {
    __shared__ float scratch[WARP];
    const int64_t j = static_cast<int64_t>(blockIdx.x) * TARGET_THREADS + threadIdx.x;
    float sum = 0.0f;
    if (j < k) {
        const float reference = logits[j];
        float mean = 0.0f;
#pragma unroll 4
        for (int i = 0; i < rows; ++i) mean += logits[i * k + j] - reference;
        mean = __fdividef(mean, static_cast<float>(rows));
        center[j] = reference + mean;
#pragma unroll 4
        for (int i = 0; i < rows; ++i) {
            const float d = (logits[i * k + j] - reference) - mean;
            sum += d * d;
        }
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}
GLMAE_KERNEL(teacher_targets_fwd_f32_mean, 256)

// inv_tau = inv_tau_0 / s; `count` = rows * k as f32. One block.
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    teacher_targets_fwd_f32_spread(float* __restrict__ inv_tau, const float* __restrict__ squares,
                                   const float* __restrict__ inv_tau_0, int blocks, float count) {
    __shared__ float scratch[WARP];
    float sum = 0.0f;
    for (int i = threadIdx.x; i < blocks; i += TARGET_THREADS) sum += squares[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0)
        inv_tau[0] = sum > 0.0f ? inv_tau_0[0] * rsqrtf(__fdividef(sum, count)) : inv_tau_0[0];
}
GLMAE_KERNEL(teacher_targets_fwd_f32_spread, 256)

// center = f / inv_tau_0, relative to logits[0] until the `last` round adds it. stats [rows, pieces] of
// the round before, null in the first (all g are 0). Dynamic shared memory: g, rows * 4 bytes.
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    teacher_targets_fwd_f32_sinkhorn_columns(float* __restrict__ center,
                                             const float2* __restrict__ stats,
                                             const float* __restrict__ logits,
                                             const float* __restrict__ inv_tau_0, int rows,
                                             int pieces, int last, int64_t k) {
    GLMAE_DYNAMIC_SHARED(float, potential);
    for (int i = threadIdx.x; i < rows; i += TARGET_THREADS) {
        float g = 0.0f;
        if (stats) {
            const float2* row = stats + static_cast<int64_t>(i) * pieces;
            float largest = -INFINITY, sum = 0.0f;
            for (int p = 0; p < pieces; ++p) largest = fmaxf(largest, row[p].x);
            for (int p = 0; p < pieces; ++p) sum += row[p].y * __expf(row[p].x - largest);
            g = -(largest + logf(sum));
        }
        potential[i] = g;
    }
    __syncthreads();
    const int64_t j = static_cast<int64_t>(blockIdx.x) * TARGET_THREADS + threadIdx.x;
    if (j >= k) return;
    const float sharpness = __ldg(inv_tau_0), shift = __ldg(logits);
    float largest = -INFINITY, sum = 0.0f;
#pragma unroll 4
    for (int i = 0; i < rows; ++i)
        largest = fmaxf(largest, (logits[i * k + j] - shift) * sharpness + potential[i]);
#pragma unroll 4
    for (int i = 0; i < rows; ++i)
        sum += __expf((logits[i * k + j] - shift) * sharpness + potential[i] - largest);
    center[j] = __fdividef(largest + logf(sum), sharpness) + (last ? shift : 0.0f);
}
GLMAE_KERNEL(teacher_targets_fwd_f32_sinkhorn_columns, 256)

// stats [rows, gridDim.x] of (t - center) * inv_tau_0 for the piece and row of this block.
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    teacher_targets_fwd_f32_sinkhorn_rows(float2* __restrict__ stats,
                                          const float* __restrict__ center,
                                          const float* __restrict__ logits,
                                          const float* __restrict__ inv_tau_0, int64_t k) {
    __shared__ float scratch[WARP];
    const float sharpness = __ldg(inv_tau_0), shift = __ldg(logits);
    const float* row = logits + blockIdx.y * k;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * TARGET_PIECE + threadIdx.x;
    float v[TARGET_PER_THREAD], largest = -INFINITY, sum = 0.0f;
#pragma unroll
    for (int e = 0; e < TARGET_PER_THREAD; ++e) {
        const int64_t j = first + e * TARGET_THREADS;
        v[e] = j < k ? ((row[j] - shift) - center[j]) * sharpness : -INFINITY;
        largest = fmaxf(largest, v[e]);
    }
    largest = block_largest(largest, scratch);
#pragma unroll
    for (int e = 0; e < TARGET_PER_THREAD; ++e) sum += __expf(v[e] - largest);
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0)
        stats[static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x] = make_float2(largest, sum);
}
GLMAE_KERNEL(teacher_targets_fwd_f32_sinkhorn_rows, 256)

}  // namespace GLMAE_NS
