#!/usr/bin/env bash
# The C++ headers that data parallelism is compiled with and libtorch's package leaves out, put where build.rs looks.
#
# Gloo's: the system's if libgloo-dev is installed, else Debian's package unpacked into .libtorch/gloo (no root needed). Only headers: Gloo itself
# is inside libtorch. Where `make train-cuda` has fetched NVIDIA's libraries, also the headers that nccl.h's company includes.
set -euo pipefail
cd "$(dirname "$0")/.."
stamp=.libtorch/headers.stamp # build.rs looks again when it changes
mkdir -p .libtorch

gloo() {
    local deb=libgloo-dev_0.0~git20220518.5b14351-3_amd64.deb
    local sha256=80529c9fd8af452faf489e686b94bf87075965c40673803810c4f41634b1e299
    local part=.libtorch/gloo.part
    rm -rf "$part" .libtorch/gloo
    mkdir -p "$part"
    fetch() { (cd "$part" && apt-get download -q=2 -o APT::Sandbox::User=root libgloo-dev=0.0~git20220518.5b14351-3 >&2); }
    command -v apt-get >/dev/null && { fetch || { apt-get update -q=2 >&2 && fetch; }; } || {
        echo "error: Gloo's headers could not be fetched. Install libgloo-dev (Debian, Ubuntu), or set GLOO_INCLUDE to the folder of gloo/context.h" >&2
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
    local part=.libtorch/cuda.part
    rm -rf "$part"
    # The versions that belong to libtorch's CUDA 13.0.
    PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 "${PYTHON:-python3}" -m pip install --quiet --no-compile --no-deps --target "$part/crt" nvidia-cuda-crt==13.0.88
    PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 "${PYTHON:-python3}" -m pip install --quiet --no-compile --no-deps --target "$part/cccl" nvidia-cuda-cccl==13.0.85
    cp -rn "$part"/crt/nvidia "$part"/cccl/nvidia .libtorch/
    rm -rf "$part"
    touch "$stamp"
}

[ -n "${GLOO_INCLUDE:-}" ] || [ -e /usr/include/gloo/context.h ] || [ -e .libtorch/gloo/usr/include/gloo/context.h ] || gloo
[ ! -e .libtorch/nvidia/nccl/include/nccl.h ] || [ -e .libtorch/nvidia/cu13/include/nv/target ] || cuda
