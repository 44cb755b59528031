//! The command line: one file per subcommand.

mod compare;
mod convert;
mod data;
mod eval;
mod generate;
mod saved;
mod train;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::config::{ConfigError, RnnMode};
use crate::device;
use crate::report::notice;
use crate::rnn::CellType;

/// Exit code of a command that was understood and failed.
const FAILED: u8 = 1;
/// Exit code of a wrong flag or value; clap uses the same.
const USAGE: u8 = 2;

#[derive(Parser)]
#[command(
    name = "ptb-word-lm",
    version,
    about = "TensorFlow's PTB word language model (ptb_word_lm.py) in Rust on libtorch",
    long_about = "TensorFlow's PTB word language model (ptb_word_lm.py; Zaremba et al., \"Recurrent Neural Network Regularization\") in \
                  Rust on libtorch: the same graph, the same steps, the same lines on standard output.\n\n\
                  The original's flags work in its own spelling too: --data_path, --save_path.",
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage; 130 and 143: stopped by Ctrl-C or SIGTERM, and saved.",
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a model, as the original does, then evaluate it
    Train(Box<train::TrainArgs>),
    /// Print the valid and test perplexity of a saved model
    Eval(eval::EvalArgs),
    /// Write text with a saved model, word by word
    Generate(generate::GenerateArgs),
    /// Make a checkpoint of a model that TensorFlow saved
    Import(convert::ImportArgs),
    /// Write a saved model in TensorFlow's formats
    Export(convert::ExportArgs),
    /// Show runs beside the published TensorFlow numbers
    Compare(compare::CompareArgs),
}

/// Parses the arguments, runs the command, says what went wrong, and returns the exit code.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    device::keep_freed_memory();
    let cli = match Cli::try_parse_from(args.map(underscores_to_dashes)) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            // libtorch's own messages go on with a C++ stack trace, which helps nobody here.
            let text = format!("{error:#}");
            let trace =
                ["\nException raised from", "\nframe #"].iter().filter_map(|start| text.find(start)).min();
            notice(&format!("error: {}", &text[..trace.unwrap_or(text.len())]));
            ExitCode::from(if error.is::<ConfigError>() { USAGE } else { FAILED })
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Train(args) => return args.run(),
        Command::Eval(args) => args.run(),
        Command::Generate(args) => args.run(),
        Command::Import(args) => args.run(),
        Command::Export(args) => args.run(),
        Command::Compare(args) => args.run(),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// The mode to run a cell in: `asked`, or the fastest that it has.
fn rnn_mode(cell: CellType, asked: Option<RnnMode>) -> Result<RnnMode, ConfigError> {
    match (cell, asked) {
        (CellType::BasicLstm, asked) => Ok(asked.unwrap_or(RnnMode::Cudnn)),
        (_, None | Some(RnnMode::Basic)) => Ok(RnnMode::Basic),
        (cell, Some(mode)) => Err(ConfigError(format!(
            "--rnn-mode {mode} is made for --cell basic_lstm; {cell} runs in --rnn-mode basic"
        ))),
    }
}

/// `--data_path=x` -> `--data-path=x`: the original spells its flags with underscores.
fn underscores_to_dashes(arg: OsString) -> OsString {
    match arg.to_str() {
        Some(text) if text.starts_with("--") => {
            let (flag, value) = text.split_at(text.find('=').unwrap_or(text.len()));
            format!("{}{value}", flag.replace('_', "-")).into()
        }
        _ => arg,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_original_s_spelling_works() {
        let dashes = |s: &str| underscores_to_dashes(s.into()).into_string().unwrap();
        assert_eq!(dashes("--data_path"), "--data-path");
        assert_eq!(dashes("--save_path=/a_b/c"), "--save-path=/a_b/c");
        assert_eq!(dashes("some_file"), "some_file");
    }
}
