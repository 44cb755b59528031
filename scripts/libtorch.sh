#!/usr/bin/env bash
# Fetches libtorch 2.11.0 into .libtorch: `libtorch.sh cpu`, or `libtorch.sh cuda` for NVIDIA's libraries besides.
#
# libtorch comes out of PyTorch's own package, which for Linux on x86-64 is the CUDA build. On the CPU it needs no more than the package
# itself and the two NVIDIA libraries that libtorch_cpu.so is linked to, so these are fetched alone (1.2 GB on disk); on a GPU the rest of
# what the package requires (some 4 GB). The stamp is written last: a fetch that was interrupted is begun again.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
kind=${1:?cpu or cuda}
stamp=.libtorch/$kind.stamp
[ -e "$stamp" ] && exit 0

command -v "$python" >/dev/null || {
    echo "error: $python was not found. It fetches libtorch with pip; install Python 3 with pip, or set LIBTORCH to a libtorch 2.11.0" >&2
    exit 1
}
"$python" -m pip --version >/dev/null 2>&1 || {
    echo "error: $python has no pip (Debian: apt-get install python3-pip). Or set LIBTORCH to a libtorch 2.11.0" >&2
    exit 1
}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "error: $("$python" --version) is too old for libtorch 2.11.0's package: 3.10 or later, as in make PYTHON=python3.12 libtorch" >&2
    exit 1
}
pip_into() {
    # Into a folder of our own: neither the system's packages nor its rules for them are touched.
    # (By variables, since an older pip, as in Ubuntu 22.04, stops at an option that it does not know.)
    # What comes is compared with the SHA-256 of each package in the list.
    PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 \
        "$python" -m pip install --quiet --no-compile --no-deps --only-binary :all: --require-hashes --target "$1" -r "scripts/$2"
}

case $kind in
cpu)
    echo "fetching libtorch 2.11.0 (0.6 GB) into .libtorch" >&2
    rm -rf .libtorch .libtorch.part
    pip_into .libtorch.part libtorch-cpu.txt
    mv .libtorch.part .libtorch
    ;;
cuda)
    # Before 2 GB are fetched for nothing. (/dev/dxg is the driver's door under WSL.)
    [ -e /dev/nvidiactl ] || [ -e /dev/dxg ] || command -v nvidia-smi >/dev/null || {
        echo "error: this machine shows no NVIDIA GPU: neither /dev/nvidiactl nor nvidia-smi is there. \`make train-cpu\` trains on the CPU" >&2
        exit 1
    }
    echo "fetching NVIDIA's libraries for libtorch 2.11.0 (2 GB) into .libtorch" >&2
    rm -rf .libtorch/cuda.part
    pip_into .libtorch/cuda.part libtorch-cuda.txt
    cp -rn .libtorch/cuda.part/nvidia .libtorch/
    rm -rf .libtorch/cuda.part
    ;;
*)
    echo "error: $kind: cpu or cuda" >&2
    exit 2
    ;;
esac
touch "$stamp"
