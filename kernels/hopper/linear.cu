// The bf16 products of linear.cu on Hopper, where rows of all matrices are multiples of 16 bytes:
//
//     fwd:         y = f(x W^T + b)            NT
//     bwd_x:       dx = f(du W)                NN
//     bwd_params:  dW (+)= du^T x, db (+)= column sums of du; in parts, which linear_bwd_reduce adds     TN
//
// Variants `_hopper_<M>x<N>`: tile of a block; hopper/gemm.cuh has their design, hopper/gemm_epilogue.cuh what f may be.
// x, y, W, du and what they are combined with bf16, by tensor maps; b and parts f32. Sums in f32.
//
// Grid: clusters of blocks that take one tile after the other, at most as many as run at the same time.
// FLOP and bytes of DRAM: as linear.cu says. L2 delivers, for a tile of M x N, k (M + N / 2) * 2 bytes.
// Deterministic: sums run over k in order within a part; parts depend on sizes alone. No atomics.
#include "prelude.cuh"

#ifdef __CUDACC__
#include "hopper/gemm_epilogue.cuh"
#endif

namespace GLMAE_NS {

// The weight is K-major on the way forward, MN-major on the way back.
#define HOPPER_LINEAR(Tile, IS_FORWARD)                                                           \
    (const __grid_constant__ GlmaeTensorMap y, const __grid_constant__ GlmaeTensorMap other,      \
     const __grid_constant__ GlmaeTensorMap a, const __grid_constant__ GlmaeTensorMap b,          \
     const float* __restrict__ bias, int m, int n, int k, int follows),                           \
    wgmma_gemm<Tile, true, IS_FORWARD>(LinearEpilogue<IS_FORWARD>{y, other, bias, n, follows}, a,  \
                                       b, m, n, k, k + Tile::K)
GLMAE_HOPPER(linear_fwd_bf16_hopper_128x256, (384, 1), 2, HOPPER_LINEAR(WgmmaTile128x256, true))
GLMAE_HOPPER(linear_fwd_bf16_hopper_128x192, (384, 1), 2, HOPPER_LINEAR(WgmmaTile128x192, true))
GLMAE_HOPPER(linear_fwd_bf16_hopper_64x256, (384, 1), 2, HOPPER_LINEAR(WgmmaTile64x256, true))
GLMAE_HOPPER(linear_fwd_bf16_hopper_128x128, (384, 1), 2, HOPPER_LINEAR(WgmmaTile128x128, true))
GLMAE_HOPPER(linear_fwd_bf16_hopper_64x64, (384, 1), 1, HOPPER_LINEAR(WgmmaTile64x64, true))
GLMAE_HOPPER(linear_bwd_x_bf16_hopper_128x256, (384, 1), 2, HOPPER_LINEAR(WgmmaTile128x256, false))
GLMAE_HOPPER(linear_bwd_x_bf16_hopper_128x192, (384, 1), 2, HOPPER_LINEAR(WgmmaTile128x192, false))
GLMAE_HOPPER(linear_bwd_x_bf16_hopper_64x256, (384, 1), 2, HOPPER_LINEAR(WgmmaTile64x256, false))
GLMAE_HOPPER(linear_bwd_x_bf16_hopper_128x128, (384, 1), 2, HOPPER_LINEAR(WgmmaTile128x128, false))
GLMAE_HOPPER(linear_bwd_x_bf16_hopper_64x64, (384, 1), 1, HOPPER_LINEAR(WgmmaTile64x64, false))

#define HOPPER_BWD_PARAMS(Tile)                                                                   \
    (const __grid_constant__ GlmaeTensorMap parts, float* __restrict__ bias_parts,                \
     const __grid_constant__ GlmaeTensorMap a, const __grid_constant__ GlmaeTensorMap b, int m,   \
     int n, int k, int k_part, int weight_mode, int bias_mode),                                   \
    wgmma_gemm<Tile, false, false>(                                                               \
        PartsEpilogue<true>{parts, bias_parts, m, n, weight_mode == GLMAE_GRAD_ACCUMULATE,        \
                            bias_mode == GLMAE_GRAD_ACCUMULATE},                                  \
        a, b, m, n, k, k_part)
GLMAE_HOPPER(linear_bwd_params_bf16_hopper_128x256, (384, 1), 2, HOPPER_BWD_PARAMS(WgmmaTile128x256))
GLMAE_HOPPER(linear_bwd_params_bf16_hopper_128x192, (384, 1), 2, HOPPER_BWD_PARAMS(WgmmaTile128x192))
GLMAE_HOPPER(linear_bwd_params_bf16_hopper_64x256, (384, 1), 2, HOPPER_BWD_PARAMS(WgmmaTile64x256))
GLMAE_HOPPER(linear_bwd_params_bf16_hopper_128x128, (384, 1), 2, HOPPER_BWD_PARAMS(WgmmaTile128x128))
GLMAE_HOPPER(linear_bwd_params_bf16_hopper_64x64, (384, 1), 1, HOPPER_BWD_PARAMS(WgmmaTile64x64))

}  // namespace GLMAE_NS
