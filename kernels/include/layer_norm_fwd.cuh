// The forward pass of a layer norm. Rows that fit stay in registers; longer ones are read again from the cache.
#pragma once
#include "layer_norm_rows.cuh"

namespace GLMAE_NS {

// 16-byte vectors that a lane can hold without spilling at 64 registers, and the columns that they make in one
// row: 768 of f32, 1536 of bf16. Of rows half as long a warp has two at a time, which share each read of gamma and
// beta: these take four times the bytes of x in bf16.
constexpr int LN_VECTORS = 6;
template <typename T>
constexpr int LN_COLUMNS = LN_VECTORS * WARP * Vec<T>::N;

// The rows that a warp has at a time, as they lie in memory.
template <typename T, int ROWS>
struct LayerNormRows {
    static constexpr int N = Vec<T>::N, VECTORS = LN_VECTORS / ROWS;
    Vec<T> held[ROWS][VECTORS];

    __device__ __forceinline__ void load(const T* x, int64_t row, int64_t rows, int c) {
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
#pragma unroll
            for (int i = 0; i < VECTORS; ++i) {
                const int j = layer_norm_column<T>(i);
                if (row + r < rows && j < c) held[r][i] = load_vec_streaming(x, (row + r) * c + j);
            }
        }
    }

    // The sum over each row of `of(value, r)`.
    template <typename F>
    __device__ __forceinline__ void sum(float (&sums)[ROWS], int c, F of) const {
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            sums[r] = 0.0f;
#pragma unroll
            for (int i = 0; i < VECTORS; ++i) {
                if (layer_norm_column<T>(i) >= c) continue;
                float v[N];
                held[r][i].unpack(v);
#pragma unroll
                for (int k = 0; k < N; ++k) sums[r] += of(v[k], r);
            }
        }
#pragma unroll
        for (int r = 0; r < ROWS; ++r) sums[r] = warp_sum(sums[r]);
    }

    // What the rows become, from `gamma` and `beta` in shared memory.
    __device__ __forceinline__ void write(T* y, float* mean_out, float* rstd_out,
                                          const float* gamma, const float* beta, int64_t row,
                                          int64_t rows, int c, float inverse_c, float eps) const {
        float mean[ROWS], rest[ROWS], rstd[ROWS];
        sum(mean, c, [&](float v, int) { return v; });
#pragma unroll
        for (int r = 0; r < ROWS; ++r) mean[r] *= inverse_c;
        sum(rest, c, [&](float v, int r) { return v - mean[r]; });
#pragma unroll
        for (int r = 0; r < ROWS; ++r) rest[r] *= inverse_c;
        sum(rstd, c, [&](float v, int r) {
            return (v - mean[r] - rest[r]) * (v - mean[r] - rest[r]);
        });
#pragma unroll
        for (int r = 0; r < ROWS; ++r) rstd[r] = rsqrtf(rstd[r] * inverse_c + eps);
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            const int j = layer_norm_column<T>(i);
            if (j >= c) continue;
            float w[N], b[N];
            layer_norm_take<N>(gamma, j, w);
            layer_norm_take<N>(beta, j, b);
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                if (row + r >= rows) continue;
                float v[N];
                held[r][i].unpack(v);
#pragma unroll
                for (int k = 0; k < N; ++k)
                    v[k] = (v[k] - mean[r] - rest[r]) * rstd[r] * w[k] + b[k];
                Vec<T> out;
                out.pack(v);
                store_vec_streaming(y, (row + r) * c + j, out);
            }
        }
        if (threadIdx.x % WARP != 0) return;
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            if (row + r < rows) mean_out[row + r] = mean[r], rstd_out[row + r] = rstd[r];
        }
    }
};

// One read of x. Its first rows are under way while gamma and beta arrive: asked for first, because ptxas moves loads
// behind a wait for copies.
template <int ROWS, typename T>
__device__ __forceinline__ void layer_norm_fwd_registers(T* y, float* mean, float* rstd, const T* x,
                                                         const float* gamma, const float* beta,
                                                         int64_t rows, int c, float inverse_c,
                                                         float eps) {
    GLMAE_DYNAMIC_SHARED(float, weights);
    float* beta_here = weights + layer_norm_room(c);
    const int warps = blockDim.x / WARP, warp = threadIdx.x / WARP;
    const int64_t stride = static_cast<int64_t>(gridDim.x) * warps * ROWS;
    int64_t row = (static_cast<int64_t>(blockIdx.x) * warps + warp) * ROWS;
    LayerNormRows<T, ROWS> held;
    held.load(x, row, rows, c);
    layer_norm_stage<Vec<T>::N>(weights, gamma, c);
    layer_norm_stage<Vec<T>::N>(beta_here, beta, c);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    while (row < rows) {
        held.write(y, mean, rstd, weights, beta_here, row, rows, c, inverse_c, eps);
        row += stride;
        held.load(x, row, rows, c);
    }
}

// c times what the rounded mean of a row left over: at mean 1000 f32 is off by 3e-5.
template <typename T, bool VECTOR>
__device__ __forceinline__ float layer_norm_rest(const T* x, int64_t at, int c, float mean) {
    using C = Chunk<T, VECTOR>;
    float left = 0.0f, v[C::N];
    for (int j = (threadIdx.x % WARP) * C::N; j < c; j += WARP * C::N) {
        C::load(x, at + j, v);
#pragma unroll
        for (int k = 0; k < C::N; ++k) left += v[k] - mean;
    }
    return warp_sum(left);
}

// A row is read four times, the last three from the cache.
template <typename T, bool VECTOR>
__device__ __forceinline__ void layer_norm_fwd_cached(T* y, float* mean_out, float* rstd_out,
                                                      const T* x, const float* gamma,
                                                      const float* beta, int64_t rows, int c,
                                                      float inverse_c, float eps) {
    using C = Chunk<T, VECTOR>;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    const int64_t stride = static_cast<int64_t>(gridDim.x) * warps;
    for (int64_t row = static_cast<int64_t>(blockIdx.x) * warps + warp; row < rows; row += stride) {
        const int64_t at = row * c;
        float sum = 0.0f, squares = 0.0f, v[C::N];
#pragma unroll 1
        for (int j = lane * C::N; j < c; j += WARP * C::N) {
            C::load(x, at + j, v);
#pragma unroll
            for (int k = 0; k < C::N; ++k) sum += v[k];
        }
        const float mean = warp_sum(sum) * inverse_c;
        const float rest = layer_norm_rest<T, VECTOR>(x, at, c, mean) * inverse_c;
#pragma unroll 1
        for (int j = lane * C::N; j < c; j += WARP * C::N) {
            C::load(x, at + j, v);
#pragma unroll
            for (int k = 0; k < C::N; ++k) squares += (v[k] - mean - rest) * (v[k] - mean - rest);
        }
        const float rstd = rsqrtf(warp_sum(squares) * inverse_c + eps);
#pragma unroll 1
        for (int j = lane * C::N; j < c; j += WARP * C::N) {
            float w[C::N], b[C::N];
            C::load(x, at + j, v);
            load_f32<C::N>(gamma, j, w);
            load_f32<C::N>(beta, j, b);
#pragma unroll
            for (int k = 0; k < C::N; ++k) v[k] = (v[k] - mean - rest) * rstd * w[k] + b[k];
            C::store(y, at + j, v);
        }
        if (lane == 0) mean_out[row] = mean, rstd_out[row] = rstd;
    }
}

template <typename T>
__device__ __forceinline__ void layer_norm_fwd(T* y, float* mean, float* rstd, const T* x,
                                               const float* gamma, const float* beta, int64_t rows,
                                               int c, float eps) {
    const bool vectors =
        rows_are_vectors(y, x, x, c) && is_aligned_16(gamma) && is_aligned_16(beta);
    const float inverse_c = 1.0f / static_cast<float>(c);
    if (vectors && 2 * c <= LN_COLUMNS<T>) {
        layer_norm_fwd_registers<2>(y, mean, rstd, x, gamma, beta, rows, c, inverse_c, eps);
    } else if (vectors && c <= LN_COLUMNS<T>) {
        layer_norm_fwd_registers<1>(y, mean, rstd, x, gamma, beta, rows, c, inverse_c, eps);
    } else if (vectors) {
        layer_norm_fwd_cached<T, true>(y, mean, rstd, x, gamma, beta, rows, c, inverse_c, eps);
    } else {
        layer_norm_fwd_cached<T, false>(y, mean, rstd, x, gamma, beta, rows, c, inverse_c, eps);
    }
}

}  // namespace GLMAE_NS
