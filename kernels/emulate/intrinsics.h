// Scalar intrinsics. Where the device approximates (__expf, rsqrtf, ...) the host is accurate: the
// tolerance of an op is set by the device's documented error, not by this.
#pragma once

namespace GLMAE_NS {

__forceinline__ uint32_t __float_as_uint(float x) { return bits_as<uint32_t>(x); }
__forceinline__ float __uint_as_float(uint32_t x) { return bits_as<float>(x); }
__forceinline__ int __float_as_int(float x) { return bits_as<int>(x); }
__forceinline__ float __int_as_float(int x) { return bits_as<float>(x); }

__forceinline__ float __expf(float x) { return expf(x); }
__forceinline__ float __logf(float x) { return logf(x); }
__forceinline__ float __log2f(float x) { return log2f(x); }
__forceinline__ float __powf(float x, float y) { return powf(x, y); }
__forceinline__ float __fdividef(float x, float y) { return x / y; }
__forceinline__ float __frcp_rn(float x) { return 1.0f / x; }
__forceinline__ float __fsqrt_rn(float x) { return sqrtf(x); }
__forceinline__ float __frsqrt_rn(float x) { return float(1.0 / sqrt(double(x))); }
__forceinline__ float rsqrtf(float x) { return float(1.0 / sqrt(double(x))); }
__forceinline__ float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
// Never part of a fused operation, also where the host compiler may fuse.
__forceinline__ float unfused(float x) {
    __asm__("" : "+m"(x));
    return x;
}
__forceinline__ float __fadd_rn(float x, float y) { return unfused(x + y); }
__forceinline__ float __fsub_rn(float x, float y) { return unfused(x - y); }
__forceinline__ float __fmul_rn(float x, float y) { return unfused(x * y); }
__forceinline__ float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
__forceinline__ int __float2int_rd(float x) { return int(floorf(x)); }
__forceinline__ int __float2int_rn(float x) { return int(rintf(x)); }
__forceinline__ int __float2int_rz(float x) { return int(x); }

__forceinline__ int __popc(uint32_t x) { return __builtin_popcount(x); }
__forceinline__ int __ffs(int x) { return __builtin_ffs(x); }
__forceinline__ int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
__forceinline__ uint32_t __umulhi(uint32_t x, uint32_t y) { return uint32_t(uint64_t(x) * y >> 32); }
__forceinline__ uint32_t __brev(uint32_t x) {
    uint32_t r = 0;
    for (int i = 0; i < 32; ++i) r |= (x >> i & 1u) << (31 - i);
    return r;
}

template <typename T> __forceinline__ T min(T x, T y) { return y < x ? y : x; }
template <typename T> __forceinline__ T max(T x, T y) { return x < y ? y : x; }

// Loads and stores that the device does as a whole are reported as a whole: the compiler would only
// load what is used of a vector. Cache hints mean nothing here.
#ifdef GLMAE_CHECKED
template <typename T> GLMAE_UNCHECKED T raw_load(const T* p) { return *p; }
template <typename T> GLMAE_UNCHECKED void raw_store(T* p, T v) { *p = v; }
__forceinline__ void report(const void* p, uint64_t bytes, uint32_t kind) {
    if (reinterpret_cast<uintptr_t>(p) % bytes) glmae_emu_fault(GLMAE_FAULT_MISALIGNED);
    glmae_emu_access(p, bytes, kind);
}
#else
template <typename T> __forceinline__ T raw_load(const T* p) { return *p; }
template <typename T> __forceinline__ void raw_store(T* p, T v) { *p = v; }
__forceinline__ void report(const void*, uint64_t, uint32_t) {}
#endif
template <typename T> __forceinline__ T load_whole(const T* p) {
    report(p, sizeof(T), GLMAE_ACCESS_READ);
    return raw_load(p);
}
template <typename T> __forceinline__ void store_whole(T* p, T v) {
    report(p, sizeof(T), GLMAE_ACCESS_WRITE);
    raw_store(p, v);
}
__forceinline__ void store_pair_shared(float* to, float x, float y) {
    store_whole(reinterpret_cast<float2*>(to), make_float2(x, y));
}
template <typename T> __forceinline__ T __ldg(const T* p) { return load_whole(p); }
template <typename T> __forceinline__ T __ldcs(const T* p) { return load_whole(p); }
template <typename T> __forceinline__ T __ldcg(const T* p) { return load_whole(p); }
template <typename T> __forceinline__ void __stcs(T* p, T v) { store_whole(p, v); }
template <typename T> __forceinline__ void __stcg(T* p, T v) { store_whole(p, v); }

__forceinline__ void __threadfence() {}
__forceinline__ void __threadfence_block() {}
__forceinline__ void __nanosleep(unsigned) {}
__forceinline__ void __trap() { glmae_emu_fault(GLMAE_FAULT_TRAP); }

// Integer atomics on device or shared memory. The checked build tells the emulator, which then knows
// that two of them never race.
#define GLMAE_ATOMIC(name, type, expression)                                              \
    GLMAE_UNCHECKED type exchange_##name(type* p, type v) {                               \
        type old = __atomic_load_n(p, __ATOMIC_RELAXED);                                  \
        while (!__atomic_compare_exchange_n(p, &old, static_cast<type>(expression), true, \
                                            __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {}       \
        return old;                                                                       \
    }                                                                                     \
    __forceinline__ type name(type* p, type v) {                                          \
        glmae_emu_access(p, sizeof(type), GLMAE_ACCESS_ATOMIC);                           \
        return exchange_##name(p, v);                                                     \
    }
#define GLMAE_ATOMICS(type)                                 \
    GLMAE_ATOMIC(atomicAdd, type, old + v)                  \
    GLMAE_ATOMIC(atomicSub, type, old - v)                  \
    GLMAE_ATOMIC(atomicMin, type, v < old ? v : old)        \
    GLMAE_ATOMIC(atomicMax, type, v > old ? v : old)        \
    GLMAE_ATOMIC(atomicAnd, type, old & v)                  \
    GLMAE_ATOMIC(atomicOr, type, old | v)                   \
    GLMAE_ATOMIC(atomicXor, type, old ^ v)                  \
    GLMAE_ATOMIC(atomicExch, type, v)
GLMAE_ATOMICS(int)
GLMAE_ATOMICS(unsigned)
GLMAE_ATOMICS(unsigned long long)
GLMAE_ATOMIC(atomicInc, unsigned, old >= v ? 0 : old + 1)
#undef GLMAE_ATOMICS
#undef GLMAE_ATOMIC

template <typename T>
GLMAE_UNCHECKED T exchange_if(T* p, T expected, T desired) {
    __atomic_compare_exchange_n(p, &expected, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    return expected;
}
template <typename T> __forceinline__ T atomicCAS(T* p, T expected, T desired) {
    glmae_emu_access(p, sizeof(T), GLMAE_ACCESS_ATOMIC);
    return exchange_if(p, expected, desired);
}

// The order of float additions would depend on the schedule: not in this project.
__forceinline__ float atomicAdd(float*, float) {
    glmae_emu_fault(GLMAE_FAULT_FLOAT_ATOMIC);
    return 0.0f;
}
__forceinline__ double atomicAdd(double*, double) {
    glmae_emu_fault(GLMAE_FAULT_FLOAT_ATOMIC);
    return 0.0;
}
__forceinline__ bf16 atomicAdd(bf16*, bf16) {
    glmae_emu_fault(GLMAE_FAULT_FLOAT_ATOMIC);
    return {0};
}
__forceinline__ bf16x2 atomicAdd(bf16x2*, bf16x2) {
    glmae_emu_fault(GLMAE_FAULT_FLOAT_ATOMIC);
    return {};
}

}  // namespace GLMAE_NS
