// CUDA's vector types.
#pragma once

namespace GLMAE_NS {

using dim3 = GlmaeDim;

// The checked build reports a misaligned vector access. The plain build cannot, and must not trust
// the alignment either: g++ -O3 merges a guarded 16-byte load with the four loads of its scalar path
// and takes the alignment of the first for both (seen in attention_fwd_f32 at head dim 7).
#ifdef __SANITIZE_THREAD__
#define GLMAE_VECTOR_ALIGN(n) __align__(n)
#else
#define GLMAE_VECTOR_ALIGN(n) __align__(4)
#endif

struct GLMAE_VECTOR_ALIGN(8) float2 { float x, y; };
struct GLMAE_VECTOR_ALIGN(16) float4 { float x, y, z, w; };
struct GLMAE_VECTOR_ALIGN(8) int2 { int x, y; };
struct int3 { int x, y, z; };
struct GLMAE_VECTOR_ALIGN(16) int4 { int x, y, z, w; };
struct GLMAE_VECTOR_ALIGN(8) uint2 { unsigned x, y; };
struct uint3 { unsigned x, y, z; };
struct GLMAE_VECTOR_ALIGN(16) uint4 { unsigned x, y, z, w; };
struct float3 { float x, y, z; };

inline float2 make_float2(float x, float y) { return {x, y}; }
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int3 make_int3(int x, int y, int z) { return {x, y, z}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// Same bits, other type.
template <typename To, typename From>
inline To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "sizes differ");
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}

}  // namespace GLMAE_NS
