// C[m, n] = sum_k A[m, k] B[k, n] on Hopper: products of warpgroups (wgmma.cuh) on what the copy engine has brought (tma.cuh).
// Each operand is K-major or MN-major in memory, as in gemm_mma.cuh: NT, NN and TN without a transpose.
//
//     warpgroup 0   producer: one thread of warp 0 fills the ring, stage by stage, tile after tile
//                   warps 1 and 2 add up the rows of A, where the epilogue wants them (the gradient of a bias)
//     warpgroup 1   consumer: waits for a stage, multiplies, gives the stage before it back
//     warpgroup 2   consumer
//
//     cooperative   both consumers have 64 rows of the same tile:        ping-pong   each has a tile of its own
//         1   | products of tile 0 | out | products of tile 1 | out |         1   | products 0 | out 0 | products 2 | ...
//         2   | products of tile 0 | out | products of tile 1 | out |         2                | products 1 | out 1 | ...
//
// The producer runs ahead, so that the first stages of the next tile are there when a tile goes out. In ping-pong the
// products of one group hide the epilogue of the other, as long as they take as long. A group starts its products when the
// other has started the last of its own: earlier, it would wait for a stage two phases ahead.
//
// A cluster of two blocks takes two tiles, one below the other, which share the columns of B: each loads one half of them
// for both, so that L2 delivers A and half of B for each tile. A tile below the matrix is loaded as zeros and not stored.
//
// Persistent: as many clusters as run at the same time, each takes every so many-th tile. Tiles follow each other in bands of
// 1024 rows, column by column. Parts of the sum over k, where it is split, are the slowest index.
// The order of every sum depends on the tile and k_part alone, never on the grid.
#pragma once
#include "cluster.cuh"
#include "dependent.cuh"
#include "panels.cuh"
#include "wgmma.cuh"

namespace GLMAE_NS {

template <int GROUP_M_, int N_, int STAGES_, bool PING_PONG_, int CLUSTER_, int SLOTS_>
struct WgmmaTile {
    static constexpr int GROUP_M = GROUP_M_;  // rows that a warpgroup has: one or two products of 64
    static constexpr int N = N_, K = 64, STAGES = STAGES_, CLUSTER = CLUSTER_, SLOTS = SLOTS_;
    static constexpr bool PING_PONG = PING_PONG_;
    static constexpr int M = PING_PONG ? GROUP_M : 2 * GROUP_M;  // of a block's tile
    static constexpr int PRODUCTS = GROUP_M / 64, SUMS = N / 2;  // of a warpgroup; of a thread and product
    static constexpr int A_BYTES = M * SWIZZLED_ROW, B_BYTES = N * SWIZZLED_ROW;
    static constexpr int STAGE_BYTES = A_BYTES + B_BYTES;
    using Panels = GLMAE_NS::Panels<GROUP_M, SLOTS>;
    static constexpr int PANELS_AT = STAGES * STAGE_BYTES;
    static constexpr int BARRIERS_AT = PANELS_AT + 2 * SLOTS * Panels::BYTES;
    static constexpr int SHARED_BYTES = BARRIERS_AT + (2 * STAGES + 4) * 8;
    static_assert(N % 64 == 0 && PRODUCTS * SUMS <= 128 && SHARED_BYTES <= 227 * 1024, "an SM");
};

// What one block does at a time: a tile of C, over a part of k.
struct WgmmaItem {
    int row0, column0, part;
    int block0, blocks;  // of 64 k
};

template <typename Tile>
struct WgmmaWork {
    int bands_m, tiles_n, blocks_k, blocks_part, count;

    __device__ __forceinline__ WgmmaWork(int m, int n, int k, int k_part)
        : bands_m((m + Tile::M * Tile::CLUSTER - 1) / (Tile::M * Tile::CLUSTER)),
          tiles_n((n + Tile::N - 1) / Tile::N), blocks_k((k + Tile::K - 1) / Tile::K),
          blocks_part(k_part / Tile::K) {
        const int parts = (blocks_k + blocks_part - 1) / blocks_part;
        count = bands_m * tiles_n * parts;
    }
    __device__ __forceinline__ int first() const { return blockIdx.x / Tile::CLUSTER; }
    __device__ __forceinline__ int step() const { return gridDim.x / Tile::CLUSTER; }

    __device__ __forceinline__ WgmmaItem item(int index) const {
        constexpr int BAND = 1024 / (Tile::M * Tile::CLUSTER);  // rows of tiles, those of a cluster as one
        const int tiles = bands_m * tiles_n, part = index / tiles, tile = index % tiles;
        const int band = tile / (BAND * tiles_n), within = tile % (BAND * tiles_n);
        const int height = min(BAND, bands_m - band * BAND);
        int row = band * BAND + within % height;
        if constexpr (Tile::CLUSTER > 1) row = row * Tile::CLUSTER + cluster_rank();
        const int block0 = part * blocks_part;
        return {row * Tile::M, within / height * Tile::N, part, block0,
                min(blocks_part, blocks_k - block0)};
    }
};

template <typename Tile>
struct WgmmaShared {
    unsigned char* base;
    __device__ __forceinline__ unsigned char* stage(int i) const {
        return base + i * Tile::STAGE_BYTES;
    }
    __device__ __forceinline__ unsigned char* panels(int group) const {
        return base + Tile::PANELS_AT + group * Tile::SLOTS * Tile::Panels::BYTES;
    }
    __device__ __forceinline__ uint64_t* full(int i) const {
        return reinterpret_cast<uint64_t*>(base + Tile::BARRIERS_AT) + i;
    }
    __device__ __forceinline__ uint64_t* empty(int i) const { return full(Tile::STAGES + i); }
    __device__ __forceinline__ uint64_t* arrived(int group) const {
        return full(2 * Tile::STAGES + group);
    }
    // It is this group's turn to multiply.
    __device__ __forceinline__ uint64_t* turn(int group) const {
        return full(2 * Tile::STAGES + 2 + group);
    }
};

// A warp has done with a stage: it tells the producer of each block that fills it.
template <typename Tile>
__device__ __forceinline__ void give_back(uint64_t* empty) {
    const int lane = threadIdx.x % WARP;
    if constexpr (Tile::CLUSTER == 1) {
        if (lane == 0) mbarrier_arrive(empty);
    } else {
        if (lane < Tile::CLUSTER) mbarrier_arrive_at(empty, lane);
    }
}

// One thread fills the ring.
template <typename Tile, bool A_K_MAJOR, bool B_K_MAJOR>
__device__ __forceinline__ void wgmma_produce(const WgmmaShared<Tile>& shared,
                                              const WgmmaWork<Tile>& work, const GlmaeTensorMap& a,
                                              const GlmaeTensorMap& b) {
    constexpr int CLUSTER = Tile::CLUSTER;
    constexpr uint16_t ALL = (1 << CLUSTER) - 1;
    const int rank = CLUSTER > 1 ? cluster_rank() : 0;
    const auto load_b = [&](unsigned char* to, int x, int y, uint64_t* full) {
        if constexpr (CLUSTER > 1) load_box_for(ALL, to, b, x, y, full);
        else load_box(to, b, x, y, full);
    };
    RingAt<Tile::STAGES> at;
#pragma unroll 1
    for (int index = work.first(); index < work.count; index += work.step()) {
        const WgmmaItem item = work.item(index);
#pragma unroll 1
        for (int block = item.block0; block < item.block0 + item.blocks; ++block, at.next()) {
            mbarrier_wait(shared.empty(at.stage), at.parity ^ 1);
            uint64_t* full = shared.full(at.stage);
            mbarrier_expect(full, Tile::STAGE_BYTES);
            unsigned char* to = shared.stage(at.stage);
            const int k = block * Tile::K;
            if constexpr (A_K_MAJOR) {
                load_box(to, a, k, item.row0, full);
            } else {
#pragma unroll
                for (int i = 0; i < Tile::M / 64; ++i)
                    load_box(to + i * 8192, a, item.row0 + i * 64, k, full);
            }
            to += Tile::A_BYTES;
            if constexpr (B_K_MAJOR) {
                // This block's share of the columns.
                constexpr int SHARE = Tile::N / CLUSTER;
                load_b(to + rank * SHARE * SWIZZLED_ROW, k, item.column0 + rank * SHARE, full);
            } else {
                // This block's share of the k.
                constexpr int SHARE = Tile::K / CLUSTER;
#pragma unroll
                for (int i = 0; i < Tile::N / 64; ++i)
                    load_b(to + i * 8192 + rank * SHARE * SWIZZLED_ROW, item.column0 + i * 64,
                           k + rank * SHARE, full);
            }
        }
    }
}

// The sum over k of every row of A, for tiles of the first column: one warp for 64 rows, a lane for two. A is MN-major, so
// a lane reads 4 bytes of each k; even and odd k are added in their order, then both.
template <typename Tile, typename Epilogue>
__device__ __forceinline__ void wgmma_row_sums(const WgmmaShared<Tile>& shared,
                                               const WgmmaWork<Tile>& work, const Epilogue& out,
                                               int warp) {
    const int lane = threadIdx.x % WARP;
    RingAt<Tile::STAGES> at;
#pragma unroll 1
    for (int index = work.first(); index < work.count; index += work.step()) {
        const WgmmaItem item = work.item(index);
        const bool wanted = out.wants_row_sums(item.column0);
        // Of even and of odd k.
        float low[2] = {}, high[2] = {};
#pragma unroll 1
        for (int block = 0; block < item.blocks; ++block, at.next()) {
            mbarrier_wait(shared.full(at.stage), at.parity);
            if (wanted) {
                const unsigned char* from = shared.stage(at.stage) + warp * 8192 + lane % 4 * 4;
#pragma unroll 4
                for (int k = 0; k < Tile::K; ++k) {
                    const uint32_t pair = load_whole(
                        reinterpret_cast<const uint32_t*>(from + swizzled_128(k, lane / 4)));
                    low[k % 2] += __uint_as_float(pair << 16);
                    high[k % 2] += __uint_as_float(pair & 0xffff0000u);
                }
                fence_async();
                __syncwarp();
            }
            give_back<Tile>(shared.empty(at.stage));
        }
        if (wanted) out.row_sums(item.part, item.row0 + warp * 64 + lane * 2, low[0] + low[1],
                                 high[0] + high[1]);
    }
}

// One of the two warpgroups that multiply, and hand their sums to the epilogue.
template <typename Tile, bool A_K_MAJOR, bool B_K_MAJOR, typename Epilogue>
__device__ __forceinline__ void wgmma_consume(const WgmmaShared<Tile>& shared,
                                              const WgmmaWork<Tile>& work, const Epilogue& out,
                                              int group) {
    constexpr bool PING_PONG = Tile::PING_PONG;
    typename Tile::Panels panels(shared.panels(group), shared.arrived(group), group + 1);
    const int own_rows = PING_PONG ? 0 : group * Tile::GROUP_M;
    const uint64_t a0 = matrix_at(shared.stage(0) + own_rows * SWIZZLED_ROW);
    const uint64_t b0 = matrix_at(shared.stage(0) + Tile::A_BYTES);
    RingAt<Tile::STAGES> at;
    // In ping-pong a group's own tiles are every second one; the first group begins.
    const int step = PING_PONG ? 2 * work.step() : work.step();
    int index = work.first();
    if (PING_PONG && group == 1) {
        if (index < work.count) at.skip(work.item(index).blocks);
        index += work.step();
    }
    uint32_t turn_parity = group ^ 1;
    WgmmaItem item = work.item(index);
#pragma unroll 1
    for (; index < work.count; index += step) {
        item.row0 += own_rows;
        float d[Tile::PRODUCTS][Tile::SUMS];
        int before = 0;
        WgmmaItem next = item;
        int others = 0;
        if constexpr (PING_PONG) {
            mbarrier_wait(shared.turn(group), turn_parity);
            turn_parity ^= 1;
        }
#pragma unroll 1
        for (int block = 0; block < item.blocks; ++block) {
            mbarrier_wait(shared.full(at.stage), at.parity);
            const uint64_t offset = at.stage * (Tile::STAGE_BYTES >> 4);
            wgmma_fence();
#pragma unroll
            for (int s = 0; s < Tile::K / 16; ++s) {
#pragma unroll
                for (int t = 0; t < Tile::PRODUCTS; ++t)
                    wgmma<A_K_MAJOR, B_K_MAJOR>(
                        d[t], a0 + offset + t * (8192 >> 4) + s * NEXT_16_K<A_K_MAJOR>,
                        b0 + offset + s * NEXT_16_K<B_K_MAJOR>, block > 0 || s > 0);
            }
            wgmma_commit();
            if (PING_PONG && block + 1 == item.blocks && threadIdx.x % WARP == 0)
                mbarrier_arrive(shared.turn(group ^ 1));
            if (block == 0) {
                // What the sums are combined with comes while they are formed, and the divisions of the next tile are done.
                if (panels.is_leader()) out.template fetch<Tile>(panels, item);
                next = work.item(index + step);
                if constexpr (PING_PONG) others = work.item(index + work.step()).blocks;
            } else {
                wgmma_wait<1>();
                give_back<Tile>(shared.empty(before));
            }
            before = at.stage;
            at.next();
        }
        wgmma_wait<0>();
        give_back<Tile>(shared.empty(before));
        out.template finish<Tile>(panels, item, d);
        item = next;
        if constexpr (PING_PONG) at.skip(others);
    }
    if (panels.is_leader()) store_wait();
}

// The whole product, by all threads of the block. a, b: maps with boxes of 64 k x M (K-major) or 64 m x 64 k (MN-major), and
// of B what a block of the cluster loads: 64 k x N / CLUSTER, or 64 n x 64 / CLUSTER k.
template <typename Tile, bool A_K_MAJOR, bool B_K_MAJOR, typename Epilogue>
__device__ __forceinline__ void wgmma_gemm(const Epilogue& out, const GlmaeTensorMap& a,
                                           const GlmaeTensorMap& b, int m, int n, int k,
                                           int k_part) {
    GLMAE_SWIZZLED_SHARED(glmae_swizzled_);
    constexpr int CONSUMER_WARPS = (Tile::PING_PONG ? 1 : 2) * WARPGROUP / WARP;
    constexpr int SUM_WARPS = Epilogue::ROW_SUMS ? Tile::M / 64 : 0;
    constexpr int PRODUCER_REGISTERS = Epilogue::PRODUCER_REGISTERS;
    static_assert(SUM_WARPS == 0 || !A_K_MAJOR, "rows are summed where A lies with k outside");
    const WgmmaShared<Tile> shared{glmae_swizzled_};
    const WgmmaWork<Tile> work(m, n, k, k_part);
    // The same for all lanes, which the compiler cannot know: addresses and descriptors then need one register a warp.
    const int warp = __shfl_sync(0xffffffffu, threadIdx.x / WARP, 0);
    if (threadIdx.x == 0) {
        prefetch_map(a);
        prefetch_map(b);
#pragma unroll
        for (int i = 0; i < Tile::STAGES; ++i) {
            mbarrier_init(shared.full(i), 1);
            mbarrier_init(shared.empty(i), Tile::CLUSTER * (CONSUMER_WARPS + SUM_WARPS));
        }
#pragma unroll
        for (int group = 0; group < 2; ++group) {
            mbarrier_init(shared.arrived(group), 1);
            mbarrier_init(shared.turn(group), WARPGROUP / WARP);
        }
        fence_mbarrier_init();
    }
    if constexpr (Tile::CLUSTER > 1) cluster_sync_relaxed();
    else __syncthreads();
    grid_wait();

    if (warp < WARPGROUP / WARP) {
        give_registers<PRODUCER_REGISTERS>();
        if (threadIdx.x == 0) {
            wgmma_produce<Tile, A_K_MAJOR, B_K_MAJOR>(shared, work, a, b);
            // What is left are the products of the last stages and their epilogue.
            grid_launch_dependents();
        } else if (warp > 0 && warp <= SUM_WARPS) {
            if constexpr (SUM_WARPS > 0) wgmma_row_sums<Tile>(shared, work, out, warp - 1);
        } else if (warp > 0) {
            if constexpr (Epilogue::FILLS) out.fill(warp - 1);
        }
    } else {
        take_registers<CONSUMER_REGISTERS<PRODUCER_REGISTERS>>();
        wgmma_consume<Tile, A_K_MAJOR, B_K_MAJOR>(shared, work, out, warp / 4 - 1);
    }
    // Others of the cluster may still write here, or arrive at a barrier here.
    if constexpr (Tile::CLUSTER > 1) {
        __syncwarp();
        cluster_sync();
    }
}

// The shapes that ops choose from (src/ops/gemm/hopper.rs has the same table).
//                                   rows, N, stages, ping-pong, cluster, panels
using WgmmaTile128x256 = WgmmaTile<64, 256, 4, false, 2, 2>;  // 224 KiB
using WgmmaTile128x192 = WgmmaTile<64, 192, 4, false, 2, 3>;  // 208
using WgmmaTile64x256 = WgmmaTile<64, 256, 4, true, 2, 4>;    // 224, a tile for each warpgroup
using WgmmaTile128x128 = WgmmaTile<128, 128, 5, true, 2, 2>;  // 224, likewise
using WgmmaTile64x64 = WgmmaTile<64, 64, 8, true, 1, 2>;      // 160, likewise; for what is too small to fill a GPU

}  // namespace GLMAE_NS
