// Multi-head self-attention over packed sequences, forward and backward.
//
//     S = scale Q K^T,  P = softmax(S),  O = P V,  lse = log(rowsum(exp(S)))
//     delta = rowsum(dO * O),  dV = P^T dO,  dS = P * (dO V^T - delta),  dQ = scale dS K,  dK = scale dS^T Q
//
// per sequence and head, with P recomputed from lse in the backward. Sources: Vaswani et al.,
// arXiv 1706.03762; tiling, online softmax and recomputation: Dao, FlashAttention-2, arXiv 2307.08691.
//
// Layout: qkv and dqkv [total, 3 C] (a row is q, k, v, each head-major, C = heads * d), out and dout
// [total, C], lse and delta [heads, total] f32, read and written in place: nothing is unpacked or padded.
// A row of another sequence is never read: rows beyond a sequence's end are zeros that cp.async makes.
// Work list: tiles [n, 4] i32 = (first row of the sequence, its length, first row of the tile, 0), the
// longest sequences first; grid n * heads, heads fastest. The list begins at a multiple of 16 bytes; the kernels for tensor cores
// need that of every tensor, the others look (src/ops/attention/launch.rs chooses by it).
//
// bf16, d = 32, 48, 64 (tensor cores; exponentials in base 2, one ex2.approx per score):
//   attention_fwd_bf16_d<d>           128 queries per block, 4 warps of 32 (or 64 queries, 4 warps of 16,
//       in a tile of 64 or fewer), K and V in steps of 64 keys through two buffers. Shared: 768 d bytes.
//   attention_bwd_bf16_d<d>_s<n>      sequences of up to n = 64, 128, 256 rows: one block owns a
//       (sequence, head), K and V stay in shared memory, dK and dV in registers; Q and dO stream by 32
//       queries. dS of a step goes through shared memory, so dQ of the step is complete within it: five
//       products, one pass, every byte read once; O is not read, delta = rowsum(P * dP) is at hand.
//       4 warps of 16 keys, 4 of 32, 8 of 32. Shared: (4 n + 256) d + 68 n + 128 warps bytes.
//   attention_bwd_q_bf16_d<d>, then attention_bwd_kv_bf16_d<d>   any length, seven products in two
//       passes: delta and dQ by tiles of 128 queries, then dK and dV by tiles of 128 keys; the other side
//       streams by 32. dQ takes delta from the rounded O (as FlashAttention-2), dK delta + rowsum(dS). Shared: 768 d + 512, 768 d + 512 bytes.
// f32, and both dtypes with any other d (attention_{fwd,bwd_q,bwd_kv}_{f32,bf16}): FMA on f32 tiles of
//   64 x 64, 256 threads, grid.y = slices of 64 columns of the head dim (scores are recomputed for
//   each slice). Shared: 69,632 bytes forward, 87,040 backward.
//
// FLOPs of a sequence of S rows, all heads: forward 4 S^2 C, backward 10 S^2 C (14 in two passes).
// Bytes: forward 4 S C elements + 4 heads S; backward 8 S C + 8 heads S (the two-pass form + 8 heads S for delta).
// Floor: the greatest of FLOPs / tensor rate, bytes / bandwidth and S^2 heads exponentials (the
// forward; as many again in each backward pass) / exp rate. S <= 251 at d = 64 is bound by bytes, 1001
// at d = 32 by exponentials in the forward.
//
// Deterministic: every output element is summed by one thread in an order that depends on the length of
// its sequence alone; no atomics, no sums between blocks.
#include "prelude.cuh"

#include "attention_tiles.cuh"
#include "attention_fwd.cuh"
#include "attention_bwd.cuh"
#include "attention_simt.cuh"

namespace GLMAE_NS {

// Every kernel that runs on tensor cores exists for three head dims.
#define ATTENTION_FWD(d)                                                                  \
    (bf16* __restrict__ out, float* __restrict__ lse, const bf16* __restrict__ qkv,       \
     const int* __restrict__ tiles, int64_t total, int heads, float scale),               \
    GLMAE_DYNAMIC_SHARED(bf16, shared);                                                   \
    attention_fwd<d>(out, lse, qkv, AttentionTile(tiles, total, heads, d), scale, shared)
GLMAE_INSTANCE(attention_fwd_bf16_d32, bf16, (128, 2), ATTENTION_FWD(32))
GLMAE_INSTANCE(attention_fwd_bf16_d48, bf16, (128, 2), ATTENTION_FWD(48))
GLMAE_INSTANCE(attention_fwd_bf16_d64, bf16, (128, 2), ATTENTION_FWD(64))

#define ATTENTION_BWD(d, mt, warps)                                                         \
    (bf16* __restrict__ dqkv, const float* __restrict__ lse, const bf16* __restrict__ dout, \
     const bf16* __restrict__ qkv, const int* __restrict__ tiles, int64_t total, int heads, \
     float scale),                                                                          \
    GLMAE_DYNAMIC_SHARED(bf16, shared);                                                     \
    const AttentionTile w(tiles, total, heads, d);                                          \
    attention_bwd_keys<d, mt, warps, true>(dqkv, dout, qkv, lse, nullptr, w, scale, shared)
GLMAE_INSTANCE(attention_bwd_bf16_d32_s64, bf16, (128, 3), ATTENTION_BWD(32, 1, 4))
GLMAE_INSTANCE(attention_bwd_bf16_d48_s64, bf16, (128, 3), ATTENTION_BWD(48, 1, 4))
GLMAE_INSTANCE(attention_bwd_bf16_d64_s64, bf16, (128, 3), ATTENTION_BWD(64, 1, 4))
GLMAE_INSTANCE(attention_bwd_bf16_d32_s128, bf16, (128, 2), ATTENTION_BWD(32, 2, 4))
GLMAE_INSTANCE(attention_bwd_bf16_d48_s128, bf16, (128, 2), ATTENTION_BWD(48, 2, 4))
GLMAE_INSTANCE(attention_bwd_bf16_d64_s128, bf16, (128, 2), ATTENTION_BWD(64, 2, 4))
GLMAE_INSTANCE(attention_bwd_bf16_d32_s256, bf16, (256, 1), ATTENTION_BWD(32, 2, 8))
GLMAE_INSTANCE(attention_bwd_bf16_d48_s256, bf16, (256, 1), ATTENTION_BWD(48, 2, 8))
GLMAE_INSTANCE(attention_bwd_bf16_d64_s256, bf16, (256, 1), ATTENTION_BWD(64, 2, 8))

#define ATTENTION_BWD_Q(d)                                                                       \
    (bf16* __restrict__ dqkv, float* __restrict__ delta, const bf16* __restrict__ out,           \
     const float* __restrict__ lse, const bf16* __restrict__ dout, const bf16* __restrict__ qkv, \
     const int* __restrict__ tiles, int64_t total, int heads, float scale),                      \
    GLMAE_DYNAMIC_SHARED(bf16, shared);                                                          \
    const AttentionTile w(tiles, total, heads, d);                                               \
    attention_bwd_queries<d>(dqkv, delta, dout, qkv, out, lse, w, scale, shared)
GLMAE_INSTANCE(attention_bwd_q_bf16_d32, bf16, (128, 2), ATTENTION_BWD_Q(32))
GLMAE_INSTANCE(attention_bwd_q_bf16_d48, bf16, (128, 2), ATTENTION_BWD_Q(48))
GLMAE_INSTANCE(attention_bwd_q_bf16_d64, bf16, (128, 2), ATTENTION_BWD_Q(64))

#define ATTENTION_BWD_KV(d)                                                                      \
    (bf16* __restrict__ dqkv, const float* __restrict__ lse, const float* __restrict__ delta,    \
     const bf16* __restrict__ dout, const bf16* __restrict__ qkv, const int* __restrict__ tiles, \
     int64_t total, int heads, float scale),                                                     \
    GLMAE_DYNAMIC_SHARED(bf16, shared);                                                          \
    const AttentionTile w(tiles, total, heads, d);                                               \
    attention_bwd_keys<d, 2, 4, false>(dqkv, dout, qkv, lse, delta, w, scale, shared)
GLMAE_INSTANCE(attention_bwd_kv_bf16_d32, bf16, (128, 2), ATTENTION_BWD_KV(32))
GLMAE_INSTANCE(attention_bwd_kv_bf16_d48, bf16, (128, 2), ATTENTION_BWD_KV(48))
GLMAE_INSTANCE(attention_bwd_kv_bf16_d64, bf16, (128, 2), ATTENTION_BWD_KV(64))

// Without tensor cores. bf16 has one block per SM: the sweep for delta does not fit 128 registers on sm_80.
#define ATTENTION_FWD_SIMT                                                         \
    (T* __restrict__ out, float* __restrict__ lse, const T* __restrict__ qkv,      \
     const int* __restrict__ tiles, int64_t total, int heads, int d, float scale), \
    GLMAE_DYNAMIC_SHARED(float, shared);                                           \
    const AttentionTile w(tiles, total, heads, d);                                 \
    attention_fwd_simt(out, lse, qkv, w, d, scale, shared)
GLMAE_INSTANCE(attention_fwd_f32, float, (SIMT_THREADS), ATTENTION_FWD_SIMT)
GLMAE_INSTANCE(attention_fwd_bf16, bf16, (SIMT_THREADS, 1), ATTENTION_FWD_SIMT)

#define ATTENTION_BWD_Q_SIMT                                                               \
    (T* __restrict__ dqkv, float* __restrict__ delta, const T* __restrict__ out,           \
     const float* __restrict__ lse, const T* __restrict__ dout, const T* __restrict__ qkv, \
     const int* __restrict__ tiles, int64_t total, int heads, int d, float scale),         \
    GLMAE_DYNAMIC_SHARED(float, shared);                                                   \
    const AttentionTile w(tiles, total, heads, d);                                         \
    attention_bwd_q_simt(dqkv, delta, dout, qkv, out, lse, w, d, scale, shared)
GLMAE_INSTANCE(attention_bwd_q_f32, float, (SIMT_THREADS), ATTENTION_BWD_Q_SIMT)
GLMAE_INSTANCE(attention_bwd_q_bf16, bf16, (SIMT_THREADS, 1), ATTENTION_BWD_Q_SIMT)

#define ATTENTION_BWD_KV_SIMT                                                              \
    (T* __restrict__ dqkv, const float* __restrict__ lse, const float* __restrict__ delta, \
     const T* __restrict__ dout, const T* __restrict__ qkv, const int* __restrict__ tiles, \
     int64_t total, int heads, int d, float scale),                                        \
    GLMAE_DYNAMIC_SHARED(float, shared);                                                   \
    const AttentionTile w(tiles, total, heads, d);                                         \
    attention_bwd_kv_simt(dqkv, dout, qkv, lse, delta, w, d, scale, shared)
GLMAE_INSTANCE(attention_bwd_kv_f32, float, (SIMT_THREADS), ATTENTION_BWD_KV_SIMT)
GLMAE_INSTANCE(attention_bwd_kv_bf16, bf16, (SIMT_THREADS, 1), ATTENTION_BWD_KV_SIMT)

}  // namespace GLMAE_NS
