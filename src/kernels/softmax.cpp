// The softmax layer on the CPU: its pointwise part, in one trip through memory instead of one per operation, and at the end, for text that is
// only scored, the whole layer.
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

#if defined(__x86_64__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns of its own header
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

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

// The whole layer, product included, for text that is only scored: the logits never leave the registers. For processors with AVX-512.

#if defined(__x86_64__)
namespace {

constexpr int64_t LANES = 16;
constexpr int64_t ROWS = 8;             // of the output, worked on at once,
constexpr int64_t COLUMNS = 3 * LANES;  // for so many words: 24 sums in 32 registers

#define WIDE __attribute__((target("avx512f")))

// exp(x) to about one unit in the last place for |x| < 30, to 3e-7 for the others; 0 or infinity where float32 ends. The polynomial is Cephes'.
WIDE inline __m512 exp_wide(__m512 x) {
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)), 8);  // nearest, and no exceptions
    const __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693147180559945309f), x);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    for (const float coefficient : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f, 1.0f, 1.0f})
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(coefficient));
    return _mm512_scalef_ps(p, n);
}

// logits [ROWS, COLUMNS] = x [depth, ROWS], transposed, @ w [depth, COLUMNS] + bias [COLUMNS]; sums [ROWS, LANES] += their exponentials
WIDE void tile(const float* x, const float* w, const float* bias, int64_t depth, float* logits, float* sums) {
    __m512 z[ROWS][3];
    for (int v = 0; v < 3; ++v)
        for (int r = 0; r < ROWS; ++r) z[r][v] = _mm512_loadu_ps(bias + v * LANES);
    for (int64_t k = 0; k < depth; ++k, x += ROWS, w += COLUMNS)
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < 3; ++v) z[r][v] = _mm512_fmadd_ps(_mm512_set1_ps(x[r]), _mm512_loadu_ps(w + v * LANES), z[r][v]);
    for (int r = 0; r < ROWS; ++r) {
        __m512 sum = _mm512_loadu_ps(sums + r * LANES);
        for (int v = 0; v < 3; ++v) {
            _mm512_storeu_ps(logits + r * COLUMNS + v * LANES, z[r][v]);
            sum = _mm512_add_ps(sum, exp_wide(z[r][v]));
        }
        _mm512_storeu_ps(sums + r * LANES, sum);
    }
}

}  // namespace

// The rows' cross entropies, in nats, of x @ w + bias, all float32 and laid out as they are read, filled up with zeros (bias: with -80, which adds nothing):
// x [rows / ROWS, depth, ROWS], w [vocab / COLUMNS, depth, COLUMNS], bias [vocab / COLUMNS, COLUMNS]. targets and costs: [rows].
//
// The exponentials are taken without subtracting a row's maximum, which is known only at its end. False if the sum of a row leaves float32's range
// (or is NaN): the costs are then ptb_softmax_cross_entropy's to find.
extern "C" bool ptb_score(const float* x, const float* w, const float* bias, const int64_t* targets, int64_t rows, int64_t depth,
                          int64_t panels, double* costs) {
    const int64_t blocks = (rows + ROWS - 1) / ROWS;
    std::vector<float> sums(blocks * ROWS * LANES, 0.0f), target_logits(rows);
    float logits[ROWS * COLUMNS];
    for (int64_t panel = 0; panel < panels; ++panel)
        for (int64_t block = 0; block < blocks; ++block) {
            tile(x + block * ROWS * depth, w + panel * COLUMNS * depth, bias + panel * COLUMNS, depth, logits,
                 sums.data() + block * ROWS * LANES);
            for (int64_t i = block * ROWS; i < std::min(rows, (block + 1) * ROWS); ++i)
                if (targets[i] / COLUMNS == panel) target_logits[i] = logits[i % ROWS * COLUMNS + targets[i] % COLUMNS];
        }
    for (int64_t i = 0; i < rows; ++i) {
        double sum = 0.0;
        for (int64_t lane = 0; lane < LANES; ++lane) sum += sums[i * LANES + lane];
        // In between, whatever was lost to 0 is less than 1e-8 of the sum, and nothing was infinite.
        if (!(sum > 1e-25 && sum < 1e35)) return false;
        costs[i] = std::log(sum) - target_logits[i];
    }
    return true;
}
extern "C" const int64_t ptb_score_tile[] = {ROWS, COLUMNS};
#else
extern "C" const int64_t ptb_score_tile[] = {1, 1};
extern "C" bool ptb_score(const float*, const float*, const float*, const int64_t*, int64_t, int64_t, int64_t, double*) { return false; }
#endif
