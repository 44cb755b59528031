// The recurrence of one LSTM layer over a few rows of text, without gradients: what evaluation in the recurrent part is made of.
//
// Every time step multiplies the same matrix (640 kB for `small`) by one short vector per row, and waits for the step before: too short to be
// shared among threads, which would have to meet after every word. So it runs on one thread, with the matrix laid out in the order in which it is
// read. For a single row the second-level cache, where the matrix lies, sets the speed; four rows at a time use each number four times.
//
// Called from src/lstm.rs, whose tests compare it with nn::lstm. All arguments are checked there.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/simd.h"

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

// Where a step finds a row: what its inputs give, its output of the step before, its cell state, and its output's place.
struct Row {
    const float* gates;
    const float* h;
    float* c;
    float* out;
};

// One time step of the units [first, first + count), count <= LANES, in ROWS rows. `w` is these units' block of the matrix.
template <int ROWS>
inline __attribute__((always_inline)) void units(const float* __restrict__ w, const float* __restrict__ bias, const Row* rows,
                                                 int64_t hidden, int64_t first, int64_t count) {
    // A single row has two sums per gate, so that no addition waits for the one before.
    constexpr int SUMS = ROWS == 1 ? 2 : 1;
    Lanes sums[SUMS][ROWS][GATES] = {};
    const Lanes* column = reinterpret_cast<const Lanes*>(w);
    int64_t k = 0;
    for (; k + SUMS <= hidden; k += SUMS)
        for (int s = 0; s < SUMS; ++s, column += GATES)
            for (int r = 0; r < ROWS; ++r)
                for (int64_t g = 0; g < GATES; ++g) sums[s][r][g] += column[g] * rows[r].h[k + s];
    if (k < hidden)
        for (int64_t g = 0; g < GATES; ++g) sums[0][0][g] += column[g] * rows[0].h[k];
    // Whole blocks are copied with a size that the compiler knows; only the last one may be shorter.
    const size_t size = count * sizeof(float);
    const auto copy = [=](float* to, const float* from) {
        count == LANES ? std::memcpy(to, from, sizeof(Lanes)) : std::memcpy(to, from, size);
    };
    for (int r = 0; r < ROWS; ++r) {
        float z[GATES][LANES], given[LANES] = {}, own[LANES] = {}, next[LANES] = {}, result[LANES];
        for (int64_t g = 0; g < GATES; ++g) {
            copy(given, rows[r].gates + g * hidden + first);
            copy(own, bias + g * hidden + first);
            const Lanes sum = SUMS == 1 ? sums[0][r][g] : sums[0][r][g] + sums[SUMS - 1][r][g];
            for (int64_t lane = 0; lane < LANES; ++lane) z[g][lane] = sum[lane] + (given[lane] + own[lane]);
        }
        copy(next, rows[r].c + first);
#pragma omp simd
        for (int64_t lane = 0; lane < LANES; ++lane) {
            next[lane] = sigmoid(z[1][lane]) * next[lane] + sigmoid(z[0][lane]) * tanh_of(z[2][lane]);
            result[lane] = sigmoid(z[3][lane]) * tanh_of(next[lane]);
        }
        copy(rows[r].c + first, next);
        copy(rows[r].out + first, result);
    }
}

CLONES void one_row(const float* w, const float* bias, const Row* rows, int64_t hidden, int64_t first, int64_t count) {
    units<1>(w, bias, rows, hidden, first, count);
}
CLONES void four_rows(const float* w, const float* bias, const Row* rows, int64_t hidden, int64_t first, int64_t count) {
    units<4>(w, bias, rows, hidden, first, count);
}

}  // namespace

// gates [rows, steps, 4 * hidden]: what the inputs give, without the bias [4 * hidden]; w_hh [4 * hidden, hidden]; h [rows, hidden]: the state
// before the first step; c [rows, hidden], in and out; output [rows, steps, hidden]. float32, contiguous.
extern "C" void ptb_lstm_recurrence(const float* gates, const float* bias, const float* w_hh, const float* h, float* c, float* output,
                                    int64_t rows, int64_t steps, int64_t hidden) {
    const int64_t blocks = (hidden + LANES - 1) / LANES;
    std::vector<float> room(blocks * BLOCK * hidden + 16, 0.0f);
    float* packed = room.data() + (64 - reinterpret_cast<uintptr_t>(room.data()) % 64) % 64 / sizeof(float);
    for (int64_t unit = 0; unit < hidden; ++unit)
        for (int64_t g = 0; g < GATES; ++g) {
            const float* from = w_hh + (g * hidden + unit) * hidden;
            float* to = packed + unit / LANES * BLOCK * hidden + g * LANES + unit % LANES;
            for (int64_t k = 0; k < hidden; ++k) to[k * BLOCK] = from[k];
        }
    std::vector<Row> at(rows);
    for (int64_t t = 0; t < steps; ++t) {
        for (int64_t r = 0; r < rows; ++r) {
            float* out = output + (r * steps + t) * hidden;
            at[r] = {gates + (r * steps + t) * GATES * hidden, t == 0 ? h + r * hidden : out - hidden, c + r * hidden, out};
        }
        for (int64_t block = 0; block < blocks; ++block) {
            const float* w = packed + block * BLOCK * hidden;
            const int64_t first = block * LANES, count = std::min(LANES, hidden - first);
            int64_t r = 0;
            for (; r + 4 <= rows; r += 4) four_rows(w, bias, &at[r], hidden, first, count);
            for (; r < rows; ++r) one_row(w, bias, &at[r], hidden, first, count);
        }
    }
}
