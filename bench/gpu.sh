#!/usr/bin/env bash
# The proof on a machine with a GPU, in one command: golden tests, the bench against PyTorch, the three published runs.
#
#   gpu.sh [--out FOLDER] [--copy FOLDER] [--minutes N] [--precision P] [--device cuda] [--more] [--retry] [--dry-run]
#
# It runs from the folder that `make gpu-kit` makes (or finds it in target/gpu-kit) and needs a Python with PyTorch 2.11 (PYTHON), whose
# libtorch it uses. All that it finds goes into FOLDER (gpu-results here; /dev/shm/gpu, in memory, saves the time of writing checkpoints);
# after each stage what matters of it is copied to the --copy FOLDER: summary.md, results.tar.gz, gpu.log. A call stops before N
# minutes are over (9), in the middle of a run if need be, and exits with 3; called again it continues, until everything is done (0)
# or something has failed (1). A stage that failed is tried again only with --retry. --more adds what takes ten minutes more: models
# that adapt to the text, averages, and a second seed of large. --dry-run goes through every stage with few steps, on the CPU too
# (--device cpu).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kit=$here
[ -x "$kit/ptb-word-lm" ] || kit=$here/../target/gpu-kit
python=${PYTHON:-python3}
out=$PWD/gpu-results copy= minutes=9 precision= device=cuda more= retry= dry=
usage() { sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2; }
while [ $# -gt 0 ]; do
    case $1 in
    --out) out=${2:?$1: a folder}; shift ;;
    --copy) copy=${2:?$1: a folder}; shift ;;
    --minutes) minutes=${2:?$1: a number}; shift ;;
    --precision) precision=${2:?$1: fp32, tf32-cudnn, tf32, bf16 or fp16}; shift ;;
    --device) device=${2:?$1: cuda, cuda:N or cpu}; shift ;;
    --more) more=1 ;;
    --retry) retry=1 ;;
    --dry-run) dry=1 ;;
    *) usage ;;
    esac
    shift
done
die() { echo "gpu.sh: $*" >&2; exit 1; }
# (A copy of the kit may have lost the bits that let programs run.)
chmod -R u+x "$kit" 2>/dev/null || true
[ -x "$kit/ptb-word-lm" ] || die "there is no kit: \`make gpu-kit\` on a machine with Rust makes it"
data=${DATA:-$kit/ptb}
[ -f "$data/ptb.train.txt" ] || die "no PTB in $data: DATA names its folder"
lib=$("$python" -c 'import importlib.util as u, os; print(os.path.join(os.path.dirname(u.find_spec("torch").origin), "lib"))') ||
    die "$python has no PyTorch; PYTHON names one that has"
export LD_LIBRARY_PATH=$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} PYTHONDONTWRITEBYTECODE=1
mkdir -p "$out/runs" ${copy:+"$copy"}
binary=$kit/ptb-word-lm

left() { echo $((minutes * 60 - SECONDS)); }
say() { echo "gpu.sh: [${SECONDS}s] $*" | tee -a "$out/gpu.log" >&2; }
collect() { # What there is so far, in one file, and where it is wanted.
    "$python" "$kit/gpu_bench.py" --out "$out" summary > "$out/summary.md" || true
    # (Some of these may not be there yet.)
    (cd "$out" && tar -czf results.tar.gz -- *.md *.txt *.log *.seconds *.json *.jsonl 2>/dev/null) || true
    [ -z "$copy" ] || cp "$out/summary.md" "$out/results.tar.gz" "$out/gpu.log" "$copy/" || true
}
finish() { # EXIT CODE
    collect
    cat "$out/summary.md"
    exit "$1"
}
failed=0
# stage NAME SECONDS COMMAND...: once; left for the next call if fewer seconds than that remain. A failure is reported, and the next stage begun.
stage() {
    local name=$1 needs=$2 code=0
    shift 2
    [ ! -e "$out/$name.done" ] || return 0
    if [ -e "$out/$name.failed" ] && [ -z "$retry" ]; then failed=1; return 0; fi
    rm -f "$out/$name.failed"
    if [ "$(left)" -lt "$needs" ]; then say "$name is left for the next call"; finish 3; fi
    say "$name"
    "$@" || code=$?
    if [ "$code" = 0 ]; then touch "$out/$name.done"; collect; return 0; fi
    if [ "$code" = 3 ]; then say "$name continues with the next call"; finish 3; fi
    say "$name FAILED ($code)"
    touch "$out/$name.failed"
    failed=1
    collect
}
# Nothing that hangs takes the call with it.
bounded() { timeout -k 10 "$(($(left) > 20 ? $(left) - 15 : 5))" "$@"; }

machine() {
    { nvidia-smi || true; uname -srm; nproc; "$python" -c 'import sys, torch; print(sys.version); print("torch", torch.__version__, torch.version.cuda, torch.backends.cudnn.version())'
      "$binary" --version; } > "$out/machine.txt" 2>&1
}
# One at a time: one of them makes waiting for the GPU an error, for the whole process.
tests() {
    local code=0 flags="--test-threads 1" name
    if [ "$device" = cpu ]; then export TEST_DEVICE=cpu; else flags+=" --include-ignored"; fi
    export GOLDEN=$kit/fixtures PTB_WORD_LM=$binary
    # shellcheck disable=SC2086
    {
        # The most telling one first: the recorded step is the plain step.
        if [ "$device" != cpu ]; then
            bounded "$kit/tests/lib" $flags --exact train_step::tests::gpu_the_recorded_step_is_the_plain_step || code=1
            bounded "$kit/tests/lib" $flags gpu_ || code=1
        fi
        for name in golden rnn_golden cuda; do bounded "$kit/tests/$name" $flags --nocapture || code=1; done
    } > "$out/tests.log" 2>&1
    grep -E '^test ' "$out/tests.log" >&2 || true
    return $code
}
bench() { # CONFIG ROUND
    bounded "$python" "$kit/gpu_bench.py" --out "$out" --binary "$binary" --data "$data" --device "$device" --python "$python" ${dry:+--dry-run} \
        round "$1" "$2" 2> >(tee -a "$out/gpu.log" >&2)
}
train() { # NAME MODEL SEED: resumable; its seconds, start-ups included, add up
    local name=$1 code=0 start=$SECONDS extra=()
    if [ -n "$dry" ]; then
        extra=(--max-max-epoch 1 --max-steps 4)
        if [ "$2" != small ]; then extra+=(--no-eval); fi
    fi
    timeout -s INT -k 15 "$(($(left) - 25))" "$binary" train --device "$device" --data-path "$data" --model "$2" --seed "$3" \
        ${precision:+--precision "$precision"} --save-path "$out/runs/$name" --metrics "$out/$name.jsonl" --checkpoint-every 5m --keep 1 "${extra[@]}" \
        >> "$out/$name.log" 2>&1 || code=$?
    echo $((SECONDS - start)) >> "$out/$name.seconds"
    # cuDNN has to find the weights where it wants them.
    if grep -q "single contiguous chunk" "$out/$name.log"; then say "$name: the weights are not in one buffer"; return 1; fi
    if grep -q "cannot be recorded" "$out/$name.log"; then say "$name: no CUDA graph"; return 1; fi
    # (124: the time is up, and it has saved itself; 137: it had to be killed, and an earlier checkpoint is there.)
    case $code in 124 | 137) return 3 ;; *) return $code ;; esac
}

evaluate() { # RUN... [FLAG...]: a line for `compare`
    local flags=()
    while [ $# -gt 0 ] && [[ $1 != -* ]]; do flags+=(--checkpoint "$out/runs/$1"); shift; done
    bounded "$binary" eval --device "$device" --data-path "$data" "${flags[@]}" "$@" --metrics "$out/evaluations.jsonl" >> "$out/gpu.log" 2>&1
}
adapt() { # RUN: chooses the flags on the validation text, and evaluates with the best of each kind
    local flags
    bounded "$binary" eval --device "$device" --data-path "$data" --checkpoint "$out/runs/$1" --tune --cache 2000 \
        > "$out/tune-$1.txt" 2>> "$out/gpu.log" || return 1
    # The lines are such as `Best --dynamic 0.1 --cache 2000 --cache-theta 0.8 --cache-lambda 0.15: 93.578`.
    sed -n 's/^Best\(.*\): .*/\1/p' "$out/tune-$1.txt" | sort -u > "$out/best-$1.txt"
    while read -r flags; do
        # shellcheck disable=SC2086
        evaluate "$1" $flags < /dev/null || return 1
    done < "$out/best-$1.txt"
}

stage machine 20 machine
stage tests 60 tests
for model in small medium large; do stage "$model-0" 60 train "$model-0" "$model" 0; done
for config in small medium large; do stage "bench-$config-1" 90 bench "$config" 1; done
for seed in 1 2; do stage "small-$seed" 60 train "small-$seed" small "$seed"; done
for round in 2 3; do
    for config in small medium large; do stage "bench-$config-$round" 60 bench "$config" "$round"; done
done
if [ -n "$more" ]; then
    stage averages 30 evaluate small-0 small-1 small-2
    for model in medium large; do stage "plain-$model" 30 evaluate "$model-0"; stage "adapt-$model" 120 adapt "$model-0"; done
    stage large-2 60 train large-2 large 2
fi
finish $failed
