//! Parse, dispatch, exit code; everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    ptb_word_lm::cli::main(std::env::args_os())
}
