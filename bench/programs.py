"""How each of the programs is called. Where the peers' Pythons and the text are comes from run.sh, in the environment."""

import os

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
# The Makefile knows where cargo builds.
BINARY = os.path.abspath(os.environ.get("PTB_WORD_LM") or os.path.join(ROOT, "target/release/ptb-word-lm"))
CORES = len(os.sched_getaffinity(0))
DATA = os.environ.get("DATA", "")

# The environment variable that names the peer's Python, its program, its flags.
PEERS = {
    "torch": ("TORCH_PYTHON", "torch_ptb.py", []),
    "torch-compile": ("TORCH_PYTHON", "torch_ptb.py", ["--compile"]),
    "tf": ("TF2_PYTHON", "tf_ptb.py", []),
    "tf115": ("TF115_PYTHON", "tf_ptb.py", []),
}
TITLES = {"ours": "ours", "ours-bf16": "ours, bf16", "torch": "PyTorch, eager", "torch-compile": "PyTorch, torch.compile",
          "tf": "TensorFlow", "tf115": "TensorFlow 1.15"}


def available():
    """Peers whose Python is there."""
    return [name for name, (python, _, _) in PEERS.items() if os.environ.get(python)]


def peer(name):
    python, program, flags = PEERS[name]
    return [os.environ[python], os.path.join(HERE, program), "--data", DATA] + flags


def peers(torch_flags=()):
    """(name, command) of every peer that can be compared number by number, TensorFlow's in both modes."""
    commands = [("torch", peer("torch") + list(torch_flags))]
    for name in available():
        if name.startswith("tf"):
            commands += [("%s, %s" % (name, mode), peer(name) + ["--rnn-mode", mode]) for mode in ("basic", "block")]
    return commands


def ours(binary, threads, config, flags):
    """Ours through its command line; its metrics come on standard output, among the original's lines."""
    return [binary, "train", "--device", "cpu", "--data-path", DATA, "--model", config, "--threads", str(threads),
            "--metrics", "/dev/stdout"] + list(flags)
