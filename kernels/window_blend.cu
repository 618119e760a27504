// Sliding-window inference: weighted sums of the scores of overlapping windows in a ring of slices, and their division.
//
//     sums[v, c]  += importance[u] * scores[u, c]      weights[v] += importance[u]        u: voxel of the window,
//     sums[v, c]  /= weights[v]                                                           v: where it lies in the ring
//
// scores [window voxels, k] f32 or bf16, importance [window voxels] f32 or null (1 everywhere), sums
// [depth * h * w, k], weights [depth * h * w] f32. The ring holds `depth` slices: slice d of the volume is slice
// d % depth of the ring, divided in place and cleared before another takes its place. One launch per window, so the
// order of the windows is the order of the sums, as in MONAI's sliding_window_inference. 64-bit indices.
// Rounding: a product, a sum and a division, each to the nearest f32, none fused: the bits of the CPU.
//
// Threads: update: grid (rows, slices) of the part of a window that lies in the ring, one row per block of 256: width *
// k contiguous elements in both. 16 bytes of sums per thread and step where both rows are aligned, one element
// otherwise; the voxel of an element comes from one division by k per step. divide: 256 voxels per block, likewise.
// Shared memory: none. Bytes moved: update voxels * k * (8 + sizeof(T)) + 8..12 per voxel; divide 8 k + 4
// per voxel. FLOPs: 2 per element. Floor (96^3 window, 14 classes, f32): 159 MB, 37 us at 4.3 TB/s.
// Deterministic: one writer per element.
#include "prelude.cuh"

#include "rows.cuh"

namespace GLMAE_NS {

// The part of a window that lies in the ring: its first voxel there (`at`), its first voxel in the window, voxels
// between slices and between rows of the window, voxels of a row of the part.
struct WindowPart {
    int at_d, at_h, at_w, first, plane, row, width;
};

// sums[i] += weight of voxel (i / k) * scores[i] for the elements of one row.
template <typename T>
__device__ __forceinline__ void window_blend_update(float* sums, float* weights, const T* scores,
                                                    const float* importance, int depth, int h, int w, int k,
                                                    const WindowPart& part) {
    const int width = part.width;
    int slice = part.at_d + blockIdx.y;
    if (slice >= depth) slice -= depth;
    const int64_t voxel = (static_cast<int64_t>(slice) * h + part.at_h + blockIdx.x) * w + part.at_w;
    const int64_t of_window = part.first + static_cast<int64_t>(blockIdx.y) * part.plane + blockIdx.x * part.row;
    float* const to = sums + voxel * k;
    const T* const from = scores + of_window * k;
    const float* const weight = importance ? importance + of_window : nullptr;
    const int n = width * k;
    int i = 4 * threadIdx.x, step = 4 * blockDim.x;
    const bool vectors = is_aligned_16(to) && (reinterpret_cast<uintptr_t>(from) & (4 * sizeof(T) - 1)) == 0;
    if (vectors) {
#pragma unroll 2
        for (; i + 4 <= n; i += step) {
            float v[4], s[4];
            load_elements<4>(from, i, s);
            load_elements<4>(to, i, v);
            int u = i / k, left = k - (i - u * k);
            float a = weight ? __ldg(weight + u) : 1.0f;
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                if (left == 0) {
                    ++u, left = k;
                    if (weight) a = __ldg(weight + u);
                }
                v[e] = __fadd_rn(v[e], __fmul_rn(a, s[e]));
                --left;
            }
            store_elements<4>(to, i, v);
        }
        // The last n % 4 elements.
        i = n / 4 * 4 + static_cast<int>(threadIdx.x);
    } else {
        i = threadIdx.x;
    }
    for (; i < n; i += blockDim.x)
        to[i] = __fadd_rn(to[i], __fmul_rn(weight ? __ldg(weight + i / k) : 1.0f, to_float(from[i])));
    for (int u = threadIdx.x; u < width; u += blockDim.x)
        weights[voxel + u] += weight ? __ldg(weight + u) : 1.0f;
}

GLMAE_TWINS(window_blend_update_f32, window_blend_update_bf16, (256),
    (float* sums, float* __restrict__ weights, const T* __restrict__ scores,
     const float* __restrict__ importance, int depth, int h, int w, int k, int at_d, int at_h, int at_w,
     int first, int plane, int row, int width),
    window_blend_update(sums, weights, scores, importance, depth, h, w, k,
                        WindowPart{at_d, at_h, at_w, first, plane, row, width}))

// sums [voxels, k] /= weights [voxels], in place. A block has 256 voxels. A voxel that no window covered
// becomes NaN. Not __fdividef, which is not the nearest f32.
GLMAE_EXPORT __global__ void __launch_bounds__(256)
    window_blend_update_f32_divide(float* sums, const float* __restrict__ weights, int64_t voxels, int k) {
    const int64_t first = static_cast<int64_t>(blockIdx.x) * 256;
    const int n = static_cast<int>(min(voxels - first, static_cast<int64_t>(256))) * k;
    float* const to = sums + first * k;
    const float* const weight = weights + first;
    int i = threadIdx.x;
    if (is_aligned_16(to)) {
#pragma unroll 2
        for (i = 4 * threadIdx.x; i + 4 <= n; i += 4 * 256) {
            float v[4];
            load_elements<4>(to, i, v);
#pragma unroll
            for (int e = 0; e < 4; ++e) v[e] = v[e] / __ldg(weight + (i + e) / k);
            store_elements<4>(to, i, v);
        }
        i = n / 4 * 4 + static_cast<int>(threadIdx.x);
    }
    for (; i < n; i += 256) to[i] = to[i] / __ldg(weight + i / k);
}
GLMAE_KERNEL(window_blend_update_f32_divide, 256)

}  // namespace GLMAE_NS
