// Statistics of the shares of a sample, and how two of them become one (Chan, Golub, LeVeque 1983).
#pragma once

#include "instance_norm_share.cuh"
#include "rows.cuh"

namespace GLMAE_NS {

// Adds a share of `nb` elements with mean `mb` and centred squares `qb` (Chan, Golub, LeVeque 1983).
__device__ __forceinline__ void norm_merge(float& n, float& m, float& q, float nb, float mb, float qb) {
    if (nb == 0.0f) return;
    const float total = n + nb, share = __fdividef(nb, total), delta = mb - m;
    m += delta * share;
    q += qb + delta * delta * n * share;
    n = total;
}

template <typename T, bool VECTOR>
__device__ __forceinline__ void norm_stats(float* partial, float* start, const T* x, int64_t voxels,
                                           int c, int block_rows, float* counts, float* means,
                                           float* squares) {
    using C = Chunk<T, VECTOR>;
    constexpr int N = C::N;
    const int columns = c / N, t = threadIdx.x;
    for (int left = 0; left < columns; left += NORM_THREADS) {
        const NormPlace at(left, columns, N, voxels, block_rows);
        const T* const from = x + at.base(voxels, c);
        float zero[N], m[N], q[N], n = 0.0f;
#pragma unroll
        for (int k = 0; k < N; ++k) zero[k] = m[k] = q[k] = 0.0f;
        if (at.works) C::load(x, at.sample * voxels * c + at.column, zero);
        if (at.works && at.row < at.end) {
            float pivot[N];
            C::load(from, static_cast<int64_t>(at.row) * c, pivot);
#pragma unroll 4
            for (int i = at.row + at.rows; i < at.end; i += at.rows) {
                float v[N];
                C::load(from, static_cast<int64_t>(i) * c, v);
#pragma unroll
                for (int k = 0; k < N; ++k) {
                    v[k] -= pivot[k];
                    m[k] += v[k];
                    q[k] += v[k] * v[k];
                }
            }
            n = static_cast<float>((at.end - at.row + at.rows - 1) / at.rows);
            const float inverse = __fdividef(1.0f, n);
#pragma unroll
            for (int k = 0; k < N; ++k) {
                q[k] = fmaxf(q[k] - m[k] * m[k] * inverse, 0.0f);
                m[k] = (pivot[k] - zero[k]) + m[k] * inverse;
            }
        }
        counts[t] = n;
#pragma unroll
        for (int k = 0; k < N; ++k) means[k * NORM_THREADS + t] = m[k], squares[k * NORM_THREADS + t] = q[k];
        for (int step = norm_tree_start(at.rows); step > 0; step /= 2) {
            __syncthreads();
            if (at.row >= step || at.row + step >= at.rows) continue;
            const int other = t + step * at.width;
            const float nb = counts[other];
            float total = n;
#pragma unroll
            for (int k = 0; k < N; ++k) {
                total = n;
                norm_merge(total, m[k], q[k], nb, means[k * NORM_THREADS + other],
                           squares[k * NORM_THREADS + other]);
                means[k * NORM_THREADS + t] = m[k], squares[k * NORM_THREADS + t] = q[k];
            }
            counts[t] = n = total;
        }
        if (at.row == 0) {
            float* const out =
                partial + (at.sample * gridDim.x + blockIdx.x) * 2 * c + at.column;
            store_elements<N>(out, 0, m);
            store_elements<N>(out, c, q);
            if (blockIdx.x == 0) store_elements<N>(start, at.sample * c + at.column, zero);
        }
        // No barrier: only the last round has threads that read what others wrote (rows > 1).
    }
}

template <typename T>
__device__ __forceinline__ void norm_stats(float* partial, float* start, const T* x, int64_t voxels,
                                           int c, int block_rows) {
    constexpr int N = Vec<T>::N;
    __shared__ float counts[NORM_THREADS], means[NORM_THREADS * N], squares[NORM_THREADS * N];
    if (rows_are_vectors(x, x, x, c)) {
        norm_stats<T, true>(partial, start, x, voxels, c, block_rows, counts, means, squares);
    } else {
        norm_stats<T, false>(partial, start, x, voxels, c, block_rows, counts, means, squares);
    }
}

}  // namespace GLMAE_NS
