// The backward pass of a layer norm: dx, and each block's share of dgamma and dbeta.
#pragma once
#include "layer_norm_fwd.cuh"

namespace GLMAE_NS {

// Vectors of x and of dy that a lane can hold beside its sums at 128 registers, and the columns that makes: 512
// of f32, 768 of bf16.
template <typename T>
constexpr int LN_BWD_VECTORS = sizeof(T) == 4 ? 4 : 3;
template <typename T>
constexpr int LN_BWD_COLUMNS = LN_BWD_VECTORS<T> * WARP * Vec<T>::N;

// A row of x and of dy, as they lie in memory.
template <typename T>
struct LayerNormPair {
    static constexpr int N = Vec<T>::N, VECTORS = LN_BWD_VECTORS<T>;
    Vec<T> x[VECTORS], dy[VECTORS];
    __device__ __forceinline__ void load(const T* x_in, const T* dy_in, int64_t row, int64_t rows,
                                         int c) {
        if (row >= rows) return;
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            const int j = layer_norm_column<T>(i);
            if (j >= c) continue;
            x[i] = load_vec_streaming(x_in, row * c + j);
            dy[i] = load_vec_streaming(dy_in, row * c + j);
        }
    }
};

// Rows are read once, and a lane keeps the sums of its columns in registers. `shared` has gamma at first, then
// the sums of the warps.
template <typename T>
__device__ __forceinline__ void layer_norm_bwd_registers(T* dx, float* shared, const float* mean,
                                                         const float* rstd, const T* dy, const T* x,
                                                         const float* gamma, int64_t rows, int c,
                                                         float inverse_c, bool accumulate) {
    using Pair = LayerNormPair<T>;
    constexpr int N = Pair::N, VECTORS = Pair::VECTORS;
    const int warps = blockDim.x / WARP, warp = threadIdx.x / WARP;
    const int64_t stride = static_cast<int64_t>(gridDim.x) * warps;
    int64_t row = static_cast<int64_t>(blockIdx.x) * warps + warp;
    Pair held;
    // First, as in the forward.
    held.load(x, dy, row, rows, c);
    layer_norm_stage<N>(shared, gamma, c);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    float dgamma[VECTORS][N] = {}, dbeta[VECTORS][N] = {};
#pragma unroll 1
    while (row < rows) {
        Pair next;
        next.load(x, dy, row + stride, rows, c);
        const float m = mean[row], r = rstd[row];
        float left = 0.0f, sum_g = 0.0f, sum_gx = 0.0f, v[N], g[N], w[N];
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            if (layer_norm_column<T>(i) >= c) continue;
            held.x[i].unpack(v);
            held.dy[i].unpack(g);
            layer_norm_take<N>(shared, layer_norm_column<T>(i), w);
#pragma unroll
            for (int k = 0; k < N; ++k) {
                left += v[k] - m;
                sum_g += g[k] * w[k];
                sum_gx += g[k] * w[k] * (v[k] - m);
            }
        }
        // What the rounded mean left over comes off the sum of products as well.
        const float rest = warp_sum(left) * inverse_c;
        const float mean_g = warp_sum(sum_g) * inverse_c;
        const float mean_gx = (warp_sum(sum_gx) * inverse_c - rest * mean_g) * r;
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            const int j = layer_norm_column<T>(i);
            if (j >= c) continue;
            held.x[i].unpack(v);
            held.dy[i].unpack(g);
            layer_norm_take<N>(shared, j, w);
#pragma unroll
            for (int k = 0; k < N; ++k) {
                const float xhat = (v[k] - m - rest) * r;
                dgamma[i][k] += g[k] * xhat;
                dbeta[i][k] += g[k];
                // Not fused: where all terms are the mean, the difference is 0 and not a rounding error.
                const float centred = __fsub_rn(__fmul_rn(g[k], w[k]), mean_g);
                v[k] = r * (centred - xhat * mean_gx);
            }
            if (accumulate) {
                load_vec(dx, row * c + j).unpack(g);
#pragma unroll
                for (int k = 0; k < N; ++k) v[k] += g[k];
            }
            Vec<T> out;
            out.pack(v);
            store_vec(dx, row * c + j, out);
        }
        held = next;
        row += stride;
    }
    // All warps have read gamma.
    __syncthreads();
    const int room = layer_norm_room(c);
    float* sums = shared + warp * 2 * room;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        if (layer_norm_column<T>(i) >= c) continue;
#pragma unroll
        for (int k = 0; k < N; k += 4) {
            const int at = layer_norm_place<N>(layer_norm_column<T>(i) + k);
            const float(&a)[N] = dgamma[i], (&b)[N] = dbeta[i];
            store_whole(reinterpret_cast<float4*>(sums + at),
                        make_float4(a[k], a[k + 1], a[k + 2], a[k + 3]));
            store_whole(reinterpret_cast<float4*>(sums + room + at),
                        make_float4(b[k], b[k + 1], b[k + 2], b[k + 3]));
        }
    }
}

template <int N>
__device__ __forceinline__ void layer_norm_add(float* sums, int j, const float (&v)[N]) {
    if constexpr (N == 1) {
        sums[j] += v[0];
    } else {
#pragma unroll
        for (int k = 0; k < N; k += 4) {
            float4* at = reinterpret_cast<float4*>(sums + layer_norm_place<N>(j + k));
            float4 s = load_whole(at);
            s.x += v[k], s.y += v[k + 1], s.z += v[k + 2], s.w += v[k + 3];
            store_whole(at, s);
        }
    }
}

// One row, read three times. `sums` is this warp's slice [2, room] of shared memory; a lane only ever touches its
// own columns of it, so no barrier is needed before the block adds its warps.
template <typename T, bool VECTOR>
__device__ __forceinline__ void layer_norm_bwd_row(T* dx, const T* dy, const T* x, float mean,
                                                   float rstd, const float* gamma, float* sums,
                                                   int64_t at, int c, float inverse_c,
                                                   bool accumulate) {
    using C = Chunk<T, VECTOR>;
    const int lane = threadIdx.x % WARP;
    const float rest = layer_norm_rest<T, VECTOR>(x, at, c, mean) * inverse_c;
    float g[C::N], v[C::N], w[C::N];
    float sum_g = 0.0f, sum_gx = 0.0f;
#pragma unroll 1
    for (int j = lane * C::N; j < c; j += WARP * C::N) {
        C::load(dy, at + j, g);
        C::load(x, at + j, v);
        load_f32<C::N>(gamma, j, w);
        layer_norm_add<C::N>(sums + layer_norm_room(c), j, g);
#pragma unroll
        for (int k = 0; k < C::N; ++k) {
            const float xhat = (v[k] - mean - rest) * rstd;
            v[k] = g[k] * xhat;
            sum_g += g[k] * w[k];
            sum_gx += g[k] * w[k] * xhat;
        }
        layer_norm_add<C::N>(sums, j, v);
    }
    const float mean_g = warp_sum(sum_g) * inverse_c;
    const float mean_gx = warp_sum(sum_gx) * inverse_c;
#pragma unroll 1
    for (int j = lane * C::N; j < c; j += WARP * C::N) {
        C::load(dy, at + j, g);
        C::load(x, at + j, v);
        load_f32<C::N>(gamma, j, w);
#pragma unroll
        for (int k = 0; k < C::N; ++k) {
            const float xhat = (v[k] - mean - rest) * rstd;
            // Not fused, as above.
            const float centred = __fsub_rn(__fmul_rn(g[k], w[k]), mean_g);
            v[k] = rstd * (centred - xhat * mean_gx);
        }
        if (accumulate) {
            C::load(dx, at + j, g);
#pragma unroll
            for (int k = 0; k < C::N; ++k) v[k] += g[k];
        }
        C::store(dx, at + j, v);
    }
}

template <typename T>
__device__ __forceinline__ void layer_norm_bwd_cached(T* dx, float* shared, const float* mean,
                                                      const float* rstd, const T* dy, const T* x,
                                                      const float* gamma, int64_t rows, int c,
                                                      float inverse_c, bool accumulate,
                                                      bool vectors) {
    const int warps = blockDim.x / WARP, warp = threadIdx.x / WARP;
    const int room = layer_norm_room(c);
    for (int i = threadIdx.x; i < warps * 2 * room; i += blockDim.x) shared[i] = 0.0f;
    __syncthreads();
    float* sums = shared + warp * 2 * room;
    const int64_t stride = static_cast<int64_t>(gridDim.x) * warps;
    for (int64_t row = static_cast<int64_t>(blockIdx.x) * warps + warp; row < rows; row += stride) {
        const float m = mean[row], r = rstd[row];
        const int64_t at = row * c;
        if (vectors) {
            layer_norm_bwd_row<T, true>(dx, dy, x, m, r, gamma, sums, at, c, inverse_c, accumulate);
        } else {
            layer_norm_bwd_row<T, false>(dx, dy, x, m, r, gamma, sums, at, c, inverse_c, accumulate);
        }
    }
}

template <typename T>
__device__ __forceinline__ void layer_norm_bwd(T* dx, float* partial, const float* mean,
                                               const float* rstd, const T* dy, const T* x,
                                               const float* gamma, int64_t rows, int c, int dx_mode) {
    GLMAE_DYNAMIC_SHARED(float, shared);
    const bool vectors = rows_are_vectors(dx, dy, x, c) && is_aligned_16(gamma);
    const bool accumulate = dx_mode == GLMAE_GRAD_ACCUMULATE;
    const float inverse_c = 1.0f / static_cast<float>(c);
    if (vectors && c <= LN_BWD_COLUMNS<T>) {
        layer_norm_bwd_registers(dx, shared, mean, rstd, dy, x, gamma, rows, c, inverse_c,
                                 accumulate);
    } else {
        layer_norm_bwd_cached(dx, shared, mean, rstd, dy, x, gamma, rows, c, inverse_c, accumulate,
                              vectors);
    }
    __syncthreads();
    const int warps = blockDim.x / WARP, room = layer_norm_room(c);
    float* out = partial + static_cast<int64_t>(blockIdx.x) * 2 * c;
    for (int j = threadIdx.x; j < c; j += blockDim.x) {
        const float* from = shared + (vectors ? layer_norm_place<Vec<T>::N>(j) : j);
        float dgamma = 0.0f, dbeta = 0.0f;
        for (int w = 0; w < warps; ++w, from += 2 * room) dgamma += from[0], dbeta += from[room];
        out[j] = dgamma;
        out[c + j] = dbeta;
    }
}

}  // namespace GLMAE_NS
