// 3 x 3 x 3 convolution of channels-last volumes, a brick of 4 x 4 x 8 voxels at a time.
//
// A block copies the brick and its halo, 6 x 6 x 10 voxels, to shared memory once per CHUNK of 32
// bytes of channels (16 bf16, 8 f32). There row `halo voxel + tap` of the im2col matrix is an address,
// so the 27 taps cost no copies: from L2 comes 2.8 times the brick instead of 27 times. Halo voxels
// outside of the volume and channels behind the last are zeros.
//
// Voxels lie 48 bytes apart: eight neighbours along w, the rows of an ldmatrix, then meet eight
// different groups of four banks, and the address of a tap is a constant away from that of another.
#pragma once
#include "gemm_epilogue.cuh"

namespace GLMAE_NS {

constexpr int BRICK_D = 4, BRICK_H = 4, BRICK_W = 8, BRICK = BRICK_D * BRICK_H * BRICK_W;
constexpr int HALO_H = BRICK_H + 2, HALO_W = BRICK_W + 2, HALO = (BRICK_D + 2) * HALO_H * HALO_W;
constexpr int VOXEL_BYTES = 48, HALO_BYTES = HALO * VOXEL_BYTES;
constexpr int TAPS = 27;

template <typename T>
constexpr int CHUNK = 32 / sizeof(T);

// Distance in halo voxels of voxel (d, h, w) of the brick from its corner, or of a tap from tap 0.
__device__ __forceinline__ int halo_place(int d, int h, int w) {
    return (d * HALO_H + h) * HALO_W + w;
}

// Sizes of a launch: voxels of a volume along d, h, w; volumes.
struct BrickGrid {
    int d, h, w;

    // First voxel of brick number `index` (bricks along w fastest), and its volume.
    __device__ __forceinline__ void corner(int index, int& volume, int& d0, int& h0,
                                           int& w0) const {
        const int across = (w + BRICK_W - 1) / BRICK_W, down = (h + BRICK_H - 1) / BRICK_H;
        const int deep = (d + BRICK_D - 1) / BRICK_D;
        w0 = index % across * BRICK_W, index /= across;
        h0 = index % down * BRICK_H, index /= down;
        d0 = index % deep * BRICK_D, volume = index / deep;
    }
    // Row of a voxel in the matrix of voxels, -1 outside of the volume. There are fewer than 2^31 rows;
    // elements are counted in 64 bits.
    __device__ __forceinline__ int row(int volume, int z, int y, int x) const {
        const bool inside = z >= 0 && z < d && y >= 0 && y < h && x >= 0 && x < w;
        return inside ? ((volume * d + z) * h + y) * w + x : -1;
    }
    // Row of voxel number `voxel` of the halo of the brick at a corner.
    __device__ __forceinline__ int halo_row(int volume, int d0, int h0, int w0, int voxel) const {
        const int z = voxel / (HALO_H * HALO_W), y = voxel / HALO_W % HALO_H;
        return row(volume, d0 + z - 1, h0 + y - 1, w0 + voxel % HALO_W - 1);
    }
};

// The voxel that copy number `i` is for, and which of its PIECES pieces of 16 bytes: eight neighbouring threads take the
// same piece of eight voxels, which like the rows of an ldmatrix meet eight different groups of four banks.
struct PieceOf {
    int voxel, piece;
};
template <int PIECES>
__device__ __forceinline__ PieceOf piece_of(int i) {
    static_assert(HALO % 8 == 0 && BRICK % 8 == 0, "whole groups of voxels");
    return {i / (8 * PIECES) * 8 + i % 8, i / 8 % PIECES};
}

// A 16-byte piece of a row of `width` elements from element `at` on, into shared memory; elements at
// or behind `width`, and all of row -1, arrive as zeros. `vectors`: the data is aligned and `width`
// a multiple of a piece.
template <typename T>
__device__ __forceinline__ void copy_piece(void* to, const T* data, int row, int width, int at,
                                           bool vectors) {
    constexpr int N = Vec<T>::N;
    const int left = row < 0 ? 0 : width - at;
    const T* from = data + (static_cast<int64_t>(max(row, 0)) * width + at);
    if (vectors) {
        cp_async_16(to, from, left > 0 ? 16 : 0);
        return;
    }
    uint32_t word[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if constexpr (sizeof(T) == 2) {
            const uint32_t low = 2 * i < left ? __bfloat16_as_ushort(from[2 * i]) : 0;
            const uint32_t high = 2 * i + 1 < left ? __bfloat16_as_ushort(from[2 * i + 1]) : 0;
            word[i] = low | high << 16;
        } else {
            word[i] = i < left ? __float_as_uint(from[i]) : 0;
        }
    }
    static_assert(N * sizeof(T) == 16, "a piece");
    store_whole(static_cast<uint4*>(to), make_uint4(word[0], word[1], word[2], word[3]));
}

// FEW: one input of so few channels that its three taps along w fit a chunk (5 in bf16, 2 in f32). A
// voxel then holds its own and its neighbours' channels, which are neighbours in memory, and 9 taps
// remain; a third of the products and of the shared memory traffic. Row `place` of the halo is voxel
// x = 0 .. 7 of the brick; this copies a half of it.
template <typename T>
__device__ __forceinline__ void copy_few(unsigned char* halo, const T* data, const BrickGrid& grid,
                                         int volume, int d0, int h0, int w0, int channels,
                                         int i) {
    constexpr int N = Vec<T>::N;
    const auto [voxel, piece] = piece_of<2>(i);
    const int x = voxel % BRICK_W, y = voxel / BRICK_W % HALO_H;
    const int z = voxel / (BRICK_W * HALO_H);
    const int row = grid.row(volume, d0 + z - 1, h0 + y - 1, w0 + x);
    const int begin = w0 + x == 0 ? channels : 0;
    const int end = row < 0 ? 0 : (w0 + x == grid.w - 1 ? 2 : 3) * channels;
    const T* from = data + (static_cast<int64_t>(max(row, 0)) - 1) * channels;
    float v[N];
#pragma unroll
    for (int j = 0; j < N; ++j) {
        const int at = piece * N + j;
        v[j] = at >= begin && at < end ? to_float(from[at]) : 0.0f;
    }
    Vec<T> out;
    out.pack(v);
    store_vec(reinterpret_cast<T*>(halo + halo_place(z, y, x) * VOXEL_BYTES + piece * 16), 0, out);
}
constexpr int FEW_PIECES = 2 * (BRICK_D + 2) * HALO_H * BRICK_W;

// The channels of one or two inputs, cut into chunks: those of a, then those of b.
template <typename T>
struct Channels {
    const T* a;
    const T* b;
    int width_a, width_b;
    bool vectors;

    __device__ __forceinline__ Channels(const T* a, const T* b, int width_a, int width_b)
        : a(a), b(b), width_a(width_a), width_b(width_b),
          vectors(width_a % Vec<T>::N == 0 && width_b % Vec<T>::N == 0 && is_aligned_16(a) &&
                  is_aligned_16(b)) {}

    static __device__ __forceinline__ int chunks(int width) {
        return (width + CHUNK<T> - 1) / CHUNK<T>;
    }
    __device__ __forceinline__ int chunks() const { return chunks(width_a) + chunks(width_b); }

    // Where a chunk lies: matrix [rows, width], its first channel there.
    __device__ __forceinline__ const T* find(int chunk, int& width, int& first) const {
        const int of_a = chunks(width_a);
        const bool is_a = chunk < of_a;
        width = is_a ? width_a : width_b, first = (is_a ? chunk : chunk - of_a) * CHUNK<T>;
        return is_a ? a : b;
    }
};

// Place of a 16-byte half of row `n` of packed weights, in bytes: halves change places every four rows,
// which spreads the rows of an ldmatrix over the banks without gaps.
__device__ __forceinline__ int weight_place(int n, int half) {
    return n * 32 + ((half ^ n >> 2) & 1) * 16;
}

}  // namespace GLMAE_NS
