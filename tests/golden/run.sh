#!/bin/sh
# Regenerates the files that TensorFlow 1.15 computed: tests/golden/run.sh [SCRIPT.py [ARGUMENTS]]
#
# Without arguments, all of them. Needs Python 3.7, the last that TensorFlow 1.15 runs on, and pip; TensorFlow itself
# goes into .venv-tf (0.6 GB). TF_PYTHON=/path/to/python uses a Python that has TensorFlow 1.15 already.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
venv=$here/../../.venv-tf
. "$here/../../scripts/pip.sh"

find_python37() {
    for python in python3.7 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.7.*/bin/python3.7; do
        # pyenv's python3.7 may be there and yet refuse to run.
        if "$python" -c 'import sys, venv; sys.exit(sys.version_info[:2] != (3, 7))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    echo "golden: TensorFlow 1.15 needs Python 3.7 (with venv), and there is no python3.7 here." >&2
    echo "golden: 'pyenv install 3.7' provides one, or set TF_PYTHON to a Python that has TensorFlow 1.15." >&2
    exit 1
}

if [ -n "${TF_PYTHON:-}" ]; then
    python=$TF_PYTHON
else
    python=$venv/bin/python
    # The copy of the requirements is made last: an interrupted installation is not taken for a finished one.
    if ! cmp -s "$here/requirements.txt" "$venv/requirements.txt"; then
        base=$(find_python37)
        rm -rf "$venv"
        "$base" -m venv "$venv"
        "$python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
        cp "$here/requirements.txt" "$venv/requirements.txt"
    fi
fi

export TF_CPP_MIN_LOG_LEVEL=2 PYTHONWARNINGS=ignore PYTHONDONTWRITEBYTECODE=1
cd "$here"
if [ $# -gt 0 ]; then
    exec "$python" "$@"
fi
"$python" ptb.py
"$python" rnn_cells.py
"$python" checkpoints.py
