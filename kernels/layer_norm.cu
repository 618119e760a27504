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
// Threads: a warp per row, or per two in the forward of short rows; blockDim.x = 32 * warps. A block takes
// the rows of its warps, then strides by the grid. Lanes take 16 bytes each, 512 bytes apart, when c is a
// multiple of 4 (f32) or 8 (bf16) and all row pointers are 16-byte aligned. Rows then stay in registers and
// are read once: in the forward up to 768 f32 or 1536 bf16, in the backward, which also keeps its sums of
// dgamma and dbeta there, up to 512 f32 or 768 bf16. In longer rows passes after the first read L1.
// Shared memory, dynamic, P = c rounded up to 256: forward 2 * P * 4 bytes where rows stay in registers (gamma
// and beta), backward warps * 2 * P * 4 (gamma, then the sums).
// Bytes moved: forward 2 * rows * c elements; backward 3 (4 when dx accumulates), both + 8 * rows. FLOPs: 8
// and 14 per element. Floor (3768 x 768 bf16): forward 11.6 MB, 2.7 us at 4.3 TB/s, backward 17.4 MB, 4 us.
// Through L1 and shared memory (bf16, c = 768) go 6.8 KB a row in the forward, 11 KB in the backward, at 128
// bytes per clock and SM: less time than the floor.
// Deterministic: butterflies within a warp; each warp adds the rows it owns in order, the block adds
// its warps in order, layer_norm_bwd_params_f32 adds the blocks in order. The grid of the backward is
// part of the result: choose it from `rows` alone.
#include "prelude.cuh"

#include "layer_norm_bwd.cuh"
#include "layer_norm_fwd.cuh"

namespace GLMAE_NS {

GLMAE_TWINS(layer_norm_fwd_f32, layer_norm_fwd_bf16, (256, 4),
    (T* __restrict__ y, float* __restrict__ mean, float* __restrict__ rstd,
     const T* __restrict__ x, const float* __restrict__ gamma, const float* __restrict__ beta,
     int64_t rows, int c, float eps),
    layer_norm_fwd(y, mean, rstd, x, gamma, beta, rows, c, eps))

// partial [gridDim.x, 2, c]: this block's share of dgamma, then of dbeta. dx_mode: GLMAE_GRAD_*.
GLMAE_TWINS(layer_norm_bwd_f32, layer_norm_bwd_bf16, (256, 2),
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
