// The pointwise part of the softmax layer on the CPU, in one trip through memory instead of one per operation.
//
// A row of logits (40 kB for PTB's 10,000 words) stays in a core's second-level cache while it is worked on, so the passes below over a row
// cost no memory traffic. The threads are libtorch's own (the same OpenMP runtime), which are awake anyway between two matrix products.
//
// Called from src/loss.rs, whose tests compare it with the plain definition. All arguments are checked there.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "simd.h"

namespace {

// bfloat16 is the upper half of a float32; rounding is to nearest, ties to even.
inline float to_float(float x) { return x; }
inline float to_float(uint16_t x) {
    const uint32_t bits = static_cast<uint32_t>(x) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline void store(float* place, float value) { *place = value; }
inline void store(uint16_t* place, float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    *place = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Returns the row's cross entropy. With `gradient`, the logits become d cost / d logits: (softmax - onehot(target)) * scale.
// `work` holds a row of float32; for float32 logits it is the row itself.
template <typename T>
inline __attribute__((always_inline)) double row(T* logits, float* work, const float* __restrict__ bias, int64_t vocab, int64_t target,
                                                 float scale, bool gradient, float* __restrict__ bias_gradient) {
    // Many maxima side by side: compilers leave a single one, with its rules for NaN, to scalar code.
    float tops[32];
    std::fill_n(tops, 32, -INFINITY);
    const auto see = [&](int64_t j, float& top) {
        const float value = to_float(logits[j]) + bias[j];
        work[j] = value;
        top = value > top ? value : top;
    };
    int64_t seen = 0;
    for (; seen + 32 <= vocab; seen += 32) {
#pragma omp simd
        for (int64_t lane = 0; lane < 32; ++lane) see(seen + lane, tops[lane]);
    }
    for (; seen < vocab; ++seen) see(seen, tops[0]);
    const float top = *std::max_element(tops, tops + 32);
    const double target_logit = work[target];
    float sum = 0.0f;
    if (!gradient) {
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < vocab; ++j) sum += exp_nonpositive(work[j] - top);
    } else {
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < vocab; ++j) {
            const float e = exp_nonpositive(work[j] - top);
            work[j] = e;
            sum += e;
        }
        const float factor = scale / sum;
        work[target] -= scale / factor;
#pragma omp simd
        for (int64_t j = 0; j < vocab; ++j) {
            const float p = work[j] * factor;
            store(&logits[j], p);
            bias_gradient[j] += p;
        }
    }
    return std::log(static_cast<double>(sum)) + top - target_logit;
}

// The two types, each compiled for every instruction set.
CLONES double row_of(float* logits, float*, const float* bias, int64_t vocab, int64_t target, float scale, bool gradient,
                     float* bias_gradient) {
    return row(logits, logits, bias, vocab, target, scale, gradient, bias_gradient);
}
CLONES double row_of(uint16_t* logits, float* work, const float* bias, int64_t vocab, int64_t target, float scale, bool gradient,
                     float* bias_gradient) {
    return row(logits, work, bias, vocab, target, scale, gradient, bias_gradient);
}

template <typename T>
void softmax_cross_entropy(T* logits, const float* bias, const int64_t* targets, int64_t rows, int64_t vocab, float scale,
                           float* bias_gradient, double* costs, int threads) {
    threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, rows)));
    const bool gradient = bias_gradient != nullptr;
    const bool narrow = sizeof(T) < sizeof(float);
    // One accumulator per thread and rows dealt out in fixed pieces: the result depends on the number of threads, never on their timing.
    std::vector<float> partial(gradient ? threads * vocab : 0, 0.0f);
    std::vector<float> work(narrow ? threads * vocab : 0);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; ++t) {
        float* own = gradient ? partial.data() + t * vocab : nullptr;
        float* wide = narrow ? work.data() + t * vocab : nullptr;
        for (int64_t i = rows * t / threads; i < rows * (t + 1) / threads; ++i)
            costs[i] = row_of(logits + i * vocab, wide, bias, vocab, targets[i], scale, gradient, own);
    }
    for (int t = 0; gradient && t < threads; ++t)
        for (int64_t j = 0; j < vocab; ++j)
            bias_gradient[j] = (t == 0 ? 0.0f : bias_gradient[j]) + partial[t * vocab + j];
}

}  // namespace

// logits [rows, vocab] without the bias, float32 or (with `bfloat16`) bfloat16, in; overwritten. bias [vocab], targets [rows] in [0, vocab).
// The rows' cross entropies, in nats, go into costs [rows]. With `bias_gradient` not null ([vocab], overwritten) the logits become their gradient.
// A NaN or an infinity among a row's logits makes its cost NaN.
extern "C" void ptb_softmax_cross_entropy(void* logits, bool bfloat16, const float* bias, const int64_t* targets, int64_t rows,
                                          int64_t vocab, float scale, float* bias_gradient, double* costs, int threads) {
    bfloat16 ? softmax_cross_entropy(static_cast<uint16_t*>(logits), bias, targets, rows, vocab, scale, bias_gradient, costs, threads)
             : softmax_cross_entropy(static_cast<float*>(logits), bias, targets, rows, vocab, scale, bias_gradient, costs, threads);
}
