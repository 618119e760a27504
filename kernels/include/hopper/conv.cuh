// What the 3 x 3 x 3 convolutions on Hopper share: bricks of voxels and their halos in shared memory.
//
// A brick is 8 x 8 voxels along w and h, and some planes along d. It is copied with its halo once per chunk of 16 channels,
// in two boxes of 8 channels, whose voxels then have 16 bytes and lie side by side:
//
//     8 neighbours along w   a core matrix of wgmma.cuh, 128 bytes, wherever the first of them lies
//     the next line          10 voxels further
//     the next 8 channels    a box further
//
// So a tap is nothing but another start address: the 27 of them cost no copies, and from L2 comes 2 to 2.3 times the brick
// instead of 27 times. That is why there is no swizzle: its pattern would begin with another row for every tap, which no
// manual describes. What lies outside of the volume arrives as zeros.
#pragma once
#include "block.cuh"
#include "tma.cuh"
#include "wgmma.cuh"

namespace GLMAE_NS {

constexpr int CONV_SIDE = 8, CONV_LINE = CONV_SIDE + 2, CONV_PLANE = CONV_LINE * CONV_LINE;  // voxels
constexpr int CONV_TAPS = 27, CONV_CHUNK = 16, CONV_VOXEL = 16;  // of a chunk channels; of half of it bytes

constexpr int CONV_CONSUMERS = 8;  // warps that multiply, each of which gives stages back

// Bytes of a halo of 8 channels.
template <int PLANES>
constexpr int CONV_HALF = (PLANES + 2) * CONV_PLANE * CONV_VOXEL;

// The matrix K-major with voxels as rows, 64 of one plane: the halo of a chunk from one of its voxels on.
template <int PLANES>
__device__ __forceinline__ uint64_t conv_voxels_at(const void* halo) {
    return core_matrices_at<CONV_HALF<PLANES>, CONV_LINE * CONV_VOXEL>(halo);
}

// Distance, in voxels of a halo.
__device__ __forceinline__ constexpr int conv_place(int d, int h, int w) {
    return d * CONV_PLANE + h * CONV_LINE + w;
}

struct ConvCorner {
    int volume, d, h, w;
};

// Sizes of a launch: voxels of a volume along d, h, w; volumes.
struct ConvGrid {
    int d, h, w, volumes;

    template <int PLANES>
    __device__ __forceinline__ int bricks() const {
        return volumes * ((d + PLANES - 1) / PLANES) * ((h + CONV_SIDE - 1) / CONV_SIDE) *
               ((w + CONV_SIDE - 1) / CONV_SIDE);
    }
    // Bricks along w follow each other.
    template <int PLANES>
    __device__ __forceinline__ ConvCorner corner(int brick) const {
        const int across = (w + CONV_SIDE - 1) / CONV_SIDE, down = (h + CONV_SIDE - 1) / CONV_SIDE;
        const int deep = (d + PLANES - 1) / PLANES;
        ConvCorner at;
        at.w = brick % across * CONV_SIDE, brick /= across;
        at.h = brick % down * CONV_SIDE, brick /= down;
        at.d = brick % deep * PLANES, at.volume = brick / deep;
        return at;
    }
};

// The channels of one or two inputs, cut into chunks: those of a, then those of b.
struct ConvWidths {
    int a, b;

    static __device__ __forceinline__ int chunks(int width) {
        return (width + CONV_CHUNK - 1) / CONV_CHUNK;
    }
    __device__ __forceinline__ int chunks() const { return chunks(a) + chunks(b); }
    __device__ __forceinline__ int all() const { return a + b; }
};

// Where a chunk begins: which input, its first channel there, and how many are left from it on.
struct ConvChunk {
    bool is_a;
    int channel, left;

    __device__ __forceinline__ ConvChunk(const ConvWidths& widths, int chunk) {
        const int of_a = ConvWidths::chunks(widths.a);
        is_a = chunk < of_a;
        channel = (is_a ? chunk : chunk - of_a) * CONV_CHUNK;
        left = (is_a ? widths.a : widths.b) - channel;
    }
    // Among the channels of both inputs.
    __device__ __forceinline__ int of_all(const ConvWidths& widths) const {
        return (is_a ? 0 : widths.a) + channel;
    }
};

// Maps [volumes, d, h, w, channels].
struct ConvInputs {
    const GlmaeTensorMap& a;
    const GlmaeTensorMap& b;
    ConvWidths widths;

    __device__ __forceinline__ void prefetch() const {
        prefetch_map(a);
        if (widths.b > 0) prefetch_map(b);
    }

    // The halo of the brick at `at`, both halves of a chunk. Channels behind the last are zeros as well.
    template <int PLANES>
    __device__ __forceinline__ void load(unsigned char* to, const ConvCorner& at, int chunk,
                                         uint64_t* full) const {
        const ConvChunk from(widths, chunk);
        const GlmaeTensorMap& map = from.is_a ? a : b;
#pragma unroll
        for (int half = 0; half < 2; ++half)
            load_box(to + half * CONV_HALF<PLANES>, map, from.channel + half * 8, at.w - 1, at.h - 1,
                     at.d - 1, at.volume, full);
    }
};

}  // namespace GLMAE_NS
