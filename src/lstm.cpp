// The recurrence of one LSTM layer over a single row of text: what evaluation word by word (batch_size 1) is made of.
//
// Every time step multiplies the same matrix (640 kB for `small`) by one vector and waits for the step before: too short to share among
// threads, which would have to meet after every word. So it runs on one, the matrix laid out in the order in which it is read, and others do
// other work meanwhile (src/session.rs).
//
// Called from src/lstm.rs, whose tests compare it with nn::lstm. All arguments are checked there.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "simd.h"

namespace {

constexpr int64_t LANES = 8;              // units that are worked on at once
constexpr int64_t GATES = 4;              // input, forget, cell (`j`), output: libtorch's order
constexpr int64_t BLOCK = GATES * LANES;  // one column of the matrix, as far as these units go
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));

inline float sigmoid(float x) {
    const float e = exp_nonpositive(-std::fabs(x));
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}
inline float tanh_of(float x) {
    const float e = exp_nonpositive(-2.0f * std::fabs(x));
    return std::copysign((1.0f - e) / (1.0f + e), x);
}

// One time step of the units [first, first + count), count <= LANES. `w` is their block of the matrix, `h` the step before's output.
CLONES void step(const float* __restrict__ w, const float* __restrict__ h, const float* __restrict__ gates,
                 const float* __restrict__ bias, float* __restrict__ c, float* __restrict__ out, int64_t hidden, int64_t first, int64_t count) {
    // Two sums per gate, so that no addition waits for the one before.
    Lanes even[GATES] = {}, odd[GATES] = {};
    const Lanes* column = reinterpret_cast<const Lanes*>(w);
    int64_t k = 0;
    for (; k + 1 < hidden; k += 2, column += 2 * GATES) {
        for (int64_t g = 0; g < GATES; ++g) {
            even[g] += column[g] * h[k];
            odd[g] += column[GATES + g] * h[k + 1];
        }
    }
    if (k < hidden)
        for (int64_t g = 0; g < GATES; ++g) even[g] += column[g] * h[k];
    // Whole blocks are copied with a size that the compiler knows; only the last one may be shorter.
    const size_t size = count * sizeof(float);
    const auto copy = [=](float* to, const float* from) {
        count == LANES ? std::memcpy(to, from, sizeof(Lanes)) : std::memcpy(to, from, size);
    };
    float z[GATES][LANES], given[LANES] = {}, own[LANES] = {}, next[LANES] = {}, result[LANES];
    for (int64_t g = 0; g < GATES; ++g) {
        copy(given, gates + g * hidden + first);
        copy(own, bias + g * hidden + first);
        for (int64_t lane = 0; lane < LANES; ++lane) z[g][lane] = (even[g][lane] + odd[g][lane]) + (given[lane] + own[lane]);
    }
    copy(next, c + first);
#pragma omp simd
    for (int64_t lane = 0; lane < LANES; ++lane) {
        next[lane] = sigmoid(z[1][lane]) * next[lane] + sigmoid(z[0][lane]) * tanh_of(z[2][lane]);
        result[lane] = sigmoid(z[3][lane]) * tanh_of(next[lane]);
    }
    copy(c + first, next);
    copy(out + first, result);
}

}  // namespace

// gates [steps, 4 * hidden]: what the inputs give, without the bias [4 * hidden]; w_hh [4 * hidden, hidden]; h [hidden]: the state before the
// first step; c [hidden], in and out; output [steps, hidden]. float32, contiguous.
extern "C" void ptb_lstm_recurrence(const float* gates, const float* bias, const float* w_hh, const float* h, float* c, float* output,
                                    int64_t steps, int64_t hidden) {
    const int64_t blocks = (hidden + LANES - 1) / LANES;
    std::vector<float> room(blocks * BLOCK * hidden + 16, 0.0f);
    float* packed = room.data() + (64 - reinterpret_cast<uintptr_t>(room.data()) % 64) % 64 / sizeof(float);
    for (int64_t unit = 0; unit < hidden; ++unit)
        for (int64_t g = 0; g < GATES; ++g) {
            const float* from = w_hh + (g * hidden + unit) * hidden;
            float* to = packed + unit / LANES * BLOCK * hidden + g * LANES + unit % LANES;
            for (int64_t k = 0; k < hidden; ++k) to[k * BLOCK] = from[k];
        }
    for (int64_t t = 0; t < steps; ++t) {
        const float* before = t == 0 ? h : output + (t - 1) * hidden;
        for (int64_t block = 0; block < blocks; ++block)
            step(packed + block * BLOCK * hidden, before, gates + t * GATES * hidden, bias, c, output + t * hidden, hidden, block * LANES,
                 std::min(LANES, hidden - block * LANES));
    }
}
