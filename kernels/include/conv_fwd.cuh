// y (+)= conv(x) + bias for a brick of voxels and N output channels; see conv_brick.cuh.
//
// Four warps, each a plane of the brick: 32 voxels times N channels. Per chunk of channels three steps,
// one per plane of taps, each with its 9 taps of weights; copies run two steps ahead, weights in a ring
// of three, halos in two. Shared memory: 2 * 17280 + 3 * 288 N bytes; FEW (conv_brick.cuh): steps of three
// taps, one halo, 17280 + 3 * 96 N bytes and at least 512 N.
#pragma once
#include "conv_brick.cuh"
#include "staging.cuh"

namespace GLMAE_NS {

template <int N, bool FEW>
struct ConvTile {
    static constexpr int THREADS = 128, STEP_TAPS = FEW ? 3 : 9;
    static constexpr int WEIGHT_BYTES = STEP_TAPS * N * 32;  // of a step
    static constexpr int HALOS = FEW ? 1 : 2;
    static constexpr int SHARED_BYTES = HALOS * HALO_BYTES + 3 * WEIGHT_BYTES;

    // Of tap number `tap` of a plane, in bytes.
    static __device__ __forceinline__ constexpr int halo_of(int tap) {
        return ((FEW ? tap : tap / 3) * HALO_W + (FEW ? 0 : tap % 3)) * VOXEL_BYTES;
    }
    static_assert(BRICK * N * 4 <= SHARED_BYTES, "sums pass through the same memory");
};

// The halo's rows that this thread copies, two threads a voxel, so that they are worked out once per
// brick and not per chunk.
template <int THREADS>
struct HaloCopy {
    static constexpr int LOADS = (2 * HALO + THREADS - 1) / THREADS;
    int rows[LOADS];

    __device__ __forceinline__ void place(const BrickGrid& grid, int brick) {
        int volume, d0, h0, w0;
        grid.corner(brick, volume, d0, h0, w0);
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
            const int number = i * THREADS + static_cast<int>(threadIdx.x);
            rows[i] = grid.halo_row(volume, d0, h0, w0, piece_of<2>(number).voxel);
        }
    }
    template <typename T>
    __device__ __forceinline__ void load(unsigned char* halo, const Channels<T>& channels,
                                         int chunk) const {
        int width, first;
        const T* x = channels.find(chunk, width, first);
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
            const int number = i * THREADS + static_cast<int>(threadIdx.x);
            if (number >= 2 * HALO) break;
            const auto [voxel, piece] = piece_of<2>(number);
            copy_piece(halo + voxel * VOXEL_BYTES + piece * 16, x, rows[i], width,
                       first + piece * Vec<T>::N, channels.vectors);
        }
    }
};

// Sums of a warp's 32 voxels (row = 8 h + w) and N channels.
template <typename T, int N, bool FEW>
struct ConvSums;

template <int N, bool FEW>
struct ConvSums<bf16, N, FEW> {
    using Tile = ConvTile<N, FEW>;
    float c[2][N / 8][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
            for (int j = 0; j < N / 8; ++j) {
#pragma unroll
                for (int e = 0; e < 4; ++e) c[i][j][e] = 0.0f;
            }
        }
    }
    // The taps of plane `kd`: `halo` of this chunk, `weights` of this step.
    __device__ __forceinline__ void add(const unsigned char* halo, const unsigned char* weights,
                                        int kd) {
        const int lane = threadIdx.x % WARP, plane = threadIdx.x / WARP;
        // Matrices of a fragment of A: voxels of two lines, then the second half of the channels; of two
        // fragments of B: channels 0-7 in halves, channels 8-15 in halves.
        const unsigned char* a = halo + lane / 16 * 16 +
                                 halo_place(plane + kd, lane / 8 % 2, lane % 8) * VOXEL_BYTES;
        const unsigned char* b = weights + weight_place(lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
        for (int tap = 0; tap < Tile::STEP_TAPS; ++tap) {
            uint32_t fa[2][4], fb[N / 8][2];
#pragma unroll
            for (int i = 0; i < 2; ++i)
                ldmatrix_x4(fa[i], a + Tile::halo_of(tap) + halo_place(0, 2 * i, 0) * VOXEL_BYTES);
#pragma unroll
            for (int j = 0; j < N / 8; j += 2) {
                uint32_t r[4];
                ldmatrix_x4(r, b + (tap * N + j * 8) * 32);
                fb[j][0] = r[0], fb[j][1] = r[1], fb[j + 1][0] = r[2], fb[j + 1][1] = r[3];
            }
#pragma unroll
            for (int i = 0; i < 2; ++i) {
#pragma unroll
                for (int j = 0; j < N / 8; ++j) mma_m16n8k16_bf16(c[i][j], fa[i], fb[j], c[i][j]);
            }
        }
    }
    __device__ __forceinline__ void stage(float* to) const {
#pragma unroll
        for (int i = 0; i < 2; ++i) stage_fragments<N>(to, i * 16, c[i]);
    }
};

// A thread owns the four voxels (h, lane / 4) and every fourth channel from lane % 4 on.
template <int N, bool FEW>
struct ConvSums<float, N, FEW> {
    using Tile = ConvTile<N, FEW>;
    float c[4][N / 4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
            for (int j = 0; j < N / 4; ++j) c[i][j] = 0.0f;
        }
    }
    __device__ __forceinline__ void add(const unsigned char* halo, const unsigned char* weights,
                                        int kd) {
        const int lane = threadIdx.x % WARP, plane = threadIdx.x / WARP;
        const unsigned char* a = halo + halo_place(plane + kd, 0, lane / 4) * VOXEL_BYTES;
#pragma unroll 1
        for (int tap = 0; tap < Tile::STEP_TAPS; ++tap) {
            const unsigned char* at = a + Tile::halo_of(tap);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float4 x[4];
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    x[i] = *reinterpret_cast<const float4*>(
                        at + halo_place(0, i, 0) * VOXEL_BYTES + half * 16);
#pragma unroll
                for (int j = 0; j < N / 4; ++j) {
                    const int n = j * 4 + lane % 4;
                    const float4 w = *reinterpret_cast<const float4*>(
                        weights + tap * N * 32 + weight_place(n, half));
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        c[i][j] = fmaf(x[i].x, w.x, c[i][j]);
                        c[i][j] = fmaf(x[i].y, w.y, c[i][j]);
                        c[i][j] = fmaf(x[i].z, w.z, c[i][j]);
                        c[i][j] = fmaf(x[i].w, w.w, c[i][j]);
                    }
                }
            }
        }
    }
    __device__ __forceinline__ void stage(float* to) const {
        const int lane = threadIdx.x % WARP;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
            for (int j = 0; j < N / 4; ++j)
                to[staged<N>(i * BRICK_W + lane / 4, j) + lane % 4] = c[i][j];
        }
    }
};

// Grid: bricks, tiles of N output channels. `weights`: as conv3d_init packs them. mode GLMAE_GRAD_*.
template <typename T, int N, bool FEW>
__device__ __forceinline__ void conv3d_fwd(T* y, const T* a, const T* b, const T* weights,
                                           const float* bias, const BrickGrid& grid, int width_a,
                                           int width_b, int out, int mode) {
    using Tile = ConvTile<N, FEW>;
    GLMAE_DYNAMIC_SHARED(unsigned char, shared);
    unsigned char* const ring = shared + Tile::HALOS * HALO_BYTES;
    const Channels<T> channels(a, b, width_a, width_b);
    const int brick = blockIdx.x, column0 = blockIdx.y * N;
    int volume, d0, h0, w0;
    grid.corner(brick, volume, d0, h0, w0);
    HaloCopy<Tile::THREADS> copy;
    if constexpr (!FEW) copy.place(grid, brick);
    const int steps = 3 * channels.chunks();
    const unsigned char* from = reinterpret_cast<const unsigned char*>(weights) +
                                static_cast<int64_t>(blockIdx.y) * steps * Tile::WEIGHT_BYTES;
    auto fill = [&](int step) {
        if (step < steps) {
            if constexpr (!FEW) {
                if (step % 3 == 0) copy.load(shared + step / 3 % 2 * HALO_BYTES, channels, step / 3);
            } else if (step == 0) {
#pragma unroll
                for (int i = threadIdx.x; i < FEW_PIECES; i += Tile::THREADS)
                    copy_few(shared, a, grid, volume, d0, h0, w0, width_a, i);
            }
            unsigned char* to = ring + step % 3 * Tile::WEIGHT_BYTES;
#pragma unroll
            for (int i = threadIdx.x * 16; i < Tile::WEIGHT_BYTES; i += Tile::THREADS * 16)
                cp_async_16(to + i, from + static_cast<int64_t>(step) * Tile::WEIGHT_BYTES + i);
        }
        // Also an empty group: the number of groups tells which step has arrived.
        cp_async_commit();
    };
    ConvSums<T, N, FEW> sums;
    sums.clear();
    fill(0);
    fill(1);
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<1>();
        // This step is there for all, and all are done with the one whose place is filled next.
        __syncthreads();
        fill(step + 2);
        sums.add(shared + step / 3 % Tile::HALOS * HALO_BYTES, ring + step % 3 * Tile::WEIGHT_BYTES,
                 step % 3);
    }
    cp_async_wait<0>();
    __syncthreads();  // `shared` is free from here on

    constexpr int C = Vec<T>::N, PER_ROW = N / C;
    const int lane = threadIdx.x % WARP, plane = threadIdx.x / WARP;
    float* stage = reinterpret_cast<float*>(shared) + plane * WARP * N;
    sums.stage(stage);
    __syncwarp();
    const bool vectors = out % C == 0 && is_aligned_16(y) && is_aligned_16(bias);
#pragma unroll 1
    for (int i = lane; i < WARP * PER_ROW; i += WARP) {
        const int voxel = i / PER_ROW, column = column0 + i % PER_ROW * C;
        const int row = grid.row(volume, d0 + plane, h0 + voxel / BRICK_W, w0 + voxel % BRICK_W);
        const int left = out - column;
        if (row < 0 || left <= 0) continue;
        float v[C];
        take_staged<N>(v, stage, voxel, column - column0);
        if (bias) {
#pragma unroll
            for (int j = 0; j < C; ++j) v[j] += j < left ? bias[column + j] : 0.0f;
        }
        const int64_t at = static_cast<int64_t>(row) * out + column;
        if (mode == GLMAE_GRAD_ACCUMULATE) {
            float held[C];
            load_columns(held, y, at, left, vectors);
#pragma unroll
            for (int j = 0; j < C; ++j) v[j] += held[j];
        }
        store_columns(y, at, v, left, vectors);
    }
}

// The weights in the order in which blocks read them, halves of rows exchanged as weight_place says:
// [tiles of N channels, chunks, taps, N, CHUNK], zeros where there is no channel. One thread per
// element. Weight (n, c, tap) is at first + n * n_stride + c * c_stride + tap, with the taps mirrored
// for the gradient of an input. `few`: 9 taps, whose rows hold the taps along w and their channels.
template <typename T>
__device__ __forceinline__ void conv3d_init(T* packed, const float* weight, int64_t count, int tile,
                                            int n, int width_a, int width_b, int64_t first,
                                            int64_t n_stride, int64_t c_stride, int mirrored,
                                            int few) {
    constexpr int E = CHUNK<T>, HALF = E / 2;
    const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const int taps = few ? TAPS / 3 : TAPS;
    const int chunks_a = few ? 1 : (width_a + E - 1) / E, chunks = chunks_a + (width_b + E - 1) / E;
    const int element = static_cast<int>(i % E), line = static_cast<int>(i / E);
    const int row = line % tile, chunk = line / (tile * taps) % chunks;
    const int channel = line / (tile * taps) / chunks * tile + row;
    const bool is_a = chunk < chunks_a;
    const int half = (element / HALF ^ row >> 2) & 1, within = half * HALF + element % HALF;
    int tap = line / tile % taps, c = (is_a ? chunk : chunk - chunks_a) * E + within;
    if (few) tap = tap * 3 + within / width_a, c = within % width_a;
    const bool exists = few ? within < 3 * width_a : c < (is_a ? width_a : width_b);
    float w = 0.0f;
    if (channel < n && exists) {
        const int64_t of = is_a ? c : width_a + c;
        w = weight[first + channel * n_stride + of * c_stride + (mirrored ? TAPS - 1 - tap : tap)];
    }
    packed[i] = from_float<T>(w);
}

}  // namespace GLMAE_NS
