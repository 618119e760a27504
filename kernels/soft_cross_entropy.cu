// Consistency loss between teacher and student assignments (DINO, arXiv 2104.14294), value and gradient:
//
//     P_i = softmax((t_i - center) * inv_tau)        Q_j = softmax(s_j * inv_tau_s)
//     loss_g = scale_g sum over the pairs (i, j) of g of -sum_k P_i[k] log Q_j[k]
//     ds_j = scale_g inv_tau_s (pairs(j) Q_j - sum_i P_i)          scale_g = 1 / pairs of g
//
// student, gradient [rows, k], teacher [teachers, k], center [k], inv_tau [1], losses, scale [groups]
// f32; starts [rows + 1], anchors [pairs], group [rows] i32: the anchors of row j are
// anchors[starts[j]] ... anchors[starts[j + 1] - 1]. The gradient is saved without the factor
// d loss_g, which soft_cross_entropy_bwd reads from device memory later. P is never stored.
//
// Numerics: softmax does not change when a row is shifted, so logits are taken relative to column 0,
// ((t - t_0) - (c - c_0)) * inv_tau: the large common part of logits (offsets of 100 are seen in
// collapsing runs) cancels exactly before it is sharpened. Log-sum-exp with the maximum taken out.
//
// Threads: columns are cut into pieces of 2048 = 256 threads x 8, so K = 65536 fills the device with few
// rows. _stats, grid (pieces, teachers + rows): (maximum, sum of exponentials) of every piece. _fwd, grid
// (pieces, rows): every warp merges the pieces' statistics in order, then each thread keeps 8 logits,
// their gradient and the centre in registers and runs over the anchors, each read once. _fwd_sum, one
// block per group: adds the piece losses in order. Units of 16 bytes when k is a multiple of 4 and rows
// are aligned, neighbouring single elements otherwise.
// Shared memory: 128 bytes. Bytes moved: 4 k (teachers + 2 rows + pairs + rows (read, write) + centre),
// of which DRAM sees teachers + 2 rows, the rest is in L2. FLOPs: about 10 per element and pair.
// Floor (8 teachers, 40 rows, K = 65536): 23 MB, 5.4 us at 4.3 TB/s; exp: 5.2 M, 1.3 us.
// Deterministic: pieces depend on k alone; all sums are in a fixed order.
#include "prelude.cuh"

#include "rows.cuh"

namespace GLMAE_NS {

constexpr int ENTROPY_THREADS = 256, ENTROPY_PER_THREAD = 8;
constexpr int ENTROPY_PIECE = ENTROPY_THREADS * ENTROPY_PER_THREAD;

// Column of element e of this thread within the row; beyond k there is nothing.
template <bool VECTOR>
__device__ __forceinline__ int64_t entropy_column(int e) {
    const int in_piece = VECTOR ? (e / 4 * ENTROPY_THREADS + threadIdx.x) * 4 + e % 4
                                : e * ENTROPY_THREADS + threadIdx.x;
    return static_cast<int64_t>(blockIdx.x) * ENTROPY_PIECE + in_piece;
}

// The thread's elements of a row; `fill` beyond its end.
template <bool VECTOR>
__device__ __forceinline__ void entropy_load(float (&v)[ENTROPY_PER_THREAD], const float* row,
                                             int64_t k, float fill) {
    if constexpr (VECTOR) {
#pragma unroll
        for (int e = 0; e < ENTROPY_PER_THREAD; e += 4) {
            const int64_t at = entropy_column<true>(e);
            const float4 f = at < k ? __ldg(reinterpret_cast<const float4*>(row + at))
                                    : make_float4(fill, fill, fill, fill);
            v[e] = f.x, v[e + 1] = f.y, v[e + 2] = f.z, v[e + 3] = f.w;
        }
    } else {
#pragma unroll
        for (int e = 0; e < ENTROPY_PER_THREAD; ++e) {
            const int64_t at = entropy_column<false>(e);
            v[e] = at < k ? __ldg(row + at) : fill;
        }
    }
}

// Logarithm of the sum of exponentials of a row, from its pieces; every lane gets it.
__device__ __forceinline__ float entropy_merge(const float2* pieces, int count) {
    const int lane = threadIdx.x % WARP;
    float largest = -INFINITY, sum = 0.0f;
#pragma unroll 1
    for (int i = lane; i < count; i += WARP) largest = fmaxf(largest, pieces[i].x);
    largest = warp_max(largest);
#pragma unroll 1
    for (int i = lane; i < count; i += WARP) sum += pieces[i].y * __expf(pieces[i].x - largest);
    return largest + logf(warp_sum(sum));
}

template <bool VECTOR>
__device__ __forceinline__ void entropy_stats(float2* out, const float* row, const float* center,
                                              float sharpness, int64_t k, float* scratch) {
    float v[ENTROPY_PER_THREAD];
    entropy_load<VECTOR>(v, row, k, -INFINITY);
    const float row_0 = __ldg(row);
    if (center) {
        float c[ENTROPY_PER_THREAD];
        entropy_load<VECTOR>(c, center, k, 0.0f);
        const float center_0 = __ldg(center);
#pragma unroll
        for (int e = 0; e < ENTROPY_PER_THREAD; ++e) v[e] = (v[e] - row_0) - (c[e] - center_0);
    } else {
#pragma unroll
        for (int e = 0; e < ENTROPY_PER_THREAD; ++e) v[e] -= row_0;
    }
    float largest = -INFINITY, sum = 0.0f;
#pragma unroll
    for (int e = 0; e < ENTROPY_PER_THREAD; ++e) v[e] *= sharpness, largest = fmaxf(largest, v[e]);
    largest = block_largest(largest, scratch);
#pragma unroll
    for (int e = 0; e < ENTROPY_PER_THREAD; ++e) sum += __expf(v[e] - largest);
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) *out = make_float2(largest, sum);
}

// The loss of this piece of student row j; writes the piece of its gradient.
template <bool VECTOR>
__device__ __forceinline__ float entropy_piece(float* gradient, const float* student,
                                               const float2* stats, const float* teacher,
                                               const float* center, float inv_tau,
                                               const int* anchors, int pairs, int teachers,
                                               float inv_tau_s, float scale, int64_t k) {
    constexpr int N = ENTROPY_PER_THREAD;
    const int64_t row = blockIdx.y;
    const int pieces = gridDim.x;
    const float* s = student + row * k;
    float z[N], grad[N], c[N], t[N];
    entropy_load<VECTOR>(z, s, k, 0.0f);
    entropy_load<VECTOR>(c, center, k, 0.0f);
    const float s_0 = __ldg(s), center_0 = __ldg(center);
    const float lse = entropy_merge(stats + (teachers + row) * pieces, pieces);
    const float count = static_cast<float>(pairs);
    float loss = 0.0f;
#pragma unroll
    for (int e = 0; e < N; ++e) {
        z[e] = (z[e] - s_0) * inv_tau_s - lse;
        grad[e] = count * __expf(z[e]);
        c[e] -= center_0;
    }
    for (int i = 0; i < pairs; ++i) {
        const int64_t anchor = anchors[i];
        const float* row_t = teacher + anchor * k;
        entropy_load<VECTOR>(t, row_t, k, -INFINITY);
        const float t_0 = __ldg(row_t);
        const float lse_t = entropy_merge(stats + anchor * pieces, pieces);
#pragma unroll
        for (int e = 0; e < N; ++e) {
            const float p = __expf(((t[e] - t_0) - c[e]) * inv_tau - lse_t);  // 0 beyond the end
            loss -= p * z[e];
            grad[e] -= p;
        }
    }
    const float factor = scale * inv_tau_s;
    float* out = gradient + row * k;
    if constexpr (VECTOR) {
#pragma unroll
        for (int e = 0; e < N; e += 4) {
            const int64_t at = entropy_column<true>(e);
            if (at < k)
                __stcg(reinterpret_cast<float4*>(out + at),
                       make_float4(grad[e] * factor, grad[e + 1] * factor, grad[e + 2] * factor,
                                   grad[e + 3] * factor));
        }
    } else {
#pragma unroll
        for (int e = 0; e < N; ++e) {
            const int64_t at = entropy_column<false>(e);
            if (at < k) out[at] = grad[e] * factor;
        }
    }
    return loss;
}

// stats [teachers + rows, gridDim.x]: maximum and sum of exponentials of every piece.
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    soft_cross_entropy_fwd_f32_stats(float2* __restrict__ stats, const float* __restrict__ student,
                                     const float* __restrict__ teacher,
                                     const float* __restrict__ center,
                                     const float* __restrict__ inv_tau, int teachers,
                                     float inv_tau_s, int64_t k) {
    __shared__ float scratch[WARP];
    const bool is_teacher = blockIdx.y < static_cast<unsigned>(teachers);
    const float* row = is_teacher ? teacher + blockIdx.y * k : student + (blockIdx.y - teachers) * k;
    const float* shift = is_teacher ? center : nullptr;
    const float sharpness = is_teacher ? __ldg(inv_tau) : inv_tau_s;
    float2* out = stats + static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
    if (k % 4 == 0 && is_aligned_16(student) && is_aligned_16(teacher) && is_aligned_16(center)) {
        entropy_stats<true>(out, row, shift, sharpness, k, scratch);
    } else {
        entropy_stats<false>(out, row, shift, sharpness, k, scratch);
    }
}
GLMAE_KERNEL(soft_cross_entropy_fwd_f32_stats, 256)

// partial [rows, gridDim.x]: the loss of every piece, before the scale of its group.
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    soft_cross_entropy_fwd_f32(float* __restrict__ gradient, float* __restrict__ partial,
                               const float2* __restrict__ stats, const float* __restrict__ student,
                               const float* __restrict__ teacher, const float* __restrict__ center,
                               const float* __restrict__ inv_tau, const int* __restrict__ starts,
                               const int* __restrict__ anchors, const int* __restrict__ group,
                               const float* __restrict__ scale, int teachers, float inv_tau_s,
                               int64_t k) {
    __shared__ float scratch[WARP];
    const int first = starts[blockIdx.y], pairs = starts[blockIdx.y + 1] - first;
    const float s = scale[group[blockIdx.y]], sharpness = __ldg(inv_tau);
    float loss;
    if (k % 4 == 0 && is_aligned_16(gradient) && is_aligned_16(student) && is_aligned_16(teacher) &&
        is_aligned_16(center)) {
        loss = entropy_piece<true>(gradient, student, stats, teacher, center, sharpness,
                                   anchors + first, pairs, teachers, inv_tau_s, s, k);
    } else {
        loss = entropy_piece<false>(gradient, student, stats, teacher, center, sharpness,
                                    anchors + first, pairs, teachers, inv_tau_s, s, k);
    }
    loss = block_sum(loss, scratch);
    if (threadIdx.x == 0)
        partial[static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x] = loss;
}
GLMAE_KERNEL(soft_cross_entropy_fwd_f32, 256)

// losses[g] = scale[g] * sum of partial [rows, pieces] over the rows of group g = blockIdx.x.
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    soft_cross_entropy_fwd_f32_sum(float* __restrict__ losses, const float* __restrict__ partial,
                                   const int* __restrict__ group, const float* __restrict__ scale,
                                   int rows, int pieces) {
    __shared__ float scratch[WARP];
    const int g = blockIdx.x;
    float sum = 0.0f;
    for (int row = threadIdx.x / WARP; row < rows; row += ENTROPY_THREADS / WARP) {
        if (group[row] != g) continue;
        for (int i = threadIdx.x % WARP; i < pieces; i += WARP)
            sum += partial[static_cast<int64_t>(row) * pieces + i];
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) losses[g] = sum * scale[g];
}
GLMAE_KERNEL(soft_cross_entropy_fwd_f32_sum, 256)

// gradient [rows, k] *= dlosses[group], in place: it becomes dstudent. Grid (pieces, rows).
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    soft_cross_entropy_bwd_f32(float* __restrict__ gradient, const float* __restrict__ dlosses,
                               const int* __restrict__ group, int64_t k) {
    const float factor = dlosses[group[blockIdx.y]];
    float* row = gradient + blockIdx.y * k;
    if (k % 4 == 0 && is_aligned_16(gradient)) {
#pragma unroll
        for (int e = 0; e < ENTROPY_PER_THREAD; e += 4) {
            const int64_t at = entropy_column<true>(e);
            if (at >= k) continue;
            float v[4];
            load_elements<4>(row, at, v);
#pragma unroll
            for (int i = 0; i < 4; ++i) v[i] *= factor;
            store_elements<4>(row, at, v);
        }
        return;
    }
#pragma unroll
    for (int e = 0; e < ENTROPY_PER_THREAD; ++e) {
        const int64_t at = entropy_column<false>(e);
        if (at < k) row[at] *= factor;
    }
}
GLMAE_KERNEL(soft_cross_entropy_bwd_f32, 256)

}  // namespace GLMAE_NS
