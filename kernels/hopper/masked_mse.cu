// The bf16 product of masked_mse.cu on Hopper, where rows of all matrices are multiples of 16 bytes: the pixel head, whose
// prediction is compared while it is in registers.
//
//     pred = x W^T + bias;  gradient = 2 (pred - t') / (width * rows of the group);  sums of (pred - t')^2
//
// Variants `_hopper_<M>x<N>` and grid: as in hopper/linear.cu; hopper/gemm_epilogue.cuh has the comparison. The target comes
// by the copy engine into the panels that the gradient leaves in. With `pred`, which is kept as well, 64x64 alone.
// sums [strips of 16 rows, columns of tiles]: a warp's sum of squares of either group, for every strip of its tile, also
// those below the matrix.
// FLOP and bytes: as masked_mse.cu says. Deterministic: sums depend on the tile alone, and fwd_f32_mean adds them in order.
#include "prelude.cuh"

#ifdef __CUDACC__
#include "hopper/gemm_epilogue.cuh"
#endif

namespace GLMAE_NS {

#define HOPPER_MASKED_MSE_FWD(Tile)                                                                \
    (const __grid_constant__ GlmaeTensorMap gradient, const __grid_constant__ GlmaeTensorMap pred, \
     const __grid_constant__ GlmaeTensorMap target, const __grid_constant__ GlmaeTensorMap a,      \
     const __grid_constant__ GlmaeTensorMap b, float2* __restrict__ sums,                          \
     const float* __restrict__ bias, const float4* __restrict__ statistics, int m, int n, int k,   \
     int first_rows, int keeps_pred, float scale, float other_scale),                              \
    wgmma_gemm<Tile, true, true>(                                                                  \
        MseEpilogue{gradient, pred, target, sums, bias, statistics, m, n, first_rows,              \
                    keeps_pred != 0, scale, other_scale},                                          \
        a, b, m, n, k, k + Tile::K)
GLMAE_HOPPER(masked_mse_fwd_bf16_hopper_128x192, (384, 1), 2, HOPPER_MASKED_MSE_FWD(WgmmaTile128x192))
GLMAE_HOPPER(masked_mse_fwd_bf16_hopper_64x256, (384, 1), 2, HOPPER_MASKED_MSE_FWD(WgmmaTile64x256))
GLMAE_HOPPER(masked_mse_fwd_bf16_hopper_128x128, (384, 1), 2, HOPPER_MASKED_MSE_FWD(WgmmaTile128x128))
GLMAE_HOPPER(masked_mse_fwd_bf16_hopper_64x64, (384, 1), 1, HOPPER_MASKED_MSE_FWD(WgmmaTile64x64))

}  // namespace GLMAE_NS
