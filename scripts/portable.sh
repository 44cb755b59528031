#!/usr/bin/env bash
# Whether the code compiles for machines that it has not been tried on (what `make portable` calls).
#
# Linux on aarch64: all C++ with Debian's cross compiler, against the headers of this machine's
# libtorch (they are the same), and all Rust. macOS on Apple's processors: the Rust. Nothing is
# linked or run: the feature doc-only leaves out libtorch, and with it the C++ of torch-sys.
set -euo pipefail
cd "$(dirname "$0")/.."
torch=${LIBTORCH:-$PWD/.libtorch/torch}
die() {
    echo "error: $*" >&2
    exit 1
}
command -v aarch64-linux-gnu-g++ >/dev/null ||
    die "no C++ compiler for aarch64 here. Debian, Ubuntu: apt-get install g++-aarch64-linux-gnu"
gloo=/usr/include
[ ! -e .libtorch/gloo ] || gloo=.libtorch/gloo/usr/include

# nccl.cpp needs NVIDIA's headers, and is compiled only where they are.
find src -name '*.cpp' ! -name nccl.cpp | sort | while read -r file; do
    if [ "${file##*/}" = c10d.cpp ] && ! [ -e $gloo/gloo/context.h ]; then
        echo "$file: not checked for aarch64: Gloo's headers are not here (make distributed)" >&2
        continue
    fi
    aarch64-linux-gnu-g++ -std=c++17 -O3 -fopenmp -w -DUSE_C10D_GLOO -c -o /dev/null "$file" \
        -I "$torch/include" -I "$torch/include/torch/csrc/api/include" -idirafter $gloo
    echo "$file: compiles for aarch64"
done

# A crate among the dependencies compiles C, for which no compiler for macOS is at hand. An empty
# file will do where nothing is linked.
stubs=$(mktemp -d)
trap 'rm -rf "$stubs"' EXIT
tee "$stubs/cc" > "$stubs/ar" <<'STUB'
#!/bin/sh
[ "$1" != '-?' ] || exit 1 # not Microsoft's
for a; do case $a in *.a | *.o) : > "$a" ;; esac; done
STUB
chmod +x "$stubs"/*
export CC_aarch64_apple_darwin=$stubs/cc AR_aarch64_apple_darwin=$stubs/ar
for target in aarch64-unknown-linux-gnu aarch64-apple-darwin; do
    rustup target add "$target" 2>/dev/null || die "rustup has no target $target"
    cargo check --quiet --lib --bins --features doc-only,distributed --target "$target" \
        --target-dir target/portable
    echo "Rust compiles for $target"
done
