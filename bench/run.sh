#!/bin/sh
# Ours and the peers side by side: bench/run.sh [OPTIONS OF bench.py]     bench/run.sh check.py [OPTIONS]     (what `make bench` calls)
#
# Makes the peers' virtual environments first (6 GB in .venv-bench, and .venv-tf, which tests/golden uses too). Needs Python 3.11, 3.12 or
# 3.13 with venv and pip (PYTHON=... names one); TensorFlow 1.15 runs only on Python 3.7 and is left out where there is none.
# DATA names the folder with ptb.*.txt; without it data/ptb is taken, and without that random text of PTB's size.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
envs=$root/.venv-bench
. "$root/scripts/pip.sh"

say() { echo "bench: $*" >&2; }

# The first of the given Pythons that runs and has one of these versions.
find_python() {
    versions=$1
    shift
    for python in "$@"; do
        # A pyenv shim may be there and yet refuse to run.
        if "$python" -c "import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] not in '$versions'.split())" 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    return 1
}

# environment FOLDER PYTHON REQUIREMENTS: a virtual environment with exactly these packages. The copy of the requirements is made last, so an
# interrupted installation is not taken for a finished one.
environment() {
    if cmp -s "$3" "$1/requirements.txt"; then return; fi
    say "installing $(basename "$3") into ${1#"$root"/}"
    rm -rf "$1"
    "$2" -m venv "$1"
    "$1/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$3"
    cp "$3" "$1/requirements.txt"
}

pyenv=${PYENV_ROOT:-$HOME/.pyenv}/versions
base=$(find_python "3.11 3.12 3.13" ${PYTHON:+"$PYTHON"} python3 python3.11 python3.12 python3.13 "$pyenv"/3.1[123].*/bin/python) || {
    say "the peers need Python 3.11, 3.12 or 3.13 with venv and pip; PYTHON=/path/to/python names one"
    exit 1
}

environment "$envs/torch" "$base" "$here/requirements-torch.txt"
environment "$envs/tf" "$base" "$here/requirements-tf.txt"

if [ -z "${TF_PYTHON:-}" ]; then
    if old=$(find_python 3.7 python3.7 "$pyenv"/3.7.*/bin/python); then
        environment "$root/.venv-tf" "$old" "$root/tests/golden/requirements.txt"
        TF_PYTHON=$root/.venv-tf/bin/python
    else
        say "no Python 3.7 here: TensorFlow 1.15 is left out ('pyenv install 3.7' provides one)"
    fi
fi

if [ -n "${DATA:-}" ]; then
    for split in train valid test; do
        [ -f "$DATA/ptb.$split.txt" ] || { say "DATA=$DATA has no ptb.$split.txt"; exit 1; }
    done
elif [ -f "$root/data/ptb/ptb.train.txt" ]; then
    DATA=$root/data/ptb
else
    DATA=$envs/random
    say "no PTB (DATA=folder names it): random words, 10,000 different ones, as many as PTB has. Speeds are about PTB's; perplexities mean nothing"
    "$envs/torch/bin/python" "$here/ptb.py" "$DATA"
fi

# The compiler's cache of torch.compile stays here too; TensorFlow's own notices are kept off the screen.
export DATA TORCH_PYTHON="$envs/torch/bin/python" TF2_PYTHON="$envs/tf/bin/python" TF115_PYTHON="${TF_PYTHON:-}"
export TORCHINDUCTOR_CACHE_DIR="$envs/inductor" TF_CPP_MIN_LOG_LEVEL=2 PYTHONDONTWRITEBYTECODE=1
script=bench.py
case "${1:-}" in *.py) script=$1; shift ;; esac
exec "$TORCH_PYTHON" "$here/$script" "$@"
