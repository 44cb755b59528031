"""Ours and the peers side by side: every program in turn, one process at a time, several rounds in one go; medians, spreads, ratios.

What is measured: training (words per second after a warm-up, start-up to the end of the first step, peak memory), evaluation of the
validation text and of the test text (batch 1), and the speed of the step's matrix products alone, as the bound. Ratios and shares are
taken within a round, between neighbours in time, and their median is given: a machine that slows down half-way slows all alike.

Called by run.sh, which says where the peers' Pythons and the text are.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time

import programs
import ptb
import results

# Steps before the clock starts. torch.compile compiles in the first and may again in the second.
WARMUP = {"small": 10, "medium": 3, "large": 2}
# A step's arithmetic, roughly, in small's: so many times fewer steps are timed.
HEAVIER = {"small": 1, "medium": 10, "large": 30}
VALID_STEPS = 100
TEST_WORDS = 3000
# PyTorch's test evaluation as its users write it: long pieces of text, state carried.
CHUNK = 1000


class Failed(Exception):
    pass


def run(command, timeout=900, errors_into=None):
    """Runs one process alone. Returns its JSON lines, each with the seconds since the process began under "at", and its peak memory, MB.

    Lines of its standard error are added to the list `errors_into`, if there is one."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}  # Every program gets its threads by flag.
    lines = []
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, universal_newlines=True, env=environment)
        timer = threading.Timer(timeout, child.kill)
        timer.start()
        try:
            for line in child.stdout:
                if line.startswith("{"):
                    lines.append(dict(json.loads(line), at=time.perf_counter() - start))
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            raise
        finally:
            timer.cancel()
            child.stdout.close()
            errors.seek(0)
            text = errors.read().decode("utf-8", "replace").strip().splitlines()
            if errors_into is not None:
                errors_into.extend(text)
        child.returncode = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
        if child.returncode:
            raise Failed("exit code %d: %s" % (child.returncode, text[-1] if text else "no message"))
    return lines, usage.ru_maxrss / 1024


class Bench:
    def __init__(self, args):
        self.args = args
        self.samples = []
        self.failures = {}
        self.versions = {}
        self.settings = {}
        self.peers = [p for p in args.peers if p in programs.available()]
        self.programs = ["ours"] + self.peers
        if "--precision" in subprocess.run([args.binary, "train", "--help"], stdout=subprocess.PIPE, check=True).stdout.decode():
            self.programs.insert(1, "ours-bf16")

    def steps(self, config):
        return max(2, self.args.steps // HEAVIER[config])

    def say(self, text):
        print(text, file=sys.stderr, flush=True)

    def add(self, program, config, what, command, read):
        """Runs one process and keeps what `read` makes of its output; a program that fails is told once and then left out there."""
        if (program, config, what) in self.failures:
            return None
        try:
            lines, memory = run(command)
            sample = read(lines, memory)
        except Failed as error:
            self.failures[program, config, what] = str(error)
            self.say("  %-14s %-7s %-12s FAILED: %s" % (program, config, what, error))
            return None
        self.versions.update({program: lines[-1]["version"]} if "version" in lines[-1] else {})
        self.say("  %-14s %-7s %-12s %9.0f words/s" % (program, config, what, sample["wps"]))
        return sample

    def record(self, round_, program, config, what, *rest):
        sample = self.add(program, config, what, *rest)
        if sample:
            self.samples.append(dict(sample, round=round_, program=program, config=config, what=what))

    # Commands, and how the results are read.

    def ours(self, program, config, flags):
        threads = self.args.threads or programs.CORES
        return programs.ours(self.args.binary, threads, config, flags + (["--precision", "bf16"] if program == "ours-bf16" else []))

    def peer(self, program, config, flags):
        return programs.peer(program) + ["--config", config] + self.settings[program, config] + flags

    def train(self, program, config):
        warmup, steps = WARMUP[config], self.steps(config)
        if not program.startswith("ours"):
            return self.peer(program, config, ["--warmup", str(warmup), "--steps", str(steps)]), read_peer
        words = ptb.CONFIGS[config].batch * ptb.CONFIGS[config].num_steps

        def read(lines, memory):
            # A step event's `wps` covers the epoch up to it, so the time after step s is (s + 1) * words / wps.
            events = [e for e in lines if e["event"] == "step"]
            clock = [(s + 1) * words / e["wps"] for s, e in enumerate(events)]
            return {"wps": steps * words / (clock[warmup + steps - 1] - clock[warmup - 1]), "startup_s": events[0]["at"], "rss_mb": memory}

        return self.ours(program, config, ["--max-steps", str(warmup + steps), "--no-eval", "--log-every", "1"]), read

    def evaluations(self, program, config):
        """(what, command, read) of every evaluation that a program has."""
        if program.startswith("ours"):
            def reader(split):
                def read(lines, _):
                    event = next(e for e in lines if e.get("split") == split)
                    return {"wps": event["tokens"] / event["seconds"]}
                return read

            command = self.ours(program, config, ["--max-steps", "0"])
            return [("valid", command, reader("valid")), ("test", command, reader("test"))]
        valid = ["--mode", "valid", "--warmup", "5", "--steps", str(VALID_STEPS)]
        by_word = ["--mode", "test", "--warmup", "20", "--steps", str(TEST_WORDS)]
        # Word by word is TensorFlow's only way: its graph is built for one num_steps.
        tests = [("test" if program.startswith("tf") else "test-by-word", by_word)]
        if program.startswith("torch"):
            tests.append(("test", ["--mode", "test", "--chunk", str(CHUNK), "--warmup", "2"]))
        return [(what, self.peer(program, config, flags), read_peer) for what, flags in [("valid", valid)] + tests]

    # The phases.

    def tune(self):
        """The best thread setting of every peer, and TensorFlow's faster cell, by short trials; `--threads` and `--quick` do without."""
        cores = programs.CORES
        first = self.args.configs[0]
        for peer in self.peers:
            tensorflow = peer.startswith("tf")
            threads = [["--threads", str(self.args.threads or cores)]]
            modes = [["--rnn-mode", "block"]] if tensorflow else [[]]
            if not self.args.quick:
                if not self.args.threads:
                    counts = sorted({1, cores} | {2 ** k for k in range(1, 10) if 2 ** k < cores})
                    threads = [["--threads", str(n)] + extra for n in counts for extra in
                               ([["--inter", str(i)] for i in sorted({1, cores})] if tensorflow else [[]])]
                modes = [["--rnn-mode", mode] for mode in ("block", "basic")] if tensorflow else modes
            best = self.fastest(peer, first, [t + modes[0] for t in threads])[:-len(modes[0]) or None]
            for config in self.args.configs:
                self.settings[peer, config] = self.fastest(peer, config, [best + mode for mode in modes])
                self.say("%s, %s: %s" % (peer, config, " ".join(self.settings[peer, config])))

    def fastest(self, peer, config, candidates):
        def speed(candidate):
            self.settings[peer, config] = candidate
            flags = ["--warmup", "3", "--steps", str(max(2, 40 // HEAVIER[config]))]
            sample = self.add(peer, config, "trial", self.peer(peer, config, flags), read_peer)
            return sample["wps"] if sample else 0

        return candidates[0] if len(candidates) == 1 else max(candidates, key=speed)

    def peak(self, round_, config):
        lines, _ = run([os.environ["TORCH_PYTHON"], os.path.join(programs.HERE, "peak.py"), config, str(self.args.threads or programs.CORES)])
        for kind in ("fp32", "bf16"):
            self.samples.append(dict(lines[0][kind], round=round_, program="products", config=config, what=kind))
            self.say("  %-14s %-7s %-12s %9.0f GFLOP/s" % ("products", config, kind, lines[0][kind]["peak_gflops"]))

    def libraries(self):
        """What loading the libraries alone takes, for start-up and memory."""
        commands = {"ours": [self.args.binary, "--version"]}
        for peer, module in (("torch", "torch"), ("tf", "tensorflow"), ("tf115", "tensorflow")):
            if peer in self.peers:
                commands[peer] = [programs.peer(peer)[0], "-c", "import " + module]
        loading = {}
        for program, command in commands.items():
            start = time.perf_counter()
            loading[program] = {"rss_mb": run(command)[1], "seconds": time.perf_counter() - start}
        return loading

    def round(self, number):
        # Forwards and backwards by turns, so that nobody always comes after the same neighbour.
        order = self.programs if number % 2 else self.programs[::-1]
        for config in self.args.configs:
            if number > (1 if config == "large" else self.args.rounds):
                continue
            self.say("round %d of %d: %s" % (number, self.args.rounds, config))
            self.peak(number, config)
            for program in order:
                self.record(number, program, config, "train", *self.train(program, config))
        config = self.args.configs[0]
        for program in order:
            if program != "torch-compile" and not (self.args.quick and number > 1):
                for what, command, read in self.evaluations(program, config):
                    self.record(number, program, config, what, command, read)


def read_peer(lines, memory):
    return {"wps": lines[-1]["wps"], "startup_s": lines[-1]["startup_s"], "rss_mb": memory}


def machine():
    with open("/proc/cpuinfo") as f:
        info = [line.split(":", 1) for line in f if ":" in line]
    find = {key.strip(): value.strip() for key, value in reversed(info)}
    flags = set(find.get("flags", "").split())
    wanted = ["avx2", "avx512f", "avx512_bf16", "amx_bf16"]
    return {"cpu": find.get("model name", platform.machine()), "cores": programs.CORES, "instructions": [f for f in wanted if f in flags],
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2 ** 30), "system": platform.system(),
            "load_before": os.getloadavg()[0]}


def settle():
    """Waits up to two minutes for what was just built or installed to be over."""
    for waited in range(24):
        if os.getloadavg()[0] <= 0.5:
            return
        if not waited:
            print("bench: waiting up to two minutes for the machine to settle", file=sys.stderr, flush=True)
        time.sleep(5)


def commit():
    done = subprocess.run(["git", "-C", programs.ROOT, "describe", "--always", "--dirty"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return done.stdout.decode().strip() or None


def parse():
    comma = lambda allowed: lambda text: [part if part in allowed else sys.exit("%r is none of %s" % (part, ", ".join(allowed)))  # noqa: E731
                                          for part in text.split(",")]
    p = argparse.ArgumentParser(prog="make bench ARGS=", description=__doc__.splitlines()[0])
    p.add_argument("--quick", action="store_true", help="about 3 minutes: small only, 2 short rounds, no trials of thread settings")
    p.add_argument("--rounds", type=int, help="default 3")
    p.add_argument("--steps", type=int, help="timed training steps of small (medium has a tenth, large a thirtieth); default 120")
    p.add_argument("--configs", type=comma(list(ptb.CONFIGS)), help="default small,medium,large; the first is the one that is evaluated")
    p.add_argument("--peers", type=comma(list(programs.PEERS)), default=list(programs.PEERS), help="default " + ",".join(programs.PEERS))
    p.add_argument("--threads", type=int, help="for all programs; default: all cores for ours, the best by trial for every peer")
    p.add_argument("--binary", default=programs.BINARY, help="default target/release/ptb-word-lm")
    p.add_argument("--out", help="folder for bench.json, .md, .png, .svg; default bench/results, with --quick target/bench-quick")
    args = p.parse_args()
    args.rounds = args.rounds or (2 if args.quick else 3)
    args.steps = args.steps or (30 if args.quick else 120)
    args.configs = args.configs or (["small"] if args.quick else list(ptb.CONFIGS))
    args.out = args.out or os.path.join(programs.ROOT, *(["target", "bench-quick"] if args.quick else ["bench", "results"]))
    if not os.access(args.binary, os.X_OK):
        sys.exit("bench: %s is not there; `make build` makes it" % args.binary)
    return args


def main():
    args = parse()
    settle()
    bench, about, start = Bench(args), machine(), time.time()
    if about["load_before"] > 0.5:
        bench.say("bench: the machine is busy (load %.1f): the figures will be low and uneven" % about["load_before"])
    missing = [p for p in args.peers if p not in bench.peers]
    if missing:
        bench.say("bench: left out, not installed: " + ", ".join(missing))
    loading = bench.libraries()
    bench.tune()
    for number in range(1, args.rounds + 1):
        bench.round(number)
    version = subprocess.run([args.binary, "--version"], stdout=subprocess.PIPE).stdout.decode().split()[1]
    data = "random text of PTB's size" if programs.DATA.endswith(os.path.join(".venv-bench", "random")) else "PTB"
    results.write(args.out, {
        "machine": about, "data": data, "date": time.strftime("%Y-%m-%d", time.gmtime(start)), "minutes": round((time.time() - start) / 60, 1),
        "versions": dict(bench.versions, ours=version, commit=commit()), "rounds": args.rounds, "timed_steps": {c: bench.steps(c) for c in args.configs},
        "settings": dict({"%s, %s" % key: " ".join(value) for key, value in bench.settings.items()},
                         ours="--threads %d" % (args.threads or programs.CORES)),
        "loading": loading, "failures": {", ".join(key): value for key, value in bench.failures.items()}, "samples": bench.samples})
    sys.exit(any(program.startswith("ours") for program, _, _ in bench.failures))


if __name__ == "__main__":
    main()
