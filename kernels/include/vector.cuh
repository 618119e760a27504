// 16-byte loads and stores of any element type, and conversions to and from f32.
#pragma once

namespace GLMAE_NS {

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }

template <typename T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
    return __float2bfloat16(x);
}

// 16 bytes of T in registers: 4 f32 or 8 bf16. Addresses must be 16-byte aligned.
template <typename T>
struct Vec;

template <>
struct Vec<float> {
    static constexpr int N = 4;
    uint4 raw;
    __device__ __forceinline__ void unpack(float (&v)[N]) const {
        v[0] = __uint_as_float(raw.x), v[1] = __uint_as_float(raw.y);
        v[2] = __uint_as_float(raw.z), v[3] = __uint_as_float(raw.w);
    }
    __device__ __forceinline__ void pack(const float (&v)[N]) {
        raw = make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]),
                         __float_as_uint(v[3]));
    }
};

template <>
struct Vec<bf16> {
    static constexpr int N = 8;
    uint4 raw;
    // bf16 is the high half of an f32.
    __device__ __forceinline__ void unpack(float (&v)[N]) const {
        const uint32_t r[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            v[2 * i] = __uint_as_float(r[i] << 16);
            v[2 * i + 1] = __uint_as_float(r[i] & 0xffff0000u);
        }
    }
    __device__ __forceinline__ void pack(const float (&v)[N]) {
        raw = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]),
                         pack_bf16(v[6], v[7]));
    }
    __device__ static __forceinline__ uint32_t pack_bf16(float low, float high) {
        const bf16x2 pair = __floats2bfloat162_rn(low, high);  // one instruction from sm_80 on
        return *reinterpret_cast<const uint32_t*>(&pair);
    }
};

// Element `i` counts elements of T, not vectors.
template <typename T>
__device__ __forceinline__ Vec<T> load_vec(const T* p, int64_t i) {
    return {load_whole(reinterpret_cast<const uint4*>(p + i))};
}
// For data this kernel reads once: does not displace what others keep in the cache.
template <typename T>
__device__ __forceinline__ Vec<T> load_vec_streaming(const T* p, int64_t i) {
    return {__ldcs(reinterpret_cast<const uint4*>(p + i))};
}
template <typename T>
__device__ __forceinline__ void store_vec(T* p, int64_t i, const Vec<T>& v) {
    store_whole(reinterpret_cast<uint4*>(p + i), v.raw);
}
template <typename T>
__device__ __forceinline__ void store_vec_streaming(T* p, int64_t i, const Vec<T>& v) {
    __stcs(reinterpret_cast<uint4*>(p + i), v.raw);
}

__device__ __forceinline__ bool is_aligned_16(const void* p) {
    return (reinterpret_cast<uintptr_t>(p) & 15) == 0;
}

// Whether rows of c elements in these three matrices can be taken 16 bytes at a time.
template <typename T>
__device__ __forceinline__ bool rows_are_vectors(const T* a, const T* b, const T* d, int c) {
    return c % Vec<T>::N == 0 && is_aligned_16(a) && is_aligned_16(b) && is_aligned_16(d);
}

// How rows are walked over: N neighbouring elements as f32, 16 bytes or a single one.
template <typename T, bool VECTOR>
struct Chunk {
    static constexpr int N = VECTOR ? Vec<T>::N : 1;
    __device__ static __forceinline__ void load(const T* p, int64_t i, float (&v)[N]) {
        if constexpr (VECTOR) {
            load_vec(p, i).unpack(v);
        } else {
            v[0] = to_float(p[i]);
        }
    }
    __device__ static __forceinline__ void load_last(const T* p, int64_t i, float (&v)[N]) {
        if constexpr (VECTOR) {
            load_vec_streaming(p, i).unpack(v);
        } else {
            v[0] = to_float(p[i]);
        }
    }
    __device__ static __forceinline__ void store(T* p, int64_t i, const float (&v)[N]) {
        if constexpr (VECTOR) {
            Vec<T> out;
            out.pack(v);
            store_vec(p, i, out);
        } else {
            p[i] = from_float<T>(v[0]);
        }
    }
};

}  // namespace GLMAE_NS
