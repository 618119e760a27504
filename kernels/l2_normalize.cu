// Rows divided by their Euclidean length: y = x / max(|x|, 1e-12), backward
// dx = (dy - xhat (xhat . dy)) / |x| with xhat = x / |x|; a row shorter than 1e-12 counts as divided by a
// constant: dx = dy / 1e-12 (torch.nn.functional.normalize).
//
// x, y, dx, dy [rows, c] f32 or bf16, norm [rows] f32, contiguous. Any c >= 1. Arithmetic in f32; the
// backward takes xhat from x and the f32 norm, not from the rounded y.
//
// Threads: one warp per row, 4 rows per block of 128; units of 16 bytes per lane when c and the pointers
// allow, single elements otherwise; the second pass over a row comes from L1. Shared memory: none.
// Bytes moved: forward 2 rows * c elements, backward 3 (4 when adding). FLOPs: 3 and 6 per element.
// Floor: launch latency (40 x 256 elements are 20 KB). Deterministic: butterflies within a warp.
#include "prelude.cuh"

#include "rows.cuh"

namespace GLMAE_NS {

constexpr float NORMALIZE_EPS = 1e-12f;

template <typename T, int N>
__device__ __forceinline__ void l2_normalize_fwd_row(T* y, float* norm, const T* x, int c) {
    const int lane = threadIdx.x % WARP;
    float squares = 0.0f, v[N];
    for (int j = lane * N; j < c; j += WARP * N) {
        load_elements<N>(x, j, v);
#pragma unroll
        for (int k = 0; k < N; ++k) squares += v[k] * v[k];
    }
    squares = warp_sum(squares);
    const float length = squares > 0.0f ? squares * rsqrtf(squares) : 0.0f;
    const float inverse = __fdividef(1.0f, fmaxf(length, NORMALIZE_EPS));
    for (int j = lane * N; j < c; j += WARP * N) {
        load_elements<N>(x, j, v);
#pragma unroll
        for (int k = 0; k < N; ++k) v[k] *= inverse;
        store_elements<N>(y, j, v);
    }
    if (lane == 0) *norm = length;
}

template <typename T, int N>
__device__ __forceinline__ void l2_normalize_bwd_row(T* dx, float norm, const T* dy, const T* x,
                                                     int c, bool accumulate) {
    const int lane = threadIdx.x % WARP;
    const bool short_row = norm < NORMALIZE_EPS;
    const float inverse = __fdividef(1.0f, fmaxf(norm, NORMALIZE_EPS));
    float dot = 0.0f, v[N], g[N];
    if (!short_row) {
        for (int j = lane * N; j < c; j += WARP * N) {
            load_elements<N>(x, j, v);
            load_elements<N>(dy, j, g);
#pragma unroll
            for (int k = 0; k < N; ++k) dot += v[k] * inverse * g[k];
        }
    }
    dot = warp_sum(dot);
    for (int j = lane * N; j < c; j += WARP * N) {
        load_elements<N>(x, j, v);
        load_elements<N>(dy, j, g);
#pragma unroll
        for (int k = 0; k < N; ++k) v[k] = (g[k] - v[k] * inverse * dot) * inverse;
        if (accumulate) {
            load_elements<N>(dx, j, g);
#pragma unroll
            for (int k = 0; k < N; ++k) v[k] += g[k];
        }
        store_elements<N>(dx, j, v);
    }
}

template <typename T>
__device__ __forceinline__ void l2_normalize_fwd(T* y, float* norm, const T* x, int64_t rows,
                                                 int c) {
    constexpr int N = Vec<T>::N;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= rows) return;
    const int64_t at = row * c;
    if (c % N == 0 && is_aligned_16(y) && is_aligned_16(x)) {
        l2_normalize_fwd_row<T, N>(y + at, norm + row, x + at, c);
    } else {
        l2_normalize_fwd_row<T, 1>(y + at, norm + row, x + at, c);
    }
}

template <typename T>
__device__ __forceinline__ void l2_normalize_bwd(T* dx, const float* norm, const T* dy, const T* x,
                                                 int64_t rows, int c, int mode) {
    constexpr int N = Vec<T>::N;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= rows) return;
    const int64_t at = row * c;
    const bool add = mode == GLMAE_GRAD_ACCUMULATE;
    if (c % N == 0 && is_aligned_16(dx) && is_aligned_16(dy) && is_aligned_16(x)) {
        l2_normalize_bwd_row<T, N>(dx + at, norm[row], dy + at, x + at, c, add);
    } else {
        l2_normalize_bwd_row<T, 1>(dx + at, norm[row], dy + at, x + at, c, add);
    }
}

GLMAE_TWINS(l2_normalize_fwd_f32, l2_normalize_fwd_bf16, (128),
    (T* __restrict__ y, float* __restrict__ norm, const T* __restrict__ x, int64_t rows, int c),
    l2_normalize_fwd(y, norm, x, rows, c))

GLMAE_TWINS(l2_normalize_bwd_f32, l2_normalize_bwd_bf16, (128),
    (T* __restrict__ dx, const float* __restrict__ norm, const T* __restrict__ dy,
     const T* __restrict__ x, int64_t rows, int c, int mode),
    l2_normalize_bwd(dx, norm, dy, x, rows, c, mode))

}  // namespace GLMAE_NS
