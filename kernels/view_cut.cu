// Boxes of a volume, native or resized trilinearly, as views:
//
//     y[c, i_d, i_h, i_w] = trilinear(volume[c], start + i * step), positions clamped to the volume
//
// volume [channels, d, h, w] f32 or int16 (as scanners store it), y [channels, to_d, to_h, to_w] f32, or
// bf16 (variants `_half`) where the activations are; box: start and step along d, h, w as 32.32 fixed point,
// passed by value (views are cut between the steps, outside of any captured graph). A mirrored axis has a
// negative step. 64-bit voxel indices.
//
// Numerics: positions are exact integers plus a fraction good to 2^-32 voxel, with no f64 and nothing that
// grows with the size of the volume. Where a fraction is 0 the neighbour is not looked at: a native crop is
// a copy, bit by bit (rounded once to bf16 there). lerp(a, b, t) = a + (b - a) t, along w, then h, then d.
//
// Threads: grid (ceil(to_h / 8), to_d, channels), one warp per row of the view, 8 rows per block; lanes on
// neighbouring voxels, so that reads and writes of a warp are lines of 128 bytes (a crop starts anywhere:
// 16-byte reads would be misaligned three times out of four); four voxels per lane under way. Of the 8
// neighbours 6 come from L1 or L2.
// Shared memory: none. Bytes moved: box voxels * sizeof(volume) + view voxels * sizeof(y). FLOPs: 21 per
// voxel. Floor (one native 160^3 view of an f32 volume): 33 MB, 7.6 us at 4.3 TB/s; 25 MB, 5.7 us to bf16.
// Deterministic: one writer per voxel.
#include "prelude.cuh"

namespace GLMAE_NS {

struct ViewTap {
    int low, high;
    float weight;  // of `high`
};

__device__ __forceinline__ ViewTap view_tap(int64_t start, int64_t step, int i, int size) {
    const int64_t position = max(start + i * step, int64_t(0));
    const int64_t low = position >> 32;
    if (low >= size - 1) return {size - 1, size - 1, 0.0f};
    const float weight = static_cast<float>(static_cast<uint32_t>(position & 0xffffffff)) * 0x1p-32f;
    return {static_cast<int>(low), static_cast<int>(low) + 1, weight};
}

__device__ __forceinline__ float view_lerp(float a, float b, float t) { return a + (b - a) * t; }

template <typename X>
__device__ __forceinline__ float view_along_w(const X* line, const ViewTap& t) {
    const float low = static_cast<float>(__ldg(line + t.low));
    if (t.weight == 0.0f) return low;
    return view_lerp(low, static_cast<float>(__ldg(line + t.high)), t.weight);
}

template <typename Y, typename X>
__device__ __forceinline__ void view_cut_fwd(Y* y, const X* volume, const GlmaeViewBox& box, int d,
                                             int h, int w, int to_d, int to_h, int to_w) {
    const int lane = threadIdx.x % WARP;
    const int iy = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (iy >= to_h) return;
    const int iz = blockIdx.y;
    const int64_t channel = blockIdx.z;
    const ViewTap z = view_tap(box.start[0], box.step[0], iz, d);
    const ViewTap v = view_tap(box.start[1], box.step[1], iy, h);
    const int64_t start = box.start[2], step = box.step[2];
    const X* of = volume + channel * d * h * w;
    const X* line = of + (static_cast<int64_t>(z.low) * h + v.low) * w;
    Y* out = y + ((channel * to_d + iz) * to_h + iy) * to_w;
    if (z.weight == 0.0f && v.weight == 0.0f) {
#pragma unroll 4
        for (int i = lane; i < to_w; i += WARP)
            out[i] = from_float<Y>(view_along_w(line, view_tap(start, step, i, w)));
        return;
    }
    const X* below = of + (static_cast<int64_t>(z.low) * h + v.high) * w;
    const X* behind = of + (static_cast<int64_t>(z.high) * h + v.low) * w;
    const X* across = of + (static_cast<int64_t>(z.high) * h + v.high) * w;
#pragma unroll 2
    for (int i = lane; i < to_w; i += WARP) {
        const ViewTap x = view_tap(start, step, i, w);
        const float front = view_lerp(view_along_w(line, x), view_along_w(below, x), v.weight);
        const float back = view_lerp(view_along_w(behind, x), view_along_w(across, x), v.weight);
        out[i] = from_float<Y>(view_lerp(front, back, z.weight));
    }
}

#define VIEW_CUT_FWD                                                                      \
    (float* __restrict__ y, const T* __restrict__ volume, GlmaeViewBox box, int d, int h, \
     int w, int to_d, int to_h, int to_w),                                                \
    view_cut_fwd(y, volume, box, d, h, w, to_d, to_h, to_w)
GLMAE_INSTANCE(view_cut_fwd_f32, float, (256), VIEW_CUT_FWD)
GLMAE_INSTANCE(view_cut_fwd_i16, int16_t, (256), VIEW_CUT_FWD)

#define VIEW_CUT_FWD_HALF                                                                \
    (bf16* __restrict__ y, const T* __restrict__ volume, GlmaeViewBox box, int d, int h, \
     int w, int to_d, int to_h, int to_w),                                               \
    view_cut_fwd(y, volume, box, d, h, w, to_d, to_h, to_w)
GLMAE_INSTANCE(view_cut_fwd_f32_half, float, (256), VIEW_CUT_FWD_HALF)
GLMAE_INSTANCE(view_cut_fwd_i16_half, int16_t, (256), VIEW_CUT_FWD_HALF)

}  // namespace GLMAE_NS
