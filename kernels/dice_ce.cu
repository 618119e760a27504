// Dice and cross-entropy of a segmentation, softmax over the classes (Milletari et al., arXiv 1606.04797;
// Hatamizadeh et al., arXiv 2103.10504, eq. 6; MONAI's DiceCELoss), with their gradient:
//
//     P = softmax(z)    dice = mean_{b,c} 1 - (2 sum_v PT + nr) / (sum_v P^2 + sum_v T + dr)
//     ce = -mean_{b,v} log P[label]
//     dz_j = P_j (g_j - sum_i P_i g_i) + dce / (batch voxels) (P_j - T_j),  g = d dice / dP (include/dice.cuh)
//
// logits, dlogits [batch * voxels, k] f32; labels [batch * voxels] u8 or i32. A label outside of 0 .. k counts
// for no class and has no cross-entropy: nothing is read by it. At most 256 classes, 65535 samples.
//
// Threads: blocks of 128, grid (shares, batch). A tile of 128 rows (32 beyond 64 classes) goes through shared
// memory as 16-byte vectors: rows of k = 14 floats are no multiple of a sector. One row per thread for the
// softmax, starting at different classes where rows would meet in a bank; one class per thread for the sums.
// Shared memory: 4 rows k dynamic (32 KiB at most) and 5 KiB.
// Bytes moved: forward the logits and labels once, backward logits, labels and dlogits: the softmax is
// computed again, cheaper than 4 k bytes per voxel to store it. FLOPs: 12 per element forward, 14 backward.
// Floor (8 x 96^3, 14 classes): 403 MB, 94 us at 4.3 TB/s forward, 186 us backward.
// Deterministic: shares depend on sizes alone, sums are in a fixed order.
#include "prelude.cuh"

#include "dice.cuh"

namespace GLMAE_NS {

// Shared memory of a block; `tile` is dynamic, rows * k floats.
#define DICE_SHARED(name)                                                             \
    __shared__ float scale_[CLASS_THREADS], room_[DICE_SUMS * DICE_CLASSES];          \
    __shared__ int truth_[CLASS_THREADS];                                             \
    GLMAE_DYNAMIC_SHARED(float, tile_);                                               \
    const DiceShared name{tile_, scale_, truth_, room_}

// partial [batch, gridDim.x, 4 k + 1]: see dice_fwd. A block takes `tiles` tiles of `rows` rows.
#define DICE_CE_FWD                                                                          \
    (float* __restrict__ partial, const float* __restrict__ logits,                          \
     const T* __restrict__ labels, int64_t voxels, int k, int rows, int tiles, int squared), \
    DICE_SHARED(shared);                                                                     \
    dice_fwd<false>(partial, logits, labels, voxels, k, rows, tiles, squared, shared)
GLMAE_INSTANCE(dice_ce_fwd_f32_u8, uint8_t, (128, 10), DICE_CE_FWD)
GLMAE_INSTANCE(dice_ce_fwd_f32_i32, int, (128, 10), DICE_CE_FWD)

// Grid (k + 1, batch); see dice_merge.
GLMAE_EXPORT __global__ void __launch_bounds__(128)
    dice_ce_fwd_f32_merge(float* __restrict__ table, float* __restrict__ scores,
                       const float* __restrict__ partial, int k, int shares, float smooth_nr,
                       float smooth_dr, float weight, int squared, int first) {
    __shared__ float scratch[WARP];
    dice_merge(table, scores, partial, k, shares, {smooth_nr, smooth_dr, weight, squared, first},
               scratch);
}
GLMAE_KERNEL(dice_ce_fwd_f32_merge, 128)

// terms [2] = dice, cross-entropy.
GLMAE_EXPORT __global__ void __launch_bounds__(128)
    dice_ce_fwd_f32_terms(float* __restrict__ terms, const float* __restrict__ scores, int batch, int k,
                       float weight, float entropy_weight) {
    __shared__ float scratch[WARP];
    dice_terms(terms, scores, batch, k, weight, entropy_weight, scratch);
}
GLMAE_KERNEL(dice_ce_fwd_f32_terms, 128)

#define DICE_CE_BWD                                                                                   \
    (float* dlogits, const float* __restrict__ dterms, const float* __restrict__ table,               \
     const float* __restrict__ logits, const T* __restrict__ labels, int64_t voxels, int k,           \
     int rows, float entropy_weight, int squared, int mode),                                          \
    DICE_SHARED(shared);                                                                              \
    dice_bwd<false>(dlogits, dterms, table, logits, labels, voxels, k, rows, entropy_weight, squared, \
                    mode, shared)
GLMAE_INSTANCE(dice_ce_bwd_f32_u8, uint8_t, (128, 10), DICE_CE_BWD)
GLMAE_INSTANCE(dice_ce_bwd_f32_i32, int, (128, 10), DICE_CE_BWD)

}  // namespace GLMAE_NS
