// The attention of attention.cu on Hopper, bf16, d = 32, 48, 64, for sequences of at most eight runs of equal lengths:
//
//     fwd               any length: attention_fwd.cuh
//     bwd               up to 256 rows, five products: attention_bwd_whole.cuh
//     bwd_q, bwd_kv     more rows, in this order, seven products: attention_bwd_long.cuh
//
// qkv and dqkv [total, 3 C], out and dout [total, C], lse and delta [heads, total] f32 as attention.cu says; qkv, dout and
// out go in by the tensor maps of one or two runs, [sequences, length, columns], in boxes of 64 rows of a head. The work list
// has entries of 16 bytes: attention.cuh. bwd_q writes delta, which bwd_kv reads.
//
// Grid: blocks that take one item after the other, at most as many as run at the same time; 1 producer warpgroup (a thread
// that loads, in bwd_kv a warp besides) and 2 that multiply. Shared: src/ops/attention/hopper.rs.
// FLOPs of a sequence of S rows, all heads: forward 4 S^2 C, backward 10 S^2 C, 14 in two passes, with S in whole pieces of
// 64 rows and of 64 or 128 keys. Bytes of DRAM: as attention.cu says, and O read by the backward pass. From L2, for every
// 128 queries (or keys): 4 S d (bytes of keys and values, or of queries and dO). Exponentials: S^2 heads in each pass.
// Deterministic: a row is summed in an order that depends on the length alone. No atomics; the grid shows in no sum.
#include "prelude.cuh"

#ifdef __CUDACC__
#include "hopper/attention_bwd_long.cuh"
#include "hopper/attention_bwd_whole.cuh"
#include "hopper/attention_fwd.cuh"
#endif

namespace GLMAE_NS {

// The maps of a tensor: as parameters, and as the kernels take them.
#define RUN_MAPS(t) \
    const __grid_constant__ GlmaeTensorMap t##0, const __grid_constant__ GlmaeTensorMap t##1
#define RUNS(t) \
    RunMaps { t##0, t##1 }

#define HOPPER_ATTENTION_FWD(D)                                                                    \
    (bf16* __restrict__ out, float* __restrict__ lse, RUN_MAPS(qkv), const int* __restrict__ list, \
     int longs, int wides, int narrows, int64_t total, int heads, float scale),                    \
    attention_fwd_hopper<D>(AttentionResult{out, lse, total, heads * D, scale}, RUNS(qkv),         \
                            AttentionWork{list, longs, wides, narrows, heads})
GLMAE_HOPPER(attention_fwd_bf16_hopper_d32, (384, 1), 1, HOPPER_ATTENTION_FWD(32))
GLMAE_HOPPER(attention_fwd_bf16_hopper_d48, (384, 1), 1, HOPPER_ATTENTION_FWD(48))
GLMAE_HOPPER(attention_fwd_bf16_hopper_d64, (384, 1), 1, HOPPER_ATTENTION_FWD(64))

#define HOPPER_ATTENTION_BWD(D)                                                                    \
    (bf16* __restrict__ dqkv, const float* __restrict__ lse, RUN_MAPS(qkv), RUN_MAPS(dout),        \
     RUN_MAPS(out), const int* __restrict__ list, int longs, int wides, int narrows,               \
     int64_t total, int heads, float scale),                                                       \
    attention_bwd_whole_hopper<D>(RUNS(qkv), RUNS(dout), RUNS(out),                                \
                                  AttentionBwdRows{dqkv, lse, nullptr, total, heads * D, scale},   \
                                  AttentionWork{list, longs, wides, narrows, heads})
GLMAE_HOPPER(attention_bwd_bf16_hopper_d32, (384, 1), 1, HOPPER_ATTENTION_BWD(32))
GLMAE_HOPPER(attention_bwd_bf16_hopper_d48, (384, 1), 1, HOPPER_ATTENTION_BWD(48))
GLMAE_HOPPER(attention_bwd_bf16_hopper_d64, (384, 1), 1, HOPPER_ATTENTION_BWD(64))

#define HOPPER_ATTENTION_BWD_Q(D)                                                                  \
    (bf16* __restrict__ dqkv, float* __restrict__ delta, const float* __restrict__ lse,            \
     RUN_MAPS(qkv), RUN_MAPS(dout), RUN_MAPS(out), const int* __restrict__ list, int longs,        \
     int64_t total, int heads, float scale),                                                       \
    attention_bwd_q_hopper<D>(RUNS(qkv), RUNS(dout), RUNS(out),                                    \
                              AttentionBwdRows{dqkv, lse, nullptr, total, heads * D, scale}, delta, \
                              AttentionWork{list, longs, 0, 0, heads})
GLMAE_HOPPER(attention_bwd_q_bf16_hopper_d32, (384, 1), 1, HOPPER_ATTENTION_BWD_Q(32))
GLMAE_HOPPER(attention_bwd_q_bf16_hopper_d48, (384, 1), 1, HOPPER_ATTENTION_BWD_Q(48))
GLMAE_HOPPER(attention_bwd_q_bf16_hopper_d64, (384, 1), 1, HOPPER_ATTENTION_BWD_Q(64))

#define HOPPER_ATTENTION_BWD_KV(D)                                                                 \
    (bf16* __restrict__ dqkv, const float* __restrict__ lse, const float* __restrict__ delta,      \
     RUN_MAPS(qkv), RUN_MAPS(dout), const int* __restrict__ list, int longs, int64_t total,        \
     int heads, float scale),                                                                      \
    attention_bwd_kv_hopper<D>(RUNS(qkv), RUNS(dout),                                              \
                               AttentionBwdRows{dqkv, lse, delta, total, heads * D, scale},        \
                               AttentionWork{list, longs, 0, 0, heads})
GLMAE_HOPPER(attention_bwd_kv_bf16_hopper_d32, (384, 1), 1, HOPPER_ATTENTION_BWD_KV(32))
GLMAE_HOPPER(attention_bwd_kv_bf16_hopper_d48, (384, 1), 1, HOPPER_ATTENTION_BWD_KV(48))
GLMAE_HOPPER(attention_bwd_kv_bf16_hopper_d64, (384, 1), 1, HOPPER_ATTENTION_BWD_KV(64))

}  // namespace GLMAE_NS
