// Boxes of a volume, native or resized trilinearly, as views that lie patch by patch:
//
//     y[rows[patch], (c, dz, dy, dx)] = trilinear(volume[c], start + i * step), positions clamped to the volume
//
// where i = patch edge * place of the patch in the grid + (dz, dy, dx): the rows are what the patch embedding
// multiplies and what the pixel head is compared with, so nothing has to be gathered later.
//
// volume [channels, d, h, w] f32 or int16 (as scanners store it), y [.., channels p^3] f32, or bf16 (variants
// `_half`) where the activations are; rows [patches of the view] i32, patches in raster order; box: start and
// step along d, h, w as 32.32 fixed point, passed by value (views are cut between the steps, outside of any
// captured graph). A mirrored axis has a negative step. 64-bit voxel indices.
//
// Numerics: positions are exact integers plus a fraction good to 2^-32 voxel, with no f64 and nothing that
// grows with the size of the volume. Where a fraction is 0 the neighbour is not looked at: a native crop is
// a copy, bit by bit (rounded once to bf16 there). lerp(a, b, t) = a + (b - a) t, along w, then h, then d.
//
// Threads: grid (ceil(to_h / 8), to_d, channels), one warp per line of the view, 8 lines per block; lanes on
// neighbouring voxels, so that a warp reads lines of 128 bytes (a crop starts anywhere: 16-byte reads would
// be misaligned three times out of four) and writes, with an edge of 16, two lines of patches: whole sectors;
// four voxels per lane under way (one with other edges). Of the 8 neighbours 6 come from L1 or L2.
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

// The voxels of one line of a view, which crosses a row of patches. PATCH: the edge of a patch where it is
// known when compiling (the divisions become shifts), 0 where it is `p`.
template <int PATCH, typename Y>
struct ViewLine {
    Y* y;             // of row 0, where the line's first voxel would be
    const int* rows;  // of the first patch that the line crosses
    int edge;
    int64_t width;  // of a row

    __device__ __forceinline__ ViewLine(Y* y, const int* rows, int p, int channels, int channel,
                                        int iz, int iy, int to_h, int to_w)
        : edge(PATCH ? PATCH : p) {
        const int pz = iz / edge, py = iy / edge;
        this->rows = rows + static_cast<int64_t>(pz * (to_h / edge) + py) * (to_w / edge);
        width = static_cast<int64_t>(channels) * edge * edge * edge;
        const int64_t plane = static_cast<int64_t>(channel) * edge + (iz - pz * edge);
        this->y = y + (plane * edge + (iy - py * edge)) * edge;
    }
    __device__ __forceinline__ void put(int i, float value) const {
        const int patch = i / (PATCH ? PATCH : edge);
        y[__ldg(rows + patch) * width + (i - patch * (PATCH ? PATCH : edge))] = from_float<Y>(value);
    }
};

template <int PATCH, typename Y, typename X>
__device__ __forceinline__ void view_cut_line(Y* y, const X* volume, const int* rows,
                                              const GlmaeViewBox& box, int d, int h, int w, int to_h,
                                              int to_w, int p) {
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
    const ViewLine<PATCH, Y> out(y, rows, p, gridDim.z, channel, iz, iy, to_h, to_w);
    if (z.weight == 0.0f && v.weight == 0.0f) {
#pragma unroll(PATCH ? 4 : 1)
        for (int i = lane; i < to_w; i += WARP)
            out.put(i, view_along_w(line, view_tap(start, step, i, w)));
        return;
    }
    const X* below = of + (static_cast<int64_t>(z.low) * h + v.high) * w;
    const X* behind = of + (static_cast<int64_t>(z.high) * h + v.low) * w;
    const X* across = of + (static_cast<int64_t>(z.high) * h + v.high) * w;
#pragma unroll(PATCH ? 2 : 1)
    for (int i = lane; i < to_w; i += WARP) {
        const ViewTap x = view_tap(start, step, i, w);
        const float front = view_lerp(view_along_w(line, x), view_along_w(below, x), v.weight);
        const float back = view_lerp(view_along_w(behind, x), view_along_w(across, x), v.weight);
        out.put(i, view_lerp(front, back, z.weight));
    }
}

template <typename Y, typename X>
__device__ __forceinline__ void view_cut_fwd(Y* y, const X* volume, const int* rows,
                                             const GlmaeViewBox& box, int d, int h, int w, int to_h,
                                             int to_w, int p) {
    if (p == 16) return view_cut_line<16>(y, volume, rows, box, d, h, w, to_h, to_w, p);
    view_cut_line<0>(y, volume, rows, box, d, h, w, to_h, to_w, p);
}

#define VIEW_CUT_FWD(Y)                                                                          \
    (Y* __restrict__ y, const T* __restrict__ volume, const int* __restrict__ rows,              \
     GlmaeViewBox box, int d, int h, int w, int to_h, int to_w, int p),                          \
    view_cut_fwd(y, volume, rows, box, d, h, w, to_h, to_w, p)
GLMAE_INSTANCE(view_cut_fwd_f32, float, (256, 5), VIEW_CUT_FWD(float))
GLMAE_INSTANCE(view_cut_fwd_i16, int16_t, (256, 5), VIEW_CUT_FWD(float))
GLMAE_INSTANCE(view_cut_fwd_f32_half, float, (256, 5), VIEW_CUT_FWD(bf16))
GLMAE_INSTANCE(view_cut_fwd_i16_half, int16_t, (256, 5), VIEW_CUT_FWD(bf16))

}  // namespace GLMAE_NS
