// What happens to the sums of a product of warpgroups: epilogues for hopper/gemm.cuh. `fetch` is called by one thread while
// the sums are formed, `finish` by all threads of a warpgroup when they are there. Where an epilogue FILLS, three idle warps
// of the producer call `fill`.
#pragma once
#include "gelu.cuh"
#include "gemm.cuh"

namespace GLMAE_NS {

// What a linear layer makes of its sums, in bf16. Numbers shared with src/ops/gemm/hopper.rs.
constexpr int FOLLOW_NONE = 0, FOLLOW_GELU = 1, FOLLOW_GELU_KEEP = 2, FOLLOW_ADD = 3,
              FOLLOW_GELU_GRAD = 4;

// What a thread has of the bias for the columns of a panel: two neighbours of every 8 columns. Loaded at once, before
// anybody waits for a panel.
struct PanelBias {
    float2 b[8];

    __device__ __forceinline__ PanelBias(const float* bias, int column0, int n) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const int column = column0 + j * 8 + threadIdx.x % 4 * 2;
            b[j] = bias && column < n ? __ldg(reinterpret_cast<const float2*>(bias + column))
                                      : make_float2(0.0f, 0.0f);
        }
    }
    // The eight sums of 16 columns from piece `piece` on (panels.cuh).
    __device__ __forceinline__ void add(float (&v)[8], int piece) const {
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] += i % 2 ? b[piece + i / 4].y : b[piece + i / 4].x;
    }
};

// y = f(sums + bias): nothing, + other, and of a forward pass gelu, or gelu whose input is kept in `other`, of a backward
// pass * gelu'(other).
template <bool IS_FORWARD>
struct LinearEpilogue {
    static constexpr bool ROW_SUMS = false, FILLS = false;
    static constexpr int PRODUCER_REGISTERS = 24;  // a GELU takes all that the producer can do without
    static constexpr int COLUMNS = 64;  // of a panel
    const GlmaeTensorMap& y;
    const GlmaeTensorMap& other;
    const float* bias;  // [n], or null
    int n, follows;

    // What is read needs a buffer for every panel.
    template <typename Tile>
    static constexpr bool CAN_READ = Tile::SLOTS * COLUMNS >= Tile::N;

    template <typename Tile>
    __device__ __forceinline__ void fetch(typename Tile::Panels& panels,
                                          const WgmmaItem& item) const {
        if (CAN_READ<Tile> && follows >= FOLLOW_ADD)
            panels.fetch(other, Tile::N / COLUMNS, item.column0, n, item.row0, COLUMNS);
    }

    // One branch a tile, so that what follows is code without branches.
    template <typename Tile>
    __device__ __forceinline__ void finish(typename Tile::Panels& panels, const WgmmaItem& item,
                                           float (&d)[Tile::PRODUCTS][Tile::SUMS]) const {
        if constexpr (IS_FORWARD) {
            if (follows == FOLLOW_GELU_KEEP)
                return finish_as<Tile, FOLLOW_GELU_KEEP>(panels, item, d);
            if (follows == FOLLOW_GELU) return finish_as<Tile, FOLLOW_GELU>(panels, item, d);
        } else if constexpr (CAN_READ<Tile>) {
            if (follows == FOLLOW_GELU_GRAD)
                return finish_as<Tile, FOLLOW_GELU_GRAD>(panels, item, d);
        }
        if constexpr (CAN_READ<Tile>) {
            if (follows == FOLLOW_ADD) return finish_as<Tile, FOLLOW_ADD>(panels, item, d);
        }
        finish_as<Tile, FOLLOW_NONE>(panels, item, d);
    }

    template <typename Tile, int FOLLOWS>
    __device__ __forceinline__ void finish_as(typename Tile::Panels& panels, const WgmmaItem& item,
                                              float (&d)[Tile::PRODUCTS][Tile::SUMS]) const {
        constexpr bool KEEPS = FOLLOWS == FOLLOW_GELU_KEEP, READS = FOLLOWS >= FOLLOW_ADD;
        if constexpr (READS) panels.await();
#pragma unroll
        for (int p = 0; p < Tile::N / COLUMNS; ++p) {
            const int column0 = item.column0 + p * COLUMNS;
            if (column0 >= n) break;
            const PanelBias columns(bias, column0, n);
            unsigned char* to;
            if constexpr (READS) to = panels.slot(p);
            else to = panels.template take<KEEPS ? 2 : 1>();
            unsigned char* kept = to + Tile::Panels::BYTES;
#pragma unroll
            for (int t = 0; t < Tile::PRODUCTS; ++t) {
#pragma unroll
                for (int j = 0; j < COLUMNS / 16; ++j) {
                    const int row = t * 64 + panels.row0();
                    float v[8];
#pragma unroll
                    for (int i = 0; i < 8; ++i) v[i] = d[t][p * 32 + j * 8 + i];
                    columns.add(v, 2 * j);
                    if constexpr (KEEPS) panel_store(kept, row, 2 * j, v);
                    if constexpr (KEEPS || FOLLOWS == FOLLOW_GELU) {
#pragma unroll
                        for (int i = 0; i < 8; ++i) v[i] = gelu_fast(v[i]);
                    } else if constexpr (READS) {
                        float o[8];
                        panel_load(to, row, 2 * j, o);
#pragma unroll
                        for (int i = 0; i < 8; ++i)
                            v[i] = FOLLOWS == FOLLOW_ADD ? v[i] + o[i] : v[i] * gelu_derivative_fast(o[i]);
                    }
                    panel_store(to, row, 2 * j, v);
                }
            }
            if (panels.publish()) {
                store_box(y, column0, item.row0, to);
                if constexpr (KEEPS) store_box(other, column0, item.row0, kept);
                store_commit();
            }
        }
    }
};

// The sums, with their bias, are compared to a target: see masked_mse.cu. The gradient takes the place of the target.
struct MseEpilogue {
    static constexpr bool ROW_SUMS = false, FILLS = false;
    static constexpr int PRODUCER_REGISTERS = 40;
    static constexpr int COLUMNS = 64;
    const GlmaeTensorMap& gradient;
    const GlmaeTensorMap& pred;
    const GlmaeTensorMap& target;
    float2* sums;              // [strips of 16 rows, columns of tiles]
    const float* bias;         // [n], or null
    const float4* statistics;  // [m], or null: the target as it is
    int m, n, first_rows;
    bool keeps_pred;
    float scale, other_scale;

    template <typename Tile>
    __device__ __forceinline__ void fetch(typename Tile::Panels& panels,
                                          const WgmmaItem& item) const {
        panels.fetch(target, Tile::N / COLUMNS, item.column0, n, item.row0, COLUMNS);
    }

    template <typename Tile>
    __device__ __forceinline__ void finish(typename Tile::Panels& panels, const WgmmaItem& item,
                                           float (&d)[Tile::PRODUCTS][Tile::SUMS]) const {
        constexpr int PANELS = Tile::N / COLUMNS;
        static_assert(Tile::SLOTS >= PANELS, "the target of a whole tile");
        const bool keeps = Tile::SLOTS >= 2 * PANELS && keeps_pred;
        const int lane = threadIdx.x % WARP;
        float2 error[Tile::PRODUCTS];
        // Of the target in this thread's two rows of each product: mean, what its rounding left over, 1 / deviation.
        float4 of_row[Tile::PRODUCTS][2];
#pragma unroll
        for (int t = 0; t < Tile::PRODUCTS; ++t) {
            error[t] = make_float2(0.0f, 0.0f);
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int row = item.row0 + t * 64 + panels.row0() + lane / 4 + h * 8;
                of_row[t][h] = statistics && row < m ? __ldg(statistics + row)
                                                     : make_float4(0.0f, 0.0f, 1.0f, 0.0f);
            }
        }
        panels.await();
#pragma unroll
        for (int p = 0; p < PANELS; ++p) {
            const int column0 = item.column0 + p * COLUMNS;
            if (column0 >= n) break;
            const PanelBias columns(bias, column0, n);
            unsigned char* to = panels.slot(p);
            unsigned char* kept = panels.slot(p + PANELS);
#pragma unroll
            for (int t = 0; t < Tile::PRODUCTS; ++t) {
                const int strip = t * 64 + panels.row0(), row = item.row0 + strip + lane / 4;
                const bool first[2] = {row < first_rows, row + 8 < first_rows};
                float sum[2] = {};
#pragma unroll
                for (int j = 0; j < COLUMNS / 16; ++j) {
                    float v[8], g[8];
#pragma unroll
                    for (int i = 0; i < 8; ++i) v[i] = d[t][p * 32 + j * 8 + i];
                    columns.add(v, 2 * j);
                    if (keeps) panel_store(kept, strip, 2 * j, v);
                    panel_load(to, strip, 2 * j, g);
#pragma unroll
                    for (int i = 0; i < 8; ++i) {
                        const int h = i / 2 % 2;
                        const float4 s = of_row[t][h];
                        const float e = v[i] - (g[i] - s.x - s.y) * s.z;
                        const int column = column0 + j * 16 + i / 4 * 8 + lane % 4 * 2 + i % 2;
                        if (row + h * 8 < m && column < n) sum[h] += e * e;
                        g[i] = e * (first[h] ? scale : other_scale);
                    }
                    panel_store(to, strip, 2 * j, g);
                }
#pragma unroll
                for (int h = 0; h < 2; ++h) (first[h] ? error[t].x : error[t].y) += sum[h];
            }
            if (panels.publish()) {
                store_box(gradient, column0, item.row0, to);
                if (keeps) store_box(pred, column0, item.row0, kept);
                store_commit();
            }
        }
        const int tiles_n = (n + Tile::N - 1) / Tile::N;
#pragma unroll
        for (int t = 0; t < Tile::PRODUCTS; ++t) {
            const float2 sum = make_float2(warp_sum(error[t].x), warp_sum(error[t].y));
            const int strip = (item.row0 + t * 64 + panels.row0()) / 16;
            if (lane == 0)
                sums[static_cast<int64_t>(strip) * tiles_n + item.column0 / Tile::N] = sum;
        }
    }
};

// Sums as f32, [parts, m, n], over what is there or added to it, and likewise the sums over k of the rows of A, [parts, m],
// where `row_sum` is not null.
template <bool ROW_SUMS_>
struct PartsEpilogue {
    static constexpr bool ROW_SUMS = ROW_SUMS_, FILLS = false;
    static constexpr int PRODUCER_REGISTERS = 40;
    static constexpr int COLUMNS = 32;
    const GlmaeTensorMap& parts;
    float* row_sum;
    int m, n;
    bool adds, row_sum_adds;

    __device__ __forceinline__ bool wants_row_sums(int column0) const {
        return row_sum != nullptr && column0 == 0;
    }
    // Of `row` and the next.
    __device__ __forceinline__ void row_sums(int part, int row, float low, float high) const {
        float* to = row_sum + static_cast<int64_t>(part) * m + row;
        if (row < m) to[0] = row_sum_adds ? to[0] + low : low;
        if (row + 1 < m) to[1] = row_sum_adds ? to[1] + high : high;
    }

    template <typename Tile>
    __device__ __forceinline__ void fetch(typename Tile::Panels&, const WgmmaItem&) const {}

    template <typename Tile>
    __device__ __forceinline__ void finish(typename Tile::Panels& panels, const WgmmaItem& item,
                                           float (&d)[Tile::PRODUCTS][Tile::SUMS]) const {
#pragma unroll
        for (int p = 0; p < Tile::N / COLUMNS; ++p) {
            const int column0 = item.column0 + p * COLUMNS;
            if (column0 >= n) break;
            unsigned char* to = panels.template take<1>();
#pragma unroll
            for (int t = 0; t < Tile::PRODUCTS; ++t)
                panel_store(to, t * 64 + panels.row0(), &d[t][p * 16]);
            if (panels.publish()) {
                if (adds) add_box(parts, column0, item.row0, item.part, to);
                else store_box(parts, column0, item.row0, item.part, to);
                store_commit();
            }
        }
    }
};

}  // namespace GLMAE_NS
