#!/usr/bin/env bash
# Fetches libtorch 2.11.0 into .libtorch: `libtorch.sh cpu`, or `libtorch.sh cuda` for NVIDIA's
# libraries besides. `libtorch.sh check` looks at the libtorch that LIBTORCH names.
#
# libtorch comes out of PyTorch's own package, which for Linux is the CUDA build. On the CPU it
# needs no more than the package itself and the two NVIDIA libraries that libtorch_cpu.so is linked
# to; so these are fetched alone (1.2 GB on disk); on a GPU the rest of what the package requires
# (some 4 GB). The stamp is written last: an interrupted fetch is started again.
set -euo pipefail
cd "$(dirname "$0")/.."
version=2.11.0
python=${PYTHON:-python3}
kind=${1:?cpu, cuda or check}
stamp=.libtorch/$kind.stamp
die() {
    echo "error: $*" >&2
    exit 1
}

# Before torch-sys compiles against it for minutes, and fails with pages of C++.
check() {
    # With LIBTORCH_USE_PYTORCH, torch-sys looks at the version itself.
    [ -n "${LIBTORCH:-}" ] || return 0
    [[ $LIBTORCH = /* ]] || die "LIBTORCH=$LIBTORCH is not an absolute path"
    [ -e "${LIBTORCH_LIB:-$LIBTORCH}/lib/libtorch_cpu.so" ] ||
        die "LIBTORCH=$LIBTORCH has no lib/libtorch_cpu.so." \
            "Without LIBTORCH, libtorch $version is fetched"
    [ -z "${LIBTORCH_BYPASS_VERSION_CHECK:-}" ] || return 0
    local found header include=${LIBTORCH_INCLUDE:-$LIBTORCH}/include
    # Where releases since 2.9 have it, and those before.
    for header in torch/headeronly/version.h torch/csrc/api/include/torch/version.h; do
        found=$(sed -n 's/^ *"\([0-9.]*\)" *$/\1/p' "$include/$header" 2>/dev/null) || true
        [ -z "$found" ] || break
    done
    [ "$found" = $version ] ||
        die "LIBTORCH=$LIBTORCH is libtorch ${found:-of an unknown version}, not $version." \
            "Without LIBTORCH, the right one is fetched"
}

if [ "$kind" = check ]; then
    check
    exit
fi
[ ! -e "$stamp" ] || exit 0

if [ "$kind" = cuda ]; then
    # Before 2 GB are fetched for nothing. (/dev/dxg is the driver's door under WSL.)
    [ -e /dev/nvidiactl ] || [ -e /dev/dxg ] || command -v nvidia-smi >/dev/null ||
        die "this machine shows no NVIDIA GPU: neither /dev/nvidiactl nor nvidia-smi is there." \
            "\`make train-cpu\` trains on the CPU"
fi
platform=$(uname -s)-$(uname -m)
case $platform in
Linux-x86_64 | Linux-aarch64) ;;
*) die "no libtorch is known for $platform: set LIBTORCH to a libtorch $version" ;;
esac
command -v "$python" >/dev/null ||
    die "$python was not found. It fetches libtorch with pip; install Python 3 with pip," \
        "or set LIBTORCH to a libtorch $version"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    die "$("$python" --version) is too old for libtorch $version's package: 3.10 or later," \
        "as in make PYTHON=python3.12 libtorch"
. scripts/pip.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=$(with_pip "$python" "$work/venv") || die "or set LIBTORCH to a libtorch $version"

case $kind in
cpu)
    echo "fetching libtorch $version (0.6 GB) into .libtorch" >&2
    rm -rf .libtorch .libtorch.part
    unpack "$python" scripts/libtorch-cpu.txt .libtorch.part
    mv .libtorch.part .libtorch
    ;;
cuda)
    echo "fetching NVIDIA's libraries for libtorch $version (2 GB) into .libtorch" >&2
    rm -rf .libtorch/cuda.part
    unpack "$python" scripts/libtorch-cuda.txt .libtorch/cuda.part
    # A file that is replaced is a new one: a program that runs keeps the library that it has
    # loaded.
    cp -r --remove-destination .libtorch/cuda.part/nvidia .libtorch/
    rm -rf .libtorch/cuda.part
    ;;
*)
    echo "error: $kind: cpu, cuda or check" >&2
    exit 2
    ;;
esac
touch "$stamp"
