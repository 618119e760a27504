// Instance normalisation of channels-last activations, with what follows it in a UNETR block (Ulyanov et
// al., arXiv 1607.08022; Hatamizadeh et al., arXiv 2103.10504), per sample and channel, non-affine:
//
//     xhat = (x - mean) / sqrt(mean_v (x_v - mean)^2 + eps)         v: the voxels of a sample
//     z = xhat            y = z > 0 ? z : slope z                    (instance_norm_*; slope 1: no activation)
//     z = xhat + s'       y = z > 0 ? z : slope z                    (*_residual; s' = s, or s normalised too)
//
// and, with d = z > 0 ? dy : slope dy (at 0 and -0: slope dy),
//
//     dx = rstd (d - mean_v d - xhat mean_v(d xhat))     ds = d, or as dx with the statistics of s
//
// x, s, y, dx, ds [batch * voxels, c] f32 or bf16; stats [3, batch, c] f32: mean rounded to f32, the rest
// that rounding left, rstd. partial: shares of the blocks of a sample. Any c >= 1; 64-bit row indices.
//
// Numerics: f32. A thread sums d = x - p and d^2 around its own first element p. p belongs to the data, so
// n (p - mean)^2 <= n M2 and the cancellation in sum d^2 - (sum d)^2 / n loses a factor of n + 1 at most;
// n <= 64 rows where vectors are used. Shares are merged by Chan's formula, means counted from the first
// voxel of the sample, which keeps 1000 +- 1 exact. z is computed by one function with fixed roundings
// (no contraction), so that the backward decides the sign of z from the very bits of the forward.
//
// Threads: blocks of 256, grid (shares, batch). A thread owns 16 bytes of channels (one channel where c or a
// pointer does not allow that) in every r-th row, r = 256 / (c / N): a pass of the block is one contiguous
// run. What a thread needs of its channels stays in registers. More than 256 vectors: column by column block.
// Shared memory: stats 2 * 256 N + 256 floats, sums 256 N floats a sum (N = 4 f32, 8 bf16).
// Bytes moved, n = batch voxels c sizeof(T): forward 3 n (statistics, then read and write); residual 4 n,
// both normalised 5 n. Backward 5 n (dy, x; dy, x, dx); residual 8 n. FLOPs: 8 per element forward, 16
// backward. Floor (96^3 x 16, bf16, 28 MB a tensor): 20 us forward at 4.3 TB/s, 53 us residual backward.
// Deterministic: shares depend on sizes alone; trees and sums over shares are in a fixed order.
#include "prelude.cuh"

#include "instance_norm_bwd.cuh"
#include "instance_norm_fwd.cuh"
#include "instance_norm_stats.cuh"

namespace GLMAE_NS {

constexpr int NORM_MERGE_COLUMNS = 8, NORM_MERGE_LANES = 32;

// partial [batch, gridDim.x, 2, c]: mean from the first voxel on, and centred squares, of every share of
// block_rows rows; start [batch, c]: the first voxel (the place of the means in stats).
#define INSTANCE_NORM_STATS                                                           \
    (float* __restrict__ partial, float* __restrict__ start, const T* __restrict__ x, \
     int64_t voxels, int c, int block_rows),                                          \
    norm_stats(partial, start, x, voxels, c, block_rows)
GLMAE_INSTANCE(instance_norm_fwd_f32_stats, float, (256, 4), INSTANCE_NORM_STATS)
GLMAE_INSTANCE(instance_norm_fwd_bf16_stats, bf16, (256), INSTANCE_NORM_STATS)

// stats [3, batch, c] from the shares; stats[0] holds the first voxels before. Grid (ceil(c / 8), batch),
// block (8, 32): lane k merges shares k, k + 32, ..., then a tree over the lanes. 3 KiB of shared.
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    instance_norm_fwd_f32_merge(float* __restrict__ stats, const float* __restrict__ partial,
                                int64_t voxels, int c, int block_rows, int shares, float eps) {
    __shared__ float ns[NORM_MERGE_LANES][NORM_MERGE_COLUMNS], ms[NORM_MERGE_LANES][NORM_MERGE_COLUMNS],
        qs[NORM_MERGE_LANES][NORM_MERGE_COLUMNS];
    const int i = threadIdx.x, lane = threadIdx.y;
    const int column = blockIdx.x * NORM_MERGE_COLUMNS + i;
    const float* const from = partial + static_cast<int64_t>(blockIdx.y) * shares * 2 * c + column;
    float n = 0.0f, m = 0.0f, q = 0.0f;
    if (column < c) {
#pragma unroll 4
        for (int s = lane; s < shares; s += NORM_MERGE_LANES) {
            const int64_t left = voxels - static_cast<int64_t>(s) * block_rows;
            const float count = static_cast<float>(min(left, static_cast<int64_t>(block_rows)));
            const float* const share = from + static_cast<int64_t>(s) * 2 * c;
            norm_merge(n, m, q, count, share[0], share[c]);
        }
    }
    ns[lane][i] = n, ms[lane][i] = m, qs[lane][i] = q;
#pragma unroll
    for (int step = NORM_MERGE_LANES / 2; step > 0; step /= 2) {
        __syncthreads();
        if (lane < step) {
            norm_merge(n, m, q, ns[lane + step][i], ms[lane + step][i], qs[lane + step][i]);
            ns[lane][i] = n, ms[lane][i] = m, qs[lane][i] = q;
        }
    }
    if (lane != 0 || column >= c) return;
    const int64_t plane = static_cast<int64_t>(gridDim.y) * c;
    float* const out = stats + static_cast<int64_t>(blockIdx.y) * c + column;
    // Knuth's sum: start + m = mean + rest, exactly.
    const float start = out[0], mean = __fadd_rn(start, m), back = __fadd_rn(mean, -start);
    out[0] = mean;
    out[plane] = __fadd_rn(__fadd_rn(start, -__fadd_rn(mean, -back)), __fadd_rn(m, -back));
    out[2 * plane] = rsqrtf(__fdividef(q, static_cast<float>(voxels)) + eps);
}
GLMAE_KERNEL(instance_norm_fwd_f32_merge, 256)

GLMAE_TWINS(instance_norm_fwd_f32, instance_norm_fwd_bf16, (256),
    (T* __restrict__ y, const float* __restrict__ stats, const T* __restrict__ x,
     int64_t voxels, int c, int block_rows, float slope),
    norm_fwd<T, false>(y, x, stats, x, nullptr, voxels, c, block_rows, slope))

// shortcut_stats may be null: the shortcut is added as it is.
GLMAE_TWINS(instance_norm_fwd_f32_residual, instance_norm_fwd_bf16_residual, (256),
    (T* __restrict__ y, const float* __restrict__ stats,
     const float* __restrict__ shortcut_stats, const T* __restrict__ x,
     const T* __restrict__ shortcut, int64_t voxels, int c, int block_rows, float slope),
    norm_fwd<T, true>(y, x, stats, shortcut, shortcut_stats, voxels, c, block_rows, slope))

// partial [batch, gridDim.x, 2 (3 with a shortcut), c].
GLMAE_TWINS(instance_norm_bwd_f32_sums, instance_norm_bwd_bf16_sums, (256),
    (float* __restrict__ partial, const float* __restrict__ stats, const T* __restrict__ dy,
     const T* __restrict__ x, int64_t voxels, int c, int block_rows, float slope),
    __shared__ float room[2 * Vec<T>::N * NORM_THREADS];
    norm_sums<T, false>(partial, dy, x, stats, x, nullptr, voxels, c, block_rows, slope, room))

GLMAE_TWINS(instance_norm_bwd_f32_residual_sums, instance_norm_bwd_bf16_residual_sums, (256),
    (float* __restrict__ partial, const float* __restrict__ stats,
     const float* __restrict__ shortcut_stats, const T* __restrict__ dy,
     const T* __restrict__ x, const T* __restrict__ shortcut, int64_t voxels, int c,
     int block_rows, float slope),
    __shared__ float room[3 * Vec<T>::N * NORM_THREADS];
    norm_sums<T, true>(partial, dy, x, stats, shortcut, shortcut_stats, voxels, c, block_rows,
                       slope, room))

// means [sums, batch, c] = sum over the shares of partial [batch, shares, sums, c], times scale. Grid
// (ceil(c / 8), batch, sums), block (8, 32) as in instance_norm_fwd_f32_merge. 1 KiB of shared.
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    instance_norm_bwd_f32_merge(float* __restrict__ means, const float* __restrict__ partial, int c,
                                int shares, float scale) {
    __shared__ float room[NORM_MERGE_LANES][NORM_MERGE_COLUMNS];
    const int i = threadIdx.x, lane = threadIdx.y, sums = gridDim.z;
    const int column = blockIdx.x * NORM_MERGE_COLUMNS + i;
    float sum = 0.0f;
    if (column < c) {
        const int64_t stride = static_cast<int64_t>(sums) * c;
        const float* const from = partial + blockIdx.y * shares * stride +
                                  static_cast<int64_t>(blockIdx.z) * c + column;
#pragma unroll 4
        for (int s = lane; s < shares; s += NORM_MERGE_LANES) sum += from[s * stride];
    }
    room[lane][i] = sum;
#pragma unroll
    for (int step = NORM_MERGE_LANES / 2; step > 0; step /= 2) {
        __syncthreads();
        if (lane < step) room[lane][i] = sum += room[lane + step][i];
    }
    if (lane == 0 && column < c)
        means[(static_cast<int64_t>(blockIdx.z) * gridDim.y + blockIdx.y) * c + column] = sum * scale;
}
GLMAE_KERNEL(instance_norm_bwd_f32_merge, 256)

// dx may be null. *_mode: GLMAE_GRAD_*.
GLMAE_TWINS(instance_norm_bwd_f32, instance_norm_bwd_bf16, (256),
    (T* dx, const float* __restrict__ stats, const float* __restrict__ means,
     const T* __restrict__ dy, const T* __restrict__ x, int64_t voxels, int c, int block_rows,
     float slope, int dx_mode),
    norm_bwd<T, false>(dx, nullptr, stats, nullptr, means, dy, x, x, voxels, c, block_rows,
                       slope, dx_mode, 0))

// dx, dshortcut and shortcut_stats may be null.
GLMAE_TWINS(instance_norm_bwd_f32_residual, instance_norm_bwd_bf16_residual, (256),
    (T* dx, T* dshortcut, const float* __restrict__ stats,
     const float* __restrict__ shortcut_stats, const float* __restrict__ means,
     const T* __restrict__ dy, const T* __restrict__ x, const T* __restrict__ shortcut,
     int64_t voxels, int c, int block_rows, float slope, int dx_mode, int dshortcut_mode),
    norm_bwd<T, true>(dx, dshortcut, stats, shortcut_stats, means, dy, x, shortcut, voxels, c,
                      block_rows, slope, dx_mode, dshortcut_mode))

}  // namespace GLMAE_NS
