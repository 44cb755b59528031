//! `bench/gpu.sh` with programs that work, fail, complain and hang. They are all one script, which
//! logs its calls and does what the file `control` says. No GPU and no PyTorch is needed.

mod program;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use program::{Ended, Expect, Place, repository};
use serde_json::Value;

/// The program, its tests and PyTorch's program. The speed that it reports is the number of calls
/// so far, so what is measured again is seen.
const FAKE: &str = r#"#!/bin/bash
call="${0##*/} $*"
echo "$call" >> "$KIT/calls"
[ -n "$BOUNDED" ] || echo "without a limit: $call" >> "$KIT/calls"
number=$(wc -l < "$KIT/calls")
source "$KIT/control"
while [ $# -gt 0 ]; do
    case $1 in --metrics) metrics=$2 ;; --save-path) mkdir -p "$2" ;; esac
    shift
done
case $call in
*torch_ptb*) echo "{\"wps\": $number, \"startup_s\": 1}" ;;
*" train "*)
    for step in 100 200; do
        echo "{\"event\": \"step\", \"step\": $step, \"wps\": $number, \"cost\": 5}"
    done >> "$metrics"
    echo '{"event": "epoch", "split": "train", "epoch": 13, "perplexity": 37.25}' >> "$metrics"
    ;;
*" eval "*) printf 'Best --cache 2000: 93.5\nBest --dynamic 0.1: 90.5\n' ;;
*)
    printf 'test gpu ... ignored, why\ntest %s ... what it prints\nok\n\n' "${0##*/}"
    echo 'test result: ok. 1 passed; 0 failed; 1 ignored'
    ;;
esac
"#;

/// The real one, with a limit of LIMIT seconds if that is set.
const TIMEOUT: &str = r#"#!/bin/bash
flags=()
while [[ $1 == -* ]]; do
    case $1 in -s) flags+=(-s "$2"); shift ;; -k) flags+=(-k 0.5); shift ;; *) flags+=("$1") ;; esac
    shift
done
export BOUNDED="${flags[*]}"
exec "$(type -aP timeout | sed -n 2p)" "${flags[@]}" "${LIMIT:-$1}" "${@:2}"
"#;

/// PyTorch's program: called as `torch_ptb.py ARGUMENTS`.
const TORCH: &str = r#"
import os, sys
os.execv(os.environ["KIT"] + "/bin/torch_ptb.py", sys.argv)
"#;

/// The interpreter itself: `python3` may be a script that looks for it, and it is started often.
static PYTHON: LazyLock<String> = LazyLock::new(|| {
    let print = "import sys; print(sys.executable, end='')";
    Command::new("python3").args(["-c", print]).works().0
});

struct Kit(Place);

impl Kit {
    fn new() -> Kit {
        let kit = Kit(Place::new());
        let script = fs::read_to_string(repository("bench/gpu-kit.sh")).unwrap();
        let (_, modules) = script.split_once("bench/{").expect("it names the Python files");
        for module in modules.split_once('}').unwrap().0.split(',') {
            let name = format!("{module}.py");
            kit.write(&name, &fs::read_to_string(repository("bench").join(&name)).unwrap());
        }
        kit.write("gpu.sh", &fs::read_to_string(repository("bench/gpu.sh")).unwrap());
        kit.write("torch_ptb.py", TORCH);
        for name in ["ptb-word-lm", "torch_ptb.py"] {
            kit.write(&format!("bin/{name}"), FAKE);
        }
        for name in ["lib", "golden", "rnn_golden", "cuda"] {
            kit.write(&format!("tests/{name}"), FAKE);
        }
        kit.write("path/timeout", TIMEOUT);
        kit.write("ptb/ptb.train.txt", "the company said\n");
        kit.write("packages/torch/__init__.py", "");
        kit.write("calls", "");
        kit.control("");
        kit
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.0.at(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What calls do that match a pattern of bash's `case`.
    fn control(&self, cases: &str) {
        self.write("control", &format!("case $call in {cases} esac"));
    }

    fn read(&self, name: &str) -> String {
        let path = self.0.at(name);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// The number of calls so far that have these words.
    fn calls(&self, words: &str) -> usize {
        self.read("calls").lines().filter(|call| call.contains(words)).count()
    }

    fn gpu_sh(&self, args: &[&str]) -> Command {
        let mut command = Command::new("bash");
        let root = self.0.at("");
        command.arg(self.0.at("gpu.sh")).arg("--out").arg(self.0.at("out"));
        command.arg("--copy").arg(self.0.at("copy")).args(args).current_dir(&root);
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", self.0.at("path").display()));
        command.env("PYTHONPATH", self.0.at("packages")).env("KIT", root.to_str().unwrap());
        command.env("PYTHON", &*PYTHON);
        for name in ["DATA", "LIMIT", "BOUNDED", "SECONDS", "BASH_ENV"] {
            command.env_remove(name);
        }
        command
    }

    /// Ends with this code: what it printed on standard error.
    fn ends_with(&self, code: i32, command: &mut Command) -> String {
        let start = Instant::now();
        let (found, out, errors): Ended = command.ends();
        assert_eq!(found, Some(code), "{command:?}: {out}\n{errors}\n{}", self.read("calls"));
        assert!(start.elapsed() < Duration::from_secs(300), "{command:?} waited: {errors}");
        assert_eq!(self.calls("without a limit"), 0, "{}", self.read("calls"));
        errors
    }

    fn runs(&self, code: i32, args: &[&str]) -> String {
        self.ends_with(code, &mut self.gpu_sh(args))
    }

    /// The speeds in this round of the bench.
    fn samples(&self, name: &str) -> Vec<(String, f64)> {
        let round: Value = serde_json::from_str(&self.read(&format!("out/{name}.json"))).unwrap();
        let samples = round["samples"].as_object().unwrap();
        samples.iter().map(|(name, s)| (name.clone(), s["wps"].as_f64().unwrap().round())).collect()
    }

    fn is_done(&self, stage: &str) -> bool {
        self.0.at(&format!("out/{stage}.done")).exists()
    }
}

#[test]
fn all_works_and_nothing_is_repeated() {
    let kit = Kit::new();
    kit.runs(0, &[]);
    let summary = kit.read("copy/summary.md");
    for text in ["| small-0 |  | 13 of 13 | 37.25 |", "| ours | 3 |", "| ours, fp32 | 1 |"] {
        assert!(summary.contains(text), "{text}: {summary}");
    }
    for test in ["lib", "golden", "rnn_golden", "cuda"] {
        assert!(summary.contains(&format!("{test:60} ok\n")), "{test}: {summary}");
    }
    assert!(!summary.contains("**") && !summary.contains("large-2"), "{summary}");
    assert!(!kit.read("copy/gpu.log").contains("FAILED"));
    let files = Command::new("tar").arg("-tf").arg(kit.0.at("copy/results.tar.gz")).works().0;
    for name in ["commands.log", "tests.log", "large-0.jsonl", "bench-large-3.json", "summary.md"] {
        assert!(files.lines().any(|file| file == name), "{name}: {files}");
    }
    let libtorch = fs::read_link(kit.0.at("lib/ptb-word-lm/torch/lib")).unwrap();
    assert_eq!(libtorch, kit.0.at("packages/torch/lib"));
    for command in ["doctor", "generate", "predict", "score"] {
        assert_eq!(kit.calls(&format!("ptb-word-lm {command} ")), 1, "{command}");
    }

    let calls = kit.read("calls");
    kit.runs(0, &[]);
    assert_eq!(kit.read("calls"), calls);

    kit.runs(0, &["--more"]);
    let more = &kit.read("calls")[calls.len()..];
    assert!(more.contains("--model large --seed 2") && !more.contains("torch_ptb"), "{more}");
    assert!(more.contains("runs/large-0 --dynamic 0.1 --metrics"), "{more}");
    assert!(kit.read("copy/summary.md").contains("| large-2 |"));
}

#[test]
fn a_failure_is_told_and_repeated_when_asked() {
    let kit = Kit::new();
    let stages = ["--only", "tests|small-.|medium-0|bench-small-1"];
    kit.control(
        r#"
        golden*) echo "test result: ok. 0 passed"; exit ;;
        *runs/small-0*) exit 1 ;;
        *runs/small-1*) echo "cannot be recorded" ;;
        *torch_ptb*--strict*) echo "out of memory" >&2; exit 1 ;;
        *bf16*) echo "[W] not part of single contiguous chunk"; exit 1 ;;&
        *--no-cuda-graph*) ;;
        *--max-steps*) echo "the step cannot be recorded" >&2 ;;
        "#,
    );
    let errors = kit.runs(1, &stages);
    for stage in ["tests", "small-0", "small-1", "bench-small-1"] {
        assert!(errors.contains(&format!("{stage} FAILED")) && !kit.is_done(stage), "{errors}");
    }
    assert!(kit.is_done("medium-0") && kit.is_done("small-2"), "{errors}");
    let summary = kit.read("copy/summary.md");
    for text in [
        "**stages that failed: bench-small-1, small-0, small-1, tests**",
        "ours: the step cannot be recorded**",
        "PyTorch, eager, fp32: exit code 1: out of memory**",
        "| PyTorch, eager | 1 |",
    ] {
        assert!(summary.contains(text), "{text}: {summary}");
    }
    assert!(kit.read("out/bench.log").contains("out of memory"));

    kit.control("");
    let (calls, samples) = (kit.read("calls"), kit.samples("bench-small-1"));
    kit.runs(1, &stages);
    assert_eq!(kit.read("calls"), calls, "without --retry");
    kit.runs(0, &[&stages[..], &["--retry"]].concat());
    let summary = kit.read("copy/summary.md");
    assert!(!summary.contains("**"), "{summary}");
    assert_eq!(kit.calls("runs/medium-0"), 1);
    let again = kit.samples("bench-small-1");
    let kept: Vec<_> = samples.iter().filter(|s| again.contains(s)).map(|s| &*s.0).collect();
    assert_eq!(kept, ["ours, without a graph", "PyTorch, eager", "PyTorch, eager, tf32"]);
    assert_eq!(again.len(), 9, "{again:?}");
}

#[test]
fn what_hangs_is_killed_and_continued_once() {
    let kit = Kit::new();
    let stages = ["--only", "tests|large-0|medium-0"];
    kit.control(
        r#"golden*) trap '' TERM; exec sleep 600 ;;
        *runs/medium-0*) trap '' INT; exec sleep 600 ;;
        *runs/large-0*)
            echo "$BOUNDED" >> "$KIT/calls"
            trap 'kill $!; exit 130' INT
            sleep 600 & wait ;;"#,
    );
    let shortly = |code| kit.ends_with(code, kit.gpu_sh(&stages).env("LIMIT", "1"));
    let errors = shortly(3);
    assert!(errors.contains("tests FAILED (1)"), "{errors}");
    assert!(errors.contains("medium-0 continues with the next call"), "{errors}");
    assert_eq!((kit.calls("cuda --test-threads"), kit.calls("runs/large-0")), (1, 0));
    // It did nothing in either call, and is no longer waited for.
    let errors = shortly(3);
    assert!(errors.contains("medium-0 FAILED (137)"), "{errors}");
    // This one saves itself in time, since it gets one signal alone.
    assert_eq!(kit.calls("--foreground -s INT"), 1);
    assert!(errors.contains("large-0 continues with the next call"), "{errors}");
    let errors = shortly(3);
    assert!(errors.contains("large-0 continues with the next call"), "{errors}");
    kit.control("");
    kit.runs(1, &stages);
    assert!(kit.is_done("large-0") && !kit.is_done("medium-0"));
    kit.runs(0, &[&stages[..], &["--retry"]].concat());
}

#[test]
fn a_killed_round_of_the_bench_continues() {
    let kit = Kit::new();
    let stages = ["--only", "bench-small-1"];
    kit.control("*bf16*) echo 'it hangs' >&2; exec sleep 600 ;;");
    let errors = kit.ends_with(3, kit.gpu_sh(&stages).env("LIMIT", "5"));
    assert!(errors.contains("bench-small-1 continues with the next call"), "{errors}");
    let before = kit.samples("bench-small-1");
    assert_eq!(before.len(), 4, "{before:?}");
    let left = "**round 1: not finished, still to run: ours, bf16; ours, fp16; PyTorch, eager;";
    let summary = kit.read("copy/summary.md");
    assert!(summary.contains(left) && summary.contains("| ours, fp32 | 1 |"), "{summary}");
    assert!(kit.read("out/bench.log").contains("ours, bf16: it hangs"));

    kit.control("");
    kit.runs(0, &stages);
    let samples = kit.samples("bench-small-1");
    assert_eq!(samples.len(), 9, "{samples:?}");
    assert!(before.iter().all(|sample| samples.contains(sample)), "{before:?} {samples:?}");
    assert!(!kit.read("copy/summary.md").contains("not finished"));
}

#[test]
fn adapting_continues_where_it_was() {
    let kit = Kit::new();
    let stages = ["--only", "large-0|tune-large|adapt-large"];
    kit.control("*--dynamic*) exec sleep 600 ;;");
    // Once with something new done, once without, and then it is no longer waited for.
    for (code, evaluations) in [(3, 1), (3, 1), (1, 1)] {
        kit.ends_with(code, kit.gpu_sh(&stages).env("LIMIT", "2"));
        assert_eq!(kit.calls("runs/large-0 --cache 2000 --metrics"), evaluations);
    }
    kit.control("");
    kit.runs(0, &[&stages[..], &["--retry"]].concat());
    assert_eq!(kit.calls("runs/large-0 --cache 2000 --metrics"), 1);
    assert_eq!(kit.calls("--tune"), 1);
}

#[test]
fn a_call_ends_in_time_and_stages_are_chosen() {
    let kit = Kit::new();
    let stages = ["--only", "machine|small-0|bench-.*-2"];
    // (Bash counts on from there.)
    let errors = kit.ends_with(3, kit.gpu_sh(&stages).env("SECONDS", "500"));
    assert!(errors.contains("small-0 is left for the next call"), "{errors}");
    assert_eq!(kit.read("calls"), "ptb-word-lm --version\n");
    assert!(kit.read("copy/summary.md").contains("| small-0 | not run |"));
    kit.runs(0, &stages);
    let calls = kit.read("calls");
    assert_eq!(calls.lines().count(), 2 + 3 * 4, "{calls}");

    let refused = |args: &[&str], says: &str| {
        let errors =
            kit.ends_with(if says.contains("--more") { 2 } else { 1 }, &mut kit.gpu_sh(args));
        assert!(errors.contains(says), "{args:?}: {errors}");
    };
    refused(&["--only", "small"], "no stage has such a name");
    refused(&["--dry-run"], "has results of: device cuda, precision default;");
    refused(&["--minutes", "soon"], "a whole number");
    refused(&["--minutes", "1"], "more --minutes");
    refused(&["--help"], "[--more] [--only PATTERN]");
    assert_eq!(kit.read("calls"), calls);
}

#[test]
fn the_tests_that_it_names_exist() {
    let script = fs::read_to_string(repository("bench/gpu.sh")).unwrap();
    let source = fs::read_to_string(repository("src/train_step.rs")).unwrap();
    let (_, name) = script.split_once("train_step::tests::").unwrap();
    let name = name.split_whitespace().next().unwrap();
    assert!(source.contains(&format!("fn {name}()")), "{name}");
    let (_, names) = script.split_once("for name in golden").unwrap();
    for name in names.split_once(';').unwrap().0.split_whitespace().chain(["golden"]) {
        assert!(Path::new(&repository("tests").join(format!("{name}.rs"))).exists(), "{name}");
    }
}
