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

#include "rows.cuh"

namespace GLMAE_NS {

constexpr int NORM_THREADS = 256, NORM_MERGE_COLUMNS = 8, NORM_MERGE_LANES = 32;

// Which part of a matrix a thread has: columns column .. column + N of rows row, row + rows, ... < end of
// the share, which begins at row `start` of the sample.
struct NormPlace {
    int64_t sample, start;
    int row, rows, end, width, column;  // `rows`: how many the block takes at a time
    bool works;

    __device__ __forceinline__ NormPlace(int left, int columns, int n, int64_t voxels, int block_rows) {
        sample = blockIdx.y;
        width = min(NORM_THREADS, columns - left);
        rows = NORM_THREADS / width;
        row = threadIdx.x / width;
        works = row < rows;
        column = (left + static_cast<int>(threadIdx.x) - row * width) * n;
        start = static_cast<int64_t>(blockIdx.x) * block_rows;
        end = static_cast<int>(min(static_cast<int64_t>(block_rows), voxels - start));
    }
    // The first of its elements in a matrix of c columns.
    __device__ __forceinline__ int64_t base(int64_t voxels, int c) const {
        return (sample * voxels + start) * c + column;
    }
};

// N elements as f32: 16 bytes, or one element.
template <typename T, bool VECTOR>
struct NormChunk {
    static constexpr int N = VECTOR ? Vec<T>::N : 1;
    __device__ static __forceinline__ void load(const T* p, int64_t i, float (&v)[N]) {
        if constexpr (VECTOR) {
            load_vec(p, i).unpack(v);
        } else {
            v[0] = to_float(p[i]);
        }
    }
    __device__ static __forceinline__ void load_last(const T* p, int64_t i, float (&v)[N]) {
        if constexpr (VECTOR) {
            load_vec_streaming(p, i).unpack(v);
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

// Adds a share of `nb` elements with mean `mb` and centred squares `qb` (Chan, Golub, LeVeque 1983).
__device__ __forceinline__ void norm_merge(float& n, float& m, float& q, float nb, float mb, float qb) {
    if (nb == 0.0f) return;
    const float total = n + nb, share = __fdividef(nb, total), delta = mb - m;
    m += delta * share;
    q += qb + delta * delta * n * share;
    n = total;
}

// Half of the largest power of two that covers `rows`: the first step of a tree over them.
__device__ __forceinline__ int norm_tree_start(int rows) {
    int step = 1;
    while (2 * step < rows) step *= 2;
    return step;
}

// ---------------------------------------------------------------------------------------- statistics

template <typename T, bool VECTOR>
__device__ __forceinline__ void norm_stats(float* partial, float* start, const T* x, int64_t voxels,
                                           int c, int block_rows, float* counts, float* means,
                                           float* squares) {
    using C = NormChunk<T, VECTOR>;
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
__device__ __forceinline__ bool norm_vectors(const T* a, const T* b, const T* d, int c) {
    return c % Vec<T>::N == 0 && is_aligned_16(a) && is_aligned_16(b) && is_aligned_16(d);
}

// partial [batch, gridDim.x, 2, c]: mean from the first voxel on, and centred squares, of every share of
// block_rows rows; start [batch, c]: the first voxel (the place of the means in stats).
GLMAE_EXPORT __global__ void __launch_bounds__(256, 4)
    instance_norm_fwd_f32_stats(float* __restrict__ partial, float* __restrict__ start,
                                const float* __restrict__ x, int64_t voxels, int c, int block_rows) {
    __shared__ float counts[NORM_THREADS], means[NORM_THREADS * 4], squares[NORM_THREADS * 4];
    if (norm_vectors(x, x, x, c)) {
        norm_stats<float, true>(partial, start, x, voxels, c, block_rows, counts, means, squares);
    } else {
        norm_stats<float, false>(partial, start, x, voxels, c, block_rows, counts, means, squares);
    }
}
GLMAE_KERNEL(instance_norm_fwd_f32_stats, 256)

GLMAE_EXPORT __global__ void __launch_bounds__(256)
    instance_norm_fwd_bf16_stats(float* __restrict__ partial, float* __restrict__ start,
                                 const bf16* __restrict__ x, int64_t voxels, int c, int block_rows) {
    __shared__ float counts[NORM_THREADS], means[NORM_THREADS * 8], squares[NORM_THREADS * 8];
    if (norm_vectors(x, x, x, c)) {
        norm_stats<bf16, true>(partial, start, x, voxels, c, block_rows, counts, means, squares);
    } else {
        norm_stats<bf16, false>(partial, start, x, voxels, c, block_rows, counts, means, squares);
    }
}
GLMAE_KERNEL(instance_norm_fwd_bf16_stats, 256)

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

// ---------------------------------------------------------------------------------------------- apply

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
    using C = NormChunk<T, VECTOR>;
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
    if (norm_vectors(y, x, shortcut, c)) {
        norm_fwd<T, true, RESIDUAL>(y, x, stats, shortcut, shortcut_stats, voxels, c, block_rows, slope);
    } else {
        norm_fwd<T, false, RESIDUAL>(y, x, stats, shortcut, shortcut_stats, voxels, c, block_rows, slope);
    }
}

GLMAE_EXPORT __global__ void __launch_bounds__(256)
    instance_norm_fwd_f32(float* __restrict__ y, const float* __restrict__ stats,
                          const float* __restrict__ x, int64_t voxels, int c, int block_rows,
                          float slope) {
    norm_fwd<float, false>(y, x, stats, x, nullptr, voxels, c, block_rows, slope);
}
GLMAE_KERNEL(instance_norm_fwd_f32, 256)

GLMAE_EXPORT __global__ void __launch_bounds__(256)
    instance_norm_fwd_bf16(bf16* __restrict__ y, const float* __restrict__ stats,
                           const bf16* __restrict__ x, int64_t voxels, int c, int block_rows,
                           float slope) {
    norm_fwd<bf16, false>(y, x, stats, x, nullptr, voxels, c, block_rows, slope);
}
GLMAE_KERNEL(instance_norm_fwd_bf16, 256)

// shortcut_stats may be null: the shortcut is added as it is.
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    instance_norm_fwd_f32_residual(float* __restrict__ y, const float* __restrict__ stats,
                                   const float* __restrict__ shortcut_stats,
                                   const float* __restrict__ x, const float* __restrict__ shortcut,
                                   int64_t voxels, int c, int block_rows, float slope) {
    norm_fwd<float, true>(y, x, stats, shortcut, shortcut_stats, voxels, c, block_rows, slope);
}
GLMAE_KERNEL(instance_norm_fwd_f32_residual, 256)

GLMAE_EXPORT __global__ void __launch_bounds__(256)
    instance_norm_fwd_bf16_residual(bf16* __restrict__ y, const float* __restrict__ stats,
                                    const float* __restrict__ shortcut_stats,
                                    const bf16* __restrict__ x, const bf16* __restrict__ shortcut,
                                    int64_t voxels, int c, int block_rows, float slope) {
    norm_fwd<bf16, true>(y, x, stats, shortcut, shortcut_stats, voxels, c, block_rows, slope);
}
GLMAE_KERNEL(instance_norm_fwd_bf16_residual, 256)

// ------------------------------------------------------------------------------------------- backward

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
    using C = NormChunk<T, VECTOR>;
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
    if (norm_vectors(dy, x, shortcut, c)) {
        norm_sums<T, true, RESIDUAL>(partial, dy, x, stats, shortcut, shortcut_stats, voxels, c,
                                     block_rows, slope, room);
    } else {
        norm_sums<T, false, RESIDUAL>(partial, dy, x, stats, shortcut, shortcut_stats, voxels, c,
                                      block_rows, slope, room);
    }
}

// partial [batch, gridDim.x, 2 (3 with a shortcut), c].
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    instance_norm_bwd_f32_sums(float* __restrict__ partial, const float* __restrict__ stats,
                               const float* __restrict__ dy, const float* __restrict__ x,
                               int64_t voxels, int c, int block_rows, float slope) {
    __shared__ float room[2 * 4 * NORM_THREADS];
    norm_sums<float, false>(partial, dy, x, stats, x, nullptr, voxels, c, block_rows, slope, room);
}
GLMAE_KERNEL(instance_norm_bwd_f32_sums, 256)

GLMAE_EXPORT __global__ void __launch_bounds__(256)
    instance_norm_bwd_bf16_sums(float* __restrict__ partial, const float* __restrict__ stats,
                                const bf16* __restrict__ dy, const bf16* __restrict__ x,
                                int64_t voxels, int c, int block_rows, float slope) {
    __shared__ float room[2 * 8 * NORM_THREADS];
    norm_sums<bf16, false>(partial, dy, x, stats, x, nullptr, voxels, c, block_rows, slope, room);
}
GLMAE_KERNEL(instance_norm_bwd_bf16_sums, 256)

GLMAE_EXPORT __global__ void __launch_bounds__(256)
    instance_norm_bwd_f32_residual_sums(float* __restrict__ partial, const float* __restrict__ stats,
                                        const float* __restrict__ shortcut_stats,
                                        const float* __restrict__ dy, const float* __restrict__ x,
                                        const float* __restrict__ shortcut, int64_t voxels, int c,
                                        int block_rows, float slope) {
    __shared__ float room[3 * 4 * NORM_THREADS];
    norm_sums<float, true>(partial, dy, x, stats, shortcut, shortcut_stats, voxels, c, block_rows, slope,
                           room);
}
GLMAE_KERNEL(instance_norm_bwd_f32_residual_sums, 256)

GLMAE_EXPORT __global__ void __launch_bounds__(256)
    instance_norm_bwd_bf16_residual_sums(float* __restrict__ partial, const float* __restrict__ stats,
                                         const float* __restrict__ shortcut_stats,
                                         const bf16* __restrict__ dy, const bf16* __restrict__ x,
                                         const bf16* __restrict__ shortcut, int64_t voxels, int c,
                                         int block_rows, float slope) {
    __shared__ float room[3 * 8 * NORM_THREADS];
    norm_sums<bf16, true>(partial, dy, x, stats, shortcut, shortcut_stats, voxels, c, block_rows, slope,
                          room);
}
GLMAE_KERNEL(instance_norm_bwd_bf16_residual_sums, 256)

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

template <typename T, bool VECTOR>
__device__ __forceinline__ void norm_give(T* to, int64_t i, float (&v)[NormChunk<T, VECTOR>::N],
                                          int mode) {
    using C = NormChunk<T, VECTOR>;
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
    using C = NormChunk<T, VECTOR>;
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
    if (norm_vectors(dy, x, shortcut, c) && is_aligned_16(dx) && is_aligned_16(dshortcut)) {
        norm_bwd<T, true, RESIDUAL>(dx, dshortcut, stats, shortcut_stats, means, dy, x, shortcut, voxels,
                                    c, block_rows, slope, dx_mode, dshortcut_mode);
    } else {
        norm_bwd<T, false, RESIDUAL>(dx, dshortcut, stats, shortcut_stats, means, dy, x, shortcut, voxels,
                                     c, block_rows, slope, dx_mode, dshortcut_mode);
    }
}

// dx may be null. *_mode: GLMAE_GRAD_*.
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    instance_norm_bwd_f32(float* dx, const float* __restrict__ stats, const float* __restrict__ means,
                          const float* __restrict__ dy, const float* __restrict__ x, int64_t voxels,
                          int c, int block_rows, float slope, int dx_mode) {
    norm_bwd<float, false>(dx, nullptr, stats, nullptr, means, dy, x, x, voxels, c, block_rows, slope,
                           dx_mode, 0);
}
GLMAE_KERNEL(instance_norm_bwd_f32, 256)

GLMAE_EXPORT __global__ void __launch_bounds__(256)
    instance_norm_bwd_bf16(bf16* dx, const float* __restrict__ stats, const float* __restrict__ means,
                           const bf16* __restrict__ dy, const bf16* __restrict__ x, int64_t voxels,
                           int c, int block_rows, float slope, int dx_mode) {
    norm_bwd<bf16, false>(dx, nullptr, stats, nullptr, means, dy, x, x, voxels, c, block_rows, slope,
                          dx_mode, 0);
}
GLMAE_KERNEL(instance_norm_bwd_bf16, 256)

// dx, dshortcut and shortcut_stats may be null.
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    instance_norm_bwd_f32_residual(float* dx, float* dshortcut, const float* __restrict__ stats,
                                   const float* __restrict__ shortcut_stats,
                                   const float* __restrict__ means, const float* __restrict__ dy,
                                   const float* __restrict__ x, const float* __restrict__ shortcut,
                                   int64_t voxels, int c, int block_rows, float slope, int dx_mode,
                                   int dshortcut_mode) {
    norm_bwd<float, true>(dx, dshortcut, stats, shortcut_stats, means, dy, x, shortcut, voxels, c,
                          block_rows, slope, dx_mode, dshortcut_mode);
}
GLMAE_KERNEL(instance_norm_bwd_f32_residual, 256)

GLMAE_EXPORT __global__ void __launch_bounds__(256)
    instance_norm_bwd_bf16_residual(bf16* dx, bf16* dshortcut, const float* __restrict__ stats,
                                    const float* __restrict__ shortcut_stats,
                                    const float* __restrict__ means, const bf16* __restrict__ dy,
                                    const bf16* __restrict__ x, const bf16* __restrict__ shortcut,
                                    int64_t voxels, int c, int block_rows, float slope, int dx_mode,
                                    int dshortcut_mode) {
    norm_bwd<bf16, true>(dx, dshortcut, stats, shortcut_stats, means, dy, x, shortcut, voxels, c,
                         block_rows, slope, dx_mode, dshortcut_mode);
}
GLMAE_KERNEL(instance_norm_bwd_bf16_residual, 256)

}  // namespace GLMAE_NS
