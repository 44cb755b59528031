"""From the samples of a run of bench.py: the tables, the targets, the plot.

    results.py FOLDER/bench.json     writes the Markdown and the plot beside it again
"""

import json
import os
import statistics
import sys

import ptb
from programs import TITLES

WHAT = {"valid": "valid", "test": "test, batch 1", "test-by-word": "test, word by word"}


class Figures:
    """Looks samples up. A series is {round: value}."""

    def __init__(self, data):
        self.samples = data["samples"]

    def series(self, program, config, what, key="wps"):
        return {s["round"]: s[key] for s in self.samples
                if (s["program"], s["config"], s["what"]) == (program, config, what) and s.get(key) is not None}

    def median(self, *which):
        series = self.series(*which)
        return statistics.median(series.values()) if series else None

    def ratio(self, a, b):
        """The median of a / b within each round."""
        both = [a[r] / b[r] for r in a if r in b]
        return statistics.median(both) if both else None

    def share(self, program, config):
        """Arithmetic of the steps per second over the fastest product's speed, and over that of the step's products alone."""
        kind = "bf16" if program == "ours-bf16" else "fp32"
        c = ptb.CONFIGS[config]
        flops = {r: wps / (c.batch * c.num_steps) * ptb.step_flop(c) for r, wps in self.series(program, config, "train").items()}
        peak = {r: 1e9 * g for r, g in self.series("products", config, kind, "peak_gflops").items()}
        alone = {r: ptb.step_flop(c) / ms * 1e3 for r, ms in self.series("products", config, kind, "products_ms").items()}
        return self.ratio(flops, peak), self.ratio(flops, alone)


def number(value, digits=0):
    return "" if value is None else "{:,.{}f}".format(value, digits)


def times(value):
    return "" if value is None else "%.2fx" % value


def percent(value):
    return "" if value is None else "%.0f%%" % (100 * value)


def spread(series, digits=0):
    """Median, and lowest to highest if there were several rounds."""
    if not series:
        return ""
    values = sorted(series.values())
    text = number(statistics.median(values), digits)
    return text if len(values) == 1 else "%s (%s-%s)" % (text, number(values[0], digits), number(values[-1], digits))


def table(header, rows):
    lines = ["| " + " | ".join(row) + " |" for row in [header] + rows]
    return "\n".join([lines[0], "|" + "---|" * len(header)] + lines[1:]) + "\n"


def in_order(figures, config, what):
    return [p for p in TITLES if figures.series(p, config, what)]


def training(figures, config):
    ours = figures.series("ours", config, "train")
    rows = []
    for p in in_order(figures, config, "train"):
        peak, alone = figures.share(p, config)
        own = figures.series(p, config, "train")
        rows.append([TITLES[p], spread(own), "" if p == "ours" else times(figures.ratio(ours, own)), percent(peak), percent(alone),
                     spread(figures.series(p, config, "train", "startup_s"), 1), spread(figures.series(p, config, "train", "rss_mb"))])
    return table(["training, " + config, "words/s", "ours is", "of the peak", "of the products alone", "start-up, s", "peak memory, MB"], rows)


def evaluation(figures, config):
    rows = []
    for what, title in WHAT.items():
        ours = figures.series("ours", config, "test" if what == "test-by-word" else what)
        for p in in_order(figures, config, what):
            own = figures.series(p, config, what)
            rows.append([title, TITLES[p], spread(own), "" if p == "ours" else times(figures.ratio(ours, own))])
    return table(["evaluation, " + config, "", "words/s", "ours is"], rows)


def bounds(figures, configs):
    rows = []
    for config in configs:
        c = ptb.CONFIGS[config]
        for kind in ("fp32", "bf16"):
            ms = figures.median("products", config, kind, "products_ms")
            rows.append([config, kind, number(ptb.step_flop(c) / 1e9, 1), spread(figures.series("products", config, kind, "peak_gflops")),
                         number(ms, 1), number(figures.median("products", config, kind, "products_mm_ms"), 1),
                         number(ms and c.batch * c.num_steps / ms * 1e3)])
    return table(["the step's products alone", "", "GFLOP a step", "fastest product, GFLOP/s", "all of a step's, ms", "by torch.mm only, ms",
                  "words/s at the best"], rows)


def targets(figures, configs):
    """The goals for speed and memory: name, wanted, found, met."""
    def over(peers, config, what="train", program="ours", key="wps"):
        found = [figures.ratio(figures.series(program, config, what, key), figures.series(p, config, what, key)) for p in peers]
        found = [f for f in found if f is not None]
        return min(found) if found else None

    torch = ["torch", "torch-compile"]
    rows = [("small, training, over the faster PyTorch", 1.4, over(torch, "small")), ("small, training, over TensorFlow 1.15", 1.7, over(["tf115"], "small")),
            ("small, training, over current TensorFlow", 1.4, over(["tf"], "small")), ("medium, training, over the faster PyTorch", 1.2, over(torch, "medium")),
            ("small, bf16, over PyTorch's float32", 2.0, over(torch, "small", program="ours-bf16")),
            ("test evaluation, batch 1, over TensorFlow", 30, over(["tf", "tf115"], configs[0], "test"))]
    lines = [[name, "%gx" % want, times(found), "yes" if found >= want else "no"] for name, want, found in rows if found is not None]
    for config, want in (("small", 0.75), ("medium", 0.85)):
        peak, alone = figures.share("ours", config)
        if peak is not None:
            lines.append(["%s, share of the fastest product's speed" % config, percent(want), percent(peak), "yes" if peak >= want else "no"])
            lines.append(["%s, share of the step's products alone" % config, percent(want), percent(alone), "yes" if alone >= want else "no"])
    memory = over(["torch"], "small", key="rss_mb")
    if memory is not None:
        lines.append(["small, peak memory, against PyTorch's", "below 1x", times(memory), "yes" if memory < 1 else "no"])
    return table(["must reach", "at least", "found", "met"], lines) if lines else ""


def markdown(data):
    figures, m = Figures(data), data["machine"]
    configs = list(data["timed_steps"])
    versions = data["versions"]
    peers = ", ".join("%s %s" % (name, versions[key]) for key, name in (("torch", "PyTorch"), ("tf", "TensorFlow"), ("tf115", "TensorFlow"))
                      if key in versions)
    parts = ["%s, %d cores, %d GB, %s; %s; ours %s (%s), %s; %d round%s, %s timed steps a round; %s." % (
        m["cpu"], m["cores"], m["memory_gb"], " ".join(m["instructions"]) or "no AVX2", data["data"], versions["ours"], versions["commit"], peers,
        data["rounds"], "" if data["rounds"] == 1 else "s", ", ".join("%s %d" % pair for pair in data["timed_steps"].items()), data["date"])]
    if m["load_before"] > 0.5:
        parts.append("**The machine was busy (load %.1f): do not quote these figures.**" % m["load_before"])
    parts += [training(figures, c) for c in configs] + [evaluation(figures, configs[0]), bounds(figures, configs), targets(figures, configs)]
    loading = [[TITLES[p], number(l["seconds"], 1), number(l["rss_mb"])] for p, l in data["loading"].items()]
    parts.append(table(["loading the library alone", "s", "MB"], loading))
    parts.append("Median of the rounds (lowest-highest); ratios and shares are medians of those within a round. Start-up: from the start of the "
                 "process to the end of its first training step. PyTorch's wheel for Linux is the CUDA build, whose libraries count in its "
                 "start-up and memory (the last table has the library's part).\n\n"
                 "Settings: %s." % "; ".join("%s: `%s`" % pair for pair in data["settings"].items()))
    if data["failures"]:
        parts.append("Did not run: " + "; ".join("%s (%s)" % pair for pair in data["failures"].items()) + ".")
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def plot(data, path):
    import matplotlib
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "ptb"
    import matplotlib.pyplot as plt
    figures = Figures(data)
    configs = list(data["timed_steps"])
    panels = [("%s, training" % c, c, "train") for c in configs]
    panels += [("%s, evaluation of %s" % (configs[0], WHAT[w]), configs[0], w) for w in ("valid", "test")]
    panels = [panel for panel in panels if in_order(figures, *panel[1:])]
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(4.6 * columns, 2.5 * lines), squeeze=False)
    for ax in axes.flat[len(panels):]:
        ax.axis("off")
    for ax, (title, config, what) in zip(axes.flat, panels):
        names = in_order(figures, config, what)[::-1]
        series = [figures.series(p, config, what) for p in names]
        middle = [statistics.median(s.values()) for s in series]
        error = [[m - min(s.values()) for m, s in zip(middle, series)], [max(s.values()) - m for m, s in zip(middle, series)]]
        colors = ["#c44e52" if p.startswith("ours") else "#8c9bb0" for p in names]
        bars = ax.barh([TITLES[p] for p in names], middle, xerr=error, color=colors, error_kw={"elinewidth": 1, "capsize": 2})
        labels = ax.bar_label(bars, [number(m) for m in middle], padding=4, fontsize=8, zorder=3)
        for label in labels:
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
        if what == "train":
            ms = figures.median("products", config, "fp32", "products_ms")
            c = ptb.CONFIGS[config]
            ax.axvline(c.batch * c.num_steps / ms * 1e3, color="black", linestyle=":", linewidth=1)
        logarithmic = what != "train" and max(middle) > 20 * min(middle)
        if logarithmic:
            ax.set_xscale("log")
        else:
            ax.locator_params(axis="x", nbins=5)
        ax.margins(x=0.25)
        ax.set_title(title, fontsize=10)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle("words per second; dotted: the float32 matrix products alone", fontsize=9, y=0.02, va="bottom")
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path + ".png", dpi=120, metadata={"Software": None})
    figure.savefig(path + ".svg", metadata={"Date": None})


def write(folder, data):
    os.makedirs(folder, exist_ok=True)
    base = os.path.join(folder, "bench")
    text = markdown(data)
    print(text)
    for suffix, content in ((".json", json.dumps(data, indent=1) + "\n"), (".md", text)):
        with open(base + suffix, "w") as f:
            f.write(content)
    try:
        plot(data, base)
    except ImportError as error:
        print("bench: no plot: %s" % error, file=sys.stderr)


if __name__ == "__main__":
    with open(sys.argv[1]) as f:
        write(os.path.dirname(os.path.abspath(sys.argv[1])), json.load(f))
