"""How fast the step's matrix products alone run here, in PyTorch: the bound that the speeds are measured against.

    peak.py CONFIG [THREADS]

Prints a JSON line: per type `peak_gflops`, the fastest of the products; `products_ms`, all products of a training step together, each at its
best of several calls by the faster of two ways; and `products_mm_ms`, the same by torch.mm alone.
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


def ways(left, right, kind):
    """The ways to this product: torch.mm (MKL for float32), and oneDNN's linear, which torch.compile uses."""
    a, b = matrix(left, kind), matrix(right, kind)
    out = torch.empty(a.shape[0], b.shape[1], dtype=kind)
    found = {"mm": lambda: torch.mm(a, b, out=out)}
    try:
        linear, transposed = torch.ops.mkldnn._linear_pointwise, b.t()
        linear(a, transposed, None, "none", [], "")
        found["onednn"] = lambda: linear(a, transposed, None, "none", [], "")
    except (AttributeError, RuntimeError):
        pass  # A PyTorch without it.
    return found


def best_seconds(call, least=0.05):
    """The fastest call within `least` seconds, of at least five."""
    best, start, calls = float("inf"), time.perf_counter(), 0
    while calls < 5 or time.perf_counter() - start < least:
        before = time.perf_counter()
        call()
        best, calls = min(best, time.perf_counter() - before), calls + 1
    return best


def main():
    c = ptb.CONFIGS[sys.argv[1]]
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else torch.get_num_threads()
    torch.set_num_threads(threads)
    result = {"threads": threads, "version": torch.__version__}
    for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        calls = {(tuple(left), tuple(right)): ways(left, right, kind) for _, left, right in products(c)}
        best = {key: dict.fromkeys(found, float("inf")) for key, found in calls.items()}
        for _ in range(3):  # In turn, so that a disturbance does not hit one product alone.
            for key, found in calls.items():
                for way, call in found.items():
                    best[key][way] = min(best[key][way], best_seconds(call))

        def milliseconds(of):
            return 1e3 * sum(times * of(best[tuple(left), tuple(right)]) for times, left, right in products(c))

        flop = {key: 2 * key[0][0] * key[0][1] * key[1][1] for key in best}
        result[name] = {
            "peak_gflops": max(flop[key] / min(times.values()) for key, times in best.items()) / 1e9,
            "products_ms": milliseconds(lambda times: min(times.values())),
            "products_mm_ms": milliseconds(lambda times: times["mm"]),
        }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
