#!/usr/bin/env python3
"""Bytes, messages and a model of the speed of data parallel training: the tables of docs/distributed.md.

Per step every worker computes batch/N rows, sums two buckets over all workers (softmax_w's gradient, which travels while the layers below
compute theirs, and the rest) and gathers the embedding's rows. A ring moves 2 (N-1)/N of a summed tensor's bytes through each worker's link in
2 (N-1) messages, and (N-1)/N of a gathered one in N-1.

Assumptions: `latency` per message, `bandwidth` of the slowest link of the ring per worker and direction, arithmetic at `flops` per worker
whatever its share (optimistic: 20/N rows keep a GPU less busy than 20), and a `fixed` time per step that no share makes smaller (launching the
kernels of the unrolled time steps one after the other, and the update, whose traffic is the variables', not the batch's). The first
bucket is hidden behind the recurrent layers' backward pass as far as that lasts. scaling.py needs no packages.
"""

VOCAB = 10_000
MODELS = {"small": (200, 2, 20), "medium": (650, 2, 35), "large": (1500, 2, 35)}  # hidden, layers, steps
# The first machine's rates are those that its measurement shows: Gloo's sums and copies there need the very cores that compute.
# name: (workers, batch, float32 flop/s per worker, bandwidth B/s, latency s, fixed s per time step and layer, memory B/s)
MACHINES = {
    "2 cores of one machine": (2, 20, 90e9, 0.5e9, 50e-6, 0.0, 10e9),
    "4 machines of 16 cores, 1 Gb/s": (4, 20, 1e12, 1e9 / 8, 100e-6, 0.0, 100e9),
    "4 machines of 16 cores, 25 Gb/s": (4, 20, 1e12, 25e9 / 8, 30e-6, 0.0, 100e9),
    "4 GPUs, NVLink": (4, 20, 40e12, 200e9, 8e-6, 10e-6, 2e12),
    "8 GPUs, NVLink": (8, 40, 40e12, 200e9, 8e-6, 10e-6, 2e12),
    "8 GPUs, NVLink, large batch": (8, 640, 40e12, 200e9, 8e-6, 10e-6, 2e12),
    "2 machines of 8 GPUs, 100 Gb/s": (16, 80, 40e12, 100e9 / 8, 20e-6, 10e-6, 2e12),
}


def sizes(hidden, layers, steps, batch=20):
    """Bytes of the first bucket, of the second, of the embedding's rows of the whole batch; and the flops: recurrent and softmax."""
    words = batch * steps
    softmax_w = 4 * hidden * VOCAB
    recurrent = 4 * layers * (8 * hidden * hidden + 4 * hidden)
    rest = recurrent + 4 * VOCAB + 4
    rows = 4 * words * hidden
    # A product of n rows costs 2 n in out forward, and twice that backward.
    return softmax_w, rest, rows, 6 * words * layers * 8 * hidden * hidden, 6 * words * hidden * VOCAB


def step_time(model, workers, batch, flops, bandwidth, latency, fixed, memory):
    hidden, layers, steps = model
    first, rest, rows, recurrent, softmax = sizes(hidden, layers, steps, batch)
    compute = (recurrent + softmax) / workers / flops + 2 * fixed * layers * steps + 3 * (first + rest) / memory
    if workers == 1:
        return compute
    ring = lambda size, passes: passes * (workers - 1) * (size / workers / bandwidth + latency)
    backward = recurrent * 2 / 3 / workers / flops + fixed * layers * steps
    travel = max(0.0, ring(first, 2) - backward) + ring(rest, 2) + ring(rows, 1)
    return compute + travel


def main():
    print("| model | softmax_w | the rest | embedding's rows | as a dense table | arithmetic | bytes sent by each of 2 | messages |")
    print("|---|---|---|---|---|---|---|---|")
    mb = lambda size: f"{size / 1e6:.1f} MB"
    for name, model in MODELS.items():
        first, rest, rows, recurrent, softmax = sizes(*model)
        sent = first + rest + rows / 2
        print(f"| {name} | {mb(first)} | {mb(rest)} | {mb(rows)} | {mb(4 * VOCAB * model[0])} | {(recurrent + softmax) / 1e9:.0f} Gflop "
              f"| {mb(sent)} | {2 + 2 + 1} |")
    print()
    print("| machine | workers | batch | " + " | ".join(f"{name}: one | all | times" for name in MODELS) + " |")
    print("|---|---|---|" + "---|---|---|" * len(MODELS))
    for machine, (workers, *rates) in MACHINES.items():
        cells = []
        for model in MODELS.values():
            one = step_time(model, 1, *rates)
            all_ = step_time(model, workers, *rates)
            cells.append(f"{one * 1e3:.2f} ms | {all_ * 1e3:.2f} ms | {one / all_:.2f}")
        print(f"| {machine} | {workers} | {rates[0]} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
