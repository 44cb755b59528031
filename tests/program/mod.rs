//! The program as a user runs it: how the tests start it, what they expect of it, and what they
//! give it to read.

// Every test compiles this module for itself, and uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use ptb_word_lm::checkpoint::Checkpoint;
use ptb_word_lm::model::PtbVariables;
use ptb_word_lm::reader::Vocabulary;
use ptb_word_lm::sample;
use serde_json::Value;
use tch::{Device, Kind};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_ptb-word-lm");

/// A run that takes a second: the sample corpus in some 60 steps an epoch, with few units.
pub const TINY: &[&str] = &[
    "train", "--data-path", "sample", "--device", "cpu", "--model", "test", "--hidden-size", "16",
    "--num-steps", "15", "--batch-size", "100",
];

/// What makes every step depend on the generator, in two layers.
pub const DROPOUT: &[&str] = &["--num-layers", "2", "--keep-prob", "0.5"];

/// A small model with short rows, for a text of one's own.
pub const SMALL: &[&str] =
    &["train", "--device", "cpu", "--model", "test", "--hidden-size", "24", "--num-steps", "10"];

/// The program with these arguments: one thread, nothing to read, and nothing in its environment
/// that changes what it says.
pub fn program(args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(args).env("OMP_NUM_THREADS", "1").env_remove("RUST_BACKTRACE").env_remove("DATA");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The program on a terminal of so many columns, with the arguments of a command line. What appears
/// there is the standard output of this.
pub fn on_a_terminal(columns: usize, line: &str) -> Command {
    let line = format!("stty rows 24 cols {columns}; exec '{PROGRAM}' {line}");
    // It is in the package util-linux.
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).stdin(Stdio::null());
    script.env("TERM", "xterm-256color").env("OMP_NUM_THREADS", "1").env_remove("NO_COLOR");
    script
}

/// What a terminal shows, without its commands.
pub fn without_escapes(screen: &str) -> String {
    let mut plain = String::new();
    let mut letters = screen.chars();
    while let Some(letter) = letters.next() {
        match letter {
            // ESC [ parameters letter
            '\x1b' => drop(letters.by_ref().find(|c| c.is_ascii_alphabetic())),
            letter => plain.push(letter),
        }
    }
    plain
}

/// What a process came to: exit code (none if a signal ended it), standard output, standard error.
pub type Ended = (Option<i32>, String, String);

pub fn ended(output: Output) -> Ended {
    let [out, errors] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code(), out, errors)
}

/// What is expected of a command.
pub trait Expect {
    /// Gives it something to read on standard input.
    fn given(&mut self, input: impl Into<Vec<u8>>) -> &mut Self;

    /// It ends, in whichever way: see [`Ended`].
    fn ends(&mut self) -> Ended;

    /// It succeeds: standard output and standard error.
    fn works(&mut self) -> (String, String);

    /// It fails with exit code 1 or 2 and a message: the code and standard error.
    fn fails(&mut self) -> (i32, String);

    /// It fails with this exit code and a message that has these words: standard error.
    fn fails_with(&mut self, code: i32, says: &[&str]) -> String;
}

impl Expect for Command {
    fn given(&mut self, input: impl Into<Vec<u8>>) -> &mut Self {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let input = input.into();
        // It may refuse its flags, and end before it has read all.
        thread::spawn(move || drop(writer.write_all(&input)));
        self.stdin(reader)
    }

    fn ends(&mut self) -> Ended {
        ended(self.output().unwrap_or_else(|error| panic!("{self:?} does not start: {error}")))
    }

    fn works(&mut self) -> (String, String) {
        let (code, out, errors) = self.ends();
        assert_eq!(code, Some(0), "{self:?} failed: {out}\n{errors}");
        (out, errors)
    }

    fn fails(&mut self) -> (i32, String) {
        let (code, out, errors) = self.ends();
        // scripts/torture.sh counts these lines.
        let args: Vec<_> = self.get_args().collect();
        println!("REFUSED {} {args:?}", env!("CARGO_CRATE_NAME"));
        let code = code.unwrap_or_else(|| panic!("{self:?} was killed: {errors}"));
        assert!(code == 1 || code == 2, "{self:?} gave exit code {code}: {out}\n{errors}");
        for trace in ["panicked", "backtrace", "frame #"] {
            assert!(!errors.contains(trace), "{self:?}: {errors}");
        }
        (code, errors)
    }

    fn fails_with(&mut self, code: i32, says: &[&str]) -> String {
        let (found, errors) = self.fails();
        assert_eq!(found, code, "{self:?}: {errors}");
        for words in says {
            assert!(errors.contains(words), "{self:?} should say {words:?}: {errors}");
        }
        errors
    }
}

/// A folder in which the program is run by its command lines, whose words are separated by blanks.
/// `$TINY` and `$SMALL` in them are [`TINY`] and [`SMALL`].
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Place(tempfile::tempdir().unwrap())
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn program(&self, line: &str) -> Command {
        let line = line.replace("$TINY", &TINY.join(" ")).replace("$SMALL", &SMALL.join(" "));
        let mut command = program(&line.split_whitespace().collect::<Vec<_>>());
        command.current_dir(self.0.path());
        command
    }

    pub fn works(&self, line: &str) -> (String, String) {
        self.program(line).works()
    }

    pub fn fails_with(&self, code: i32, line: &str, says: &[&str]) -> String {
        self.program(line).fails_with(code, says)
    }

    /// The newest checkpoint of a save path.
    pub fn checkpoint(&self, save: &str) -> Checkpoint {
        checkpoint(&self.at(save))
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Makes a data folder of three texts: for training, validation and test.
pub fn texts(folder: &Path, texts: [impl AsRef<[u8]>; 3]) {
    fs::create_dir_all(folder).unwrap();
    for (split, text) in ["train", "valid", "test"].iter().zip(texts) {
        fs::write(folder.join(format!("{split}.txt")), text).unwrap();
    }
}

/// Makes a data folder of the sample corpus, with 100 lines each for validation and test.
pub fn short_sample(folder: &Path) {
    let short = |text: &str| text.split_inclusive('\n').take(100).collect::<String>();
    texts(folder, [sample::TRAIN, &short(sample::VALID), &short(sample::TEST)]);
}

/// JSON values, one on each line.
pub fn json_lines(lines: &str) -> Vec<Value> {
    let value = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    lines.lines().map(value).collect()
}

/// The events of a metrics file, or of the one in a save path.
pub fn metrics(path: &Path) -> Vec<Value> {
    let file = if path.is_dir() { path.join("metrics.jsonl") } else { path.to_owned() };
    let lines = fs::read_to_string(file).unwrap();
    assert!(lines.ends_with('\n'), "its last line is whole: {lines}");
    json_lines(&lines)
}

/// The newest checkpoint of a save path, about which there is nothing to say.
pub fn checkpoint(save: &Path) -> Checkpoint {
    Checkpoint::load(save, &mut |notice| panic!("{notice}")).unwrap()
}

/// The model of that checkpoint with numbers of this kind, and its words.
pub fn model(save: &Path, kind: Kind) -> (PtbVariables, Vocabulary) {
    let checkpoint = checkpoint(save);
    let cell = checkpoint.cell().unwrap();
    let variables = PtbVariables::new(&checkpoint.run.config, cell, Device::Cpu, kind, 0).unwrap();
    variables.assign(&checkpoint.variables).unwrap();
    (variables, checkpoint.vocabulary.unwrap())
}

/// The perplexities of the validation and the test text that `eval` prints, which is all it prints.
pub fn perplexities(out: &str) -> [f64; 2] {
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 2, "{out}");
    let value = |line: &str, name: &str| line.strip_prefix(name).unwrap().parse().unwrap();
    [value(lines[0], "Valid Perplexity: "), value(lines[1], "Test Perplexity: ")]
}
