// Dice and binary cross-entropy of overlapping classes, a sigmoid per class (BraTS: whole tumour, core,
// enhancing; MONAI's DiceLoss(sigmoid=True)), with their gradient:
//
//     P = sigmoid(z)    dice = mean_{b,c} 1 - (2 sum_v PT + nr) / (sum_v P^2 + sum_v T + dr)
//     bce = mean_{b,v,c} max(z, 0) - z T + log(1 + exp(-|z|))
//     dz = P (1 - P) g + dbce / (batch voxels k) (P - T),  g = d dice / dP (include/dice.cuh)
//
// logits, dlogits [batch * voxels, k] f32; labels [batch * voxels] u8 or i32: bit c is the truth of class c, so
// k <= 8 or 32. Bits from k on are not looked at.
//
// Threads, shared memory, order: as dice_ce; one class per thread throughout. Bytes moved: forward logits and
// labels once, backward logits, labels and dlogits. FLOPs: 14 per element forward, 12 backward.
// Floor (2 x 128^3, 3 classes): 55 MB, 13 us at 4.3 TB/s forward, 24 us backward.
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
#define DICE_BCE_FWD                                                                         \
    (float* __restrict__ partial, const float* __restrict__ logits,                          \
     const T* __restrict__ labels, int64_t voxels, int k, int rows, int tiles, int squared), \
    DICE_SHARED(shared);                                                                     \
    dice_fwd<true>(partial, logits, labels, voxels, k, rows, tiles, squared, shared)
GLMAE_INSTANCE(dice_bce_fwd_f32_u8, uint8_t, (128), DICE_BCE_FWD)
GLMAE_INSTANCE(dice_bce_fwd_f32_i32, int, (128), DICE_BCE_FWD)

// Grid (k + 1, batch); see dice_merge.
GLMAE_EXPORT __global__ void __launch_bounds__(128)
    dice_bce_fwd_f32_merge(float* __restrict__ table, float* __restrict__ scores,
                       const float* __restrict__ partial, int k, int shares, float smooth_nr,
                       float smooth_dr, float weight, int squared, int first) {
    __shared__ float scratch[WARP];
    dice_merge(table, scores, partial, k, shares, {smooth_nr, smooth_dr, weight, squared, first},
               scratch);
}
GLMAE_KERNEL(dice_bce_fwd_f32_merge, 128)

// terms [2] = dice, cross-entropy.
GLMAE_EXPORT __global__ void __launch_bounds__(128)
    dice_bce_fwd_f32_terms(float* __restrict__ terms, const float* __restrict__ scores, int batch, int k,
                       float weight, float entropy_weight) {
    __shared__ float scratch[WARP];
    dice_terms(terms, scores, batch, k, weight, entropy_weight, scratch);
}
GLMAE_KERNEL(dice_bce_fwd_f32_terms, 128)

#define DICE_BCE_BWD                                                                                 \
    (float* dlogits, const float* __restrict__ dterms, const float* __restrict__ table,              \
     const float* __restrict__ logits, const T* __restrict__ labels, int64_t voxels, int k,          \
     int rows, float entropy_weight, int squared, int mode),                                         \
    DICE_SHARED(shared);                                                                             \
    dice_bwd<true>(dlogits, dterms, table, logits, labels, voxels, k, rows, entropy_weight, squared, \
                   mode, shared)
GLMAE_INSTANCE(dice_bce_bwd_f32_u8, uint8_t, (128), DICE_BCE_BWD)
GLMAE_INSTANCE(dice_bce_bwd_f32_i32, int, (128), DICE_BCE_BWD)

}  // namespace GLMAE_NS
