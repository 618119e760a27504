// Chosen patches of volumes as packed rows (3D patchify): rows[r, column] = voxels[voxel(r, column)],
// with (c, dz, dy, dx) or (dz, dy, dx, c) as the order of the columns. Backward: the transpose.
//
// voxels, dvoxels [n] f32; rows, drows [rows, p^3 C] f32 or bf16 (rounded here). Variant `_half`: bf16 voxels
// to bf16 rows, a copy, for views that were cut in bf16. table [rows, 4] i64: first voxel, strides of channel, d, h. 64-bit voxel indices.
//
// Threads: forward one block of 256 per row; a thread takes 4 (f32 rows) or 8 (bf16 rows) neighbouring
// voxels of a line with 16-byte loads and one 16-byte store, four such units under way. An edge of 16
// makes lines of 64 bytes: two whole sectors, nothing is read twice. Other edges, unaligned volumes and
// several channels in channels-last order go one element at a time, writes coalesced. Backward one block
// per touched patch (the host zeroes the rest): it adds the rows of the patch in the order of the plan.
// Shared memory: none. Bytes moved: rows * width * (4 + sizeof(T)) forward, twice dvoxels' share when
// adding. FLOPs: none. Floor (3728 + 8000 rows of 4096 voxels to bf16): 288 MB, 67 us at 4.3 TB/s; 192 MB,
// 45 us of bf16 voxels.
// Deterministic: every element has one writer, sums are in the order of the rows.
#include "prelude.cuh"

#include "patches.cuh"

namespace GLMAE_NS {

GLMAE_TWINS(patch_gather_fwd_f32, patch_gather_fwd_bf16, (256),
    (T* __restrict__ rows, const float* __restrict__ voxels,
     const int64_t* __restrict__ table, int p, int channels, int channels_last),
    gather_patches(rows, voxels, table, p, channels, channels_last))

GLMAE_EXPORT __global__ void __launch_bounds__(256)
    patch_gather_fwd_bf16_half(bf16* __restrict__ rows, const bf16* __restrict__ voxels,
                               const int64_t* __restrict__ table, int p, int channels,
                               int channels_last) {
    gather_patches(rows, voxels, table, p, channels, channels_last);
}
GLMAE_KERNEL(patch_gather_fwd_bf16_half, 256)

GLMAE_TWINS(patch_gather_bwd_f32, patch_gather_bwd_bf16, (256),
    (float* __restrict__ dvoxels, const T* __restrict__ drows,
     const int64_t* __restrict__ table, const int* __restrict__ starts,
     const int* __restrict__ members, int p, int channels, int channels_last, int mode),
    scatter_patches(dvoxels, drows, table, starts, members, p, channels, channels_last, mode))

}  // namespace GLMAE_NS
