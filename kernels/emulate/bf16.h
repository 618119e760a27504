// bfloat16: the high half of an f32, rounded to nearest even, NaN kept quiet (0x7fff as on the device).
#pragma once

namespace GLMAE_NS {

struct __align__(2) __nv_bfloat16 { uint16_t bits; };
struct __align__(4) __nv_bfloat162 { __nv_bfloat16 x, y; };
using bf16 = __nv_bfloat16;
using bf16x2 = __nv_bfloat162;

inline float __bfloat162float(bf16 x) { return bits_as<float>(uint32_t(x.bits) << 16); }
inline bf16 __float2bfloat16(float x) {
    const uint32_t u = bits_as<uint32_t>(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {uint16_t((u + 0x7fffu + (u >> 16 & 1)) >> 16)};
}
inline bf16 __float2bfloat16_rn(float x) { return __float2bfloat16(x); }
inline bf16x2 __floats2bfloat162_rn(float low, float high) {
    return {__float2bfloat16(low), __float2bfloat16(high)};
}
inline bf16x2 __float22bfloat162_rn(float2 v) { return __floats2bfloat162_rn(v.x, v.y); }
inline float2 __bfloat1622float2(bf16x2 v) {
    return {__bfloat162float(v.x), __bfloat162float(v.y)};
}
inline float __low2float(bf16x2 v) { return __bfloat162float(v.x); }
inline float __high2float(bf16x2 v) { return __bfloat162float(v.y); }
inline bf16x2 __halves2bfloat162(bf16 low, bf16 high) { return {low, high}; }
inline bf16x2 __bfloat162bfloat162(bf16 x) { return {x, x}; }
inline unsigned short __bfloat16_as_ushort(bf16 x) { return x.bits; }
inline bf16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }

}  // namespace GLMAE_NS
