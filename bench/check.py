"""Do the peers compute what ours computes? From the same initial variables and the same text:

- the costs of the first ten training steps of `small`, with the original's clipping and with one that bites at every step (max_grad_norm 1):
  ours, PyTorch (--faithful), and TensorFlow's graph in both of its modes; they must agree to 1e-5 (relative);
- the cost of a whole evaluation of the validation text (and, ours and PyTorch, of the test text), to 1e-6.

The idiomatic PyTorch program is shown too: its first cost is the same, then its second bias and its own norm lead it elsewhere.

    bench/run.sh check.py [--binary FILE] [--threads N]
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile

import numpy as np

import programs
import ptb

STEPS = 10


def initial_variables(c, path):
    """As the original initializes, but with biases that are not zero, so that they are seen."""
    random = np.random.RandomState(0)
    shapes = {"Model/embedding": [c.vocab, c.hidden], "Model/softmax_w": [c.hidden, c.vocab], "Model/softmax_b": [c.vocab]}
    for k in range(c.layers):
        cell = "Model/RNN/multi_rnn_cell/cell_%d/basic_lstm_cell/" % k
        shapes.update({cell + "kernel": [2 * c.hidden, 4 * c.hidden], cell + "bias": [4 * c.hidden]})
    np.savez(path, **{name: random.uniform(-c.init_scale, c.init_scale, shape).astype(np.float32) for name, shape in shapes.items()})


def run(command):
    print("  " + " ".join(os.path.basename(part) for part in command[:3]), file=sys.stderr)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    if done.returncode:
        sys.exit("%s\n%s" % (" ".join(command), done.stderr[-3000:]))
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def report(name, got, want, tolerance):
    error = max(abs(g - w) / abs(w) for g, w in zip(got, want))
    passed = len(got) == len(want) and error <= tolerance
    print("  %-34s %s  largest relative difference %.1e" % (name, "ok  " if passed else "WRONG", error))
    return passed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default=programs.BINARY)
    parser.add_argument("--threads", type=int, default=programs.CORES)
    args = parser.parse_args()
    c = ptb.CONFIGS["small"]
    ok = True
    with tempfile.TemporaryDirectory() as folder:
        init = os.path.join(folder, "init.npz")
        initial_variables(c, init)
        same = ["--threads", str(args.threads), "--init", init]

        for max_grad_norm in (5.0, 1.0):
            print("training, %d steps of small, max_grad_norm %g" % (STEPS, max_grad_norm))
            ours = run(programs.ours(args.binary, args.threads, "small", [
                "--max-steps", str(STEPS), "--no-eval", "--log-every", "1", "--init-from", init, "--max-grad-norm", str(max_grad_norm)]))
            costs = [e["cost"] for e in ours if e["event"] == "step"]
            print("  ours: " + " ".join("%.3f" % cost for cost in costs))
            flags = same + ["--costs", "--steps", str(STEPS), "--max-grad-norm", str(max_grad_norm)]
            for name, command in programs.peers(torch_flags=["--faithful"]):
                ok &= report(name, run(command + flags)[-1]["costs"], costs, 1e-5)
            idiomatic = run(programs.peer("torch") + flags)[-1]["costs"]
            ok &= report("torch as timed, first step", idiomatic[:1], costs[:1], 1e-5)
            print("  torch as timed, step %d: %.3f" % (STEPS, idiomatic[-1]))

        print("evaluation, small")
        ours = run(programs.ours(args.binary, args.threads, "small", ["--max-steps", "0", "--init-from", init]))
        perplexity = {e["split"]: e["perplexity"] for e in ours if e["event"] in ("epoch", "final")}
        print("  ours: perplexity %s" % perplexity)

        def evaluated(command, words_per_step):
            result = run(command + same)[-1]
            return math.exp(result["cost_total"] / (words_per_step * (result["steps"] + 1)))

        for name, command in programs.peers():
            ok &= report(name + ", valid", [evaluated(command + ["--mode", "valid"], c.num_steps)], [perplexity["valid"]], 1e-6)
        chunk = 2659  # Divides the 82,429 words that are predicted, so that no word is left out.
        ok &= report("torch, test", [evaluated(programs.peer("torch") + ["--mode", "test", "--chunk", str(chunk)], chunk)],
                     [perplexity["test"]], 1e-6)
    print("the peers compute the same" if ok else "the peers do NOT compute the same")
    sys.exit(not ok)


if __name__ == "__main__":
    main()
