// The exact GELU (gelu_derivative too) in half the instructions of erff, for results that are rounded to bf16: one reciprocal
// and one exponential, which the derivative needs as well.
//
//     erfc(x) = t (a1 + t (a2 + t (a3 + t (a4 + t a5)))) exp(-x^2),  t = 1 / (1 + 0.3275911 x),  x >= 0
//     (Abramowitz and Stegun, 7.1.26: off by 1.5e-7 at most)
//
// With x = |u| / sqrt 2, Phi(u) = erfc(x) / 2 below 0 and 1 - erfc(x) / 2 above. Phi is off by 7.5e-8, and by 2e-7 with the
// roundings and the approximate functions; half a step of bf16 below 1 is 2e-3.
#pragma once
#include "prelude.cuh"

namespace GLMAE_NS {

struct NormalAt {
    float below;        // Phi(u)
    float exponential;  // exp(-u^2 / 2)

    __device__ __forceinline__ explicit NormalAt(float u) {
        float t;
        asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(t) : "f"(fmaf(0.23164189f, fabsf(u), 1.0f)));
        asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(exponential) : "f"(u * u * -0.72134752f));
        float p = fmaf(t, 0.53070271f, -0.72657601f);
        p = fmaf(t, p, 0.71070687f);
        p = fmaf(t, p, -0.14224837f);
        p = fmaf(t, p, 0.12741480f);
        const float outside = p * t * exponential;
        below = u < 0.0f ? outside : 1.0f - outside;
    }
};

__device__ __forceinline__ float gelu_fast(float u) { return u * NormalAt(u).below; }
__device__ __forceinline__ float gelu_derivative_fast(float u) {
    const NormalAt at(u);
    return fmaf(u * 0.39894228f, at.exponential, at.below);
}

}  // namespace GLMAE_NS
