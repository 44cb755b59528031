#!/usr/bin/env bash
# The proof on a machine with a GPU, in one command: golden tests, the bench against PyTorch, the
# three published runs.
#
#   gpu.sh [--out FOLDER] [--copy FOLDER] [--minutes N] [--precision P] [--device cuda]
#          [--more] [--only PATTERN] [--retry] [--dry-run]
#
# It runs from the folder that `make gpu-kit` makes (or finds it in target/gpu-kit) and needs a
# Python with PyTorch 2.11 (PYTHON), whose libtorch it uses. All results go into FOLDER (gpu-results
# here; /dev/shm/gpu, in memory, saves the time of writing checkpoints); after each stage
# summary.md, results.tar.gz and gpu.log are copied to the --copy FOLDER.
#
# A call stops before N minutes are over (9), in the middle of a stage if need be, and exits with 3;
# called again it continues, until everything is done (0) or something has failed (1). All of it
# takes about 21 minutes, in three calls. A stage that failed is tried again only with --retry; so
# is one that had to be killed twice.
#
# --more adds stages that take about twenty minutes: a second seed of large, averages, and models
# that adapt to the text. --only runs the stages whose whole name matches an extended regular
# expression, those of --more too: --only 'machine|tests|large-2|bench-.*'. --dry-run goes through
# all stages with few steps, on the CPU too (--device cpu), but does not evaluate medium and large.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kit=$here
[ -e "$kit/bin/ptb-word-lm" ] || kit=$here/../target/gpu-kit
python=${PYTHON:-python3}
out=$PWD/gpu-results copy='' minutes=9 precision='' device=cuda more='' only='' retry='' dry=''
usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
die() { echo "gpu.sh: $*" >&2; exit 1; }
while [ $# -gt 0 ]; do
    case $1 in
    --out) out=${2:?$1: a folder}; shift ;;
    --copy) copy=${2:?$1: a folder}; shift ;;
    --minutes) minutes=${2:?$1: a number}; shift ;;
    --precision) precision=${2:?$1: fp32, tf32-cudnn, tf32, bf16 or fp16}; shift ;;
    --device) device=${2:?$1: cuda, cuda:N or cpu}; shift ;;
    --more) more=1 ;;
    --only) only=${2:?$1: a pattern}; shift ;;
    --retry) retry=1 ;;
    --dry-run) dry=1 ;;
    *) usage ;;
    esac
    shift
done
[[ $minutes =~ ^[1-9][0-9]*$ ]] || die "--minutes $minutes: a whole number"
# (A copy of the kit may have lost the bits that let programs run.)
chmod -R u+x "$kit" 2>/dev/null || true
binary=$kit/bin/ptb-word-lm
[ -x "$binary" ] || die "there is no kit: \`make gpu-kit\` on a machine with Rust makes it"
data=${DATA:-$kit/ptb}
[ -f "$data/ptb.train.txt" ] || die "no PTB in $data: DATA names its folder"
find_libtorch='import importlib.util as u, os
print(os.path.join(os.path.dirname(u.find_spec("torch").origin), "lib"))'
lib=$("$python" -c "$find_libtorch") || die "$python has no PyTorch; PYTHON names one that has"
# The programs look in this folder of the kit first, then where libtorch was when they were built,
# then in LD_LIBRARY_PATH (build.rs).
{ mkdir -p "$kit/lib/ptb-word-lm/torch" && ln -sfn "$lib" "$kit/lib/ptb-word-lm/torch/lib"; } ||
    echo "gpu.sh: $kit cannot be written to: libtorch is found by LD_LIBRARY_PATH" >&2
export LD_LIBRARY_PATH=$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} PYTHONDONTWRITEBYTECODE=1
mkdir -p "$out/runs" ${copy:+"$copy"}
# Stages of one kind are not taken for those of another.
settings="device $device, precision ${precision:-default}${dry:+, dry run}"
[ -e "$out/settings.txt" ] || echo "$settings" > "$out/settings.txt"
[ "$(cat "$out/settings.txt")" = "$settings" ] ||
    die "$out has results of: $(cat "$out/settings.txt"); --out names another folder"

left() { echo $((minutes * 60 - SECONDS)); }
say() { echo "gpu.sh: [${SECONDS}s] $*" | tee -a "$out/gpu.log" >&2; }
collect() { # What there is so far, in one file, and where it is wanted.
    "$python" "$kit/gpu_bench.py" --out "$out" summary > "$out/summary.md" 2>&1 || true
    (
        cd "$out"
        # (Some of these may not be there yet.)
        tar -czf results.tar.gz -- *.md *.txt *.log *.seconds *.json *.jsonl 2>/dev/null || true
    )
    [ -z "$copy" ] || cp "$out/summary.md" "$out/results.tar.gz" "$out/gpu.log" "$copy/" || true
}
finish() { # EXIT CODE
    collect
    cat "$out/summary.md"
    exit "$1"
}
failed=0 chosen=''
# stage NAME SECONDS COMMAND...: once; left for the next call if fewer seconds than that remain. A
# command that returns 3 continues with the next call. So does one that was killed (124, 137), but
# not a second time. Any other failure is reported, and the next stage begun.
stage() {
    local name=$1 needs=$2 code=0
    shift 2
    [ -z "$only" ] || [[ $name =~ ^($only)$ ]] || return 0
    chosen=1
    [ ! -e "$out/$name.done" ] || return 0
    if [ -e "$out/$name.failed" ] && [ -z "$retry" ]; then failed=1; return 0; fi
    rm -f "$out/$name.failed"
    [ "$needs" -lt $((minutes * 60)) ] || die "$name needs $needs seconds: more --minutes"
    if [ "$(left)" -lt "$needs" ]; then say "$name is left for the next call"; finish 3; fi
    say "$name"
    "$@" || code=$?
    case $code in
    0) rm -f "$out/$name.killed"; touch "$out/$name.done"; collect; return 0 ;;
    124 | 137) if [ ! -e "$out/$name.killed" ]; then touch "$out/$name.killed"; code=3; fi ;;
    esac
    if [ "$code" = 3 ]; then say "$name continues with the next call"; finish 3; fi
    say "$name FAILED ($code)"
    rm -f "$out/$name.killed"
    touch "$out/$name.failed"
    failed=1
    collect
}
# at_most SECONDS COMMAND...: no longer than that, and than the call has. What hangs is killed.
at_most() {
    local limit=$(($(left) - 15))
    [ "$limit" -lt "$1" ] || limit=$1
    timeout -k 10 "$((limit > 5 ? limit : 5))" "${@:2}"
}
size() { stat -c %s "$1" 2>/dev/null || echo 0; }

machine() {
    local versions='import sys, torch
print(sys.version)
print("torch", torch.__version__, torch.version.cuda, torch.backends.cudnn.version())'
    {
        # (What is missing is seen there.)
        at_most 60 nvidia-smi || true
        uname -srm
        nproc
        at_most 60 "$python" -c "$versions" || true
        at_most 60 "$binary" --version
    } > "$out/machine.txt" 2>&1
}
# One at a time: one of them makes waiting for the GPU an error, for the whole process.
tests() {
    local code=0 flags=(--test-threads 1) name
    if [ "$device" = cpu ]; then export TEST_DEVICE=cpu; else flags+=(--include-ignored); fi
    export GOLDEN=$kit/fixtures PTB_WORD_LM=$binary
    {
        # The most telling one first: the recorded step is the plain step.
        if [ "$device" != cpu ]; then
            name=train_step::tests::gpu_the_recorded_step_is_the_plain_step
            at_most 120 "$kit/tests/lib" "${flags[@]}" --exact "$name" || code=1
            at_most 120 "$kit/tests/lib" "${flags[@]}" gpu_ || code=1
        fi
        for name in golden rnn_golden cuda; do
            at_most 120 "$kit/tests/$name" "${flags[@]}" --nocapture || code=1
        done
    } > "$out/tests.log" 2>&1
    grep -E '^test ' "$out/tests.log" >&2 || true
    # A name that no test has is no error to the test program.
    if grep -q '^test result: ok. 0 passed' "$out/tests.log"; then say "tests: none ran"; code=1; fi
    # (Perhaps it was only the time of this call that was up.)
    [ "$code" = 0 ] || [ "$(left)" -gt 20 ] || code=124
    return "$code"
}
bench() { # CONFIG ROUND: what was measured is kept, so a round that is killed continues
    local code=0
    at_most 3600 "$python" "$kit/gpu_bench.py" --out "$out" --binary "$binary" --data "$data" \
        --device "$device" --python "$python" ${dry:+--dry-run} ${retry:+--retry} \
        round "$1" "$2" 2> >(tee -a "$out/gpu.log" >&2) || code=$?
    case $code in 124 | 137) return 3 ;; *) return "$code" ;; esac
}
train() { # NAME MODEL SEED: resumable; its seconds, start-ups included, add up
    local name=$1 code=0 start=$SECONDS extra=() log=$out/$1.log metrics=$out/$1.jsonl text
    local logged measured
    logged=$(size "$log") measured=$(size "$metrics")
    if [ -n "$dry" ]; then
        extra=(--max-max-epoch 1 --max-steps 4)
        if [ "$2" != small ]; then extra+=(--no-eval); fi
    fi
    # (Without --foreground two signals would arrive, and a second one means at once, unsaved.)
    timeout --foreground -s INT -k 15 "$(($(left) - 25))" "$binary" train --device "$device" \
        --data-path "$data" --model "$2" --seed "$3" ${precision:+--precision "$precision"} \
        --save-path "$out/runs/$name" --metrics "$metrics" --checkpoint-every 5m --keep 1 \
        "${extra[@]}" >> "$log" 2>&1 || code=$?
    echo $((SECONDS - start)) >> "$out/$name.seconds"
    # The time is up, and it has saved itself. If it had to be killed, there may be a checkpoint.
    [ "$code" != 124 ] || return 3
    [ "$code" != 137 ] || [ "$(size "$metrics")" = "$measured" ] || return 3
    # cuDNN has to find the weights where it wants them, and the step has to be one CUDA graph.
    for text in "single contiguous chunk" "cannot be recorded"; do
        if grep -q "$text" <(tail -c +$((logged + 1)) "$log"); then
            say "$name complains: $text"
            return 1
        fi
    done
    return "$code"
}
commands() { # With the model of the first run.
    local code=0 model=(--device "$device" --checkpoint "$out/runs/small-0")
    {
        at_most 60 "$binary" doctor --data-path "$data" || code=1
        at_most 60 "$binary" generate "${model[@]}" --words 50 || code=1
        at_most 60 "$binary" predict "${model[@]}" --prompt "the company" || code=1
        head -n 5 "$data/ptb.train.txt" | at_most 60 "$binary" score "${model[@]}" || code=1
    } > "$out/commands.log" 2>&1
    return "$code"
}

evaluate() { # RUN... [FLAG...]: a line for `compare`
    local flags=()
    while [ $# -gt 0 ] && [[ $1 != -* ]]; do flags+=(--checkpoint "$out/runs/$1"); shift; done
    at_most 3600 "$binary" eval --device "$device" --data-path "$data" "${flags[@]}" "$@" \
        --metrics "$out/evaluations.jsonl" >> "$out/gpu.log" 2>&1
}
tune() { # RUN: chooses the flags on the validation text
    at_most 3600 "$binary" eval --device "$device" --data-path "$data" \
        --checkpoint "$out/runs/$1" --tune --cache 2000 > "$out/tune-$1.txt" 2>> "$out/gpu.log"
}
adapt() { # RUN: evaluates with the best flags of each kind, those of an earlier call left out
    local flags code killed='' adapted=$out/adapted-$1.txt
    touch "$adapted"
    # The lines are such as `Best --dynamic 0.1 --cache 2000 --cache-theta 0.8: 93.578`.
    while read -r flags; do
        ! grep -qxFe "$flags" "$adapted" || continue
        code=0
        # shellcheck disable=SC2086
        evaluate "$1" $flags < /dev/null || code=$?
        case $code in
        0) echo "$flags" >> "$adapted"; killed=3 ;;
        124 | 137) return "${killed:-$code}" ;;
        *) return "$code" ;;
        esac
    done < <(sed -n 's/^Best\(.*\): .*/\1/p' "$out/tune-$1.txt" | sort -u)
    # (Without a line there was nothing to evaluate.)
    [ -s "$adapted" ]
}

stage machine 20 machine
stage tests 60 tests
for model in small medium large; do stage "$model-0" 60 train "$model-0" "$model" 0; done
stage commands 60 commands
for config in small medium large; do stage "bench-$config-1" 110 bench "$config" 1; done
for seed in 1 2; do stage "small-$seed" 60 train "small-$seed" small "$seed"; done
for round in 2 3; do
    for config in small medium large; do
        stage "bench-$config-$round" 75 bench "$config" "$round"
    done
done
if [ -n "$more$only" ]; then
    stage large-2 60 train large-2 large 2
    stage averages 30 evaluate small-0 small-1 small-2
    for model in medium large; do
        # (On a CPU these take long, whatever the flags.)
        [ -z "$dry" ] || continue
        stage "plain-$model" 30 evaluate "$model-0"
        stage "tune-$model" 240 tune "$model-0"
        stage "adapt-$model" 200 adapt "$model-0"
    done
fi
[ -n "$chosen" ] || die "--only $only: no stage has such a name"
finish $failed
