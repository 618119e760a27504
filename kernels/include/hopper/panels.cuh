// The way of sums from the registers of a warpgroup to global memory, and of what they are combined with from there: panels
// of 128-byte rows in shared memory, swizzled as the copy engine wants them (tma.cuh).
//
//     sums of 64 rows (warp w has rows 16 w .. 16 w + 15)      panels of 64 columns of bf16, or 32 of f32
//     | 8 columns | 8 columns | ...                  --->      | panel 0 | panel 1 | ...     one box each
//
// bf16: a matrix of 8 x 8 is one 16-byte piece of eight rows, so stmatrix writes four of them without a conflict of banks,
// and ldmatrix reads what a copy has put there in the very layout of the sums.
// f32: a thread has 8 bytes of a row, four threads 32. Half a warp is a request and holds four rows; rows whose pieces lie
// in the same banks would meet, so odd rows are half a panel ahead.
#pragma once
#include "tma.cuh"
#include "warpgroup.cuh"

namespace GLMAE_NS {

// Place, in bytes, where this lane's matrix of four has its row: rows 0 to 7 and 8 to 15 of pieces `piece`, `piece` + 1.
template <int Span>
__device__ __forceinline__ int panel_place(int row0, int piece) {
    const int lane = threadIdx.x % WARP;
    return swizzled<Span>(row0 + (lane & 15), piece + lane / 16);
}

// Eight sums of 16 columns, rounded: four matrices of 8 x 8, and the A of a product (wgmma.cuh).
__device__ __forceinline__ void rounded(uint32_t (&r)[4], const float* v) {
#pragma unroll
    for (int i = 0; i < 4; ++i) r[i] = Vec<bf16>::pack_bf16(v[2 * i], v[2 * i + 1]);
}

// Four matrices of 8 x 8; lane i says where row i % 8 of matrix i / 8 goes.
__device__ __forceinline__ void store_matrices(void* row, const uint32_t (&v)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};\n" ::"r"(
                     shared_address(row)),
                 "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3])
                 : "memory");
}
// Rows and rows + 8 of piece `piece`, then of the next.
template <int Span>
__device__ __forceinline__ void panel_store(unsigned char* panel, int row0, int piece,
                                            const uint32_t (&v)[4]) {
    store_matrices(panel + panel_place<Span>(row0, piece), v);
}
// Eight sums of 16 columns, from piece `piece` on: {row, row, row + 8, row + 8} of the first 8 columns, then of the others.
template <int Span = SWIZZLED_ROW>
__device__ __forceinline__ void panel_store(unsigned char* panel, int row0, int piece,
                                            const float (&v)[8]) {
    uint32_t r[4];
    rounded(r, v);
    panel_store<Span>(panel, row0, piece, r);
}
template <int Span = SWIZZLED_ROW>
__device__ __forceinline__ void panel_load(const unsigned char* panel, int row0, int piece,
                                           float (&v)[8]) {
    uint32_t r[4];
    ldmatrix_x4(r, panel + panel_place<Span>(row0, piece));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        v[2 * i] = __uint_as_float(r[i] << 16);
        v[2 * i + 1] = __uint_as_float(r[i] & 0xffff0000u);
    }
}

// The 16 sums that a thread has of 32 columns in two rows, as f32.
__device__ __forceinline__ void panel_store(unsigned char* panel, int row0, const float* d) {
    const int lane = threadIdx.x % WARP, row = row0 + lane / 4;
    const bool ahead = row & 1;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int j = ahead ? i ^ 2 : i;
        float v[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) v[e] = ahead ? d[4 * (i ^ 2) + e] : d[4 * i + e];
        unsigned char* at = panel + swizzled_128(row, 2 * j + lane % 4 / 2) + lane % 2 * 8;
        store_pair_shared(reinterpret_cast<float*>(at), v[0], v[1]);
        // Eight rows further the swizzle is the same.
        store_pair_shared(reinterpret_cast<float*>(at + 8 * SWIZZLED_ROW), v[2], v[3]);
    }
}

// The panels of one warpgroup: `SLOTS` buffers, taken in turn.
template <int ROWS_, int SLOTS_>
struct Panels {
    static constexpr int ROWS = ROWS_, SLOTS = SLOTS_, BYTES = ROWS * SWIZZLED_ROW;
    unsigned char* buffers;
    uint64_t* arrived;  // counts the bytes of what is loaded
    int group;
    uint32_t parity = 0;
    int taken = 0;

    __device__ __forceinline__ Panels(unsigned char* buffers, uint64_t* arrived, int group)
        : buffers(buffers), arrived(arrived), group(group) {}

    // One thread starts all copies of a warpgroup: groups of copies are counted by thread.
    __device__ __forceinline__ bool is_leader() const { return threadIdx.x % WARPGROUP == 0; }
    __device__ __forceinline__ int row0() const { return threadIdx.x % WARPGROUP / WARP * 16; }
    __device__ __forceinline__ unsigned char* slot(int i) const {
        return buffers + i % SLOTS * BYTES;
    }

    // By the leader: `most` panels of a tile, those within the matrix, once no store reads the buffers any more.
    __device__ __forceinline__ void fetch(const GlmaeTensorMap& map, int most, int column0,
                                          int columns, int row0, int width) {
        store_wait_read<0>();
        const int panels = min(most, (columns - column0 + width - 1) / width);
        mbarrier_expect(arrived, panels * BYTES);
        for (int p = 0; p < panels; ++p) load_box(slot(p), map, column0 + p * width, row0, arrived);
    }
    __device__ __forceinline__ void await() {
        mbarrier_wait(arrived, parity);
        parity ^= 1;
    }

    // The next `EACH` buffers, free to be written by all: each group of copies has as many, and so the oldest has been read.
    template <int EACH>
    __device__ __forceinline__ unsigned char* take() {
        constexpr int HELD = SLOTS / EACH;
        if (is_leader()) store_wait_read<HELD - 1>();
        warpgroup_sync(group);
        unsigned char* free = slot(taken * EACH);
        if (++taken == HELD) taken = 0;
        return free;
    }
    // After it was written: everybody's stores are there for the copy engine. True for the thread that is to copy.
    __device__ __forceinline__ bool publish() const {
        fence_async();
        warpgroup_sync(group);
        return is_leader();
    }
};

}  // namespace GLMAE_NS
