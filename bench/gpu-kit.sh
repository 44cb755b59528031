#!/usr/bin/env bash
# Everything that a machine with a GPU needs, built here, in one folder (`make gpu-kit` calls this):
#
#   gpu-kit.sh [FOLDER]
#
# There it takes Linux on x86-64 with the C and C++ libraries of Ubuntu 22.04 or newer, NVIDIA's
# driver, and a Python with PyTorch 2.11, whose libtorch is used; no Rust, no network. gpu.sh in the
# folder is the single command. DATA names PTB's folder; it is copied along.
set -euo pipefail
cd "$(dirname "$0")/.."
kit=${1:-target/gpu-kit}
limit_mb=56
newest_libraries="GLIBC_2.35 GLIBCXX_3.4.30"

rm -rf "$kit"
mkdir -p "$kit/bin" "$kit/tests" "$kit/fixtures"
# Cargo says as JSON where it put what it built.
built() {
    cargo "$@" --release --message-format=json-render-diagnostics |
        python3 -c 'import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if m.get("executable"):
        print(m["target"]["kind"][0], m["target"]["name"], m["executable"])'
}
built build | while read -r kind name path; do
    if [ "$kind $name" = "bin ptb-word-lm" ]; then cp "$path" "$kit/bin/"; fi
done
built test --no-run --lib --test golden --test rnn_golden --test cuda |
    while read -r kind name path; do
        case $kind in
        test) cp "$path" "$kit/tests/$name" ;;
        lib) cp "$path" "$kit/tests/lib" ;;
        esac
    done
strip "$kit/bin/ptb-word-lm" "$kit"/tests/*
for newest in $newest_libraries; do
    for program in "$kit/bin/ptb-word-lm" "$kit"/tests/*; do
        found=$(nm -D "$program" | sed -n "s/.*@\(${newest%_*}_[0-9.]*\)$/\1/p" | sort -V)
        if [ "$(printf '%s\n' "$newest" "$found" | sort -V | tail -n 1)" != "$newest" ]; then
            echo "gpu-kit: $program needs ${found##*$'\n'}, Ubuntu 22.04 has $newest" >&2
            exit 1
        fi
    done
done
cp tests/fixtures/golden/*.npz "$kit/fixtures/"
cp bench/gpu.sh bench/{gpu_bench,bench,results,programs,ptb,torch_ptb}.py "$kit/"
if data=$(DATA="${DATA:-}" data/fetch.sh); then
    mkdir "$kit/ptb"
    cp "$data"/ptb.{train,valid,test}.txt "$kit/ptb/"
else
    echo "gpu-kit: without PTB: put it into $kit/ptb, or name its folder there with DATA" >&2
fi
mb=$(du -sm "$kit" | cut -f1)
echo "$kit: $mb MB; there: $(basename "$kit")/gpu.sh" >&2
[ "$mb" -le "$limit_mb" ] || { echo "gpu-kit: more than $limit_mb MB" >&2; exit 1; }
