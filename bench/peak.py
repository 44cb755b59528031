"""How fast the step's matrix products alone run here, in PyTorch: the bound that the speeds are measured against.

    peak.py CONFIG [THREADS]

Prints a JSON line: per type `peak_gflops`, the fastest of the products, and `products_ms`, all products of a training step together,
each at its best of several calls.
"""

import json
import sys
import time

import torch

import ptb


def products(c):
    """(how often per step, left, right), forward and backward, in the layouts that the step has them in."""
    n, h, v, b = c.batch * c.num_steps, c.hidden, c.vocab, c.batch
    x, dy = [n, h], [n, v]
    softmax = [(1, x, (h, v)), (1, dy, (v, h, "t")), (1, (h, n, "t"), dy)]
    gates = [n, 4 * h]
    inputs = [(1, x, (h, 4 * h)), (1, gates, (4 * h, h, "t")), (1, (h, n, "t"), gates)]
    recurrent = [(c.num_steps, [b, h], (h, 4 * h)), (c.num_steps, [b, 4 * h], (4 * h, h, "t")), (1, (h, n, "t"), gates)]
    return softmax + c.layers * (inputs + recurrent)


def matrix(shape, kind):
    """A random matrix; "t": the transposed view of one."""
    rows, columns = shape[:2]
    return torch.randn(columns, rows).to(kind).t() if len(shape) == 3 else torch.randn(rows, columns).to(kind)


def best_seconds(left, right, kind, least=0.05):
    """Of one product: the fastest call within `least` seconds, at least five."""
    a, b = matrix(left, kind), matrix(right, kind)
    out = torch.empty(a.shape[0], b.shape[1], dtype=kind)
    best, start, calls = float("inf"), time.perf_counter(), 0
    while calls < 5 or time.perf_counter() - start < least:
        before = time.perf_counter()
        torch.mm(a, b, out=out)
        best, calls = min(best, time.perf_counter() - before), calls + 1
    return best


def main():
    c = ptb.CONFIGS[sys.argv[1]]
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else torch.get_num_threads()
    torch.set_num_threads(threads)
    result = {"threads": threads, "version": torch.__version__}
    for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        times = {(tuple(left), tuple(right)): [] for _, left, right in products(c)}
        for _ in range(3):  # In turn, so that a disturbance does not hit one product alone.
            for (left, right), seconds in times.items():
                seconds.append(best_seconds(left, right, kind))
        flop = {key: 2 * key[0][0] * key[0][1] * key[1][1] for key in times}
        result[name] = {
            "peak_gflops": max(flop[key] / min(t) for key, t in times.items()) / 1e9,
            "products_ms": 1e3 * sum(k * min(times[tuple(l), tuple(r)]) for k, l, r in products(c)),
        }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
