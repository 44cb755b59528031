// The pointwise part of the softmax layer on the CPU, in one trip through memory instead of one per
// operation.
//
// A row of logits (40 kB for PTB's 10,000 words) stays in a core's second-level cache while it is
// worked on, so the passes of softmax_rows.cpp over a row cost no memory traffic. The threads are
// libtorch's own (the same OpenMP runtime), which are awake anyway between two matrix products.
//
// Called from mod.rs, which checks all arguments; src/model/softmax.rs compares it with the plain
// definition.

#include <cstdint>
#include <cstring>
#include <memory>

using SoftmaxRows = void (*)(void* logits, bool bfloat16, float* work, const float* bias,
                             const int64_t* targets, int64_t first, int64_t last, int64_t vocab,
                             float scale, float* bias_gradient, double* costs);

extern "C" {
void ptb_softmax_rows_baseline(void*, bool, float*, const float*, const int64_t*, int64_t, int64_t,
                               int64_t, float, float*, double*);
#ifdef PTB_X86_64
void ptb_softmax_rows_avx2(void*, bool, float*, const float*, const int64_t*, int64_t, int64_t,
                           int64_t, float, float*, double*);
void ptb_softmax_rows_avx512(void*, bool, float*, const float*, const int64_t*, int64_t, int64_t,
                             int64_t, float, float*, double*);
#endif
#ifndef __APPLE__
// GNU's OpenMP runtime, as compilers call it for `#pragma omp parallel`: by name, so that compilers
// of other makers, which have a runtime of their own, use libtorch's as well.
void GOMP_parallel(void (*work)(void*), void* data, unsigned threads, unsigned flags);
#endif
}

namespace {

SoftmaxRows best_rows() {
#ifdef PTB_X86_64
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return ptb_softmax_rows_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return ptb_softmax_rows_avx2;
#endif
    return ptb_softmax_rows_baseline;
}

// What all threads know, and each one's own buffers: `vocab` numbers for each thread.
struct Job {
    SoftmaxRows rows_of;
    void* logits;
    bool bfloat16;
    const float* bias;
    const int64_t* targets;
    int64_t rows, vocab;
    float scale;
    double* costs;
    int threads;
    float* partial;  // null without a gradient
    float* work;     // null for float32

    // Rows are dealt out in fixed pieces: the result depends on the number of threads, never on
    // their timing.
    void piece(int t) const {
        float* own_partial = partial ? partial + t * vocab : nullptr;
        float* own_work = work ? work + t * vocab : nullptr;
        rows_of(logits, bfloat16, own_work, bias, targets, rows * t / threads,
                rows * (t + 1) / threads, vocab, scale, own_partial, costs);
    }
};

void run(const Job& job) {
#ifndef __APPLE__
    if (job.threads > 1) {
        // (The runtime may start fewer threads than asked for, never more: whoever comes takes the
        // pieces of those who did not.)
        struct Shared {
            const Job& job;
            int next;
        } shared{job, 0};
        GOMP_parallel(
            [](void* data) {
                auto& shared = *static_cast<Shared*>(data);
                for (int t; (t = __atomic_fetch_add(&shared.next, 1, __ATOMIC_RELAXED)) <
                            shared.job.threads;)
                    shared.job.piece(t);
            },
            &shared, job.threads, 0);
        return;
    }
#endif
    for (int t = 0; t < job.threads; ++t) job.piece(t);
}

}  // namespace

// logits [rows, vocab] without the bias, float32 or (with `bfloat16`) bfloat16, in; overwritten.
// bias [vocab], targets [rows] in [0, vocab). The rows' cross entropies, in nats, go into costs
// [rows]. With `bias_gradient` not null ([vocab], overwritten) the logits become their gradient. A
// NaN or an infinity among a row's logits makes its cost NaN.
extern "C" void ptb_softmax_cross_entropy(void* logits, bool bfloat16, const float* bias,
                                          const int64_t* targets, int64_t rows, int64_t vocab,
                                          float scale, float* bias_gradient, double* costs,
                                          int threads) {
    static const SoftmaxRows rows_of = best_rows();
    if (threads > rows) threads = static_cast<int>(rows);
    if (threads < 1) threads = 1;
    const std::unique_ptr<float[]> partial(bias_gradient ? new float[threads * vocab]() : nullptr);
    const std::unique_ptr<float[]> work(bfloat16 ? new float[threads * vocab] : nullptr);
    run({rows_of, logits, bfloat16, bias, targets, rows, vocab, scale, costs, threads,
         partial.get(), work.get()});
    if (!bias_gradient) return;
    std::memcpy(bias_gradient, partial.get(), vocab * sizeof(float));
    for (int t = 1; t < threads; ++t)
        for (int64_t j = 0; j < vocab; ++j) bias_gradient[j] += partial[t * vocab + j];
}
