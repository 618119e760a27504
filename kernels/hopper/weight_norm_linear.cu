// The bf16 products of weight_norm_linear.cu on Hopper, where rows of all matrices are multiples of 16 bytes; results f32:
//
//     fwd:         y = x W^T                        NT
//     bwd_x:       dx = dy W, in parts over the prototypes     NN
//     bwd_params:  dW = dy^T x                      TN
//
// Variants `_hopper_<M>x<N>` and grid: as in hopper/linear.cu. Rows (views) are few: one row of tiles holds them all, so that
// the prototypes pass through once. The second block of a cluster multiplies zeros and contributes its share of the loads.
// FLOP and bytes: as weight_norm_linear.cu says; bound by memory. Deterministic: parts depend on sizes alone.
#include "prelude.cuh"

#ifdef __CUDACC__
#include "hopper/gemm_epilogue.cuh"
#endif

namespace GLMAE_NS {

// c: [parts, m, n].
#define HOPPER_PARTS(Tile, A_K_MAJOR, B_K_MAJOR)                                                     \
    (const __grid_constant__ GlmaeTensorMap c, const __grid_constant__ GlmaeTensorMap a,             \
     const __grid_constant__ GlmaeTensorMap b, int m, int n, int k, int k_part),                     \
    wgmma_gemm<Tile, A_K_MAJOR, B_K_MAJOR>(PartsEpilogue<false>{c, nullptr, m, n, false, false}, a, \
                                           b, m, n, k, k_part)
GLMAE_HOPPER(weight_norm_linear_fwd_bf16_hopper_64x256, (384, 1), 2, HOPPER_PARTS(WgmmaTile64x256, true, true))
GLMAE_HOPPER(weight_norm_linear_fwd_bf16_hopper_64x64, (384, 1), 1, HOPPER_PARTS(WgmmaTile64x64, true, true))
GLMAE_HOPPER(weight_norm_linear_bwd_x_bf16_hopper_64x256, (384, 1), 2, HOPPER_PARTS(WgmmaTile64x256, true, false))
GLMAE_HOPPER(weight_norm_linear_bwd_x_bf16_hopper_64x64, (384, 1), 1, HOPPER_PARTS(WgmmaTile64x64, true, false))
GLMAE_HOPPER(weight_norm_linear_bwd_params_bf16_hopper_64x256, (384, 1), 2, HOPPER_PARTS(WgmmaTile64x256, false, false))
GLMAE_HOPPER(weight_norm_linear_bwd_params_bf16_hopper_64x64, (384, 1), 1, HOPPER_PARTS(WgmmaTile64x64, false, false))

}  // namespace GLMAE_NS
