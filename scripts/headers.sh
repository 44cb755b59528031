#!/usr/bin/env bash
# Puts the C++ headers that data parallelism is compiled with, and that libtorch's package leaves
# out, where build.rs looks.
#
# Gloo's: the system's if libgloo-dev is installed, else Debian's package unpacked into
# .libtorch/gloo (no root needed). Only headers: Gloo itself is inside libtorch. Where `make
# train-cuda` has fetched NVIDIA's libraries, also the headers that nccl.h includes.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/pip.sh
stamp=.libtorch/headers.stamp # build.rs looks again when it changes
mkdir -p .libtorch

gloo() {
    local version=0.0~git20220518.5b14351-3 part=.libtorch/gloo.part architecture sha256 deb
    architecture=$(dpkg --print-architecture 2>/dev/null) || true
    case $architecture in
    amd64) sha256=80529c9fd8af452faf489e686b94bf87075965c40673803810c4f41634b1e299 ;;
    arm64) sha256=c2bad5e439aecae860f6b0ccbb6ce45c4edb868887502d6c3ea5a04b661c80c3 ;;
    esac
    deb=libgloo-dev_${version}_$architecture.deb
    rm -rf "$part" .libtorch/gloo
    mkdir -p "$part"
    fetch() {
        (cd "$part" && apt-get download -q=2 -o APT::Sandbox::User=root libgloo-dev=$version >&2)
    }
    [ -n "${sha256:-}" ] && { fetch || { apt-get update -q=2 >&2 && fetch; }; } || {
        echo "error: Gloo's headers could not be fetched. Install libgloo-dev (Debian, Ubuntu)," \
            "or set GLOO_INCLUDE to the folder of gloo/context.h" >&2
        exit 1
    }
    echo "$sha256  $part/$deb" | sha256sum --check --status || {
        echo "error: $deb is not the file that it should be" >&2
        exit 1
    }
    dpkg-deb -x "$part/$deb" "$part"
    mv "$part" .libtorch/gloo
    touch "$stamp"
}

cuda() {
    local part=.libtorch/cuda.part python work
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    python=$(with_pip "${PYTHON:-python3}" "$work/venv")
    rm -rf "$part"
    unpack "$python" scripts/cuda-headers.txt "$part"
    cp -r --remove-destination "$part/nvidia" .libtorch/
    rm -rf "$part"
    touch "$stamp"
}

header=gloo/context.h
[ -n "${GLOO_INCLUDE:-}" ] || [ -e /usr/include/$header ] ||
    [ -e .libtorch/gloo/usr/include/$header ] || gloo
nvidia=.libtorch/nvidia
[ ! -e $nvidia/nccl/include/nccl.h ] || [ -e $nvidia/cu13/include/nv/target ] || cuda
