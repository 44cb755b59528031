#!/usr/bin/env bash
# Fuzzes everything that reads a file: fuzz.sh [SECONDS] [TARGET...], so many seconds for each target (fuzz/src/targets.rs), all unless named.
#
# It starts from the seeds in fuzz/corpus and the earlier finds in fuzz/found.tar.gz, which are
# unpacked into fuzz/found. What a target finds goes there too, what breaks it into
# fuzz/artifacts/TARGET, and the number of executions to standard output. SANITIZER=address (nightly
# Rust) checks memory too, slowly. KEEP=1 adds to the archive, for committing, the files among those
# found that reach code which no other does.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
seconds=${1:-60}
shift || true
sanitizer=${SANITIZER:-none}
export LIBTORCH=${LIBTORCH:-$root/.libtorch/torch}
export LD_LIBRARY_PATH=$LIBTORCH/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
# libtorch's threads would only get in the way; an error's backtrace costs more than the reading.
export OMP_NUM_THREADS=1 RUST_BACKTRACE=0 ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0}

if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "fuzz: installing cargo-fuzz" >&2
    cargo install --quiet --locked cargo-fuzz --version 0.13.2
fi
toolchain=()
if [ "$sanitizer" != none ]; then
    # Sanitizers are nightly's; a stable compiler that is told so has them too.
    if rustup toolchain list 2>/dev/null | grep -q '^nightly'; then toolchain=(+nightly); else export RUSTC_BOOTSTRAP=1; fi
fi

# torch-sys compiles for minutes. Where the main build has done so already, the fuzzer's build takes what it made (fuzz/.cargo, ignored).
made=$(ls -t "${CARGO_TARGET_DIR:-target}"/release/build/torch-sys-*/output 2>/dev/null | head -1 || true)
mkdir -p fuzz/.cargo
if [ -n "$made" ]; then
    list() { sed -n "s/^cargo:$1=\(.*\)/\"\1\"/p" "$made" | sort -u | paste -sd, -; }
    {
        echo "[target.$(rustc -vV | sed -n 's/^host: //p').tch]"
        echo "rustc-link-search = [$(list rustc-link-search)]"
        # In this order: what needs a library comes before it.
        echo "rustc-link-lib = [$(sed -n 's/^cargo:rustc-link-lib=\(.*\)/"\1"/p' "$made" | awk '!seen[$0]++' | paste -sd, -)]"
        echo "libtorch_lib = $(list libtorch_lib)"
    } > fuzz/.cargo/config.toml
else
    rm -f fuzz/.cargo/config.toml
fi
export CARGO_TARGET_DIR=${FUZZ_TARGET_DIR:-$root/fuzz/target}

cd fuzz
if [ $# -gt 0 ]; then targets=("$@"); else mapfile -t targets < <(cargo "${toolchain[@]}" fuzz list); fi
# The files that the readers read lie in memory.
TMPDIR=$(mktemp -d "$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)/ptb-word-lm-fuzz.XXXXXX")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
cargo "${toolchain[@]}" fuzz build --sanitizer "$sanitizer" >&2
archive=found.tar.gz
mkdir -p found "$TMPDIR/kept"
tar -xzf $archive -C found
tar -xzf $archive -C "$TMPDIR/kept"
for target in "${targets[@]}"; do
    log=$TMPDIR/$target.log
    mkdir -p "found/$target"
    # Where memory is checked, what asks for much of it is found by libFuzzer; else by the targets' own allocator.
    if ! cargo "${toolchain[@]}" fuzz run --sanitizer "$sanitizer" "$target" "found/$target" "corpus/$target" -- \
        -max_total_time="$seconds" -max_len=65536 -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=256 -print_final_stats=1 \
        > "$log" 2>&1; then
        tail -60 "$log" >&2
        echo "fuzz: $target broke; \`cargo fuzz run $target FILE\` in fuzz/ runs it again" >&2
        exit 1
    fi
    if [ -n "${KEEP:-}" ]; then
        # The seeds count as kept while the finds are compared with what is there.
        kept=$TMPDIR/kept/$target
        mkdir -p "$kept"
        cp "corpus/$target"/* "$kept/"
        cargo "${toolchain[@]}" fuzz run --sanitizer "$sanitizer" "$target" "$kept" "found/$target" -- \
            -merge=1 -use_counters=0 > "$log.merge" 2>&1
        for seed in "corpus/$target"/*; do rm "$kept/${seed##*/}"; done
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    speed=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
    echo "$target: $runs executions, $speed a second, sanitizer $sanitizer"
done
if [ -n "${KEEP:-}" ]; then
    # The same files always make the same archive.
    (cd "$TMPDIR/kept" && find . -type f -printf '%P\0' | sort -z |
        tar --null -T - --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=644 -c) | gzip -9n > $archive
fi
