// Parts of dw[tap, n, c] = sum_v dy[v, n] x[v + tap, c]: 16 channels c and N channels n for each block, over some bricks; see
// conv.cuh.
//
// Rows of a product are channels of x at some tap, 16 of them a warp; its columns are n; its k are 16 voxels, two lines of a
// brick. A is read from the halo by ldmatrix, transposed, so that a tap is an address here as well and each of the four warps
// has a tap of its own; B are rows of dy as the copy engine brings them.
//
//     unit     tap 0 | tap 1 | tap 2 | tap 3 | tap 4 | ...  27 of them
//     warp         0       1       2       3       0            product 0, product 1, ...
//
//     SPLITS_TAPS   both warpgroups go through all voxels, each for a half of the taps
//     otherwise     each has all taps, and half of the planes of every brick: a part of its own
//
// Products are issued in groups of three or four, so that one group multiplies while the registers of the next are loaded.
// For each k of 16, all products of a warpgroup read 2048 bytes of A and 32 N of B for N / 2 cycles of the tensor cores.
#pragma once
#include "conv.cuh"

namespace GLMAE_NS {

template <int N_, bool SPLITS_TAPS_, int STAGES_>
struct ConvBwdTile {
    static constexpr int N = N_, STAGES = STAGES_, PLANES = 4;
    static constexpr bool SPLITS_TAPS = SPLITS_TAPS_;
    // Of a warpgroup: 4 units each. The first group of them; the others are the second.
    static constexpr int PRODUCTS = SPLITS_TAPS ? 4 : 7, FIRST = 4;
    static constexpr int SPAN = N == 48 ? 128 : 2 * N;  // bytes of a row of dy; 48 channels come in rows of 64
    static constexpr int VOXELS = PLANES * CONV_SIDE * CONV_SIDE;
    static constexpr int DY_BYTES = VOXELS * SPAN, X_BYTES = 2 * CONV_HALF<PLANES>;
    static constexpr int STAGE_BYTES = (DY_BYTES + X_BYTES + 1023) / 1024 * 1024;
    static constexpr int BARRIERS_AT = STAGES * STAGE_BYTES;
    static constexpr int SHARED_BYTES = BARRIERS_AT + 2 * STAGES * 8;
    // Steps of 16 k that a warpgroup takes of a brick.
    static constexpr int LINE_PAIRS = CONV_SIDE / 2, OWN_PLANES = SPLITS_TAPS ? PLANES : PLANES / 2;
    static_assert(PRODUCTS * N / 2 <= 168 && SHARED_BYTES <= 227 * 1024, "an SM");
};

template <typename Tile>
struct ConvBwdShared {
    unsigned char* base;
    __device__ __forceinline__ unsigned char* dy(int i) const {
        return base + i * Tile::STAGE_BYTES;
    }
    __device__ __forceinline__ unsigned char* x(int i) const { return dy(i) + Tile::DY_BYTES; }
    __device__ __forceinline__ uint64_t* full(int i) const {
        return reinterpret_cast<uint64_t*>(base + Tile::BARRIERS_AT) + i;
    }
    __device__ __forceinline__ uint64_t* empty(int i) const { return full(Tile::STAGES + i); }

    __device__ __forceinline__ void init() const {
#pragma unroll
        for (int i = 0; i < Tile::STAGES; ++i) {
            mbarrier_init(full(i), 1);
            mbarrier_init(empty(i), CONV_CONSUMERS);
        }
        fence_mbarrier_init();
    }
};

// Sums over parts of `bricks_part` bricks, [parts, taps, out, channels of both inputs].
struct ConvParts {
    float* sums;
    int out, bricks_part;
};

// What a block does: a chunk of channels, N output channels, the bricks of a part.
template <typename Tile>
struct ConvBwdItem {
    int chunk, column0, part, first, end;

    // Chunks follow each other, so that dy is in L2 for the next.
    __device__ __forceinline__ ConvBwdItem(const ConvGrid& grid, const ConvInputs& inputs,
                                           const ConvParts& parts) {
        const int chunks = inputs.widths.chunks();
        chunk = blockIdx.y % chunks, column0 = blockIdx.y / chunks * Tile::N;
        part = blockIdx.z, first = part * parts.bricks_part;
        end = min(first + parts.bricks_part, grid.bricks<Tile::PLANES>());
    }
};

template <typename Tile>
__device__ __forceinline__ void conv_bwd_produce(const ConvBwdShared<Tile>& shared,
                                                 const ConvGrid& grid, const ConvInputs& inputs,
                                                 const GlmaeTensorMap& dy,
                                                 const ConvBwdItem<Tile>& item) {
    RingAt<Tile::STAGES> ring;
#pragma unroll 1
    for (int brick = item.first; brick < item.end; ++brick, ring.next()) {
        const ConvCorner at = grid.corner<Tile::PLANES>(brick);
        mbarrier_wait(shared.empty(ring.stage), ring.parity ^ 1);
        uint64_t* full = shared.full(ring.stage);
        mbarrier_expect(full, Tile::DY_BYTES + Tile::X_BYTES);
        load_box(shared.dy(ring.stage), dy, item.column0, at.w, at.h, at.d, at.volume, full);
        inputs.load<Tile::PLANES>(shared.x(ring.stage), at, item.chunk, full);
    }
}

// A group of products of a step.
template <typename Tile, int FIRST, int COUNT>
__device__ __forceinline__ void conv_bwd_multiply(float (&d)[Tile::PRODUCTS][Tile::N / 2],
                                                  const int (&tap_at)[Tile::PRODUCTS],
                                                  const unsigned char* x, uint64_t dy, bool adds) {
    uint32_t r[COUNT][4];
#pragma unroll
    for (int s = 0; s < COUNT; ++s) ldmatrix_x4_trans(r[s], x + tap_at[FIRST + s]);
    settle(r);
    wgmma_fence();
#pragma unroll
    for (int s = 0; s < COUNT; ++s) wgmma<false>(d[FIRST + s], r[s], dy, adds);
    wgmma_commit();
}

// This thread's sums: rows are channels from channel0 on, `left` of them.
template <typename Tile>
__device__ __forceinline__ void conv_bwd_finish(const ConvParts& parts, int part, int column0,
                                                int unit0, int channel0, int left, int channels,
                                                const float (&d)[Tile::PRODUCTS][Tile::N / 2]) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x % WARPGROUP / WARP;
#pragma unroll
    for (int s = 0; s < Tile::PRODUCTS; ++s) {
        const int tap = unit0 + 4 * s + warp;
        if (tap >= CONV_TAPS) break;
        float* to = parts.sums +
                    ((static_cast<int64_t>(part) * CONV_TAPS + tap) * parts.out + column0) * channels +
                    channel0;
#pragma unroll
        for (int i = 0; i < Tile::N / 2; ++i) {
            const int row = lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
            if (row < left && column0 + column < parts.out)
                to[static_cast<int64_t>(column) * channels + row] = d[s][i];
        }
    }
}

template <typename Tile>
__device__ __forceinline__ void conv_bwd_consume(const ConvBwdShared<Tile>& shared,
                                                 const ConvInputs& inputs, const ConvParts& parts,
                                                 const ConvBwdItem<Tile>& item, int group) {
    constexpr int PRODUCTS = Tile::PRODUCTS, FIRST = Tile::FIRST, SECOND = PRODUCTS - FIRST;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x % WARPGROUP / WARP;
    const int unit0 = Tile::SPLITS_TAPS ? group * 4 * PRODUCTS : 0;
    const int plane0 = Tile::SPLITS_TAPS ? 0 : group * Tile::OWN_PLANES;
    // Where this lane's row is, of the first 16 voxels: matrices are 8 channels, 8 others, then those of the next line. A
    // product without a tap repeats the last.
    const int own = lane / 8 % 2 * CONV_HALF<Tile::PLANES> +
                    conv_place(plane0, lane / 16, lane % 8) * CONV_VOXEL;
    int tap_at[PRODUCTS];
#pragma unroll
    for (int s = 0; s < PRODUCTS; ++s) {
        const int tap = min(unit0 + 4 * s + warp, CONV_TAPS - 1);
        tap_at[s] = own + conv_place(tap / 9, tap / 3 % 3, tap % 3) * CONV_VOXEL;
    }
    const uint64_t dy0 = matrix_at<Tile::SPAN>(shared.dy(0)) +
                         plane0 * (CONV_SIDE * CONV_SIDE * Tile::SPAN >> 4);
    float d[PRODUCTS][Tile::N / 2];
    RingAt<Tile::STAGES> ring;
#pragma unroll 1
    for (int brick = item.first; brick < item.end; ++brick, ring.next()) {
        mbarrier_wait(shared.full(ring.stage), ring.parity);
        const unsigned char* x = shared.x(ring.stage);
        uint64_t dy = dy0 + ring.stage * (Tile::STAGE_BYTES >> 4);
#pragma unroll 1
        for (int plane = 0; plane < Tile::OWN_PLANES; ++plane) {
            const bool adds = brick > item.first || plane > 0;
#pragma unroll
            for (int pair = 0; pair < Tile::LINE_PAIRS; ++pair) {
                // A group's registers are loaded while the one before it multiplies.
                const unsigned char* from = x + conv_place(0, 2 * pair, 0) * CONV_VOXEL;
                wgmma_wait<1>();
                conv_bwd_multiply<Tile, 0, FIRST>(d, tap_at, from, dy, adds || pair > 0);
                if constexpr (SECOND > 0) {
                    wgmma_wait<1>();
                    conv_bwd_multiply<Tile, FIRST, SECOND>(d, tap_at, from, dy, adds || pair > 0);
                }
                dy += NEXT_16_K<false, Tile::SPAN>;
            }
            x += CONV_PLANE * CONV_VOXEL;
        }
        wgmma_wait<0>();
        // The halo was read by threads, and the copy engine writes there next.
        fence_async();
        __syncwarp();
        if (lane == 0) mbarrier_arrive(shared.empty(ring.stage));
    }
    const ConvChunk chunk(inputs.widths, item.chunk);
    conv_bwd_finish<Tile>(parts, Tile::SPLITS_TAPS ? item.part : 2 * item.part + group,
                          item.column0, unit0, chunk.of_all(inputs.widths), chunk.left,
                          inputs.widths.all(), d);
}

// Grid: 1, chunks * tiles of N channels, parts.
template <typename Tile>
__device__ __forceinline__ void conv_bwd_hopper(const ConvParts& parts, const GlmaeTensorMap& dy,
                                                const ConvInputs& inputs, const ConvGrid& grid) {
    GLMAE_SWIZZLED_SHARED(glmae_swizzled_);
    const ConvBwdShared<Tile> shared{glmae_swizzled_};
    const ConvBwdItem<Tile> item(grid, inputs, parts);
    producer_block<24>(
        [&] {
            if (threadIdx.x != 0) return;
            prefetch_map(dy);
            inputs.prefetch();
            shared.init();
        },
        [&] { conv_bwd_produce<Tile>(shared, grid, inputs, dy, item); }, [] {},
        [&](int group) { conv_bwd_consume<Tile>(shared, inputs, parts, item, group); });
}

//                             N, splits taps, stages
using ConvBwd16 = ConvBwdTile<16, false, 6>;
using ConvBwd32 = ConvBwdTile<32, false, 5>;
using ConvBwd48 = ConvBwdTile<48, false, 4>;
using ConvBwd64 = ConvBwdTile<64, true, 4>;

}  // namespace GLMAE_NS
