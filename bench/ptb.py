"""What the peers share: the configurations, the reader and producer (as src/reader has them), the clock, the result line.

    ptb.py FOLDER     writes random text of PTB's size there, for machines without PTB

Runs on Python 3.7 (TensorFlow 1.15) as well as on current ones.
"""

import argparse
import json
import os
import random
import sys
import time
from collections import Counter, namedtuple

Config = namedtuple("Config", "hidden layers num_steps batch keep_prob init_scale max_grad_norm vocab")
CONFIGS = {
    "small": Config(200, 2, 20, 20, 1.0, 0.1, 5.0, 10000),
    "medium": Config(650, 2, 35, 20, 0.5, 0.05, 5.0, 10000),
    "large": Config(1500, 2, 35, 20, 0.35, 0.04, 10.0, 10000),
}
LEARNING_RATE = 1.0


def step_flop(c):
    """Arithmetic of a training step's matrix products: each of the forward pass has two of its size in the backward pass."""
    return 3 * 2 * c.batch * c.num_steps * (c.hidden * c.vocab + c.layers * 2 * c.hidden * 4 * c.hidden)


def read_words(path):
    with open(path, encoding="utf-8") as f:
        return f.read().replace("\n", " <eos> ").split()


def read_ids(folder, splits):
    """The splits as numpy arrays of ids; the vocabulary is the training text's, by count, then by word."""
    import numpy as np
    train = read_words(os.path.join(folder, "ptb.train.txt"))
    counts = sorted(Counter(train).items(), key=lambda pair: (-pair[1], pair[0]))
    ids = {word: i for i, (word, _) in enumerate(counts)}
    texts = [train if s == "train" else read_words(os.path.join(folder, "ptb.%s.txt" % s)) for s in splits]
    return [np.array([ids[w] for w in text if w in ids], np.int64) for text in texts], len(ids)


class Producer:
    """`batch` rows of the text side by side, cut into steps of `num_steps` words; targets are the inputs shifted by one."""

    def __init__(self, ids, batch, num_steps):
        batch_len = len(ids) // batch
        self.rows = ids[:batch * batch_len].reshape(batch, batch_len)
        self.num_steps = num_steps
        self.epoch_size = (batch_len - 1) // num_steps

    def batch(self, i):
        i = i % self.epoch_size * self.num_steps
        return self.rows[:, i:i + self.num_steps], self.rows[:, i + 1:i + self.num_steps + 1]


def arguments(description):
    """The flags that all peers have. Modes: train; valid (the training layout); test (batch 1)."""
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--data", required=True, help="folder with ptb.*.txt")
    p.add_argument("--config", choices=CONFIGS, default="small")
    p.add_argument("--mode", choices=["train", "valid", "test"], default="train")
    p.add_argument("--steps", type=int, help="timed steps; default: to the end of the text")
    p.add_argument("--warmup", type=int, default=0, help="steps before the clock starts")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--init", help=".npz with the initial variables under TensorFlow's names")
    p.add_argument("--max-grad-norm", type=float)
    p.add_argument("--costs", action="store_true", help="put every step's cost into the result")
    return p


def config_of(args):
    config = CONFIGS[args.config]
    return config._replace(max_grad_norm=args.max_grad_norm) if args.max_grad_norm else config


def seconds_since_process_start():
    """To 10 ms, which is how Linux counts it."""
    with open("/proc/self/stat") as f:
        ticks = int(f.read().rsplit(")", 1)[1].split()[19])
    with open("/proc/uptime") as f:
        return float(f.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


def measure(step, args, epoch_size, words_per_step, version):
    """Calls `step(i)`, which returns the step's cost (total cross entropy / batch size), warm-up first; prints the result as a JSON line."""
    steps = args.steps if args.steps is not None else epoch_size - args.warmup
    costs = [step(0)]
    startup = seconds_since_process_start()
    start = time.perf_counter()
    for i in range(1, args.warmup + steps):
        if i == args.warmup:
            start = time.perf_counter()
        costs.append(step(i))
    seconds = time.perf_counter() - start
    timed = len(costs) - max(args.warmup, 1)  # Step 0 is never timed: whatever is set up lazily is set up there.
    result = {"wps": timed * words_per_step / seconds if timed else None, "steps": timed, "startup_s": round(startup, 2),
              "cost_first": costs[0], "cost_total": sum(costs), "threads": args.threads, "version": version}
    if args.costs:
        result["costs"] = costs
    print(json.dumps(result), flush=True)


def write_random_text(folder):
    """Words drawn by Zipf's law from 9,999, in lines; with <eos> the counts are PTB's."""
    draw = random.Random(0)
    words = ["w%d" % i for i in range(1, 10000)]
    weights = [1 / (i + 5) for i in range(len(words))]
    os.makedirs(folder, exist_ok=True)
    for split, tokens in (("train", 929589), ("valid", 73760), ("test", 82430)):
        lines = tokens // 22
        text = draw.choices(words, weights, k=tokens - lines)
        if split == "train":
            text[:len(words)] = words
        per_line = -(-len(text) // lines)
        path = os.path.join(folder, "ptb.%s.txt" % split)
        with open(path + ".part", "w") as f:
            cuts = [len(text) * k // lines for k in range(lines + 1)]
            assert max(b - a for a, b in zip(cuts, cuts[1:])) <= per_line
            f.writelines(" %s \n" % " ".join(text[a:b]) for a, b in zip(cuts, cuts[1:]))
        os.rename(path + ".part", path)


if __name__ == "__main__":
    write_random_text(sys.argv[1])
