#!/usr/bin/env bash
# Kills, stops and starves runs many times over, and writes what came of it to docs/reliability.md: torture.sh [KILLS] [DISK_FAULTS]
#
# The disk that fills up is a tmpfs, so mounting one must be allowed (root).
set -euo pipefail
cd "$(dirname "$0")/.."
kills=${1:-200}
faults=${2:-10}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
KILLS=$kills DISK_FAULTS=$faults OMP_NUM_THREADS=1 \
    cargo test --release --test faults -- --include-ignored --nocapture --test-threads 1 | tee "$log"
{
    cat <<'TABLE'
# Reliability

What `make torture` did to real runs of the program (the sample corpus, dropout on, a checkpoint every third step), and what came of it.
Every run was resumed and ended with the variables of a run that was never disturbed, to the last bit, and with its perplexities.

| fault | tried | survived | lost |
|---|---|---|---|
TABLE
    sed -n 's/.*TORTURE //p' "$log"
} > docs/reliability.md
cat docs/reliability.md
