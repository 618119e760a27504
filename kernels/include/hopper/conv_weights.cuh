// The weights of a 3 x 3 x 3 convolution in the order in which conv_fwd.cuh reads them:
//
//     [tiles of N output channels, chunks of 16 channels, taps, halves of a chunk, N, 8]
//
// so that a tap is a B of N columns made of core matrices (wgmma.cuh), and the taps of one kd are neighbours. Zeros where there
// is no channel.
#pragma once
#include "conv.cuh"

namespace GLMAE_NS {

// Where a weight lies: (n, c, tap) is at first + n * n_stride + c * c_stride + tap, with the taps mirrored for the gradient of
// an input.
struct ConvWeights {
    const float* data;
    int64_t first, n_stride, c_stride;
    bool mirrored;
};

// A thread takes one piece after the other: 8 channels of one output channel and tap.
__device__ __forceinline__ void conv_pack_weights(bf16* packed, const ConvWeights& from,
                                                  int pieces, int tile, int out,
                                                  const ConvWidths& widths) {
    grid_wait();
    const int chunks = widths.chunks(), step = gridDim.x * blockDim.x;
#pragma unroll 1
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < pieces; i += step) {
        const int row = i % tile;
        int rest = i / tile;
        const int half = rest % 2;
        rest /= 2;
        const int tap = rest % CONV_TAPS;
        rest /= CONV_TAPS;
        const int n = rest / chunks * tile + row;
        const ConvChunk chunk(widths, rest % chunks);
        const float* at = from.data + from.first + n * from.n_stride +
                          (chunk.of_all(widths) + half * 8) * from.c_stride +
                          (from.mirrored ? CONV_TAPS - 1 - tap : tap);
        float v[8];
#pragma unroll
        for (int e = 0; e < 8; ++e)
            v[e] = n < out && half * 8 + e < chunk.left ? __ldg(at + e * from.c_stride) : 0.0f;
        Vec<bf16> piece;
        piece.pack(v);
        store_vec(packed, static_cast<int64_t>(i) * 8, piece);
    }
    grid_launch_dependents();
}

}  // namespace GLMAE_NS
