#!/usr/bin/env bash
# Kills, stops, starves and deceives the program many times over, and writes what came of it to docs/reliability.md:
# torture.sh [KILLS] [DISK_FAULTS] [FUZZ_SECONDS]
#
# Every number in the table is counted in what ran. The disk that fills up is a tmpfs, so mounting one must be allowed (root).
set -euo pipefail
cd "$(dirname "$0")/.."
export KILLS=${1:-200} DISK_FAULTS=${2:-20} OMP_NUM_THREADS=1
fuzz_seconds=${3:-90}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
began=$SECONDS
run() { cargo test --release "$@" -- --include-ignored --nocapture --test-threads 1 2>&1; }

run --test faults | tee "$work/faults"
# The rest of what may be wrong with a file or a flag; only the test that is named where there are others.
run --test limits a_corpus_of_a_gigabyte | tee -a "$work/faults"
cargo test --release --test cli --test use --test manners -- --nocapture --test-threads 1 2>&1 | tee "$work/refused" | grep '^test ' || true
cargo test --release --test tf_files damaged -- --nocapture --test-threads 1 2>&1 | tee "$work/damaged" | grep '^test ' || true
grep -q 'test result: FAILED\|error: ' "$work/refused" "$work/damaged" && { cat "$work/refused" "$work/damaged"; exit 1; }
scripts/fuzz.sh "$fuzz_seconds" | tee "$work/fuzz"

refused() { grep -c "REFUSED $1 " "$work/refused" || true; }
row() { echo "| $1 | $2 | $2 | 0 |"; }
{
    cat <<'TABLE'
# Reliability

What `make torture` did, and what came of it. The runs train the sample corpus with dropout on and a checkpoint every third step; each was
resumed and ended with the variables of a run that was never disturbed, to the last bit, and with its perplexities. A file or flag that is
wrong is survived if it is refused with a message, with exit code 1 or 2. One case that is not survived ends the script without a table.

| what | tried | survived | lost |
|---|---|---|---|
TABLE
    sed -n 's/.*TORTURE //p' "$work/faults"
    row 'wrong flags, data, checkpoints, save paths: training, evaluation, import' "$(refused cli)"
    row 'wrong prompts, samplings, texts, corpora: generate, score, own corpora' "$(refused use)"
    row 'wrong configuration files and the like' "$(refused manners)"
    row "TensorFlow's files with one bit flipped, or cut off" "$(sed -n 's/.*DAMAGED //p' "$work/damaged" | paste -sd+ | bc)"
    sed -n 's/^\([a-z_]*\): \([0-9]*\) executions, .*/\1 \2/p' "$work/fuzz" | while read -r target runs; do
        row "fuzzing: $target" "$runs"
    done
    row 'fuzzing in all' "$(sed -n 's/^[a-z_]*: \([0-9]*\) executions, .*/\1/p' "$work/fuzz" | paste -sd+ | bc)"
    cat <<TABLE

It took $(((SECONDS - began + 59) / 60)) minutes on $(env -u OMP_NUM_THREADS nproc) cores, one thread a run ($(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)).

## Where it is in the code

- A checkpoint is one file, written beside, synced, renamed, read back (src/checkpoint.rs, src/files.rs), with a SHA-256 over all of it.
  The newest that is whole is resumed; a damaged one gets \`.damaged\` to its name, with a word on standard error.
- A folder is locked with flock (src/lock.rs). A file system without it, such as some mounts of Lustre and FUSE,
  gets a warning and the file \`lock.owner\`, which names the host and process. If that process is killed, the next
  run on the same host takes over; on another host, remove the file.
- What else a file system lacks (flushing a folder, renaming) is done without; errors of the disk are errors
  (src/files.rs, tests/filesystems.rs).
- The dropout masks are a function of seed and step, so the generator's position is the step (src/session/mod.rs).
- What a checkpoint was made from is compared on resuming: another configuration, vocabulary or text is refused; other threads, another
  device or mode is said, since the run then goes on equal to rounding only.
- Fuzz targets: fuzz/src/targets.rs. Each file may make its reader allocate a bounded multiple of its size, enforced by the allocator;
  checksums are taken for right while fuzzing. \`make fuzz\`; tests/corpora.rs runs what was found as an ordinary test.
- Limits: tests/limits.rs. Supply chain: deny.toml, \`make audit\`, tests/supply.rs.
TABLE
} > docs/reliability.md
cat docs/reliability.md
