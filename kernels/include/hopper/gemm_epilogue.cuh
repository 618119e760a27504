// What happens to the sums of a product of warpgroups: epilogues for hopper/gemm.cuh. `fetch` is called by one thread while
// the sums are formed, `finish` by all threads of a warpgroup when they are there.
#pragma once
#include "../gemm_epilogue.cuh"
#include "gemm.cuh"

namespace GLMAE_NS {

// What a linear layer makes of its sums, in bf16. Numbers shared with src/ops/gemm/hopper.rs.
constexpr int FOLLOW_NONE = 0, FOLLOW_GELU = 1, FOLLOW_GELU_KEEP = 2, FOLLOW_ADD = 3,
              FOLLOW_GELU_GRAD = 4;

// v[i] += bias[column of v[i]]: of the 16 columns from `column` on, a thread has two neighbours in two rows, and two 8
// further (panels.cuh).
__device__ __forceinline__ void add_bias_pairs(float (&v)[8], const float* bias, int column, int n) {
    column += threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < 2; ++j, column += 8) {
        if (column >= n) return;
        const float2 b = __ldg(reinterpret_cast<const float2*>(bias + column));
        v[4 * j] += b.x, v[4 * j + 1] += b.y, v[4 * j + 2] += b.x, v[4 * j + 3] += b.y;
    }
}

// y = f(sums + bias): nothing, gelu, gelu whose input is kept in `other`, + other, or * gelu'(other).
struct LinearEpilogue {
    static constexpr bool ROW_SUMS = false;
    static constexpr int COLUMNS = 64;  // of a panel
    const GlmaeTensorMap& y;
    const GlmaeTensorMap& other;
    const float* bias;  // [n], or null
    int n, follows;

    // What is read needs a buffer for every panel.
    template <typename Tile>
    __device__ __forceinline__ bool reads_other() const {
        return Tile::SLOTS * COLUMNS >= Tile::N && follows >= FOLLOW_ADD;
    }

    template <typename Tile>
    __device__ __forceinline__ void fetch(typename Tile::Panels& panels,
                                          const WgmmaItem& item) const {
        if (reads_other<Tile>())
            panels.fetch(other, Tile::N / COLUMNS, item.column0, n, item.row0, COLUMNS);
    }

    template <typename Tile>
    __device__ __forceinline__ void finish(typename Tile::Panels& panels, const WgmmaItem& item,
                                           float (&d)[Tile::PRODUCTS][Tile::SUMS]) const {
        constexpr int SLOTS = Tile::SLOTS, PANELS = Tile::N / COLUMNS;
        const bool keeps = follows == FOLLOW_GELU_KEEP;
        const bool reads = reads_other<Tile>();
        if (reads) panels.await();
#pragma unroll
        for (int p = 0; p < PANELS; ++p) {
            const int column0 = item.column0 + p * COLUMNS;
            if (column0 >= n) break;
            // What is kept has every second buffer.
            unsigned char* to = panels.slot(keeps ? p % (SLOTS / 2) * 2 : p);
            unsigned char* kept = to + Tile::Panels::BYTES;
            if (keeps) panels.template reserve<SLOTS / 2>(p);
            else if (!reads) panels.template reserve<SLOTS>(p);
#pragma unroll
            for (int t = 0; t < Tile::PRODUCTS; ++t) {
#pragma unroll
                for (int j = 0; j < COLUMNS / 16; ++j) {
                    const int row = t * 64 + panels.row0();
                    float v[8], o[8];
#pragma unroll
                    for (int i = 0; i < 8; ++i) v[i] = d[t][p * 32 + j * 8 + i];
                    if (bias) add_bias_pairs(v, bias, column0 + j * 16, n);
                    if (keeps) panel_store(kept, row, 2 * j, v);
                    if (keeps || follows == FOLLOW_GELU) {
#pragma unroll
                        for (int i = 0; i < 8; ++i) v[i] = gelu(v[i]);
                    } else if (reads) {
                        panel_load(to, row, 2 * j, o);
#pragma unroll
                        for (int i = 0; i < 8; ++i)
                            v[i] = follows == FOLLOW_ADD ? v[i] + o[i] : v[i] * gelu_derivative(o[i]);
                    }
                    panel_store(to, row, 2 * j, v);
                }
            }
            if (panels.publish()) {
                store_box(y, column0, item.row0, to);
                if (keeps) store_box(other, column0, item.row0, kept);
                store_commit();
            }
        }
    }
};

// The sums, with their bias, are compared to a target: see masked_mse.cu. The gradient takes the place of the target.
struct MseEpilogue {
    static constexpr bool ROW_SUMS = false;
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
        // This thread's two rows of each product, their statistics and factors.
        const int lane = threadIdx.x % WARP;
        float2 error[Tile::PRODUCTS];
#pragma unroll
        for (int t = 0; t < Tile::PRODUCTS; ++t) error[t] = make_float2(0.0f, 0.0f);
        panels.await();
#pragma unroll
        for (int p = 0; p < PANELS; ++p) {
            const int column0 = item.column0 + p * COLUMNS;
            if (column0 >= n) break;
            unsigned char* to = panels.slot(p);
            unsigned char* kept = panels.slot(p + PANELS);
#pragma unroll
            for (int t = 0; t < Tile::PRODUCTS; ++t) {
                const int strip = t * 64 + panels.row0(), row = item.row0 + strip + lane / 4;
                // Of the target in these rows: mean, what its rounding left over, 1 / deviation.
                float4 s[2] = {make_float4(0.0f, 0.0f, 1.0f, 0.0f), make_float4(0.0f, 0.0f, 1.0f, 0.0f)};
                if (statistics) {
                    if (row < m) s[0] = __ldg(statistics + row);
                    if (row + 8 < m) s[1] = __ldg(statistics + row + 8);
                }
                const bool first[2] = {row < first_rows, row + 8 < first_rows};
                float sum[2] = {};
#pragma unroll
                for (int j = 0; j < COLUMNS / 16; ++j) {
                    float v[8], g[8];
#pragma unroll
                    for (int i = 0; i < 8; ++i) v[i] = d[t][p * 32 + j * 8 + i];
                    if (bias) add_bias_pairs(v, bias, column0 + j * 16, n);
                    if (keeps) panel_store(kept, strip, 2 * j, v);
                    panel_load(to, strip, 2 * j, g);
#pragma unroll
                    for (int i = 0; i < 8; ++i) {
                        const int h = i / 2 % 2;
                        const float e = v[i] - (g[i] - s[h].x - s[h].y) * s[h].z;
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
    static constexpr bool ROW_SUMS = ROW_SUMS_;
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
            unsigned char* to = panels.slot(p);
            panels.template reserve<Tile::SLOTS>(p);
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
