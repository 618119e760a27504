// Dice loss with a cross-entropy beside it, of class scores [batch * voxels, k] f32: what dice_ce (softmax,
// one label per voxel) and dice_bce (sigmoid, a bit per class) share. P: probabilities, T: truth, 0 or 1.
//
//     dice = mean over samples and counted classes of 1 - (2 sum PT + nr) / (sum P^2 + sum T + dr)
//     d dice / dP = w (-a T + q P'),  a = 2 / den, q = 2 num / den^2 and P' = P   (squared)
//                                                  q = num / den^2 and P' = 1     (not squared: sum P for sum P^2)
//
// The loss is computed as (sum (P - T)^2 + dr - nr) / den (not squared: |P - T|), which is the same and does not
// cancel where the prediction is good: 1 - 2 / (2 + 1e-6) has one digit in f32.
//
// Two phases over a tile of rows in shared memory: one row per thread (softmax), then one class per thread,
// whose sums stay in registers over all tiles of the block.
#pragma once

#include "classes.cuh"
#include "rows.cuh"

namespace GLMAE_NS {

// At most 256 classes: two per thread.
constexpr int DICE_CLASSES = 2 * CLASS_THREADS, DICE_SUMS = 4;

struct DiceShared {
    float* tile;  // [rows, k]
    float* scale;  // [CLASS_THREADS]: 1 / sum of exponentials of a row
    int* truth;    // [CLASS_THREADS]: label of a row (-1: none of the classes), or its bits
    float* room;   // [DICE_SUMS * DICE_CLASSES]
};

// Which classes and rows of a tile a thread has in the second phase.
struct DicePlace {
    int cls, group, groups;
    bool works;

    __device__ __forceinline__ explicit DicePlace(int k) {
        const int width = min(k, CLASS_THREADS), t = threadIdx.x;
        groups = CLASS_THREADS / width;
        group = t / width;
        cls = t - group * width;
        works = group < groups;
    }
};

template <bool SIGMOID>
__device__ __forceinline__ float dice_truth(int truth, int cls) {
    return (SIGMOID ? (static_cast<unsigned>(truth) >> cls & 1u) != 0u : truth == cls) ? 1.0f : 0.0f;
}
template <bool SIGMOID, typename L>
__device__ __forceinline__ int dice_read(const L* labels, int64_t row, int k) {
    const int label = static_cast<int>(labels[row]);
    return SIGMOID || (label >= 0 && label < k) ? label : -1;
}

// Exponentials of a row instead of its scores; the largest score and the sum of the exponentials.
__device__ __forceinline__ float2 dice_exponentials(float* row, int k) {
    int j = class_start(k);
    float largest = row[j];
    for (int i = 1; i < k; ++i) {
        j = class_next(j, k);
        largest = fmaxf(largest, row[j]);
    }
    float sum = 0.0f;
    for (int i = 0; i < k; ++i) {
        j = class_next(j, k);
        row[j] = __expf(row[j] - largest);
        sum += row[j];
    }
    return make_float2(largest, sum);
}

__device__ __forceinline__ float dice_sigmoid(float z) { return __fdividef(1.0f, 1.0f + __expf(-z)); }

// partial [batch, gridDim.x, 4 k + 1]: sum PT, sum P^2 (or P), sum T, sum (P - T)^2 (or |P - T|) of every class,
// then the cross-entropy.
template <bool SIGMOID, typename L>
__device__ __forceinline__ void dice_fwd(float* partial, const float* logits, const L* labels,
                                         int64_t voxels, int k, int rows, int tiles, int squared,
                                         const DiceShared& s) {
    const int64_t sample = blockIdx.y;
    const float* const from = logits + sample * voxels * k;
    const L* const truth = labels + sample * voxels;
    const DicePlace at(k);
    float sum[2][DICE_SUMS] = {}, entropy = 0.0f;
    for (int i = 0; i < tiles; ++i) {
        const int64_t first = (static_cast<int64_t>(blockIdx.x) * tiles + i) * rows;
        const int count = static_cast<int>(min(static_cast<int64_t>(rows), voxels - first));
        if (count <= 0) break;
        class_load(s.tile, from + first * k, count * k);
        __syncthreads();
        if (static_cast<int>(threadIdx.x) < count) {
            const int label = dice_read<SIGMOID>(truth, first + threadIdx.x, k);
            s.truth[threadIdx.x] = label;
            if constexpr (!SIGMOID) {
                float* const row = s.tile + threadIdx.x * k;
                const float score = label >= 0 ? row[label] : 0.0f;
                const float2 e = dice_exponentials(row, k);
                s.scale[threadIdx.x] = inverse_of_sum(e.y);
                if (label >= 0) entropy += logf(e.y) + (e.x - score);
            }
        }
        __syncthreads();
        if (at.works) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int c = at.cls + e * CLASS_THREADS;
                if (c >= k) continue;
                for (int v = at.group; v < count; v += at.groups) {
                    const float t = dice_truth<SIGMOID>(s.truth[v], c), z = s.tile[v * k + c];
                    float p;
                    if constexpr (SIGMOID) {
                        p = dice_sigmoid(z);
                        entropy += fmaxf(z, 0.0f) - t * z + log1pf(__expf(-fabsf(z)));
                    } else {
                        p = z * s.scale[v];
                    }
                    const float gap = p - t;
                    sum[e][0] += p * t;
                    sum[e][1] += squared ? p * p : p;
                    sum[e][2] += t;
                    sum[e][3] += squared ? gap * gap : fabsf(gap);
                }
            }
        }
        __syncthreads();
    }
    // Groups of a class in order.
    float* const out = partial + (sample * gridDim.x + blockIdx.x) * (DICE_SUMS * k + 1);
    if (at.works) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const int c = at.cls + e * CLASS_THREADS;
            if (c >= k) continue;
            float* const room = s.room + DICE_SUMS * (at.group * k + c);
#pragma unroll
            for (int j = 0; j < DICE_SUMS; ++j) room[j] = sum[e][j];
        }
    }
    __syncthreads();
    for (int c = threadIdx.x; c < k; c += CLASS_THREADS) {
        float all[DICE_SUMS] = {};
        for (int g = 0; g < at.groups; ++g) {
#pragma unroll
            for (int j = 0; j < DICE_SUMS; ++j) all[j] += s.room[DICE_SUMS * (g * k + c) + j];
        }
#pragma unroll
        for (int j = 0; j < DICE_SUMS; ++j) out[j * k + c] = all[j];
    }
    __syncthreads();
    entropy = block_sum(entropy, s.room);
    if (threadIdx.x == 0) out[DICE_SUMS * k] = entropy;
}

struct DiceSettings {
    float smooth_nr, smooth_dr, weight;  // weight = 1 / (samples * counted classes)
    int squared, first;                  // the first class that counts: 1 without background
};

// Block (class, sample), class k being the cross-entropy: sums the shares, then table [batch, 2, k] gets w a
// and w q, scores [batch, k + 1] the Dice loss of the class or the cross-entropy. 128 threads.
__device__ __forceinline__ void dice_merge(float* table, float* scores, const float* partial, int k,
                                           int shares, const DiceSettings& set, float* scratch) {
    const int c = blockIdx.x;
    const int64_t sample = blockIdx.y;
    const float* const from = partial + sample * shares * (DICE_SUMS * k + 1);
    float* const score = scores + sample * (k + 1) + c;
    if (c == k) {
        float sum = 0.0f;
        for (int i = threadIdx.x; i < shares; i += CLASS_THREADS)
            sum += from[static_cast<int64_t>(i) * (DICE_SUMS * k + 1) + DICE_SUMS * k];
        sum = block_sum(sum, scratch);
        if (threadIdx.x == 0) *score = sum;
        return;
    }
    float both = 0.0f, prob = 0.0f, there = 0.0f, gap = 0.0f;
    for (int i = threadIdx.x; i < shares; i += CLASS_THREADS) {
        const float* const share = from + static_cast<int64_t>(i) * (DICE_SUMS * k + 1) + c;
        both += share[0], prob += share[k], there += share[2 * k], gap += share[3 * k];
    }
    both = block_sum(both, scratch);
    prob = block_sum(prob, scratch);
    there = block_sum(there, scratch);
    gap = block_sum(gap, scratch);
    if (threadIdx.x != 0) return;
    const float den = prob + there + set.smooth_dr, ratio = __fdividef(2.0f * both + set.smooth_nr, den);
    const bool counts = c >= set.first;
    float* const out = table + sample * 2 * k + c;
    out[0] = counts ? set.weight * __fdividef(2.0f, den) : 0.0f;
    out[k] = counts ? set.weight * __fdividef(set.squared ? 2.0f * ratio : ratio, den) : 0.0f;
    *score = counts ? __fdividef(gap + (set.smooth_dr - set.smooth_nr), den) : 0.0f;
}

// terms [2]: dice, cross-entropy. One block of 128.
__device__ __forceinline__ void dice_terms(float* terms, const float* scores, int batch, int k,
                                           float weight, float entropy_weight, float* scratch) {
    float dice = 0.0f, entropy = 0.0f;
    for (int i = threadIdx.x; i < batch * (k + 1); i += CLASS_THREADS) {
        if (i % (k + 1) == k) {
            entropy += scores[i];
        } else {
            dice += scores[i];
        }
    }
    dice = block_sum(dice, scratch);
    entropy = block_sum(entropy, scratch);
    if (threadIdx.x == 0) terms[0] = dice * weight, terms[1] = entropy * entropy_weight;
}

// dlogits from dterms [2]; one tile of rows per block, grid (tiles, batch).
template <bool SIGMOID, typename L>
__device__ __forceinline__ void dice_bwd(float* dlogits, const float* dterms, const float* table,
                                         const float* logits, const L* labels, int64_t voxels, int k,
                                         int rows, float entropy_weight, int squared, int mode,
                                         const DiceShared& s) {
    const int64_t sample = blockIdx.y, first = static_cast<int64_t>(blockIdx.x) * rows;
    const int count = static_cast<int>(min(static_cast<int64_t>(rows), voxels - first));
    const int64_t begin = (sample * voxels + first) * k;
    const float of_dice = __ldg(dterms), of_entropy = __ldg(dterms + 1) * entropy_weight;
    float* const a = s.room;
    float* const q = s.room + DICE_CLASSES;
    class_load(s.tile, logits + begin, count * k);
    for (int c = threadIdx.x; c < k; c += CLASS_THREADS) {
        a[c] = of_dice * table[sample * 2 * k + c];
        q[c] = of_dice * table[(sample * 2 + 1) * k + c];
    }
    __syncthreads();
    if constexpr (SIGMOID) {
        if (static_cast<int>(threadIdx.x) < count)
            s.truth[threadIdx.x] = dice_read<true>(labels + sample * voxels, first + threadIdx.x, k);
        __syncthreads();
        const DicePlace at(k);
        for (int c = at.cls; at.works && c < k; c += CLASS_THREADS) {
            for (int v = at.group; v < count; v += at.groups) {
                const float t = dice_truth<true>(s.truth[v], c), p = dice_sigmoid(s.tile[v * k + c]);
                const float g = q[c] * (squared ? p : 1.0f) - a[c] * t;
                s.tile[v * k + c] = p * (1.0f - p) * g + of_entropy * (p - t);
            }
        }
    } else if (static_cast<int>(threadIdx.x) < count) {
        const int label = dice_read<false>(labels + sample * voxels, first + threadIdx.x, k);
        float* const row = s.tile + threadIdx.x * k;
        const float scale = inverse_of_sum(dice_exponentials(row, k).y);
        // sum_j p_j g_j, then dz_j = p_j (g_j - that).
        float inner = label >= 0 ? -a[label] * row[label] * scale : 0.0f;
        int j = class_start(k);
        for (int i = 0; i < k; ++i) {
            const float p = row[j] * scale;
            inner += q[j] * (squared ? p * p : p);
            j = class_next(j, k);
        }
        const float of_p = label >= 0 ? of_entropy : 0.0f;
        for (int i = 0; i < k; ++i) {
            const float p = row[j] * scale, t = j == label ? 1.0f : 0.0f;
            const float g = q[j] * (squared ? p : 1.0f) - a[j] * t;
            row[j] = p * (g - inner) + of_p * (p - t);
            j = class_next(j, k);
        }
    }
    __syncthreads();
    class_store(dlogits + begin, s.tile, count * k, mode == GLMAE_GRAD_ACCUMULATE);
}

}  // namespace GLMAE_NS
