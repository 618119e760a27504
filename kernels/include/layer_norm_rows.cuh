// How the lanes of a warp walk over one row of a layer norm, and where they keep f32 values of its columns.
#pragma once

namespace GLMAE_NS {

// The first column of a lane's piece `i` of a row, where pieces of 16 bytes lie side by side in a warp.
template <typename T>
__device__ __forceinline__ int layer_norm_column(int i) {
    return (i * WARP + static_cast<int>(threadIdx.x % WARP)) * Vec<T>::N;
}

// gamma and beta are f32 whatever T is: `N` of them, 16 bytes at a time.
template <int N>
__device__ __forceinline__ void load_f32(const float* p, int i, float (&v)[N]) {
    if constexpr (N == 1) {
        v[0] = __ldg(p + i);
    } else {
#pragma unroll
        for (int k = 0; k < N; k += 4) {
            const float4 f = __ldg(reinterpret_cast<const float4*>(p + i + k));
            v[k] = f.x, v[k + 1] = f.y, v[k + 2] = f.z, v[k + 3] = f.w;
        }
    }
}

// Room for one f32 value of each column in shared memory.
__device__ __forceinline__ int layer_norm_room(int c) { return (c + 255) / 256 * 256; }

// Where column `j` stands among them. Of bf16 a lane has eight columns, two quads of 16 bytes. In their own
// order, quads of neighbouring lanes would be 32 bytes apart, and a quarter of a warp would meet each bank
// twice. So quad 0 of all lanes lies before quad 1 of all lanes:
//
//     columns    0..3   4..7   8..11  12..15  ...   252..255
//     quad       0      36     1      37            59          (lane, or 32 + (lane ^ 4))
//
// The ^ 4 is for those who go column by column: quads 0 and 1 of four lanes then fill all 32 banks.
template <int N>
__device__ __forceinline__ int layer_norm_place(int j) {
    if constexpr (N == 8) {
        const int lane = j / 8 % WARP, second = j / 4 % 2;
        return j / 256 * 256 + second * 128 + (lane ^ (4 * second)) * 4 + j % 4;
    } else {
        return j;
    }
}

// The `N` values of the columns from `j` on.
template <int N>
__device__ __forceinline__ void layer_norm_take(const float* from, int j, float (&v)[N]) {
#pragma unroll
    for (int k = 0; k < N; k += 4) {
        const float4 f = load_whole(
            reinterpret_cast<const float4*>(from + layer_norm_place<N>(j + k)));
        v[k] = f.x, v[k + 1] = f.y, v[k + 2] = f.z, v[k + 3] = f.w;
    }
}

// Starts to bring the `c` values at `from` to their places in shared memory. They are there behind
// cp_async_wait and a barrier of the block.
template <int N>
__device__ __forceinline__ void layer_norm_stage(float* to, const float* from, int c) {
    for (int j = threadIdx.x * 4; j < c; j += blockDim.x * 4) {
        cp_async_16(to + layer_norm_place<N>(j), from + j);
    }
}

}  // namespace GLMAE_NS
