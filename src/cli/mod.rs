//! The command line: one file per subcommand.

mod compare;
mod completions;
mod convert;
mod data;
mod doctor;
mod eval;
mod flags;
mod generate;
mod imported;
mod launch;
mod man;
mod predict;
mod prepare;
mod pytorch;
pub mod report;
mod score;
mod train;

use std::any::TypeId;
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::checkpoint::{SaveFolder, has_checkpoint};
use crate::config::Model;
use crate::device;
use crate::files::follow;
use crate::kernels::libtorch;
use flags::UsageError;
use flags::config_file;
use report::{ensure_written, for_stderr, line, notice};

/// Exit code of a command that was understood and failed.
const FAILED: u8 = 1;
/// Exit code of a wrong flag or value; clap uses the same.
const USAGE: u8 = 2;

/// Flags that `train -h` shows, which fits on a terminal of 24 lines. `train --help` has all.
const TRAIN_PAGE: [&str; 11] = [
    "data_path", "save_path", "model", "rnn_mode", "num_gpus", "use_fp16", "config", "device",
    "seed", "max_steps", "quiet",
];

#[derive(Parser)]
#[command(
    name = "ptb-word-lm",
    version,
    about = "TensorFlow's PTB word language model (ptb_word_lm.py) in Rust on libtorch",
    long_about = "\
TensorFlow's PTB word language model (ptb_word_lm.py; Zaremba et al., \"Recurrent Neural Network \
Regularization\") in Rust on libtorch: the same graph, the same steps, the same lines on standard \
output.

The original's flags also work in its own spelling: train --data_path, --save_path.",
    after_help = "\
Examples:
  ptb-word-lm doctor
      check what is here and what is missing
  ptb-word-lm train --data-path sample --save-path run
      train on the corpus inside this program
  ptb-word-lm eval --checkpoint run --data-path sample
      evaluate the model that was saved

Exit codes: 0 done, 1 failed, 2 wrong usage; 129, 130, 143: stopped by SIGHUP, Ctrl-C or SIGTERM, \
and saved.
Colours and the progress bar are for terminals only; NO_COLOR=1 switches the colours off.",
    max_term_width = 100
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a model as the original does, and evaluate it
    #[command(
        after_help = "\
Example: ptb-word-lm train --data-path data/ptb --save-path runs/small",
        after_long_help = "\
Examples:
  ptb-word-lm train --data-path data/ptb --save-path runs/small
      train the small model on PTB, or resume that run
  ptb-word-lm train --data_path=data/ptb --model=medium --save_path=runs/m
      the command line of the original
  ptb-word-lm train --data-path sample --max-steps 100 --threads 1
      try it on the corpus inside this program
  ptb-word-lm train --config runs/small/metrics.jsonl --save-path runs/again
      repeat the run of these metrics"
    )]
    Train(Box<train::TrainArgs>),
    /// Print the validation and test perplexity of a saved model
    #[command(after_help = "\
Examples:
  ptb-word-lm eval --checkpoint runs/small --data-path data/ptb
  ptb-word-lm eval --checkpoint runs/1 --checkpoint runs/2 \\
      --data-path data/ptb
      average the probabilities of two models
  ptb-word-lm eval --checkpoint runs/small --data-path data/ptb --tune
      find the best flags for the model to adapt to the validation text
  ptb-word-lm eval --checkpoint runs/small --data-path data/ptb \\
      --dynamic 0.1 --cache 2000
      let the model adapt to the text
  ptb-word-lm eval --checkpoint runs/small --data-path data/ptb \\
      --metrics evaluations.jsonl
      keep the perplexities for `compare evaluations.jsonl`")]
    Eval(eval::EvalArgs),
    /// Generate text with a saved model, word by word
    #[command(after_help = "\
Examples:
  ptb-word-lm generate --checkpoint runs/small --words 50
  ptb-word-lm generate --checkpoint runs/small --temperature 0.7 --top-k 40
  ptb-word-lm generate --checkpoint runs/small --prompt 'the company said'
      continue these words
  ptb-word-lm generate --checkpoint runs/small --no-unk")]
    Generate(generate::GenerateArgs),
    /// Print the likeliest next words after a text
    #[command(after_help = "\
Examples:
  ptb-word-lm predict --checkpoint runs/small --prompt 'the company said'
  ptb-word-lm predict --checkpoint runs/small --json < prompts.txt
      one prompt per line, an object for each
  ptb-word-lm predict --checkpoint runs/1 --checkpoint runs/2 --top 3 \\
      --prompt 'the company said'
      average the probabilities of two models

--json prints an object for each prompt:
  {\"event\": \"prediction\", \"prompt\": \"the company said\", \"unknown\": 0,
   \"next\": [{\"word\": \"it\", \"probability\": 0.21, \"log_probability\": -1.56}, ...]}
`log_probability` is natural; `unknown` counts words of the prompt that the model
does not know.")]
    Predict(predict::PredictArgs),
    /// Score a text: log-probability and perplexity, line by line
    Score(score::ScoreArgs),
    /// Make a checkpoint from a model that TensorFlow saved
    #[command(after_help = "\
Examples:
  ptb-word-lm import model.ckpt-30056 --save-path runs/tf \\
      --data-path data/ptb
  ptb-word-lm eval --checkpoint runs/tf --data-path data/ptb")]
    Import(convert::ImportArgs),
    /// Write a saved model in TensorFlow's formats
    #[command(after_help = "\
Examples:
  ptb-word-lm export --checkpoint runs/small --format tf-checkpoint \\
      -o tf.ckpt
  ptb-word-lm export --checkpoint runs/small --format tf-npz -o small.npz")]
    Export(convert::ExportArgs),
    /// Split one text into the three that training needs
    #[command(
        long_about = "\
Splits one text into the three that training needs: train.txt has the first 80% of its lines, \
valid.txt the next 10%, test.txt the last 10%. The parts are whole blocks, so that sentences stay \
in their context and none is in two parts. The text itself stays as it is.

The model takes for a word whatever stands between spaces. --lower and --tokenize make a plain \
text fit for that; without them the words are left as they are.

With --tokenize letters and digits stay together, with an apostrophe, a hyphen or an underscore \
between two of them (don't, well-known), and a point or a comma between two digits (3.14). Every \
other character, such as a comma, becomes a word, and so does each Chinese or Japanese character. \
Names in angle brackets, such as <unk> and </s>, stay as they are, and so do [UNK], [UNKNOWN] and \
[OOV].",
        after_help = "\
Examples:
  ptb-word-lm prepare novel.txt --out my-text --lower --tokenize
  ptb-word-lm train --data-path my-text --max-vocab 10000 --save-path runs/novel"
    )]
    Prepare(prepare::PrepareArgs),
    /// Compare runs and evaluations with the published results
    #[command(after_help = "\
Example:
  ptb-word-lm compare runs/small runs/again")]
    Compare(compare::CompareArgs),
    /// Check the installation and suggest fixes
    #[command(after_help = "\
Examples:
  ptb-word-lm doctor
  ptb-word-lm doctor --data-path my-text

Exit codes: 0 if training on the CPU works, 1 if it does not.")]
    Doctor(doctor::DoctorArgs),
    /// Write a script with which a shell completes commands and flags
    #[command(after_help = "\
Examples:
  source <(ptb-word-lm completions bash)
      put this line into ~/.bashrc; for zsh write zsh, and put it into ~/.zshrc
  ptb-word-lm completions fish \\
      > ~/.config/fish/completions/ptb-word-lm.fish")]
    Completions(completions::CompletionsArgs),
    /// Write the manual pages, one for each command
    #[command(after_help = "\
Example:
  ptb-word-lm man ~/.local/share/man/man1")]
    Man(man::ManArgs),
}

/// Parses the arguments, runs the command, reports its error, and returns the exit code.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    device::keep_freed_memory();
    let result = match parse(args) {
        Ok(cli) => run(cli.command),
        Err(error) if error.kind() == ErrorKind::DisplayVersion => {
            line(&version());
            Ok(ExitCode::SUCCESS)
        }
        // Help goes to standard output, what is wrong with the arguments to standard error.
        Err(error) => match print(&error) {
            Err(failed) if !error.use_stderr() && failed.kind() != io::ErrorKind::BrokenPipe => {
                Err(anyhow::Error::new(failed).context("standard output"))
            }
            _ => Ok(ExitCode::from(error.exit_code() as u8)),
        },
    };
    let code = result.unwrap_or_else(|error| fail(&error));
    // A command that did all but write its result has failed, unless nobody wants to read it.
    match ensure_written() {
        Err(error) if code == ExitCode::SUCCESS && error.kind() != io::ErrorKind::BrokenPipe => {
            fail(&anyhow::Error::new(error).context("standard output"))
        }
        _ => code,
    }
}

/// Writes help to standard output, which clap has wrapped, and errors to standard error, which it
/// has not.
fn print(error: &clap::Error) -> io::Result<()> {
    match error.use_stderr() && io::stderr().is_terminal() {
        true => {
            let text = error.render();
            let colors = console::colors_enabled_stderr();
            let text = if colors { text.ansi().to_string() } else { text.to_string() };
            write!(io::stderr().lock(), "{}", for_stderr(&text))
        }
        false => error.print(),
    }
}

/// Reports an error and returns its exit code.
fn fail(error: &anyhow::Error) -> ExitCode {
    // libtorch's own messages end with a C++ stack trace, which helps nobody here.
    let text = format!("{error:#}");
    let traces = ["\nException raised from", "\nframe #"];
    let trace = traces.iter().filter_map(|start| text.find(start)).min();
    notice(&format!("error: {}", &text[..trace.unwrap_or(text.len())]));
    ExitCode::from(if error.is::<UsageError>() { USAGE } else { FAILED })
}

/// Parses arguments, of which the first is the program's name, and the file of `--config`.
///
/// # Errors
/// Wrong usage; and arguments that ask for help or the version.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = Cli::command().mut_subcommand("train", |train| {
        train.mut_args(|arg| {
            let is_on_page = TRAIN_PAGE.contains(&arg.get_id().as_str());
            if is_on_page { arg } else { arg.hide_short_help(true) }
        })
    });
    command = command.mut_subcommands(|command| command.mut_args(with_utf8_named));
    command.build();
    let train = command.find_subcommand("train").cloned().unwrap_or_default();
    let args = our_spellings(args, &command);
    ensure_command(&args, &command)?;
    let (args, mut given) = config_file::expand(args, &train)?;
    let matches = command.try_get_matches_from(args)?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    if let (Command::Train(args), Some((_, matches))) = (&mut cli.command, matches.subcommand()) {
        given.record(matches, &train);
        args.given = given;
    }
    Ok(cli)
}

/// A flag whose error of a value that is not UTF-8 names it; clap's own does not.
fn with_utf8_named(arg: Arg) -> Arg {
    if arg.get_value_parser().type_id() != TypeId::of::<String>() {
        return arg;
    }
    arg.value_parser(OsStringValueParser::new().try_map(|value| {
        value.into_string().map_err(|_| "it is not UTF-8, and this flag takes no other text")
    }))
}

/// What `--version` prints.
fn version() -> String {
    let loaded = device::load_cuda(); // before any other libtorch call
    let cuda = match (loaded, libtorch::made_for_cuda()) {
        (Ok(()), _) => libtorch::cuda_version(tch::utils::version_cudart()),
        (Err(_), Some(cuda)) => {
            format!("{cuda}, not loaded: `ptb-word-lm doctor` says what is missing")
        }
        (Err(_), None) => "none: this libtorch is CPU-only".into(),
    };
    format!(
        "ptb-word-lm {}\ntch {}\nlibtorch {} (built against {})\nCUDA {cuda}",
        env!("CARGO_PKG_VERSION"),
        libtorch::TCH_VERSION,
        libtorch::version(),
        libtorch::built_against(),
    )
}

fn run(command: Command) -> Result<ExitCode> {
    use Command::*;
    if matches!(
        command,
        Train(_) | Eval(_) | Generate(_) | Predict(_) | Score(_) | Import(_) | Export(_)
    ) {
        libtorch::ensure_version()?;
    }
    match command {
        Train(args) => return args.run(),
        Eval(args) => args.run(),
        Generate(args) => ignore_broken_pipe(args.run()),
        Predict(args) => ignore_broken_pipe(args.run()),
        Score(args) => ignore_broken_pipe(args.run()),
        Import(args) => args.run(),
        Export(args) => args.run(),
        Prepare(args) => args.run(),
        Compare(args) => args.run(),
        Doctor(args) => return args.run(),
        Completions(args) => args.run(Cli::command()),
        Man(args) => args.run(Cli::command()),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// A reader of standard output that has gone away has read enough (`generate | head`). That is not
/// a failure.
fn ignore_broken_pipe(result: Result<()>) -> Result<()> {
    let is_broken_pipe = |error: &anyhow::Error| {
        error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    };
    match result {
        Err(error) if is_broken_pipe(&error) => Ok(()),
        other => other,
    }
}

/// Puts a flag before an error of the library, which does not know it.
fn flag_error(flag: &str) -> impl Fn(anyhow::Error) -> anyhow::Error {
    move |error| anyhow!("{flag} {error:#}")
}

/// Opens `--save-path`, with a warning if the file system has no locks.
fn open_save_path(path: &Path, keep: usize) -> Result<SaveFolder> {
    let folder = SaveFolder::open(path, keep).map_err(flag_error("--save-path"))?;
    if let Some(warning) = folder.warning() {
        notice(&format!("warning: {}: {warning}", path.display()));
    }
    Ok(folder)
}

/// Refuses to write a file in the place of a checkpoint: a run would lose it, or take the file for
/// its newest. `path` may be another name of it, such as a symbolic link.
fn refuse_checkpoint(flag: &str, path: &Path) -> Result<()> {
    let place = follow(path);
    let name = place.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let step = name.strip_prefix("model-").and_then(|name| name.strip_suffix(".safetensors"));
    let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty());
    if step.is_some_and(|step| step.parse::<u64>().is_ok())
        && has_checkpoint(folder.unwrap_or(Path::new(".")))
    {
        bail!(
            "{flag} {}: this is the name of a checkpoint, and there is a run in its folder; give \
             another name or folder",
            path.display()
        );
    }
    Ok(())
}

/// The preset that has these sizes.
fn model_of_size(hidden_size: i64, num_layers: i64) -> Option<Model> {
    let is = |model: &Model| {
        let config = model.config();
        (config.hidden_size, config.num_layers) == (hidden_size, num_layers)
    };
    Model::value_variants().iter().copied().find(is)
}

/// Errors if the first argument is a flag of a command: the command is missing. The original has no
/// commands, so its users give the flags of `train` alone.
fn ensure_command(args: &[OsString], program: &clap::Command) -> Result<(), clap::Error> {
    let first = args.get(1).and_then(|arg| arg.to_str()).and_then(|arg| arg.strip_prefix("--"));
    let Some(name) = first.and_then(|flag| flag.split('=').next()) else { return Ok(()) };
    let has = |command: &clap::Command| {
        command.get_arguments().any(|arg| {
            let aliases = arg.get_visible_aliases().unwrap_or_default();
            arg.get_long() == Some(name) || aliases.contains(&name)
        })
    };
    let commands: Vec<&str> =
        program.get_subcommands().filter(|c| has(c)).map(clap::Command::get_name).collect();
    if commands.is_empty() || has(program) {
        return Ok(());
    }
    let message = match commands.contains(&"train") {
        true => {
            let flags: Vec<String> = args[1..].iter().map(|arg| shell_word(arg)).collect();
            format!(
                "the command is missing before the flags:\n\n  ptb-word-lm train {}\n",
                flags.join(" ")
            )
        }
        false => {
            let of = commands.join(", ");
            format!("the command is missing before --{name}, which is a flag of: {of}\n")
        }
    };
    Err(clap::Error::raw(ErrorKind::MissingSubcommand, message))
}

/// An argument as a shell reads it.
fn shell_word(arg: &OsStr) -> String {
    let text = arg.to_string_lossy();
    let is_plain = |c: char| c.is_alphanumeric() || "-_=+./:,@%".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.into_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// The arguments in [`our_spelling`]. What is no flag stays as it is: the text after a flag such
/// as `--prompt`, which may begin with `--` itself, and all after `--`.
fn our_spellings(args: impl Iterator<Item = OsString>, program: &clap::Command) -> Vec<OsString> {
    let flags = program.get_subcommands().flat_map(clap::Command::get_arguments);
    let takes_text: Vec<&str> = flags
        .filter(|flag| flag.is_allow_hyphen_values_set())
        .filter_map(clap::Arg::get_long)
        .collect();
    let (mut is_text, mut only_text) = (false, false);
    let spelled = args.map(|arg| {
        if only_text || is_text {
            is_text = false;
            return arg;
        }
        let name = arg.to_str().and_then(|arg| arg.strip_prefix("--"));
        only_text = name == Some("");
        is_text = name.is_some_and(|name| takes_text.contains(&name));
        our_spelling(arg)
    });
    spelled.collect()
}

/// `--data_path=x` -> `--data-path=x`: the original spells its flags with underscores. A flag that
/// is off may be `--nouse_fp16` there.
fn our_spelling(arg: OsString) -> OsString {
    match arg.as_bytes() {
        b"--nouse_fp16" | b"--nouse-fp16" => "--use-fp16=false".into(),
        // A value may be a path that is not UTF-8.
        bytes if bytes.starts_with(b"--") => {
            let end = bytes.iter().position(|&byte| byte == b'=').unwrap_or(bytes.len());
            let mut bytes = bytes.to_vec();
            bytes[..end].iter_mut().filter(|byte| **byte == b'_').for_each(|byte| *byte = b'-');
            OsString::from_vec(bytes)
        }
        _ => arg,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_and_they_can_be_run() {
        let mut cli = Cli::command();
        cli.build();
        let commands = cli.get_subcommands().chain([&cli]);
        for command in commands.filter(|command| command.get_name() != "help") {
            let help = command.get_after_long_help().or(command.get_after_help());
            let help = help.map(ToString::to_string).unwrap_or_default();
            let mut examples = help.lines().filter(|line| line.starts_with("  "));
            let wide = examples.find(|line| line.chars().count() > 80);
            assert_eq!(wide, None, "it wraps on a terminal, and cannot be pasted then");
            let help = help.replace("\\\n", " ");
            let example = |line: &str| {
                // A prompt in quotes is one word.
                let line = line.replace("'the company said'", "the");
                let words = line.trim().trim_start_matches("source <(").trim_end_matches(')');
                let words = words.split(" > ").next()?.split(" < ").next()?;
                let words = words.starts_with("ptb-word-lm ").then(|| words.split_whitespace())?;
                Some(words.map(OsString::from).collect::<Vec<_>>())
            };
            let examples: Vec<_> = help.lines().filter_map(example).collect();
            assert!(!examples.is_empty(), "{} has no example", command.get_name());
            let has_file = |words: &Vec<OsString>| words.iter().any(|word| word == "--config");
            for words in examples.into_iter().filter(|words| !has_file(words)) {
                if let Err(error) = parse(words.iter().cloned()) {
                    assert_eq!(error.kind(), ErrorKind::DisplayHelp, "{words:?}: {error}");
                }
            }
        }
    }

    #[test]
    fn the_original_s_spelling_works() {
        let mut command = Cli::command();
        command.build();
        let all = |line: &str| {
            let args = our_spellings(line.split(' ').map(OsString::from), &command);
            args.join(OsStr::new(" ")).into_string().unwrap()
        };
        let dashes = |arg: &str| our_spelling(arg.into()).into_string().unwrap();
        assert_eq!(dashes("--data_path"), "--data-path");
        assert_eq!(dashes("--save_path=/a_b/c"), "--save-path=/a_b/c");
        assert_eq!(dashes("some_file"), "some_file");
        assert_eq!(dashes("--nouse_fp16"), "--use-fp16=false");
        for (typed, read) in [
            ("predict --prompt --a_b --save_path x_y", "predict --prompt --a_b --save-path x_y"),
            ("predict --prompt=--a_b --log_base 10", "predict --prompt=--a_b --log-base 10"),
            ("score --log_base 10 -- --a_b --c_d", "score --log-base 10 -- --a_b --c_d"),
        ] {
            assert_eq!(all(typed), read);
        }
    }
}
