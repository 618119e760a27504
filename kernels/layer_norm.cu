// Layer normalisation of rows (Ba, Kiros, Hinton, arXiv 1607.06450, eq. 4; biased variance):
//
//     mean = sum_j x_j / c        rstd = 1 / sqrt(sum_j (x_j - mean)^2 / c + eps)
//     y_j  = (x_j - mean) * rstd * gamma_j + beta_j
//
// and, with xhat = (x - mean) * rstd and g = dy * gamma,
//
//     dx     = rstd * (g - mean_j(g) - xhat * mean_j(g * xhat))
//     dgamma = sum_rows dy * xhat        dbeta = sum_rows dy
//
// x, y, dx, dy [rows, c] f32 or bf16, contiguous; mean, rstd [rows], gamma, beta [c] f32. Any c >= 1.
// Arithmetic in f32, variance in two passes: E[x^2] - mean^2 cancels when the mean is large. The
// rounded mean itself is then too coarse, so the rest it leaves is taken off as well.
//
// Threads: one warp per row, blockDim.x = 32 * warps; a block takes rows blockIdx.x * warps + warp,
// then strides by the grid. Lanes take 16 bytes each, 512 bytes apart, when c is a multiple of 4
// (f32) or 8 (bf16) and all row pointers are 16-byte aligned. In the forward a row of at most 768 f32
// or 1024 bf16 then stays in registers and is read once; otherwise passes after the first read L1.
// Shared memory: forward none; backward dynamic, warps * 2 * P * 4 bytes, P = c rounded up to 256.
// Bytes moved: forward 2 * rows * c elements; backward 3 (4 when dx accumulates), both + 8 * rows. FLOPs: 8
// and 14 per element. Floor (3768 x 768 bf16): forward 11.6 MB, 2.7 us at 4.3 TB/s, backward 17.4 MB, 4 us.
// Deterministic: butterflies within a warp; each warp adds the rows it owns in order, the block adds
// its warps in order, layer_norm_bwd_params_f32 adds the blocks in order. The grid of the backward is
// part of the result: choose it from `rows` alone.
#include "prelude.cuh"

namespace GLMAE_NS {

// Vectors of a row that a lane can hold without spilling at 64 registers, and the columns that makes:
// 768 of f32, 1024 of bf16.
template <typename T>
constexpr int LN_VECTORS = sizeof(T) == 4 ? 6 : 4;
template <typename T>
constexpr int LN_COLUMNS_IN_REGISTERS = LN_VECTORS<T> * WARP * Vec<T>::N;

// How the lanes of a warp walk over one row: `N` neighbouring elements at a time.
template <typename T, bool VECTOR>
struct Chunk {
    static constexpr int N = VECTOR ? Vec<T>::N : 1;

    __device__ static __forceinline__ void load(const T* p, int64_t i, float (&v)[N]) {
        if constexpr (VECTOR) {
            load_vec(p, i).unpack(v);
        } else {
            v[0] = to_float(p[i]);
        }
    }
    __device__ static __forceinline__ void store(T* p, int64_t i, const float (&v)[N]) {
        if constexpr (VECTOR) {
            Vec<T> out;
            out.pack(v);
            store_vec(p, i, out);
        } else {
            p[i] = from_float<T>(v[0]);
        }
    }
};

// gamma and beta are f32 whatever T is: `N` of them, 16 bytes at a time.
template <int N>
__device__ __forceinline__ void load_f32(const float* p, int i, float (&v)[N]) {
    if constexpr (N == 1) {
        v[0] = __ldg(p + i);
    } else {
#pragma unroll
        for (int k = 0; k < N; k += 4) {
            const float4 f = __ldg(reinterpret_cast<const float4*>(p + i + k));
            v[k] = f.x, v[k + 1] = f.y, v[k + 2] = f.z, v[k + 3] = f.w;
        }
    }
}

template <typename T>
__device__ __forceinline__ void layer_norm_write(T* y, const float* gamma, const float* beta,
                                                 int64_t at, int j, const float mean,
                                                 const float rest, const float rstd,
                                                 const Vec<T>& x) {
    constexpr int N = Vec<T>::N;
    float v[N], w[N], b[N];
    x.unpack(v);
    load_f32<N>(gamma, j, w);
    load_f32<N>(beta, j, b);
#pragma unroll
    for (int k = 0; k < N; ++k) v[k] = (v[k] - mean - rest) * rstd * w[k] + b[k];
    Vec<T> out;
    out.pack(v);
    store_vec_streaming(y, at + j, out);
}

// The row stays in registers: one read of x.
template <typename T>
__device__ __forceinline__ void layer_norm_fwd_registers(T* y, float* mean_out, float* rstd_out,
                                                         const T* x, const float* gamma,
                                                         const float* beta, int64_t row, int c,
                                                         float inverse_c, float eps) {
    constexpr int N = Vec<T>::N, VECTORS = LN_VECTORS<T>;
    const int lane = threadIdx.x % WARP;
    const int64_t at = row * c;
    Vec<T> held[VECTORS];
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const int j = (i * WARP + lane) * N;
        if (j < c) held[i] = load_vec_streaming(x, at + j);
    }
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        if ((i * WARP + lane) * N >= c) continue;
        float v[N];
        held[i].unpack(v);
#pragma unroll
        for (int k = 0; k < N; ++k) sum += v[k];
    }
    const float mean = warp_sum(sum) * inverse_c;
    float left = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        if ((i * WARP + lane) * N >= c) continue;
        float v[N];
        held[i].unpack(v);
#pragma unroll
        for (int k = 0; k < N; ++k) left += v[k] - mean;
    }
    const float rest = warp_sum(left) * inverse_c;
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        if ((i * WARP + lane) * N >= c) continue;
        float v[N];
        held[i].unpack(v);
#pragma unroll
        for (int k = 0; k < N; ++k) squares += (v[k] - mean - rest) * (v[k] - mean - rest);
    }
    const float rstd = rsqrtf(warp_sum(squares) * inverse_c + eps);
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const int j = (i * WARP + lane) * N;
        if (j < c) layer_norm_write(y, gamma, beta, at, j, mean, rest, rstd, held[i]);
    }
    if (lane == 0) mean_out[row] = mean, rstd_out[row] = rstd;
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

// The row is read four times, the last three from the cache.
template <typename T, bool VECTOR>
__device__ __forceinline__ void layer_norm_fwd_cached(T* y, float* mean_out, float* rstd_out,
                                                      const T* x, const float* gamma,
                                                      const float* beta, int64_t row, int c,
                                                      float inverse_c, float eps) {
    using C = Chunk<T, VECTOR>;
    const int lane = threadIdx.x % WARP;
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

template <typename T>
__device__ __forceinline__ bool layer_norm_rows_are_vectors(const T* a, const T* b, const T* d,
                                                            const float* gamma, int c) {
    return c % Vec<T>::N == 0 && is_aligned_16(a) && is_aligned_16(b) && is_aligned_16(d) &&
           is_aligned_16(gamma);
}

template <typename T>
__device__ __forceinline__ void layer_norm_fwd(T* y, float* mean, float* rstd, const T* x,
                                               const float* gamma, const float* beta, int64_t rows,
                                               int c, float eps) {
    const int warps = blockDim.x / WARP, warp = threadIdx.x / WARP;
    const bool vectors = layer_norm_rows_are_vectors(y, x, x, gamma, c) && is_aligned_16(beta);
    const float inverse_c = 1.0f / static_cast<float>(c);
    const int64_t stride = static_cast<int64_t>(gridDim.x) * warps;
    for (int64_t row = static_cast<int64_t>(blockIdx.x) * warps + warp; row < rows; row += stride) {
        if (vectors && c <= LN_COLUMNS_IN_REGISTERS<T>) {
            layer_norm_fwd_registers(y, mean, rstd, x, gamma, beta, row, c, inverse_c, eps);
        } else if (vectors) {
            layer_norm_fwd_cached<T, true>(y, mean, rstd, x, gamma, beta, row, c, inverse_c, eps);
        } else {
            layer_norm_fwd_cached<T, false>(y, mean, rstd, x, gamma, beta, row, c, inverse_c, eps);
        }
    }
}

// Room for one warp's sums of dgamma or of dbeta.
__device__ __forceinline__ int layer_norm_sums_room(int c) { return (c + 255) / 256 * 256; }

// Where column `j` stands among a warp's sums: a lane's N columns are split into 16-byte quads, and
// quad q of all lanes lie side by side, so that the 16-byte accesses of a warp meet no bank conflict.
template <int N>
__device__ __forceinline__ int layer_norm_sums_place(int j) {
    if constexpr (N == 1) {
        return j;
    } else {
        const int lane = j / N % WARP, k = j % N;
        return j / (WARP * N) * (WARP * N) + k / 4 * (WARP * 4) + lane * 4 + k % 4;
    }
}

template <int N>
__device__ __forceinline__ void layer_norm_add(float* sums, int j, const float (&v)[N]) {
    if constexpr (N == 1) {
        sums[j] += v[0];
    } else {
#pragma unroll
        for (int k = 0; k < N; k += 4) {
            float4* at = reinterpret_cast<float4*>(sums + layer_norm_sums_place<N>(j + k));
            float4 s = load_whole(at);
            s.x += v[k], s.y += v[k + 1], s.z += v[k + 2], s.w += v[k + 3];
            store_whole(at, s);
        }
    }
}

// One row of the backward. `sums` is this warp's slice [2, room] of shared memory; a lane only ever
// touches its own columns of it, so no barrier is needed before the block adds its warps.
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
        layer_norm_add<C::N>(sums + layer_norm_sums_room(c), j, g);
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
    // The row again, from the cache.
#pragma unroll 1
    for (int j = lane * C::N; j < c; j += WARP * C::N) {
        C::load(dy, at + j, g);
        C::load(x, at + j, v);
        load_f32<C::N>(gamma, j, w);
#pragma unroll
        for (int k = 0; k < C::N; ++k) {
            const float xhat = (v[k] - mean - rest) * rstd;
            // Not fused: where all terms are the mean, the difference is 0 and not a rounding error.
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
__device__ __forceinline__ void layer_norm_bwd(T* dx, float* partial, const float* mean,
                                               const float* rstd, const T* dy, const T* x,
                                               const float* gamma, int64_t rows, int c, int dx_mode) {
    GLMAE_DYNAMIC_SHARED(float, shared);
    const int warps = blockDim.x / WARP, warp = threadIdx.x / WARP;
    const int room = layer_norm_sums_room(c);
    for (int i = threadIdx.x; i < warps * 2 * room; i += blockDim.x) shared[i] = 0.0f;
    __syncthreads();
    float* sums = shared + warp * 2 * room;
    const bool vectors = layer_norm_rows_are_vectors(dx, dy, x, gamma, c);
    const bool accumulate = dx_mode == GLMAE_GRAD_ACCUMULATE;
    const float inverse_c = 1.0f / static_cast<float>(c);
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
    __syncthreads();
    float* out = partial + static_cast<int64_t>(blockIdx.x) * 2 * c;
    for (int j = threadIdx.x; j < c; j += blockDim.x) {
        const float* from = shared + (vectors ? layer_norm_sums_place<Vec<T>::N>(j) : j);
        float dgamma = 0.0f, dbeta = 0.0f;
        for (int w = 0; w < warps; ++w, from += 2 * room) dgamma += from[0], dbeta += from[room];
        out[j] = dgamma;
        out[c + j] = dbeta;
    }
}

GLMAE_TWINS(layer_norm_fwd_f32, layer_norm_fwd_bf16, (256, 4),
    (T* __restrict__ y, float* __restrict__ mean, float* __restrict__ rstd,
     const T* __restrict__ x, const float* __restrict__ gamma, const float* __restrict__ beta,
     int64_t rows, int c, float eps),
    layer_norm_fwd(y, mean, rstd, x, gamma, beta, rows, c, eps))

// partial [gridDim.x, 2, c]: this block's share of dgamma, then of dbeta. dx_mode: GLMAE_GRAD_*.
GLMAE_TWINS(layer_norm_bwd_f32, layer_norm_bwd_bf16, (256, 4),
    (T* dx, float* __restrict__ partial, const float* __restrict__ mean,
     const float* __restrict__ rstd, const T* __restrict__ dy, const T* __restrict__ x,
     const float* __restrict__ gamma, int64_t rows, int c, int dx_mode),
    layer_norm_bwd(dx, partial, mean, rstd, dy, x, gamma, rows, c, dx_mode))

// out [c] = columns first .. first + c of partial [parts, 2 c]: dgamma (first = 0) or dbeta (c). Block
// (32, 8), grid ceil(c / 32): thread (i, k) adds parts k, k + 8, ... of column i, then row 0 adds the
// eight sums in order. 1 KiB of shared.
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    layer_norm_bwd_params_f32(float* __restrict__ out, const float* __restrict__ partial, int parts,
                              int c, int first, int mode) {
    __shared__ float sums[8][WARP];
    const int column = blockIdx.x * WARP + threadIdx.x;
    float sum = 0.0f;
    if (column < c) {
        for (int p = threadIdx.y; p < parts; p += 8)
            sum += partial[static_cast<int64_t>(p) * 2 * c + first + column];
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || column >= c) return;
#pragma unroll
    for (int k = 1; k < 8; ++k) sum += sums[k][threadIdx.x];
    out[column] = mode == GLMAE_GRAD_ACCUMULATE ? out[column] + sum : sum;
}
GLMAE_KERNEL(layer_norm_bwd_params_f32, 256)

}  // namespace GLMAE_NS
