// dweight[n, c, tap] = sum over voxels v of dy[v, n] x[v + tap, c] for 32 output channels, one chunk of
// channels c and all taps, over some bricks of voxels; see conv_brick.cuh.
//
// Nine warps, each three taps along w: one fragment of dy serves three taps, one halo all 27. Bricks
// are copied two at a time, one is used. Voxels of dy outside of the volume are zeros, so it does not
// matter what x holds there. FEW: one tap along w, with the channels of three. Shared memory:
// 2 * (17280 + 128 * (32 e + 16)) bytes, e = element size.
#pragma once
#include "conv_brick.cuh"

namespace GLMAE_NS {

constexpr int GRADIENT_N = 32;  // output channels of a block

template <typename T>
struct GradientTile {
    static constexpr int THREADS = 9 * WARP;
    // Eight voxels, the rows of an ldmatrix, meet eight different groups of four banks.
    static constexpr int VOXEL = GRADIENT_N * sizeof(T) + 16;
    static constexpr int STAGE = HALO_BYTES + BRICK * VOXEL, SHARED_BYTES = 2 * STAGE;
};

template <typename T, bool FEW>
struct GradientSums;

template <bool FEW>
struct GradientSums<bf16, FEW> {
    static constexpr int ALONG = FEW ? 1 : 3;
    float c[ALONG][2][2][4];  // tap, sixteen output channels, eight channels
    float bias[2][4];     // the product with ones; the same in every column

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int e = 0; e < 8; ++e) bias[e / 4][e % 4] = 0.0f;
#pragma unroll
        for (int e = 0; e < 16 * ALONG; ++e) c[e / 16][e / 8 % 2][e / 4 % 2][e % 4] = 0.0f;
    }
    // One brick. A is dy with its voxels as k, B is x: both lie with k as lines.
    __device__ __forceinline__ void add(const unsigned char* halo, const unsigned char* dy,
                                        bool wants_bias) {
        const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        const unsigned char* a = dy + (lane / 16 * 8 + lane % 8) * GradientTile<bf16>::VOXEL +
                                 lane / 8 % 2 * 16;
        const unsigned char* b = halo + lane / 16 * 16 +
                                 halo_place(warp / 3, warp % 3 + lane / 8 % 2, lane % 8) *
                                     VOXEL_BYTES;
#pragma unroll 1
        for (int step = 0; step < BRICK / 16; ++step) {
            uint32_t fa[2][4];
#pragma unroll
            for (int i = 0; i < 2; ++i)
                ldmatrix_x4_trans(fa[i], a + step * 16 * GradientTile<bf16>::VOXEL + i * 32);
            const unsigned char* at = b + halo_place(step / 2, step % 2 * 2, 0) * VOXEL_BYTES;
#pragma unroll
            for (int tap = 0; tap < ALONG; ++tap) {
                uint32_t r[4];
                ldmatrix_x4_trans(r, at + tap * VOXEL_BYTES);
                const uint32_t fb[2][2] = {{r[0], r[1]}, {r[2], r[3]}};
#pragma unroll
                for (int i = 0; i < 2; ++i) {
#pragma unroll
                    for (int j = 0; j < 2; ++j)
                        mma_m16n8k16_bf16(c[tap][i][j], fa[i], fb[j], c[tap][i][j]);
                }
            }
            if (wants_bias) {
                const uint32_t ones[2] = {0x3f803f80u, 0x3f803f80u};
#pragma unroll
                for (int i = 0; i < 2; ++i) mma_m16n8k16_bf16(bias[i], fa[i], ones, bias[i]);
            }
        }
    }
    // Calls out(tap along w, output channel, channel of the chunk, sum).
    template <typename Out>
    __device__ __forceinline__ void give(const Out& out) const {
        const int lane = threadIdx.x % WARP;
#pragma unroll
        for (int e = 0; e < 16 * ALONG; ++e) {
            const int n = e / 8 % 2 * 16 + e / 2 % 2 * 8 + lane / 4;
            out(e / 16, n, e / 4 % 2 * 8 + lane % 4 * 2 + e % 2,
                c[e / 16][e / 8 % 2][e / 4 % 2][e % 4]);
        }
    }
    template <typename Out>
    __device__ __forceinline__ void give_bias(const Out& out) const {
        const int lane = threadIdx.x % WARP;
        if (lane % 4 != 0) return;
#pragma unroll
        for (int i = 0; i < 4; ++i) out(i * 8 + lane / 4, bias[i / 2][i % 2 * 2]);
    }
};

// A thread owns four output channels and two channels of x.
template <bool FEW>
struct GradientSums<float, FEW> {
    static constexpr int ALONG = FEW ? 1 : 3;
    float c[ALONG][4][2];
    float bias[4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int e = 0; e < 4; ++e) bias[e] = 0.0f;
#pragma unroll
        for (int e = 0; e < 8 * ALONG; ++e) c[e / 8][e / 2 % 4][e % 2] = 0.0f;
    }
    __device__ __forceinline__ void add(const unsigned char* halo, const unsigned char* dy,
                                        bool wants_bias) {
        const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        const unsigned char* a = dy + lane / 4 * 16;
        const unsigned char* b =
            halo + halo_place(warp / 3, warp % 3, 0) * VOXEL_BYTES + lane % 4 * 8;
#pragma unroll 2
        for (int voxel = 0; voxel < BRICK; ++voxel) {
            const float4 d =
                *reinterpret_cast<const float4*>(a + voxel * GradientTile<float>::VOXEL);
            const float v[4] = {d.x, d.y, d.z, d.w};
            const int place = halo_place(voxel / (BRICK_H * BRICK_W), voxel / BRICK_W % BRICK_H,
                                         voxel % BRICK_W);
#pragma unroll
            for (int tap = 0; tap < ALONG; ++tap) {
                const float2 x =
                    *reinterpret_cast<const float2*>(b + (place + tap) * VOXEL_BYTES);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    c[tap][i][0] = fmaf(v[i], x.x, c[tap][i][0]);
                    c[tap][i][1] = fmaf(v[i], x.y, c[tap][i][1]);
                }
            }
            if (wants_bias) {
#pragma unroll
                for (int i = 0; i < 4; ++i) bias[i] += v[i];
            }
        }
    }
    template <typename Out>
    __device__ __forceinline__ void give(const Out& out) const {
        const int lane = threadIdx.x % WARP;
#pragma unroll
        for (int e = 0; e < 8 * ALONG; ++e)
            out(e / 8, lane / 4 * 4 + e / 2 % 4, lane % 4 * 2 + e % 2, c[e / 8][e / 2 % 4][e % 2]);
    }
    template <typename Out>
    __device__ __forceinline__ void give_bias(const Out& out) const {
        const int lane = threadIdx.x % WARP;
        if (lane % 4 != 0) return;
#pragma unroll
        for (int i = 0; i < 4; ++i) out(lane / 4 * 4 + i, bias[i]);
    }
};

// Grid: tiles of output channels times chunks (chunks fastest), parts of `bricks_part` bricks of
// `bricks`. Writes weight_parts [parts, taps, out, channels] and bias_parts [parts, out] (may be null).
template <typename T, bool FEW>
__device__ __forceinline__ void conv3d_bwd_params(float* weight_parts, float* bias_parts,
                                                  const T* dy, const T* a, const T* b,
                                                  const BrickGrid& grid, int width_a, int width_b,
                                                  int out, int bricks, int bricks_part) {
    using Tile = GradientTile<T>;
    constexpr int PIECES = GRADIENT_N * sizeof(T) / 16;
    GLMAE_DYNAMIC_SHARED(unsigned char, shared);
    const Channels<T> channels(a, b, width_a, width_b);
    const int chunks = FEW ? 1 : channels.chunks(), chunk = blockIdx.x % chunks;
    const int first_n = blockIdx.x / chunks * GRADIENT_N;
    const bool vectors = out % Vec<T>::N == 0 && is_aligned_16(dy);
    const bool wants_bias = bias_parts && chunk == 0 && threadIdx.x < WARP;
    const int begin = blockIdx.y * bricks_part, end = min(bricks, begin + bricks_part);
    int width, first_c;
    const T* const x = channels.find(chunk, width, first_c);
    auto fill = [&](int brick) {
        if (brick < end) {
            unsigned char* stage = shared + (brick - begin) % 2 * Tile::STAGE;
            int volume, d0, h0, w0;
            grid.corner(brick, volume, d0, h0, w0);
#pragma unroll 1
            for (int i = threadIdx.x; i < (FEW ? FEW_PIECES : 2 * HALO); i += Tile::THREADS) {
                if constexpr (FEW) {
                    copy_few(stage, x, grid, volume, d0, h0, w0, width, i);
                    continue;
                }
                const auto [voxel, piece] = piece_of<2>(i);
                const int row = grid.halo_row(volume, d0, h0, w0, voxel);
                copy_piece(stage + voxel * VOXEL_BYTES + piece * 16, x, row, width,
                           first_c + piece * Vec<T>::N, channels.vectors);
            }
#pragma unroll 1
            for (int i = threadIdx.x; i < BRICK * PIECES; i += Tile::THREADS) {
                const auto [voxel, piece] = piece_of<PIECES>(i);
                const int row = grid.row(volume, d0 + voxel / (BRICK_H * BRICK_W),
                                         h0 + voxel / BRICK_W % BRICK_H, w0 + voxel % BRICK_W);
                copy_piece(stage + HALO_BYTES + voxel * Tile::VOXEL + piece * 16, dy, row, out,
                           first_n + piece * Vec<T>::N, vectors);
            }
        }
        cp_async_commit();
    };
    GradientSums<T, FEW> sums;
    sums.clear();
    fill(begin);
    for (int brick = begin; brick < end; ++brick) {
        fill(brick + 1);
        cp_async_wait<1>();
        __syncthreads();  // this brick is there for all
        const unsigned char* stage = shared + (brick - begin) % 2 * Tile::STAGE;
        sums.add(stage, stage + HALO_BYTES, wants_bias);
        __syncthreads();  // all are done with it: the next but one takes its place
    }
    cp_async_wait<0>();

    const int shift = chunk < Channels<T>::chunks(width_a) ? 0 : width_a;
    const int tap0 = threadIdx.x / WARP * 3;
    sums.give([&](int tap, int n, int c, float sum) {
        if constexpr (FEW) {
            if (c >= 3 * width) return;
            tap = c / width, c = c % width;
        }
        if (first_n + n >= out || first_c + c >= width) return;
        const int64_t line = (static_cast<int64_t>(blockIdx.y) * TAPS + tap0 + tap) * out;
        weight_parts[(line + first_n + n) * (width_a + width_b) + shift + first_c + c] = sum;
    });
    if (wants_bias) {
        sums.give_bias([&](int n, float sum) {
            if (first_n + n < out) bias_parts[static_cast<int64_t>(blockIdx.y) * out + first_n + n] = sum;
        });
    }
}

// Sum over parts of element `element` (of `count`), for 32 neighbouring elements of a block of 256
// threads: eight threads an element take every eighth part each, and the eight are added in order. The
// result is given to threads 0 to 31; all 256 call.
__device__ __forceinline__ float sum_of_parts(const float* parts, int part_count, int64_t count,
                                              int64_t element, float (&scratch)[8][WARP]) {
    const int lane = threadIdx.x % WARP, row = threadIdx.x / WARP;
    float sum = 0.0f;
    if (element < count) {
#pragma unroll 4
        for (int p = row; p < part_count; p += 8) sum += parts[p * count + element];
    }
    scratch[row][lane] = sum;
    __syncthreads();
    if (row > 0) return 0.0f;
#pragma unroll
    for (int i = 1; i < 8; ++i) sum += scratch[i][lane];
    return sum;
}

}  // namespace GLMAE_NS
