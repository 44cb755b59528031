//! The documents' commands are run: every line of every ```sh block of README.md, data/README.md,
//! CONTRIBUTING.md and docs/*.md, as written, in order, one shell for each document, in a copy of
//! the repository's layout where
//!
//! - training ends after a few steps, since `target/release/ptb-word-lm` there adds `--max-steps`
//!   to `train`;
//! - `curl` fetches a small piece of the sample corpus for PTB, whose digests `data/fetch.sh` has
//!   there, so that `make data` puts `data/ptb` where a reader has it afterwards;
//! - `novel.txt` is the reader's own text;
//! - `cargo` works on the real repository, so that nothing is built twice.
//!
//! What cannot be run so is named below with the reason, and is checked without being run: a
//! program's and a script's flags are parsed, what `make` would do is asked for (`make -n`).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ptb_word_lm::reader::RawData;
use ptb_word_lm::sample;

/// Commands that are not run here, by their beginning, and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("make train-cuda", "it needs a GPU"),
    ("make install", "the program here is a script; tests/environment.rs installs the real one"),
    ("make gpu-kit", "it builds and copies all tests, for a machine with a GPU"),
    ("gpu-kit/gpu.sh", "it needs a GPU"),
    ("make test", "this test is part of it"),
    (
        "make distributed",
        "it builds a second time, with another feature; CI does, for the tests of it",
    ),
    ("ptb-word-lm train --data-path data/ptb --save-path run --device cpu --workers", WORKERS),
    ("ptb-word-lm train --data-path data/ptb --save-path run --num-gpus", WORKERS),
    ("torchrun", WORKERS),
    ("RANK=0", WORKERS),
    ("RANK=1", WORKERS),
    ("LIBTORCH_USE_PYTORCH=1 make", "it needs a PyTorch 2.11 and builds all anew"),
    ("LIBTORCH=/opt/libtorch make", "it needs an unpacked libtorch there and builds all anew"),
];

const WORKERS: &str = "it needs the program of `make distributed`, and some of them several machines; tests/distributed.rs runs workers";

/// Steps that training takes here.
const STEPS: &str = "5";

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

struct Document {
    name: String,
    text: String,
}

fn documents() -> Vec<Document> {
    let folder =
        fs::read_dir(Path::new(ROOT).join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> =
        folder.filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    paths.sort();
    let fixed = ["README.md", "data/README.md", "CONTRIBUTING.md", "CHANGELOG.md"];
    let fixed = fixed.map(|name| Path::new(ROOT).join(name));
    let read = |path: PathBuf| Document {
        name: path.strip_prefix(ROOT).unwrap().display().to_string(),
        text: fs::read_to_string(&path).unwrap(),
    };
    fixed.into_iter().chain(paths).map(read).collect()
}

impl Document {
    /// Text inside and outside of fences, line by line, with the fence's language.
    fn lines(&self) -> Vec<(Option<&str>, &str)> {
        let mut fence = None;
        let mut lines = Vec::new();
        for line in self.text.lines() {
            match (line.trim_start().strip_prefix("```"), fence) {
                (Some(language), None) => fence = Some(language.trim()),
                (Some(_), Some(_)) => fence = None,
                (None, _) => lines.push((fence, line)),
            }
        }
        lines
    }

    /// The commands of its ```sh blocks; a line that ends in a backslash goes on in the next.
    fn commands(&self) -> Vec<String> {
        let mut commands: Vec<String> = Vec::new();
        let mut goes_on = false;
        for (_, line) in self.lines().into_iter().filter(|(fence, _)| *fence == Some("sh")) {
            match commands.last_mut().filter(|_| goes_on) {
                Some(command) => *command += &format!("\n{line}"),
                None if line.trim().is_empty() || line.trim_start().starts_with('#') => continue,
                None => commands.push(line.to_owned()),
            }
            goes_on = line.ends_with('\\');
        }
        commands
    }
}

fn why_not_run(command: &str) -> Option<&'static str> {
    let is = |start: &str| {
        command.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    };
    NOT_RUN.iter().find(|(start, _)| is(start)).map(|(_, why)| *why)
}

/// The copy of the repository's layout.
fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    // Copies, so that no command writes into the repository.
    for name in
        ["Makefile", "README.md", "scripts", "bench", "results", "docs", "tests", "examples", "src"]
    {
        let copied = Command::new("cp")
            .arg("-r")
            .arg(Path::new(ROOT).join(name))
            .arg(folder.path())
            .status();
        assert!(copied.unwrap().success(), "{name} is copied");
    }
    for name in ["data/sample", "web", "bin", "target/release"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    for file in ["README.md", "fetch.sh", "reference.json"] {
        fs::copy(Path::new(ROOT).join("data").join(file), at("data").join(file)).unwrap();
    }
    for (split, text) in
        [("train", sample::TRAIN), ("valid", sample::VALID), ("test", sample::TEST)]
    {
        fs::write(at(&format!("data/sample/ptb.{split}.txt")), text).unwrap();
        let lines = if split == "train" { 1500 } else { 150 };
        let piece: String = text.split_inclusive('\n').take(lines).collect();
        fs::write(at(&format!("web/ptb.{split}.txt")), &piece).unwrap();
    }
    fs::copy(at("web/ptb.train.txt"), at("novel.txt")).unwrap();
    // The digests of these pieces instead of PTB's.
    let pieces = RawData::read(at("web").to_str().unwrap()).unwrap();
    let mut fetch = fs::read_to_string(at("data/fetch.sh")).unwrap();
    for (digest, split) in [
        ("f26c4b92c5fdc7b3f8c7cdcb991d8420", &pieces.train),
        ("aa0affc06ff7c36e977d7cd49e3839bf", &pieces.valid),
        ("8b80168b89c18661a38ef683c0dc3721", &pieces.test),
    ] {
        assert!(fetch.contains(digest));
        fetch = fetch.replace(digest, &split.md5);
    }
    fs::write(at("data/fetch.sh"), fetch).unwrap();
    let curl = format!(
        "#!/bin/sh\nwhile [ $# -gt 1 ]; do [ \"$1\" != --output ] || out=$2; shift; done\n\
         exec cp '{}'/\"${{1##*/}}\" \"$out\"\n",
        at("web").display()
    );
    let program = format!(
        "#!/bin/sh\n[ \"$1\" != train ] || set -- \"$@\" --max-steps {STEPS}\nexec '{}' \"$@\"\n",
        env!("CARGO_BIN_EXE_ptb-word-lm")
    );
    // The program is to be the one above, wherever cargo builds.
    let cargo = format!(
        "#!/bin/sh\n[ \"$1\" != metadata ] || {{ echo '{{\"target_directory\":\"{}\"}}'; exit; }}\n\
         verb=$1; shift\nexec '{}' \"$verb\" --manifest-path '{ROOT}/Cargo.toml' \"$@\"\n",
        at("target").display(),
        env!("CARGO")
    );
    let scripts =
        [("target/release/ptb-word-lm", program), ("bin/cargo", cargo), ("bin/curl", curl)];
    for (path, script) in scripts {
        use std::os::unix::fs::PermissionsExt;
        fs::write(at(path), script).unwrap();
        fs::set_permissions(at(path), fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

/// A shell in the copy.
fn shell(folder: &Path, script: &str) -> Command {
    let mut command = Command::new("bash");
    let path = std::env::var("PATH").unwrap();
    command
        .args(["-c", script])
        .current_dir(folder)
        .env(
            "PATH",
            format!(
                "{}:{}:{path}",
                folder.join("bin").display(),
                folder.join("target/release").display()
            ),
        )
        .env("LIBTORCH", libtorch())
        .env("OMP_NUM_THREADS", "1")
        // Those of the `make test` around it are not meant for the `make` inside.
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
        .env_remove("CARGO_BUILD_TARGET")
        .env_remove("DATA")
        .env_remove("PTB_DATA");
    command
}

/// The libtorch that this test was built with: cargo's configuration sets it unless the environment
/// did.
fn libtorch() -> OsString {
    std::env::var_os("LIBTORCH").unwrap_or_else(|| Path::new(ROOT).join(".libtorch/torch").into())
}

fn run(folder: &Path, script: &str, what: &str) -> String {
    let output = shell(folder, script).output().expect("bash starts");
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{what}:\n{out}\n{}", String::from_utf8_lossy(&output.stderr));
    out
}

#[test]
fn the_documents_commands_run() {
    let run_document = |document: &Document| -> usize {
        let mut commands = document.commands();
        commands.retain(|command| why_not_run(command).is_none());
        if !commands.is_empty() {
            let trap = "trap 'echo \"FAILED: $BASH_COMMAND\" >&2' ERR";
            let script = format!("set -euo pipefail\n{trap}\n{}", commands.join("\n"));
            run(copy().path(), &script, &document.name);
        }
        commands.len()
    };
    let documents = documents();
    // Each has a folder of its own, so they run side by side.
    let commands_run: usize = std::thread::scope(|scope| {
        let runs: Vec<_> =
            documents.iter().map(|document| scope.spawn(|| run_document(document))).collect();
        runs.into_iter().map(|run| run.join().expect("every command of the document works")).sum()
    });
    assert!(commands_run > 30, "only {commands_run}");
}

#[test]
fn what_is_not_run_is_checked() {
    let folder = copy();
    let gpu_sh = fs::read_to_string(Path::new(ROOT).join("bench/gpu.sh")).unwrap();
    let mut used = BTreeSet::new();
    for document in documents() {
        for command in document.commands() {
            let Some(why) = why_not_run(&command) else { continue };
            used.insert(why);
            let what = format!("{}: {command}", document.name);
            if let Some((_, program)) = command.split_once("ptb-word-lm ") {
                let words =
                    run(folder.path(), &format!("printf '%s\\n' ptb-word-lm {program}"), &what);
                parses(words.lines(), &what);
                continue;
            }
            if command.starts_with("gpu-kit/gpu.sh ") {
                // tests/gpu_kit.rs runs it.
                for flag in command.split_whitespace().filter(|word| word.starts_with("--")) {
                    assert!(gpu_sh.contains(&format!("\n    {flag}) ")), "{what}: {flag}");
                }
                continue;
            }
            let dry = command.replacen("make ", "make -n ", 1);
            let would_do = run(folder.path(), &dry, &what);
            let train = would_do
                .lines()
                .map(str::trim)
                .find(|line| line.starts_with("'target/release/ptb-word-lm' "));
            if let Some(train) = train {
                let words = run(folder.path(), &format!("data=ptb; printf '%s\\n' {train}"), &what);
                parses(words.lines(), &what);
            } else {
                assert!(!command.contains("train-"), "{what} does not train: {would_do}");
            }
        }
    }
    for (start, why) in NOT_RUN {
        assert!(used.contains(why), "{start}: no document has this command any more");
    }
}

/// Whether these arguments are understood.
fn parses<'a>(words: impl Iterator<Item = &'a str>, what: &str) {
    if let Err(error) = ptb_word_lm::cli::parse(words.map(OsString::from)) {
        panic!("{what}: {error}");
    }
}

#[test]
fn commands_are_in_blocks_that_are_run() {
    for document in documents() {
        for (fence, line) in document.lines() {
            let command = ["make ", "ptb-word-lm ", "cargo ", "./"]
                .iter()
                .any(|start| line.trim_start().starts_with(start));
            let shown = match fence {
                None => line.starts_with("    "),
                Some("sh") => false,
                Some(_) => line.trim_start().starts_with("$ "),
            };
            assert!(
                !(shown && command),
                "{}: this command is in no ```sh block: {line}",
                document.name
            );
        }
    }
}

#[test]
fn what_the_text_names_is_there() {
    let makefile = fs::read_to_string(Path::new(ROOT).join("Makefile")).unwrap();
    let mut program = String::new();
    for command in [
        "train", "eval", "import", "export", "prepare", "compare", "generate", "predict", "score",
        "doctor", "completions", "man",
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_ptb-word-lm"))
            .args([command, "--help"])
            .output()
            .unwrap();
        program += &String::from_utf8(output.stdout).unwrap();
    }
    for document in documents() {
        let outside: Vec<&str> = document
            .lines()
            .into_iter()
            .filter(|(fence, _)| fence.is_none())
            .map(|(_, line)| line)
            .collect();
        let outside = outside.join("\n");
        // Every other piece between backquotes is code.
        for code in outside.split('`').skip(1).step_by(2) {
            if let Some(target) =
                code.strip_prefix("make ").and_then(|rest| rest.split_whitespace().next())
            {
                let target = format!("\n{target}:");
                assert!(
                    makefile.contains(&target),
                    "{}: `{code}`: the Makefile has no such target",
                    document.name
                );
            }
            let flag = code.split(['=', ' ']).next().unwrap_or_default().replace('_', "-");
            // (`--release` is cargo's.)
            let others = code.contains("num_gpus=0") || flag == "--release";
            if flag.starts_with("--") && flag.len() > 2 && !others {
                assert!(
                    program.contains(&flag),
                    "{}: `{code}`: no command has such a flag",
                    document.name
                );
            }
        }
        // Paths of this repository that are named in the text.
        for word in outside.split(|c: char| c.is_whitespace() || "`()[]|,;:\"'".contains(c)) {
            let word = word.split('#').next().unwrap_or_default();
            let folder = word.split_once('/').map_or("", |(folder, _)| folder);
            let path = word.trim_end_matches('.');
            let is_path =
                ["src", "tests", "docs", "scripts", "bench", "microbenchmarks", "examples", "fuzz"]
                    .contains(&folder)
                    && !path.contains(['*', '{', '$', '<']);
            assert!(
                !is_path || Path::new(ROOT).join(path).exists(),
                "{}: {path}: there is no such file",
                document.name
            );
        }
        // Links to files and to their headings.
        for link in outside.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            if path.contains("://") {
                continue;
            }
            let here = Path::new(ROOT).join(&document.name);
            let file = if path.is_empty() { here } else { here.with_file_name(path) };
            assert!(file.exists(), "{}: {link}: there is no such file", document.name);
            if !anchor.is_empty() {
                let text = fs::read_to_string(&file).unwrap();
                let headings =
                    text.lines().filter(|line| line.starts_with('#')).map(heading_anchor);
                assert!(
                    headings.into_iter().any(|heading| heading == anchor),
                    "{}: {link}: no such heading",
                    document.name
                );
            }
        }
    }
}

/// What a heading is called in a link: lower case, blanks as dashes, no punctuation.
fn heading_anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter(kept)
        .collect::<String>()
        .replace(' ', "-")
}
