//! `completions`

use anyhow::Result;
use clap::{Args, Command};
use clap_complete::{Shell, generate};

use super::report::line;

#[derive(Args)]
pub struct CompletionsArgs {
    /// The shell to write the script for
    #[arg(value_enum)]
    shell: Shell,
}

impl CompletionsArgs {
    /// Writes the script that completes `command`.
    pub fn run(self, mut command: Command) -> Result<()> {
        let mut script = Vec::new();
        generate(self.shell, &mut command, "ptb-word-lm", &mut script);
        line(String::from_utf8_lossy(&script).trim_end());
        Ok(())
    }
}
