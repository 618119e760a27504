// Patches of volumes as rows, shared by patch_gather and unpatchify.
#pragma once
#include "rows.cuh"

namespace GLMAE_NS {

// Where a patch lies: its first voxel in the flat buffer, and the strides of channel, d and h.
struct PatchAt {
    int64_t first, stride_c, stride_d, stride_h;
};
__device__ __forceinline__ PatchAt patch_at(const int64_t* table, int64_t row) {
    const int64_t* t = table + row * 4;
    return {t[0], t[1], t[2], t[3]};
}

// The voxel of column `column` of a row. PATCH: the patch edge where it is known when compiling (the
// divisions become shifts), 0 where it is `p`.
template <int PATCH>
__device__ __forceinline__ int64_t patch_voxel(const PatchAt& at, int column, int p, int channels,
                                               bool channels_last) {
    const int edge = PATCH ? PATCH : p;
    int c = 0;
    if (channels_last) c = column % channels, column /= channels;
    const int line = column / edge, dx = column - line * edge;
    const int plane = line / edge, dy = line - plane * edge;
    int dz = plane;
    if (!channels_last) c = plane / edge, dz = plane - c * edge;
    return at.first + c * at.stride_c + dz * at.stride_d + dy * at.stride_h + dx;
}

// Whether N voxels of a line are neighbours in a row as well, aligned to N elements in both.
template <int N>
__device__ __forceinline__ bool patch_has_units(const PatchAt& at, int p, bool channels_last) {
    return p % N == 0 && !channels_last &&
           ((at.first | at.stride_c | at.stride_d | at.stride_h) & (N - 1)) == 0;
}

// Block `row` writes row `row` of `rows` [.., width] from `voxels`.
template <int N, int PATCH, typename Out, typename In>
__device__ __forceinline__ void gather_patch(Out* row, const In* voxels, const PatchAt& at, int p,
                                             int channels, int width, bool channels_last) {
#pragma unroll 4
    for (int column = threadIdx.x * N; column < width; column += blockDim.x * N) {
        float v[N];
        load_elements<N>(voxels, patch_voxel<PATCH>(at, column, p, channels, channels_last), v);
        store_elements<N>(row, column, v);
    }
}
template <typename Out, typename In>
__device__ __forceinline__ void gather_patches(Out* rows, const In* voxels, const int64_t* table,
                                               int p, int channels, int channels_last) {
    constexpr int N = Vec<Out>::N;
    const PatchAt at = patch_at(table, blockIdx.x);
    const int width = p * p * p * channels;
    Out* row = rows + static_cast<int64_t>(blockIdx.x) * width;
    // With one channel the two orders are the same.
    const bool last = channels_last && channels > 1;
    if (patch_has_units<N>(at, p, last) && is_aligned_16(voxels) && is_aligned_16(rows)) {
        if (p == 16) return gather_patch<N, 16>(row, voxels, at, p, channels, width, last);
        return gather_patch<N, 0>(row, voxels, at, p, channels, width, last);
    }
    gather_patch<1, 0>(row, voxels, at, p, channels, width, last);
}

// Block `patch` writes its patch of `voxels`: the sum of the rows members[starts[patch]] ...
// members[starts[patch + 1] - 1], in that order, in f32; added to what is there or over it.
template <int N, int PATCH, typename Out, typename In>
__device__ __forceinline__ void scatter_patch(Out* voxels, const In* rows, const PatchAt& at,
                                              const int* members, int count, int p, int channels,
                                              int width, bool channels_last, bool accumulate) {
#pragma unroll 1
    for (int column = threadIdx.x * N; column < width; column += blockDim.x * N) {
        const int64_t to = patch_voxel<PATCH>(at, column, p, channels, channels_last);
        float sum[N] = {}, v[N];
        if (accumulate) load_elements<N>(voxels, to, sum);
#pragma unroll 1
        for (int i = 0; i < count; ++i) {  // nearly always one
            load_elements<N>(rows, static_cast<int64_t>(members[i]) * width + column, v);
#pragma unroll
            for (int k = 0; k < N; ++k) sum[k] += v[k];
        }
        store_elements<N>(voxels, to, sum);
    }
}
template <typename Out, typename In>
__device__ __forceinline__ void scatter_patches(Out* voxels, const In* rows, const int64_t* table,
                                                const int* starts, const int* members, int p,
                                                int channels, int channels_last, int mode) {
    constexpr int N = Vec<Out>::N;
    const int first = starts[blockIdx.x], count = starts[blockIdx.x + 1] - first;
    const PatchAt at = patch_at(table, members[first]);
    const int width = p * p * p * channels;
    const bool last = channels_last && channels > 1, add = mode == GLMAE_GRAD_ACCUMULATE;
    const int* ids = members + first;
    if (patch_has_units<N>(at, p, last) && is_aligned_16(voxels) && is_aligned_16(rows)) {
        if (p == 16)
            return scatter_patch<N, 16>(voxels, rows, at, ids, count, p, channels, width, last, add);
        return scatter_patch<N, 0>(voxels, rows, at, ids, count, p, channels, width, last, add);
    }
    scatter_patch<1, 0>(voxels, rows, at, ids, count, p, channels, width, last, add);
}

}  // namespace GLMAE_NS
