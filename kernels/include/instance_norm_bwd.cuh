// Backward: the sums that the gradient of a channel needs, then the gradient itself. Both compute z anew, as
// the forward did (NormColumns).
#pragma once

#include "instance_norm_fwd.cuh"

namespace GLMAE_NS {

// Gradient before the activation; `s` is only looked at with RESIDUAL.
template <bool RESIDUAL>
__device__ __forceinline__ float norm_before(float dy, float xhat, float shat, float slope) {
    const float z = RESIDUAL ? __fadd_rn(xhat, shat) : xhat;
    return z > 0.0f ? dy : slope * dy;
}

// Shares of sum d, sum d xhat and, with a shortcut, sum d shat. `room`: one buffer of 256 N floats a sum.
template <typename T, bool VECTOR, bool RESIDUAL>
__device__ __forceinline__ void norm_sums(float* partial, const T* dy, const T* x, const float* stats,
                                          const T* shortcut, const float* shortcut_stats,
                                          int64_t voxels, int c, int block_rows, float slope,
                                          float* room) {
    using C = Chunk<T, VECTOR>;
    constexpr int N = C::N, SUMS = RESIDUAL ? 3 : 2;
    const int columns = c / N, t = threadIdx.x;
    const int64_t plane = static_cast<int64_t>(gridDim.y) * c;
    for (int left = 0; left < columns; left += NORM_THREADS) {
        const NormPlace at(left, columns, N, voxels, block_rows);
        float sum[SUMS][N];
#pragma unroll
        for (int j = 0; j < SUMS; ++j)
#pragma unroll
            for (int k = 0; k < N; ++k) sum[j][k] = 0.0f;
        if (at.works) {
            const int64_t base = at.base(voxels, c), channel = at.sample * c + at.column;
            const NormColumns<T, N> norm(stats, plane, channel);
            [[maybe_unused]] const NormColumns<T, N> beside(RESIDUAL ? shortcut_stats : nullptr, plane,
                                                            channel);
#pragma unroll 2
            for (int i = at.row; i < at.end; i += at.rows) {
                float g[N], v[N], s[N];
                C::load(dy, base + static_cast<int64_t>(i) * c, g);
                C::load(x, base + static_cast<int64_t>(i) * c, v);
                if constexpr (RESIDUAL) C::load(shortcut, base + static_cast<int64_t>(i) * c, s);
#pragma unroll
                for (int k = 0; k < N; ++k) {
                    const float xhat = norm(k, v[k]);
                    float shat = 0.0f;
                    if constexpr (RESIDUAL) shat = beside(k, s[k]);
                    const float d = norm_before<RESIDUAL>(g[k], xhat, shat, slope);
                    sum[0][k] += d;
                    sum[1][k] += d * xhat;
                    if constexpr (RESIDUAL) sum[SUMS - 1][k] += d * shat;
                }
            }
        }
        float* const mine = room + t;
#pragma unroll
        for (int j = 0; j < SUMS; ++j)
#pragma unroll
            for (int k = 0; k < N; ++k) mine[(j * N + k) * NORM_THREADS] = sum[j][k];
        for (int step = norm_tree_start(at.rows); step > 0; step /= 2) {
            __syncthreads();
            if (at.row >= step || at.row + step >= at.rows) continue;
            const float* const other = mine + step * at.width;
#pragma unroll
            for (int j = 0; j < SUMS; ++j)
#pragma unroll
                for (int k = 0; k < N; ++k) {
                    sum[j][k] += other[(j * N + k) * NORM_THREADS];
                    mine[(j * N + k) * NORM_THREADS] = sum[j][k];
                }
        }
        if (at.row == 0) {
            float* const out = partial + (at.sample * gridDim.x + blockIdx.x) * SUMS * c + at.column;
#pragma unroll
            for (int j = 0; j < SUMS; ++j) store_elements<N>(out, static_cast<int64_t>(j) * c, sum[j]);
        }
    }
}

template <typename T, bool RESIDUAL>
__device__ __forceinline__ void norm_sums(float* partial, const T* dy, const T* x, const float* stats,
                                          const T* shortcut, const float* shortcut_stats,
                                          int64_t voxels, int c, int block_rows, float slope,
                                          float* room) {
    if (rows_are_vectors(dy, x, shortcut, c)) {
        norm_sums<T, true, RESIDUAL>(partial, dy, x, stats, shortcut, shortcut_stats, voxels, c,
                                     block_rows, slope, room);
    } else {
        norm_sums<T, false, RESIDUAL>(partial, dy, x, stats, shortcut, shortcut_stats, voxels, c,
                                      block_rows, slope, room);
    }
}

template <typename T, bool VECTOR>
__device__ __forceinline__ void norm_give(T* to, int64_t i, float (&v)[Chunk<T, VECTOR>::N],
                                          int mode) {
    using C = Chunk<T, VECTOR>;
    if (mode == GLMAE_GRAD_ACCUMULATE) {
        float was[C::N];
        C::load(to, i, was);
#pragma unroll
        for (int k = 0; k < C::N; ++k) v[k] += was[k];
    }
    C::store(to, i, v);
}

template <typename T, bool VECTOR, bool RESIDUAL>
__device__ __forceinline__ void norm_bwd(T* dx, T* dshortcut, const float* stats,
                                         const float* shortcut_stats, const float* means, const T* dy,
                                         const T* x, const T* shortcut, int64_t voxels, int c,
                                         int block_rows, float slope, int dx_mode, int dshortcut_mode) {
    using C = Chunk<T, VECTOR>;
    constexpr int N = C::N;
    const int columns = c / N;
    const int64_t plane = static_cast<int64_t>(gridDim.y) * c;
    for (int left = 0; left < columns; left += NORM_THREADS) {
        const NormPlace at(left, columns, N, voxels, block_rows);
        if (!at.works) continue;
        const int64_t base = at.base(voxels, c), channel = at.sample * c + at.column;
        const NormColumns<T, N> norm(stats, plane, channel);
        [[maybe_unused]] const NormColumns<T, N> beside(RESIDUAL ? shortcut_stats : nullptr, plane,
                                                        channel);
        float mean_d[N], mean_dx[N], mean_ds[N] = {};
        load_elements<N>(means, channel, mean_d);
        load_elements<N>(means, plane + channel, mean_dx);
        const bool normed = RESIDUAL && shortcut_stats;
        if (normed) load_elements<N>(means, 2 * plane + channel, mean_ds);
#pragma unroll 1
        for (int i = at.row; i < at.end; i += at.rows) {
            float g[N], v[N], s[N] = {};
            C::load_last(dy, base + static_cast<int64_t>(i) * c, g);
            C::load_last(x, base + static_cast<int64_t>(i) * c, v);
            if constexpr (RESIDUAL) C::load_last(shortcut, base + static_cast<int64_t>(i) * c, s);
#pragma unroll
            for (int k = 0; k < N; ++k) {
                const float xhat = norm(k, v[k]);
                float shat = 0.0f;
                if constexpr (RESIDUAL) shat = beside(k, s[k]);
                const float d = norm_before<RESIDUAL>(g[k], xhat, shat, slope);
                v[k] = norm.rstd[k] * (d - mean_d[k] - xhat * mean_dx[k]);
                s[k] = normed ? beside.rstd[k] * (d - mean_d[k] - shat * mean_ds[k]) : d;
            }
            if (dx) norm_give<T, VECTOR>(dx, base + static_cast<int64_t>(i) * c, v, dx_mode);
            if (RESIDUAL && dshortcut)
                norm_give<T, VECTOR>(dshortcut, base + static_cast<int64_t>(i) * c, s, dshortcut_mode);
        }
    }
}

template <typename T, bool RESIDUAL>
__device__ __forceinline__ void norm_bwd(T* dx, T* dshortcut, const float* stats,
                                         const float* shortcut_stats, const float* means, const T* dy,
                                         const T* x, const T* shortcut, int64_t voxels, int c,
                                         int block_rows, float slope, int dx_mode, int dshortcut_mode) {
    if (rows_are_vectors(dy, x, shortcut, c) && is_aligned_16(dx) && is_aligned_16(dshortcut)) {
        norm_bwd<T, true, RESIDUAL>(dx, dshortcut, stats, shortcut_stats, means, dy, x, shortcut, voxels,
                                    c, block_rows, slope, dx_mode, dshortcut_mode);
    } else {
        norm_bwd<T, false, RESIDUAL>(dx, dshortcut, stats, shortcut_stats, means, dy, x, shortcut, voxels,
                                     c, block_rows, slope, dx_mode, dshortcut_mode);
    }
}

}  // namespace GLMAE_NS
