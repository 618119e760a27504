// y (+)= conv(x) + bias for bricks of voxels and N output channels at a time; see conv.cuh. The gradient of an input is the
// same with mirrored weights.
//
//     warpgroup 0      producer: one thread loads halos, a chunk of 16 channels at a time, and weights, 9 taps at a time
//     warpgroups 1, 2  have half of the planes each: PRODUCTS of 64 voxels, one plane each
//
//     halos     | chunk 0                     | chunk 1                     | ...    ring of HALOS
//     weights   | kd = 0  | kd = 1  | kd = 2  | kd = 0  | kd = 1  | kd = 2  | ...    ring of STEPS
//
// A step is 9 taps: 9 * PRODUCTS products of 64 x N x 16, which read A and B from shared memory: (2048 + 32 N) bytes each, for
// N / 2 cycles of the tensor cores. So shared memory binds below N = 64 and the tensor cores above.
#pragma once
#include "conv.cuh"
#include "panels.cuh"

namespace GLMAE_NS {

template <int N_, int PRODUCTS_, int STEPS_>
struct ConvFwdTile {
    static constexpr int N = N_, PRODUCTS = PRODUCTS_, STEPS = STEPS_, HALOS = 3;
    static constexpr int PLANES = 2 * PRODUCTS, STEP_TAPS = 9;
    static constexpr int HALO_BYTES = 2 * CONV_HALF<PLANES>, TAP_BYTES = N * CONV_CHUNK * 2;
    static constexpr int STEP_BYTES = STEP_TAPS * TAP_BYTES;
    // A warp's 16 rows on their way out, without gaps.
    static constexpr int PIECES = N / 8, OUT_BYTES = 16 * 2 * N;
    static constexpr int WEIGHTS_AT = HALOS * HALO_BYTES, OUT_AT = WEIGHTS_AT + STEPS * STEP_BYTES;
    static constexpr int BARRIERS_AT = OUT_AT + 8 * OUT_BYTES;
    static constexpr int SHARED_BYTES = BARRIERS_AT + 2 * (HALOS + STEPS) * 8;
    // Place of a 16-byte piece. Every 8 / SWAPS rows begin in the same bank, and the next so many have their pieces exchanged,
    // so that neither eight rows of a piece nor eight neighbouring pieces meet a bank twice.
    static constexpr int SWAPS = PIECES % 8 == 0 ? 8 : PIECES % 4 == 0 ? 4 : 2;
    static __device__ __forceinline__ int out_place(int row, int piece) {
        return row * 2 * N + (piece ^ row / (8 / SWAPS) % SWAPS) * 16;
    }
    static_assert(N % 16 == 0 && PRODUCTS * N / 2 <= 128 && SHARED_BYTES <= 227 * 1024, "an SM");
};

template <typename Tile>
struct ConvFwdShared {
    unsigned char* base;
    __device__ __forceinline__ unsigned char* halo(int i) const {
        return base + i * Tile::HALO_BYTES;
    }
    __device__ __forceinline__ unsigned char* weights(int i) const {
        return base + Tile::WEIGHTS_AT + i * Tile::STEP_BYTES;
    }
    __device__ __forceinline__ unsigned char* out(int warp) const {
        return base + Tile::OUT_AT + warp * Tile::OUT_BYTES;
    }
    __device__ __forceinline__ uint64_t* barrier(int i) const {
        return reinterpret_cast<uint64_t*>(base + Tile::BARRIERS_AT) + i;
    }
    __device__ __forceinline__ uint64_t* halo_full(int i) const { return barrier(i); }
    __device__ __forceinline__ uint64_t* halo_empty(int i) const {
        return barrier(Tile::HALOS + i);
    }
    __device__ __forceinline__ uint64_t* weights_full(int i) const {
        return barrier(2 * Tile::HALOS + i);
    }
    __device__ __forceinline__ uint64_t* weights_empty(int i) const {
        return barrier(2 * Tile::HALOS + Tile::STEPS + i);
    }

    __device__ __forceinline__ void init() const {
#pragma unroll
        for (int i = 0; i < Tile::HALOS; ++i) {
            mbarrier_init(halo_full(i), 1);
            mbarrier_init(halo_empty(i), CONV_CONSUMERS);
        }
#pragma unroll
        for (int i = 0; i < Tile::STEPS; ++i) {
            mbarrier_init(weights_full(i), 1);
            mbarrier_init(weights_empty(i), CONV_CONSUMERS);
        }
        fence_mbarrier_init();
    }
};

// What a block does at a time: a brick and N output channels. Tiles of channels follow each other, so that the halo of the
// next item is in L2.
template <typename Tile>
struct ConvFwdWork {
    int tiles, count;
    __device__ __forceinline__ ConvFwdWork(const ConvGrid& grid, int out)
        : tiles((out + Tile::N - 1) / Tile::N), count(tiles * grid.bricks<Tile::PLANES>()) {}
};

// Where results go: y [voxels, out], over what is there or added to it.
struct ConvResult {
    bf16* y;
    const float* bias;  // [out], or null
    int out;
    bool adds;
};

template <typename Tile>
__device__ __forceinline__ void conv_fwd_produce(const ConvFwdShared<Tile>& shared,
                                                 const ConvGrid& grid,
                                                 const ConvFwdWork<Tile>& work,
                                                 const ConvInputs& inputs,
                                                 const unsigned char* weights) {
    const int chunks = inputs.widths.chunks();
    RingAt<Tile::HALOS> halo;
    RingAt<Tile::STEPS> step;
#pragma unroll 1
    for (int item = blockIdx.x; item < work.count; item += gridDim.x) {
        const ConvCorner at = grid.corner<Tile::PLANES>(item / work.tiles);
        const unsigned char* from =
            weights + static_cast<int64_t>(item % work.tiles) * chunks * 3 * Tile::STEP_BYTES;
#pragma unroll 1
        for (int chunk = 0; chunk < chunks; ++chunk, halo.next()) {
            mbarrier_wait(shared.halo_empty(halo.stage), halo.parity ^ 1);
            uint64_t* full = shared.halo_full(halo.stage);
            mbarrier_expect(full, Tile::HALO_BYTES);
            inputs.load<Tile::PLANES>(shared.halo(halo.stage), at, chunk, full);
#pragma unroll 1
            for (int kd = 0; kd < 3; ++kd, step.next(), from += Tile::STEP_BYTES) {
                mbarrier_wait(shared.weights_empty(step.stage), step.parity ^ 1);
                full = shared.weights_full(step.stage);
                mbarrier_expect(full, Tile::STEP_BYTES);
                load_bytes(shared.weights(step.stage), from, Tile::STEP_BYTES, full);
            }
        }
    }
}

// A warp's 16 voxels of one plane, two lines of 8, of N channels from `column0` on.
template <typename Tile>
__device__ __forceinline__ void conv_fwd_finish(unsigned char* stage, const ConvGrid& grid,
                                                const ConvCorner& at, const ConvResult& result,
                                                int column0, int plane,
                                                float (&d)[Tile::N / 2]) {
    constexpr int N = Tile::N, PIECES = Tile::PIECES;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x % WARPGROUP / WARP;
    const int z = at.d + plane, line = at.h + 2 * warp;
    // The first element of voxel `w` of line `h` of the two, or -1 outside of the volume.
    const auto element = [&](int h, int w) -> int64_t {
        const bool inside = z < grid.d && line + h < grid.h && at.w + w < grid.w;
        const int64_t row =
            ((static_cast<int64_t>(at.volume) * grid.d + z) * grid.h + line + h) * grid.w + at.w + w;
        return inside ? row * result.out : -1;
    };
    if (result.bias) {
#pragma unroll
        for (int j = 0; j < N / 8; ++j) {
            const int column = column0 + j * 8 + lane % 4 * 2;
            if (column >= result.out) break;
            const float2 b = __ldg(reinterpret_cast<const float2*>(result.bias + column));
            d[4 * j] += b.x, d[4 * j + 1] += b.y, d[4 * j + 2] += b.x, d[4 * j + 3] += b.y;
        }
    }
    if (result.adds) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int64_t to = element(h, lane / 4);
#pragma unroll
            for (int j = 0; j < N / 8; ++j) {
                const int column = column0 + j * 8 + lane % 4 * 2;
                if (to < 0 || column >= result.out) break;
                const uint32_t pair = *reinterpret_cast<const uint32_t*>(result.y + to + column);
                d[4 * j + 2 * h] += __uint_as_float(pair << 16);
                d[4 * j + 2 * h + 1] += __uint_as_float(pair & 0xffff0000u);
            }
        }
    }
#pragma unroll
    for (int j = 0; j < N / 16; ++j) {
        uint32_t r[4];
        rounded(r, &d[8 * j]);
        store_matrices(stage + Tile::out_place(lane & 15, 2 * j + lane / 16), r);
    }
    __syncwarp();
#pragma unroll
    for (int i = lane; i < 16 * PIECES; i += WARP) {
        const int voxel = i / PIECES, piece = i % PIECES, column = column0 + piece * 8;
        const int64_t to = element(voxel / CONV_SIDE, voxel % CONV_SIDE);
        if (to < 0 || column >= result.out) continue;
        const uint4 v =
            load_whole(reinterpret_cast<const uint4*>(stage + Tile::out_place(voxel, piece)));
        store_whole(reinterpret_cast<uint4*>(result.y + to + column), v);
    }
    __syncwarp();
}

template <typename Tile>
__device__ __forceinline__ void conv_fwd_consume(const ConvFwdShared<Tile>& shared,
                                                 const ConvGrid& grid,
                                                 const ConvFwdWork<Tile>& work,
                                                 const ConvResult& result, int steps, int group) {
    constexpr int N = Tile::N, PRODUCTS = Tile::PRODUCTS;
    const int lane = threadIdx.x % WARP;
    const uint64_t a0 = conv_voxels_at<Tile::PLANES>(shared.halo(0)) +
                        conv_place(group * PRODUCTS, 0, 0);
    const uint64_t b0 = core_matrices_at<N * 16, 128>(shared.weights(0));
    RingAt<Tile::HALOS> halo;
    RingAt<Tile::STEPS> step;
#pragma unroll 1
    for (int item = blockIdx.x; item < work.count; item += gridDim.x) {
        float d[PRODUCTS][N / 2];
        int halo_before = 0, step_before = 0, kd = 0;
#pragma unroll 1
        for (int i = 0; i < steps; ++i) {
            if (kd == 0) mbarrier_wait(shared.halo_full(halo.stage), halo.parity);
            mbarrier_wait(shared.weights_full(step.stage), step.parity);
            const uint64_t a = a0 + halo.stage * (Tile::HALO_BYTES >> 4) + kd * CONV_PLANE;
            const uint64_t b = b0 + step.stage * (Tile::STEP_BYTES >> 4);
            wgmma_fence();
#pragma unroll
            for (int tap = 0; tap < Tile::STEP_TAPS; ++tap) {
#pragma unroll
                for (int p = 0; p < PRODUCTS; ++p)
                    wgmma<true, true>(d[p], a + conv_place(p, tap / 3, tap % 3),
                                      b + tap * (Tile::TAP_BYTES >> 4), i > 0 || tap > 0);
            }
            wgmma_commit();
            if (i > 0) {
                // The step before is over, and at the first of a chunk the chunk before.
                wgmma_wait<1>();
                if (lane == 0) {
                    mbarrier_arrive(shared.weights_empty(step_before));
                    if (kd == 0) mbarrier_arrive(shared.halo_empty(halo_before));
                }
            }
            step_before = step.stage, halo_before = halo.stage;
            step.next();
            if (++kd == 3) kd = 0, halo.next();
        }
        wgmma_wait<0>();
        if (lane == 0) {
            mbarrier_arrive(shared.weights_empty(step_before));
            mbarrier_arrive(shared.halo_empty(halo_before));
        }
        const ConvCorner at = grid.corner<Tile::PLANES>(item / work.tiles);
#pragma unroll
        for (int p = 0; p < PRODUCTS; ++p)
            conv_fwd_finish<Tile>(shared.out(group * 4 + threadIdx.x % WARPGROUP / WARP), grid, at,
                                  result, item % work.tiles * N, group * PRODUCTS + p, d[p]);
    }
}

// Grid: blocks that take one item after the other. weights: as conv_weights.cuh packs them.
template <typename Tile>
__device__ __forceinline__ void conv_fwd_hopper(const ConvResult& result, const ConvInputs& inputs,
                                                const bf16* weights, const ConvGrid& grid) {
    GLMAE_SWIZZLED_SHARED(glmae_swizzled_);
    const ConvFwdShared<Tile> shared{glmae_swizzled_};
    const ConvFwdWork<Tile> work(grid, result.out);
    producer_block<40>(
        [&] {
            if (threadIdx.x != 0) return;
            inputs.prefetch();
            shared.init();
        },
        [&] {
            conv_fwd_produce<Tile>(shared, grid, work, inputs,
                                   reinterpret_cast<const unsigned char*>(weights));
        },
        [] {},
        [&](int group) {
            conv_fwd_consume<Tile>(shared, grid, work, result, 3 * inputs.widths.chunks(), group);
        });
}

//                                 N, products, steps of weights
using ConvFwd16 = ConvFwdTile<16, 4, 6>;
using ConvFwd32 = ConvFwdTile<32, 4, 6>;
using ConvFwd48 = ConvFwdTile<48, 4, 5>;
using ConvFwd64 = ConvFwdTile<64, 4, 4>;
using ConvFwd96 = ConvFwdTile<96, 2, 4>;

}  // namespace GLMAE_NS
