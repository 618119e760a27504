// Attention of attention.cu on Hopper, bf16, d = 32, 48, 64.
#include "prelude.cuh"

#ifdef __CUDACC__
#include "hopper/attention_bwd_long.cuh"
#include "hopper/attention_bwd_whole.cuh"
#include "hopper/attention_fwd.cuh"
#endif

namespace GLMAE_NS {

#define HOPPER_ATTENTION_FWD(D)                                                                   \
    (bf16* __restrict__ out, float* __restrict__ lse, const __grid_constant__ GlmaeTensorMap run0, \
     const __grid_constant__ GlmaeTensorMap run1, const int* __restrict__ list, int longs,         \
     int wides, int narrows, int64_t total, int heads, float scale),                              \
    attention_fwd_hopper<D>(AttentionResult{out, lse, total, heads * D, scale}, run0, run1,        \
                            AttentionWork{list, longs, wides, narrows, heads})
GLMAE_HOPPER(attention_fwd_bf16_hopper_d32, (384, 1), 1, HOPPER_ATTENTION_FWD(32))
GLMAE_HOPPER(attention_fwd_bf16_hopper_d48, (384, 1), 1, HOPPER_ATTENTION_FWD(48))
GLMAE_HOPPER(attention_fwd_bf16_hopper_d64, (384, 1), 1, HOPPER_ATTENTION_FWD(64))

#define HOPPER_ATTENTION_BWD(D)                                                                    \
    (bf16* __restrict__ dqkv, const float* __restrict__ lse,                                       \
     const __grid_constant__ GlmaeTensorMap qkv0, const __grid_constant__ GlmaeTensorMap qkv1,      \
     const __grid_constant__ GlmaeTensorMap dout0, const __grid_constant__ GlmaeTensorMap dout1,    \
     const __grid_constant__ GlmaeTensorMap out0, const __grid_constant__ GlmaeTensorMap out1,      \
     const int* __restrict__ list, int longs, int wides, int narrows, int64_t total, int heads,    \
     float scale),                                                                                 \
    attention_bwd_whole_hopper<D>(AttentionBwdMaps{qkv0, qkv1, dout0, dout1, out0, out1},          \
                                  AttentionBwdRows{dqkv, lse, nullptr, total, heads * D, scale},   \
                                  AttentionWork{list, longs, wides, narrows, heads})
GLMAE_HOPPER(attention_bwd_bf16_hopper_d32, (384, 1), 1, HOPPER_ATTENTION_BWD(32))
GLMAE_HOPPER(attention_bwd_bf16_hopper_d48, (384, 1), 1, HOPPER_ATTENTION_BWD(48))
GLMAE_HOPPER(attention_bwd_bf16_hopper_d64, (384, 1), 1, HOPPER_ATTENTION_BWD(64))

#define HOPPER_ATTENTION_BWD_Q(D)                                                                  \
    (bf16* __restrict__ dqkv, float* __restrict__ delta, const float* __restrict__ lse,            \
     const __grid_constant__ GlmaeTensorMap qkv0, const __grid_constant__ GlmaeTensorMap qkv1,      \
     const __grid_constant__ GlmaeTensorMap dout0, const __grid_constant__ GlmaeTensorMap dout1,    \
     const __grid_constant__ GlmaeTensorMap out0, const __grid_constant__ GlmaeTensorMap out1,      \
     const int* __restrict__ list, int longs, int64_t total, int heads, float scale),              \
    attention_bwd_q_hopper<D>(AttentionBwdMaps{qkv0, qkv1, dout0, dout1, out0, out1},              \
                              AttentionBwdRows{dqkv, lse, delta, total, heads * D, scale},         \
                              AttentionWork{list, longs, 0, 0, heads})
GLMAE_HOPPER(attention_bwd_q_bf16_hopper_d32, (384, 1), 1, HOPPER_ATTENTION_BWD_Q(32))
GLMAE_HOPPER(attention_bwd_q_bf16_hopper_d48, (384, 1), 1, HOPPER_ATTENTION_BWD_Q(48))
GLMAE_HOPPER(attention_bwd_q_bf16_hopper_d64, (384, 1), 1, HOPPER_ATTENTION_BWD_Q(64))

#define HOPPER_ATTENTION_BWD_KV(D)                                                                 \
    (bf16* __restrict__ dqkv, float* __restrict__ delta, const float* __restrict__ lse,            \
     const __grid_constant__ GlmaeTensorMap qkv0, const __grid_constant__ GlmaeTensorMap qkv1,      \
     const __grid_constant__ GlmaeTensorMap dout0, const __grid_constant__ GlmaeTensorMap dout1,    \
     const int* __restrict__ list, int longs, int64_t total, int heads, float scale),              \
    attention_bwd_kv_hopper<D>(AttentionBwdMaps{qkv0, qkv1, dout0, dout1, dout0, dout1},           \
                               AttentionBwdRows{dqkv, lse, delta, total, heads * D, scale},        \
                               AttentionWork{list, longs, 0, 0, heads})
GLMAE_HOPPER(attention_bwd_kv_bf16_hopper_d32, (384, 1), 1, HOPPER_ATTENTION_BWD_KV(32))
GLMAE_HOPPER(attention_bwd_kv_bf16_hopper_d48, (384, 1), 1, HOPPER_ATTENTION_BWD_KV(48))
GLMAE_HOPPER(attention_bwd_kv_bf16_hopper_d64, (384, 1), 1, HOPPER_ATTENTION_BWD_KV(64))

}  // namespace GLMAE_NS
