// Attention of attention.cu on Hopper, bf16, d = 32, 48, 64.
#include "prelude.cuh"

#ifdef __CUDACC__
#include "hopper/attention_fwd.cuh"
#endif

namespace GLMAE_NS {

#define HOPPER_ATTENTION_FWD(D)                                                                   \
    (bf16* __restrict__ out, float* __restrict__ lse, const __grid_constant__ GlmaeTensorMap run0, \
     const __grid_constant__ GlmaeTensorMap run1, const int* __restrict__ list, int longs,         \
     int wides, int narrows, int64_t total, int heads, float scale),                              \
    attention_fwd_hopper<D>(AttentionResult{out, lse, total, heads * D, scale}, run0, run1,        \
                            AttentionWork(list, longs, wides, narrows, heads))
GLMAE_HOPPER(attention_fwd_bf16_hopper_d32, (384, 1), 1, HOPPER_ATTENTION_FWD(32))
GLMAE_HOPPER(attention_fwd_bf16_hopper_d48, (384, 1), 1, HOPPER_ATTENTION_FWD(48))
GLMAE_HOPPER(attention_fwd_bf16_hopper_d64, (384, 1), 1, HOPPER_ATTENTION_FWD(64))

}  // namespace GLMAE_NS
