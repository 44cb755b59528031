// The pointwise part of the softmax layer for some rows of logits, on one thread.
//
// build.rs compiles this file once per instruction set, each time under another name
// (PTB_SOFTMAX_ROWS), and softmax.cpp chooses one when the program runs. So it uses nothing of the
// standard library that would be compiled into it: the linker keeps one copy of such functions for
// the whole program, and that could be one which this processor cannot run.

#include <math.h>
#include <stdint.h>
#include <string.h>

namespace {

// bfloat16 is the upper half of a float32; rounding is to nearest, ties to even.
inline float to_float(float x) { return x; }
inline float to_float(uint16_t x) {
    const uint32_t bits = static_cast<uint32_t>(x) << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
inline void store(float* place, float value) { *place = value; }
inline void store(uint16_t* place, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    *place = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// exp(x) for x <= 0 to about one unit in the last place; Cephes' polynomial, written so that
// compilers vectorize it.
inline float exp_nonpositive(float x) {
    x = x > -87.0f ? x : -87.0f;
    const float n = __builtin_nearbyintf(x * 1.44269504088896341f);
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
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

// Returns the cross entropy of one row, logits [vocab]. With `gradient`, the logits become d cost /
// d logits: (softmax - onehot(target)) * scale, and are added to bias_gradient [vocab]. `shifted`
// [vocab] holds the row in float32, with the bias; for float32 logits it is the row itself.
template <typename T>
inline double row(T* logits, float* shifted, const float* __restrict__ bias, int64_t vocab,
                  int64_t target, float scale, bool gradient, float* __restrict__ bias_gradient) {
    // Many maxima side by side: compilers leave a single one, with its rules for NaN, to scalar
    // code.
    constexpr int64_t kLanes = 32;
    float lane_max[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane) lane_max[lane] = -INFINITY;
    int64_t done = 0;
    for (; done + kLanes <= vocab; done += kLanes) {
#pragma omp simd
        for (int64_t lane = 0; lane < kLanes; ++lane) {
            const float value = to_float(logits[done + lane]) + bias[done + lane];
            shifted[done + lane] = value;
            lane_max[lane] = value > lane_max[lane] ? value : lane_max[lane];
        }
    }
    for (; done < vocab; ++done) {
        const float value = to_float(logits[done]) + bias[done];
        shifted[done] = value;
        lane_max[0] = value > lane_max[0] ? value : lane_max[0];
    }
    float row_max = lane_max[0];
    for (int64_t lane = 1; lane < kLanes; ++lane)
        row_max = lane_max[lane] > row_max ? lane_max[lane] : row_max;

    const double target_logit = shifted[target];
    float sum = 0.0f;
    if (!gradient) {
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < vocab; ++j) sum += exp_nonpositive(shifted[j] - row_max);
    } else {
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < vocab; ++j) {
            const float e = exp_nonpositive(shifted[j] - row_max);
            shifted[j] = e;
            sum += e;
        }
        const float factor = scale / sum;
        shifted[target] -= scale / factor;
#pragma omp simd
        for (int64_t j = 0; j < vocab; ++j) {
            const float p = shifted[j] * factor;
            store(&logits[j], p);
            bias_gradient[j] += p;
        }
    }
    return log(static_cast<double>(sum)) + row_max - target_logit;
}

}  // namespace

// Rows first..last of logits [rows, vocab], float32 or (with `bfloat16`) bfloat16. `work` [vocab]
// is needed for bfloat16 only. The rest is as in softmax.cpp.
extern "C" void PTB_SOFTMAX_ROWS(void* logits, bool bfloat16, float* work, const float* bias,
                                 const int64_t* targets, int64_t first, int64_t last, int64_t vocab,
                                 float scale, float* bias_gradient, double* costs) {
    const bool gradient = bias_gradient != nullptr;
    for (int64_t i = first; i < last; ++i) {
        if (bfloat16) {
            uint16_t* own = static_cast<uint16_t*>(logits) + i * vocab;
            costs[i] = row(own, work, bias, vocab, targets[i], scale, gradient, bias_gradient);
        } else {
            float* own = static_cast<float*>(logits) + i * vocab;
            costs[i] = row(own, own, bias, vocab, targets[i], scale, gradient, bias_gradient);
        }
    }
}
