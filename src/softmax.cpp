// The pointwise part of the softmax layer on the CPU, float32: one trip through memory instead of one per operation.
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

// Compiled once per instruction set, chosen at load time, so that one binary is fast on every machine.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

namespace {

// exp(x) for x <= 0 to about one unit in the last place; Cephes' polynomial, written so that compilers vectorize it.
inline float exp_nonpositive(float x) {
    x = std::max(x, -87.0f);
    const float n = std::nearbyint(x * 1.44269504088896341f);
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}

// Returns the row's cross entropy. With `gradient`, the logits become d cost / d logits: (softmax - onehot(target)) * scale.
CLONES double row(float* __restrict__ logits, const float* __restrict__ bias, int64_t vocab, int64_t target, float scale,
                  bool gradient, float* __restrict__ bias_gradient) {
    float top = -INFINITY;
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < vocab; ++j) {
        logits[j] += bias[j];
        top = std::max(top, logits[j]);
    }
    const double target_logit = logits[target];
    float sum = 0.0f;
    if (!gradient) {
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < vocab; ++j) sum += exp_nonpositive(logits[j] - top);
    } else {
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < vocab; ++j) {
            const float e = exp_nonpositive(logits[j] - top);
            logits[j] = e;
            sum += e;
        }
        const float factor = scale / sum;
#pragma omp simd
        for (int64_t j = 0; j < vocab; ++j) {
            const float p = logits[j] * factor;
            logits[j] = p;
            bias_gradient[j] += p;
        }
        logits[target] -= scale;
        bias_gradient[target] -= scale;
    }
    return std::log(static_cast<double>(sum)) + top - target_logit;
}

}  // namespace

// logits [rows, vocab] without the bias, in; overwritten. bias [vocab], targets [rows] in [0, vocab).
// Returns the total cross entropy in nats. With `bias_gradient` not null ([vocab], overwritten) the logits become their gradient.
// A NaN or an infinity among the logits makes the result NaN.
extern "C" double ptb_softmax_cross_entropy(float* logits, const float* bias, const int64_t* targets, int64_t rows, int64_t vocab,
                                            float scale, float* bias_gradient, int threads) {
    threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, rows)));
    const bool gradient = bias_gradient != nullptr;
    std::vector<double> costs(rows);
    // One accumulator per thread and rows dealt out in fixed pieces: the result depends on the number of threads, never on their timing.
    std::vector<float> partial(gradient ? threads * vocab : 0, 0.0f);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; ++t) {
        float* own = gradient ? partial.data() + t * vocab : nullptr;
        for (int64_t i = rows * t / threads; i < rows * (t + 1) / threads; ++i)
            costs[i] = row(logits + i * vocab, bias, vocab, targets[i], scale, gradient, own);
    }
    for (int t = 0; gradient && t < threads; ++t)
        for (int64_t j = 0; j < vocab; ++j)
            bias_gradient[j] = (t == 0 ? 0.0f : bias_gradient[j]) + partial[t * vocab + j];
    double total = 0.0;
    for (double cost : costs) total += cost;
    return total;
}
