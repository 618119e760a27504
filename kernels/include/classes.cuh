// Rows of class scores [rows, k] through shared memory: read from device memory as one contiguous run of
// 16-byte vectors, then used one row per thread or one class per thread.
#pragma once

namespace GLMAE_NS {

constexpr int CLASS_THREADS = 128;

// n elements, a contiguous run, into shared memory as f32. The caller puts a barrier behind it.
__device__ __forceinline__ void class_load(float* tile, const float* from, int n) {
    const int vectors = is_aligned_16(from) ? n / 4 : 0;
#pragma unroll 4
    for (int i = threadIdx.x; i < vectors; i += CLASS_THREADS)
        store_whole(reinterpret_cast<float4*>(tile) + i,
                    __ldcs(reinterpret_cast<const float4*>(from) + i));
    for (int i = 4 * vectors + static_cast<int>(threadIdx.x); i < n; i += CLASS_THREADS)
        tile[i] = from[i];
}
__device__ __forceinline__ void class_load(float* tile, const bf16* from, int n) {
    const int vectors = is_aligned_16(from) ? n / 8 : 0;
#pragma unroll 2
    for (int i = threadIdx.x; i < vectors; i += CLASS_THREADS) {
        float v[8];
        load_vec_streaming(from, 8 * static_cast<int64_t>(i)).unpack(v);
        store_whole(reinterpret_cast<float4*>(tile) + 2 * i, make_float4(v[0], v[1], v[2], v[3]));
        store_whole(reinterpret_cast<float4*>(tile) + 2 * i + 1, make_float4(v[4], v[5], v[6], v[7]));
    }
    for (int i = 8 * vectors + static_cast<int>(threadIdx.x); i < n; i += CLASS_THREADS)
        tile[i] = to_float(from[i]);
}

// The counterpart of class_load; `accumulate`: adds to what is there.
__device__ __forceinline__ void class_store(float* to, const float* tile, int n, bool accumulate) {
    const int vectors = is_aligned_16(to) ? n / 4 : 0;
#pragma unroll 2
    for (int i = threadIdx.x; i < vectors; i += CLASS_THREADS) {
        float4 v = load_whole(reinterpret_cast<const float4*>(tile) + i);
        float4* const out = reinterpret_cast<float4*>(to) + i;
        if (accumulate) {
            const float4 was = load_whole(out);
            v.x += was.x, v.y += was.y, v.z += was.z, v.w += was.w;
        }
        __stcg(out, v);
    }
    for (int i = 4 * vectors + static_cast<int>(threadIdx.x); i < n; i += CLASS_THREADS)
        to[i] = accumulate ? to[i] + tile[i] : tile[i];
}

// The class at which a thread begins its row. Rows k words apart meet in a bank every 32 / gcd(k, 32) rows;
// each such round begins one class further on.
__device__ __forceinline__ int class_start(int k) {
    const int shared = min(k & -k, WARP);
    return static_cast<int>(threadIdx.x) % WARP / (WARP / shared) % k;
}
__device__ __forceinline__ int class_next(int j, int k) { return j + 1 == k ? 0 : j + 1; }

}  // namespace GLMAE_NS
