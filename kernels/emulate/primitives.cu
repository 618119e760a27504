// Kernels that expose one primitive of the prelude each, for tests/emulator/primitives.rs. They are
// compiled for GPUs, too: `glmae check device` compares the two.
#include "../include/prelude.cuh"

namespace GLMAE_NS {

// d [16, 8] = a [16, 16] b [16, 8] + c, one warp, fragments loaded by hand as PTX lays them out.
GLMAE_EXPORT __global__ void primitive_mma(float* d, const bf16* a, const bf16* b, const float* c) {
    const int lane = threadIdx.x, group = lane / 4, pair = lane % 4 * 2;
    uint32_t fa[4], fb[2];
    for (int i = 0; i < 4; ++i) {
        const int row = group + (i % 2) * 8, column = pair + (i / 2) * 8;
        fa[i] = __bfloat16_as_ushort(a[row * 16 + column]) |
                static_cast<uint32_t>(__bfloat16_as_ushort(a[row * 16 + column + 1])) << 16;
    }
    for (int i = 0; i < 2; ++i) {
        const int k = pair + i * 8;
        fb[i] = __bfloat16_as_ushort(b[k * 8 + group]) |
                static_cast<uint32_t>(__bfloat16_as_ushort(b[(k + 1) * 8 + group])) << 16;
    }
    float fc[4], fd[4];
    for (int i = 0; i < 4; ++i) fc[i] = c[(group + i / 2 * 8) * 8 + pair + i % 2];
    mma_m16n8k16_bf16(fd, fa, fb, fc);
    for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + pair + i % 2] = fd[i];
}
GLMAE_KERNEL(primitive_mma, 32)

// The same product with fragments from ldmatrix: a by x4, b (row-major [k, n]) by x2.trans.
GLMAE_EXPORT __global__ void primitive_mma_ldmatrix(float* d, const bf16* a, const bf16* b,
                                                    const float* c) {
    __shared__ __align__(16) bf16 sa[16 * 16];
    __shared__ __align__(16) bf16 sb[16 * 8];
    const int lane = threadIdx.x, group = lane / 4, pair = lane % 4 * 2;
    store_vec(sa, lane * 8, load_vec(a, lane * 8));
    if (lane < 16) store_vec(sb, lane * 8, load_vec(b, lane * 8));
    __syncthreads();
    uint32_t fa[4], fb[2];
    ldmatrix_x4(fa, sa + (lane % 16) * 16 + lane / 16 * 8);
    ldmatrix_x2_trans(fb, sb + (lane % 16) * 8);
    float f[4];
    for (int i = 0; i < 4; ++i) f[i] = c[(group + i / 2 * 8) * 8 + pair + i % 2];
    mma_m16n8k16_bf16(f, fa, fb, f);
    for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + pair + i % 2] = f[i];
}
GLMAE_KERNEL(primitive_mma_ldmatrix, 32)

// out [4 forms][32 lanes][4 registers] from one tile of 32 rows of 8 (unused registers are 0).
GLMAE_EXPORT __global__ void primitive_ldmatrix(uint32_t* out, const bf16* x) {
    __shared__ __align__(16) bf16 tile[32 * 8];
    const int lane = threadIdx.x;
    store_vec(tile, lane * 8, load_vec(x, lane * 8));
    __syncthreads();
    const bf16* row = tile + lane * 8;
    uint32_t r[4][4] = {};
    uint32_t two[2];
    ldmatrix_x4(r[0], row);
    ldmatrix_x4_trans(r[1], row);
    ldmatrix_x2(two, row);
    r[2][0] = two[0], r[2][1] = two[1];
    ldmatrix_x2_trans(two, row);
    r[3][0] = two[0], r[3][1] = two[1];
    for (int f = 0; f < 4; ++f)
        for (int i = 0; i < 4; ++i) out[(f * 32 + lane) * 4 + i] = r[f][i];
}
GLMAE_KERNEL(primitive_ldmatrix, 32)

// out [8][64]: every shuffle, whole and in segments of 8.
GLMAE_EXPORT __global__ void primitive_shuffle(int* out) {
    const int i = threadIdx.x, n = blockDim.x, lane = i % 32;
    out[0 * n + i] = __shfl_sync(FULL_WARP, i, 5);
    out[1 * n + i] = __shfl_sync(FULL_WARP, i, lane + 3, 8);
    out[2 * n + i] = __shfl_xor_sync(FULL_WARP, i, 16);
    out[3 * n + i] = __shfl_xor_sync(FULL_WARP, i, 12, 8);
    out[4 * n + i] = __shfl_down_sync(FULL_WARP, i, 3);
    out[5 * n + i] = __shfl_down_sync(FULL_WARP, i, 3, 8);
    out[6 * n + i] = __shfl_up_sync(FULL_WARP, i, 3);
    out[7 * n + i] = __shfl_up_sync(FULL_WARP, i, 3, 8);
}
GLMAE_KERNEL(primitive_shuffle, 64)

// out [7][64]: votes of `lane % 3 == 0`, also of a half warp, and barriers that count.
GLMAE_EXPORT __global__ void primitive_vote(uint32_t* out) {
    const int i = threadIdx.x, n = blockDim.x, lane = i % 32;
    const int p = lane % 3 == 0;
    const uint32_t half = lane < 16 ? 0xffffu : 0xffff0000u;
    out[0 * n + i] = __ballot_sync(FULL_WARP, p);
    out[1 * n + i] = __ballot_sync(half, p);
    out[2 * n + i] = __any_sync(half, lane == 20);
    out[3 * n + i] = __all_sync(half, lane < 16);
    out[4 * n + i] = __syncthreads_count(p);
    out[5 * n + i] = __syncthreads_or(i == 40);
    out[6 * n + i] = __syncthreads_and(i != 40);
}
GLMAE_KERNEL(primitive_vote, 64)

GLMAE_EXPORT __global__ void primitive_bf16(bf16* y, float* back, const float* x, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    y[i] = __float2bfloat16(x[i]);
    back[i] = __bfloat162float(y[i]);
}
GLMAE_KERNEL(primitive_bf16, 256)

// y [64, 4]: rows of x [n, 4] by cp.async in two groups, the rows from n on filled with zeros, the
// last existing row cut to `valid` bytes.
GLMAE_EXPORT __global__ void primitive_cp_async(float* y, const float* x, int n, int valid) {
    __shared__ __align__(16) float tile[64 * 4];
    const int i = threadIdx.x;
    for (int half = 0; half < 2; ++half) {
        const int row = half * 32 + i;
        const uint32_t bytes = row < n - 1 ? 16 : row == n - 1 ? valid : 0;
        cp_async_16(tile + row * 4, x + (bytes ? row * 4 : 0), bytes);
        cp_async_commit();
    }
    cp_async_wait<1>();
    __syncthreads();
    store_vec(y, i * 4, load_vec(tile, (31 - i) * 4));
    cp_async_wait<0>();
    __syncthreads();
    store_vec(y, (32 + i) * 4, load_vec(tile, (63 - i) * 4));
}
GLMAE_KERNEL(primitive_cp_async, 32)

// sum [gridDim.x] of x [gridDim.x, blockDim.x] by block_sum, twice in a row with one scratch.
GLMAE_EXPORT __global__ void primitive_block_sum(float* sum, const float* x) {
    __shared__ float scratch[WARP];
    const float v = x[blockIdx.x * blockDim.x + threadIdx.x];
    const float once = block_sum(v, scratch);
    const float twice = block_sum(once, scratch);
    if (threadIdx.x == 0) sum[blockIdx.x] = twice;
}
GLMAE_KERNEL(primitive_block_sum, 1024)

}  // namespace GLMAE_NS
