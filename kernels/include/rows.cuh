// Pieces that the data-movement and loss kernels share: N neighbouring elements as f32, rows that are
// copied, reductions of pairs and maxima in a fixed order.
#pragma once

namespace GLMAE_NS {

// N elements of T from element `i` on, as f32. N = 1, or a multiple of 4 with `p + i` aligned to
// min(16, N * sizeof(T)) bytes.
template <int N>
__device__ __forceinline__ void load_elements(const float* p, int64_t i, float (&v)[N]) {
    if constexpr (N % 4 == 0) {
#pragma unroll
        for (int k = 0; k < N; k += 4) {
            const float4 f = __ldcs(reinterpret_cast<const float4*>(p + i + k));
            v[k] = f.x, v[k + 1] = f.y, v[k + 2] = f.z, v[k + 3] = f.w;
        }
    } else {
#pragma unroll
        for (int k = 0; k < N; ++k) v[k] = p[i + k];
    }
}
template <int N>
__device__ __forceinline__ void load_elements(const bf16* p, int64_t i, float (&v)[N]) {
    if constexpr (N % 4 == 0) {
#pragma unroll
        for (int k = 0; k < N; k += 8) {
            if constexpr (N % 8 == 0) {
                float w[8];
                load_vec_streaming(p, i + k).unpack(w);
#pragma unroll
                for (int l = 0; l < 8; ++l) v[k + l] = w[l];
            } else {
                const uint2 r = __ldcs(reinterpret_cast<const uint2*>(p + i + k));
                v[k] = __uint_as_float(r.x << 16), v[k + 1] = __uint_as_float(r.x & 0xffff0000u);
                v[k + 2] = __uint_as_float(r.y << 16), v[k + 3] = __uint_as_float(r.y & 0xffff0000u);
            }
        }
    } else {
#pragma unroll
        for (int k = 0; k < N; ++k) v[k] = to_float(p[i + k]);
    }
}

// The counterpart of load_elements. The intrinsic keeps the compiler from splitting a 16-byte store.
template <int N>
__device__ __forceinline__ void store_elements(float* p, int64_t i, const float (&v)[N]) {
    if constexpr (N % 4 == 0) {
#pragma unroll
        for (int k = 0; k < N; k += 4)
            __stcg(reinterpret_cast<float4*>(p + i + k),
                   make_float4(v[k], v[k + 1], v[k + 2], v[k + 3]));
    } else {
#pragma unroll
        for (int k = 0; k < N; ++k) p[i + k] = v[k];
    }
}
template <int N>
__device__ __forceinline__ void store_elements(bf16* p, int64_t i, const float (&v)[N]) {
    if constexpr (N % 8 == 0) {
#pragma unroll
        for (int k = 0; k < N; k += 8) {
            __stcg(reinterpret_cast<uint4*>(p + i + k),
                   make_uint4(Vec<bf16>::pack_bf16(v[k], v[k + 1]),
                              Vec<bf16>::pack_bf16(v[k + 2], v[k + 3]),
                              Vec<bf16>::pack_bf16(v[k + 4], v[k + 5]),
                              Vec<bf16>::pack_bf16(v[k + 6], v[k + 7])));
        }
    } else if constexpr (N == 4) {
        __stcg(reinterpret_cast<uint2*>(p + i), make_uint2(Vec<bf16>::pack_bf16(v[0], v[1]),
                                                           Vec<bf16>::pack_bf16(v[2], v[3])));
    } else {
#pragma unroll
        for (int k = 0; k < N; ++k) p[i + k] = from_float<bf16>(v[k]);
    }
}

// One warp copies a row of c elements; four 16-byte loads under way before the first store.
template <typename T>
__device__ __forceinline__ void copy_row(T* to, const T* from, int c, bool vectors) {
    const int lane = threadIdx.x % WARP;
    if (!vectors) {
        for (int j = lane; j < c; j += WARP) to[j] = from[j];
        return;
    }
    constexpr int N = Vec<T>::N, STEP = WARP * N, BATCH = 4;
    for (int base = lane * N; base < c; base += STEP * BATCH) {
        Vec<T> held[BATCH] = {};
#pragma unroll
        for (int i = 0; i < BATCH; ++i)
            if (base + i * STEP < c) held[i] = load_vec_streaming(from, base + i * STEP);
#pragma unroll
        for (int i = 0; i < BATCH; ++i)
            if (base + i * STEP < c) store_vec(to, base + i * STEP, held[i]);
    }
}

// The gradient of taking rows, where every row was taken at most once: row r of dx gets row taken[r]
// of dy, rows that were not taken (-1) get zeros; with `accumulate` both are added to what is there.
// One warp per row. No two rows meet, so nothing is summed in an order.
template <typename T>
__device__ __forceinline__ void give_rows_back(T* dx, const T* dy, const int* taken, int64_t rows,
                                               int c, bool accumulate) {
    constexpr int N = Vec<T>::N;
    const int lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / WARP;
    if (row >= rows) return;
    const bool vectors = c % N == 0 && is_aligned_16(dx) && is_aligned_16(dy);
    const int64_t from = taken[row];
    T* to = dx + row * c;
    if (!accumulate && from >= 0) {
        copy_row(to, dy + from * c, c, vectors);
    } else if (!accumulate) {
        if (vectors) {
            for (int j = lane * N; j < c; j += WARP * N) store_vec(to, j, Vec<T>{make_uint4(0, 0, 0, 0)});
        } else {
            for (int j = lane; j < c; j += WARP) to[j] = from_float<T>(0.0f);
        }
    } else if (from >= 0) {
        const T* source = dy + from * c;
        if (vectors) {
            float a[N], b[N];
            for (int j = lane * N; j < c; j += WARP * N) {
                load_elements<N>(to, j, a);
                load_elements<N>(source, j, b);
#pragma unroll
                for (int k = 0; k < N; ++k) a[k] += b[k];
                store_elements<N>(to, j, a);
            }
        } else {
            for (int j = lane; j < c; j += WARP)
                to[j] = from_float<T>(to_float(to[j]) + to_float(source[j]));
        }
    }
}

// Sums of two values over a block of whole warps; every thread gets both. `scratch`: 64 floats, free
// again on return. Fixed order, as block_sum.
__device__ __forceinline__ float2 block_sum_pair(float x, float y, float* scratch) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int warps = blockDim.x / WARP;
    x = warp_sum(x), y = warp_sum(y);
    if (lane == 0) scratch[warp] = x, scratch[WARP + warp] = y;
    __syncthreads();
    x = warp_sum(lane < warps ? scratch[lane] : 0.0f);
    y = warp_sum(lane < warps ? scratch[WARP + lane] : 0.0f);
    __syncthreads();
    return make_float2(x, y);
}

// Largest value of a block of whole warps, as block_sum.
__device__ __forceinline__ float block_largest(float x, float* scratch) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int warps = blockDim.x / WARP;
    x = warp_max(x);
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    x = warp_max(lane < warps ? scratch[lane] : -INFINITY);
    __syncthreads();
    return x;
}

// How elementwise kernels cover a flat array: block b owns the elements from b * FLAT_TILE on.
// A whole tile of an aligned array takes FLAT_UNITS units of 16 bytes per thread.
constexpr int FLAT_THREADS = 256, FLAT_UNITS = 4;
template <typename T>
constexpr int FLAT_TILE = FLAT_THREADS * FLAT_UNITS * Vec<T>::N;

// x[i] *= factor, in place, for the tile of this block.
template <typename T>
__device__ __forceinline__ void scale_tile(T* x, float factor, int64_t n) {
    constexpr int N = Vec<T>::N;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * FLAT_TILE<T>;
    if (is_aligned_16(x) && first + FLAT_TILE<T> <= n) {
        Vec<T> held[FLAT_UNITS];
        float v[N];
#pragma unroll
        for (int i = 0; i < FLAT_UNITS; ++i)
            held[i] = load_vec_streaming(x, first + (i * FLAT_THREADS + threadIdx.x) * N);
#pragma unroll
        for (int i = 0; i < FLAT_UNITS; ++i) {
            held[i].unpack(v);
#pragma unroll
            for (int k = 0; k < N; ++k) v[k] *= factor;
            held[i].pack(v);
            store_vec(x, first + (i * FLAT_THREADS + threadIdx.x) * N, held[i]);
        }
        return;
    }
    const int64_t end = min(first + FLAT_TILE<T>, n);
    for (int64_t i = first + threadIdx.x; i < end; i += FLAT_THREADS)
        x[i] = from_float<T>(to_float(x[i]) * factor);
}

}  // namespace GLMAE_NS
