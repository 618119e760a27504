// Forward: every element normalised, perhaps with a shortcut added, and leaky ReLU.
#pragma once

#include "instance_norm_share.cuh"
#include "rows.cuh"

namespace GLMAE_NS {

// The statistics of N channels. bf16 data does not need the rest of the mean: its own rounding at mean 1000
// is five orders coarser.
template <typename T, int N>
struct NormColumns {
    static constexpr bool REST = sizeof(T) == 4;
    float mean[N], rest[REST ? N : 1], rstd[N];

    // Null statistics are those of a value that is not normalised: it comes out unchanged, bit by bit.
    __device__ __forceinline__ NormColumns(const float* stats, int64_t plane, int64_t at) {
        if (stats) {
            load_elements<N>(stats, at, mean);
            if constexpr (REST) load_elements<N>(stats, plane + at, rest);
            load_elements<N>(stats, 2 * plane + at, rstd);
            return;
        }
#pragma unroll
        for (int k = 0; k < N; ++k) mean[k] = 0.0f, rstd[k] = 1.0f;
        if constexpr (REST) {
#pragma unroll
            for (int k = 0; k < N; ++k) rest[k] = 0.0f;
        }
    }
    // The intrinsics keep the compiler from contracting: the same bits in every kernel.
    __device__ __forceinline__ float operator()(int k, float x) const {
        float d = __fadd_rn(x, -mean[k]);
        if constexpr (REST) d = __fadd_rn(d, -rest[k]);
        return __fmul_rn(d, rstd[k]);
    }
};

template <typename T, bool VECTOR, bool RESIDUAL>
__device__ __forceinline__ void norm_fwd(T* y, const T* x, const float* stats, const T* shortcut,
                                         const float* shortcut_stats, int64_t voxels, int c,
                                         int block_rows, float slope) {
    using C = Chunk<T, VECTOR>;
    constexpr int N = C::N;
    const int columns = c / N;
    const int64_t plane = static_cast<int64_t>(gridDim.y) * c;
    for (int left = 0; left < columns; left += NORM_THREADS) {
        const NormPlace at(left, columns, N, voxels, block_rows);
        if (!at.works) continue;
        const int64_t base = at.base(voxels, c), channel = at.sample * c + at.column;
        const NormColumns<T, N> norm(stats, plane, channel);
        if constexpr (RESIDUAL) {
            const NormColumns<T, N> beside(shortcut_stats, plane, channel);
#pragma unroll 2
            for (int i = at.row; i < at.end; i += at.rows) {
                float v[N], s[N];
                C::load_last(x, base + static_cast<int64_t>(i) * c, v);
                C::load_last(shortcut, base + static_cast<int64_t>(i) * c, s);
#pragma unroll
                for (int k = 0; k < N; ++k) {
                    const float z = __fadd_rn(norm(k, v[k]), beside(k, s[k]));
                    v[k] = z > 0.0f ? z : slope * z;
                }
                C::store(y, base + static_cast<int64_t>(i) * c, v);
            }
        } else {
#pragma unroll 4
            for (int i = at.row; i < at.end; i += at.rows) {
                float v[N];
                C::load_last(x, base + static_cast<int64_t>(i) * c, v);
#pragma unroll
                for (int k = 0; k < N; ++k) {
                    const float z = norm(k, v[k]);
                    v[k] = z > 0.0f ? z : slope * z;
                }
                C::store(y, base + static_cast<int64_t>(i) * c, v);
            }
        }
    }
}

template <typename T, bool RESIDUAL>
__device__ __forceinline__ void norm_fwd(T* y, const T* x, const float* stats, const T* shortcut,
                                         const float* shortcut_stats, int64_t voxels, int c,
                                         int block_rows, float slope) {
    if (rows_are_vectors(y, x, shortcut, c)) {
        norm_fwd<T, true, RESIDUAL>(y, x, stats, shortcut, shortcut_stats, voxels, c, block_rows, slope);
    } else {
        norm_fwd<T, false, RESIDUAL>(y, x, stats, shortcut, shortcut_stats, voxels, c, block_rows, slope);
    }
}

}  // namespace GLMAE_NS
