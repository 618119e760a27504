// Rows of patches back into volumes: voxels[voxel(r, column)] = sum over the rows r of the patch;
// backward: drows[r, column] = dvoxels[voxel(r, column)]. The transpose of patch_gather.
//
// rows, drows [rows, p^3 C] and voxels, dvoxels [n] of the same type, f32 or bf16; sums in f32.
// table [rows, 4] i64 as there; starts [patches + 1], members [rows] i32: the rows of every touched
// patch. The host zeroes voxels that no row brings.
//
// Threads: one block of 256 per patch (forward) or row (backward), units of 16 bytes along lines as
// patch_gather. Shared memory: none. Bytes moved: 2 rows * width * sizeof(T). FLOPs: one per element.
// Floor: those bytes over the bandwidth (1000 rows of 4096 f32: 33 MB, 7.6 us at 4.3 TB/s).
// Deterministic: every voxel has one writer, which adds its rows in the order of the plan.
#include "prelude.cuh"

#include "patches.cuh"

namespace GLMAE_NS {

GLMAE_TWINS(unpatchify_fwd_f32, unpatchify_fwd_bf16, (256),
    (T* __restrict__ voxels, const T* __restrict__ rows, const int64_t* __restrict__ table,
     const int* __restrict__ starts, const int* __restrict__ members, int p, int channels,
     int channels_last),
    scatter_patches(voxels, rows, table, starts, members, p, channels, channels_last,
                    GLMAE_GRAD_OVERWRITE))

GLMAE_TWINS(unpatchify_bwd_f32, unpatchify_bwd_bf16, (256),
    (T* __restrict__ drows, const T* __restrict__ dvoxels, const int64_t* __restrict__ table,
     int p, int channels, int channels_last),
    gather_patches(drows, dvoxels, table, p, channels, channels_last))

}  // namespace GLMAE_NS
