"""Ours against eager PyTorch on the same GPU, and what gpu.sh found, as tables.

    gpu_bench.py --out FOLDER --binary FILE --data FOLDER round CONFIG N     every program in turn, once: FOLDER/bench-CONFIG-N.json
    gpu_bench.py --out FOLDER summary                                       all that is in FOLDER, as Markdown on standard output

Timed is training in the steady state, words per second after a warm-up; ratios are taken within a round, and like is compared with like:
TF32 in cuDNN's LSTM alone is the default of both, TF32 in all products and strict float32 are settings of both. PyTorch runs torch_ptb.py
as its users write it (a sum of `loss.item()`).
"""

import argparse
import glob
import json
import os
import re
import statistics
import sys

import ptb
from bench import Failed, read_peer, run

# Steps timed after WARMUP; of ours the clock is read at every hundredth, where a line is written and the GPU waited for.
STEPS = {"small": 2000, "medium": 800, "large": 400}
WARMUP, EVERY = 100, 100
OURS = {"ours": [], "ours, without a graph": ["--no-cuda-graph"], "ours, tf32": ["--precision", "tf32"], "ours, fp32": ["--precision", "fp32"],
        "ours, bf16": ["--precision", "bf16"], "ours, fp16": ["--precision", "fp16"]}
TORCH = {"PyTorch, eager": [], "PyTorch, eager, tf32": ["--tf32"], "PyTorch, eager, fp32": ["--strict"]}
# Which of PyTorch's rows each of ours is compared with.
PEER = {"ours, tf32": "PyTorch, eager, tf32", "ours, fp32": "PyTorch, eager, fp32"}
# All programs run in the first round, these in the further ones.
AGAIN = ["ours", "ours, tf32", "PyTorch, eager", "PyTorch, eager, tf32"]
# What a run must not say: it would be timed without a graph, or with weights that cuDNN copies in every step.
COMPLAINTS = ["cannot be recorded", "single contiguous chunk"]
ON_CPU = ["ours", "ours, bf16", "PyTorch, eager"]
PUBLISHED = {"small": (13, 115.91), "medium": (39, 82.07), "large": (55, 78.29)}
WANTED = {"small": 2.0, "medium": 1.5, "large": 1.2}


def one_round(args):
    here = os.path.dirname(os.path.abspath(__file__))
    c = ptb.CONFIGS[args.config]
    words = c.batch * c.num_steps
    warmup, steps, every = (2, 4, 2) if args.dry_run else (WARMUP, STEPS[args.config], EVERY)
    if args.dry_run and args.config != "small":
        warmup, steps, every = 1, 1, 1

    def read_ours(lines, memory):
        # A step event's `wps` covers the epoch up to it, so the time after step s is (s + 1) * words / wps.
        events = [e for e in lines if e["event"] == "step" and e["step"] >= warmup]
        clock = [(e["step"] + 1) * words / e["wps"] for e in events]
        return {"wps": (events[-1]["step"] - events[0]["step"]) * words / (clock[-1] - clock[0]), "cost": events[-1]["cost"], "rss_mb": memory}

    commands = {name: ([args.binary, "train", "--device", args.device, "--data-path", args.data, "--model", args.config, "--no-eval",
                        "--max-steps", str(warmup + steps + 1), "--log-every", str(every), "--metrics", "/dev/stdout"] + flags, read_ours)
                for name, flags in OURS.items()}
    commands.update({name: ([args.python, os.path.join(here, "torch_ptb.py"), "--data", args.data, "--config", args.config, "--device", args.device,
                             "--warmup", str(warmup), "--steps", str(steps)] + flags, read_peer) for name, flags in TORCH.items()})
    names = [name for name in commands if (name in ON_CPU if args.device == "cpu" else args.number == 1 or name in AGAIN)]
    # Ours and PyTorch by turns, forwards and backwards.
    names = names if args.number % 2 else names[::-1]
    samples, failures, complaints = {}, {}, []
    for name in names:
        try:
            errors = []
            lines, memory = run(commands[name][0], timeout=120, errors_into=errors)
            complaints += ["%s: %s" % (name, line) for line in errors if any(text in line for text in COMPLAINTS)]
            samples[name] = commands[name][1](lines, memory)
            print("  %-7s %-24s %9.0f words/s" % (args.config, name, samples[name]["wps"]), file=sys.stderr)
        except (Failed, IndexError) as error:
            failures[name] = str(error)
            print("  %-7s %-24s FAILED: %s" % (args.config, name, error), file=sys.stderr)
    with open(os.path.join(args.out, "bench-%s-%d.json" % (args.config, args.number)), "w") as f:
        json.dump({"config": args.config, "round": args.number, "steps": steps, "samples": samples, "failures": failures,
                   "complaints": complaints}, f, indent=1)
    for text in complaints:
        print("  " + text, file=sys.stderr)
    sys.exit("ours" not in samples or "PyTorch, eager" not in samples or bool(complaints))


def table(header, rows):
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header)] + rows) + "\n"


def speeds(folder, config):
    rounds, complaints = [], []
    for path in sorted(glob.glob(os.path.join(folder, "bench-%s-*.json" % config))):
        with open(path) as f:
            found = json.load(f)
        rounds.append(found["samples"])
        complaints += found["complaints"]
    rows = []
    for name in list(OURS) + list(TORCH):
        values = [r[name]["wps"] for r in rounds if name in r]
        if values:
            def over(peer):
                ratios = [r[name]["wps"] / r[peer]["wps"] for r in rounds if name in r and peer in r]
                return "%.2fx" % statistics.median(ratios) if ratios else ""

            spread = "" if len(values) == 1 else " (%s-%s)" % ("{:,.0f}".format(min(values)), "{:,.0f}".format(max(values)))
            rows.append([name, "{:,.0f}".format(statistics.median(values)) + spread, over("PyTorch, eager"), over(PEER[name]) if name in PEER else ""])
    if not rows:
        return config + ": not measured\n"
    return table(["training, %s, %d round%s" % (config, len(rounds), "" if len(rounds) == 1 else "s"), "words/s", "over PyTorch, eager", "over PyTorch in the same precision"], rows) + \
        "wanted: ours %gx\n" % WANTED[config] + "".join("**%s**\n" % text for text in complaints)


def runs(folder):
    rows = []
    for name in ("small-0", "small-1", "small-2", "medium-0", "large-0"):
        model = name.split("-")[0]
        epochs, published = PUBLISHED[model]
        try:
            with open(os.path.join(folder, name + ".jsonl")) as f:
                events = [json.loads(line) for line in f if line.endswith("}\n")]
        except FileNotFoundError:
            rows.append([name, "not run"] + [""] * 7)
            continue
        if not events:
            rows.append([name, "nothing is in its metrics"] + [""] * 7)
            continue
        last = {e["split"]: e["perplexity"] for e in events if e["event"] in ("epoch", "final")}
        done = max([e["epoch"] for e in events if e["event"] == "epoch" and e["split"] == "train"] + [0])
        try:
            with open(os.path.join(folder, name + ".seconds")) as f:
                seconds = str(sum(map(int, f)))
        except FileNotFoundError:  # A call that was killed has not written it.
            seconds = "?"
        test = last.get("test") if done == epochs else None
        rows.append([name, events[0].get("precision", ""), "%d of %d" % (done, epochs)] + ["%.2f" % last[s] if s in last else "" for s in ("train", "valid")] +
                    ["%.2f" % test if test else "not yet", "%.2f" % published, "%+.1f%%" % (100 * (test / published - 1)) if test else "", seconds])
    return table(["run", "precision", "epochs", "train", "valid", "test", "published", "off by", "seconds"], rows)


def summary(args):
    try:
        with open(os.path.join(args.out, "machine.txt")) as f:
            print("```\n" + f.read().strip() + "\n```\n")
    except FileNotFoundError:
        pass
    try:
        with open(os.path.join(args.out, "tests.log")) as f:
            text = f.read()
        print("tests:\n\n```")
        # (What a test prints stands between its name and its result.)
        for name, result in re.findall(r"^test (\S+) \.\.\. (?:.*?\n)??(ok|FAILED|ignored.*)$", text, re.MULTILINE | re.DOTALL):
            print("%-60s %s" % (name, result.splitlines()[0]))
        for line in re.findall(r"^test result: .*$", text, re.MULTILINE):
            print(line)
        print("```\n")
    except FileNotFoundError:
        print("tests: not run\n")
    for config in ptb.CONFIGS:
        print(speeds(args.out, config))
    print(runs(args.out))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--out", required=True)
    p.add_argument("--binary")
    p.add_argument("--data")
    p.add_argument("--device", default="cuda")
    p.add_argument("--python", default=sys.executable)
    p.add_argument("--dry-run", action="store_true")
    commands = p.add_subparsers(dest="command", required=True)
    r = commands.add_parser("round")
    r.add_argument("config", choices=ptb.CONFIGS)
    r.add_argument("number", type=int)
    commands.add_parser("summary")
    args = p.parse_args()
    one_round(args) if args.command == "round" else summary(args)


if __name__ == "__main__":
    main()
