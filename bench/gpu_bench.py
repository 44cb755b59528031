"""Ours against eager PyTorch on the same GPU, and what gpu.sh found, as tables.

    gpu_bench.py --out FOLDER --binary FILE --data FOLDER round CONFIG N
        runs every program in turn, once: FOLDER/bench-CONFIG-N.json; continues what is there
    gpu_bench.py --out FOLDER summary
        prints all that is in FOLDER as Markdown

Timed is training in the steady state, words per second after a warm-up; ratios are taken within a
round, and like is compared with like: TF32 in cuDNN's LSTM alone is the default of both, TF32 in
all products and strict float32 are settings of both. PyTorch runs torch_ptb.py as its users write
it (a sum of `loss.item()`).
"""

import argparse
import glob
import json
import os
import re
import signal
import statistics
import sys

import ptb
from bench import Failed, read_peer, run

# Steps timed after WARMUP; of ours the clock is read at every hundredth, where a line is written
# and the GPU waited for.
STEPS = {"small": 2000, "medium": 800, "large": 400}
WARMUP, EVERY = 100, 100
OURS = {"ours": [], "ours, without a graph": ["--no-cuda-graph"],
        "ours, tf32": ["--precision", "tf32"], "ours, fp32": ["--precision", "fp32"],
        "ours, bf16": ["--precision", "bf16"], "ours, fp16": ["--precision", "fp16"]}
TORCH = {"PyTorch, eager": [], "PyTorch, eager, tf32": ["--tf32"],
         "PyTorch, eager, fp32": ["--strict"]}
# Which of PyTorch's rows each of ours is compared with.
PEER = {"ours, tf32": "PyTorch, eager, tf32", "ours, fp32": "PyTorch, eager, fp32"}
# All programs run in the first round, these in the further ones.
AGAIN = ["ours", "ours, tf32", "PyTorch, eager", "PyTorch, eager, tf32"]
# What a run must not say: it would be timed without a graph, or with weights that cuDNN copies in
# every step.
COMPLAINTS = ["cannot be recorded", "single contiguous chunk"]
ON_CPU = ["ours", "ours, bf16", "PyTorch, eager"]
RUNS = ["small-0", "small-1", "small-2", "medium-0", "large-0", "large-2"]
PUBLISHED = {"small": (13, 115.91), "medium": (39, 82.07), "large": (55, 78.29)}
WANTED = {"small": 2.0, "medium": 1.5, "large": 1.2}


def commands(args, warmup, steps, every):
    """{name: (command, what reads its output)} of every program."""
    here = os.path.dirname(os.path.abspath(__file__))
    c = ptb.CONFIGS[args.config]
    words = c.batch * c.num_steps

    def read_ours(lines, memory):
        # A step event's `wps` covers the epoch up to it, so the time after step s is
        # (s + 1) * words / wps.
        events = [e for e in lines if e["event"] == "step" and e["step"] >= warmup]
        clock = [(e["step"] + 1) * words / e["wps"] for e in events]
        timed = (events[-1]["step"] - events[0]["step"]) * words
        return {"wps": timed / (clock[-1] - clock[0]), "cost": events[-1]["cost"], "rss_mb": memory}

    ours = [args.binary, "train", "--device", args.device, "--data-path", args.data,
            "--model", args.config, "--no-eval", "--max-steps", str(warmup + steps + 1),
            "--log-every", str(every), "--metrics", "/dev/stdout"]
    torch = [args.python, os.path.join(here, "torch_ptb.py"), "--data", args.data,
             "--config", args.config, "--device", args.device,
             "--warmup", str(warmup), "--steps", str(steps)]
    every_one = {name: (ours + flags, read_ours) for name, flags in OURS.items()}
    every_one.update({name: (torch + flags, read_peer) for name, flags in TORCH.items()})
    return every_one


def read_json(path):
    try:
        with open(path) as f:
            return json.load(f)
    except FileNotFoundError:
        return {}


def write_json(path, value):
    """The file is always whole."""
    with open(path + ".part", "w") as f:
        json.dump(value, f, indent=1)
    os.replace(path + ".part", path)


def one_round(args):
    # gpu.sh's time may be up: the program that runs ends too, and its messages are kept.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    warmup, steps, every = (2, 4, 2) if args.dry_run else (WARMUP, STEPS[args.config], EVERY)
    if args.dry_run and args.config != "small":
        warmup, steps, every = 1, 1, 1
    programs = commands(args, warmup, steps, every)
    names = [name for name in programs if (name in ON_CPU if args.device == "cpu"
                                           else args.number == 1 or name in AGAIN)]
    # Ours and PyTorch by turns, forwards and backwards.
    names = names if args.number % 2 else names[::-1]
    path = os.path.join(args.out, "bench-%s-%d.json" % (args.config, args.number))
    found = {"config": args.config, "round": args.number, "steps": steps, "samples": {},
             "failures": {}, "complaints": []}
    # What an earlier call measured is kept. To retry is to run again what failed or complained.
    found.update(read_json(path))
    samples, failures = found["samples"], found["failures"]

    def complained(name):
        return [text for text in found["complaints"] if text.startswith(name + ": ")]

    if args.retry:
        for name in [name for name in samples if complained(name)]:
            del samples[name]
        failures.clear()
    found["left"] = [name for name in names if name not in samples and name not in failures]
    for name in list(found["left"]):
        old, errors = complained(name), []
        found["complaints"] = [text for text in found["complaints"] if text not in old]
        try:
            command, read = programs[name]
            samples[name] = read(*run(command, timeout=120, errors_into=errors))
            said = "%9.0f words/s" % samples[name]["wps"]
        except Exception as error:  # Whatever it is, the next program has its turn.
            samples.pop(name, None)
            failures[name] = str(error) if isinstance(error, Failed) else repr(error)
            said = "FAILED: " + failures[name]
        finally:
            found["complaints"] += ["%s: %s" % (name, line) for line in errors
                                    if any(text in line for text in COMPLAINTS)]
            with open(os.path.join(args.out, "bench.log"), "a") as f:
                f.writelines("%s %d, %s: %s\n" % (args.config, args.number, name, line)
                             for line in errors)
        found["left"].remove(name)
        write_json(path, found)
        print("  %-7s %-24s %s" % (args.config, name, said), file=sys.stderr)
    for text in found["complaints"]:
        print("  " + text, file=sys.stderr)
    sys.exit("ours" not in samples or "PyTorch, eager" not in samples or bool(found["complaints"]))


def table(header, rows):
    lines = [header, ["---"] * len(header)] + rows
    return "\n".join("| " + " | ".join(row) + " |" for row in lines) + "\n"


def speeds(folder, config):
    paths = sorted(glob.glob(os.path.join(folder, "bench-%s-*.json" % config)))
    found = [read_json(path) for path in paths]
    rounds = [f["samples"] for f in found]
    rows = []
    for name in list(OURS) + list(TORCH):
        values = [r[name]["wps"] for r in rounds if name in r]
        if values:
            def over(peer):
                both = [r for r in rounds if name in r and peer in r]
                ratios = [r[name]["wps"] / r[peer]["wps"] for r in both]
                return "%.2fx" % statistics.median(ratios) if ratios else ""

            spread = " (%s-%s)" % tuple("{:,.0f}".format(v) for v in (min(values), max(values)))
            rows.append([name, str(len(values)),
                         "{:,.0f}".format(statistics.median(values)) + spread * (len(values) > 1),
                         over("PyTorch, eager"), over(PEER[name]) if name in PEER else ""])
    text = table(["training, " + config, "rounds", "words/s", "over PyTorch, eager",
                  "over PyTorch in the same precision"], rows) if rows else \
        config + ": not measured\n"
    text += "\nwanted: ours %gx\n" % WANTED[config] if rows else ""
    for f in found:
        # (Rounds that were measured long ago have no "left".)
        notes = ["failed: %s: %s" % pair for pair in f["failures"].items()] + f["complaints"] + \
            (["not finished, still to run: " + "; ".join(f["left"])] if f.get("left") else [])
        text += "".join("\n**round %d: %s**\n" % (f["round"], note) for note in notes)
    return text


def runs(folder):
    rows = []
    for name in RUNS:
        model, seed = name.split("-")
        epochs, published = PUBLISHED[model]
        try:
            with open(os.path.join(folder, name + ".jsonl")) as f:
                events = [json.loads(line) for line in f if line.endswith("}\n")]
        except FileNotFoundError:
            if name != "large-2":  # (gpu.sh --more has it.)
                rows.append([name, "not run"] + [""] * 7)
            continue
        if not events:
            rows.append([name, "nothing is in its metrics"] + [""] * 7)
            continue
        last = {e["split"]: e["perplexity"] for e in events if e["event"] in ("epoch", "final")}
        done = max([e["epoch"] for e in events
                    if e["event"] == "epoch" and e["split"] == "train"] + [0])
        try:
            with open(os.path.join(folder, name + ".seconds")) as f:
                seconds = str(sum(map(int, f)))
        except FileNotFoundError:  # A call that was killed has not written it.
            seconds = "?"
        test = last.get("test") if done == epochs else None
        rows.append([name, events[0].get("precision", ""), "%d of %d" % (done, epochs)] +
                    ["%.2f" % last[s] if s in last else "" for s in ("train", "valid")] +
                    ["%.2f" % test if test else "not yet", "%.2f" % published,
                     "%+.1f%%" % (100 * (test / published - 1)) if test else "", seconds])
    return table(["run", "precision", "epochs", "train", "valid", "test", "published", "off by",
                  "seconds"], rows)


def summary(args):
    try:
        with open(os.path.join(args.out, "machine.txt")) as f:
            print("```\n" + f.read().strip() + "\n```\n")
    except FileNotFoundError:
        pass
    failed = sorted(glob.glob(os.path.join(args.out, "*.failed")))
    if failed:
        names = [os.path.basename(path)[:-len(".failed")] for path in failed]
        print("**stages that failed: %s**\n" % ", ".join(names))
    try:
        with open(os.path.join(args.out, "tests.log")) as f:
            text = f.read()
        print("tests:\n\n```")
        # (What a test prints stands between its name and its result.)
        results = r"^test (\S+) \.\.\. (?:.*?\n)??(ok|FAILED|ignored[^\n]*)$"
        for name, result in re.findall(results, text, re.MULTILINE | re.DOTALL):
            print("%-60s %s" % (name, result))
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
    p.add_argument("--retry", action="store_true")
    commands = p.add_subparsers(dest="command", required=True)
    r = commands.add_parser("round")
    r.add_argument("config", choices=ptb.CONFIGS)
    r.add_argument("number", type=int)
    commands.add_parser("summary")
    args = p.parse_args()
    one_round(args) if args.command == "round" else summary(args)


if __name__ == "__main__":
    main()
