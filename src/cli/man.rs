//! `man`

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Command};

use crate::files::make_folder;

#[derive(Args)]
pub struct ManArgs {
    /// Folder for ptb-word-lm.1, ptb-word-lm-train.1 and so on; it is made if it does not exist
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl ManArgs {
    /// Writes the pages of `command` and its subcommands.
    pub fn run(self, command: Command) -> Result<()> {
        let failed = || format!("{}: the manual pages could not be written", self.folder.display());
        make_folder(&self.folder).with_context(failed)?;
        clap_mangen::generate_to(command, &self.folder).with_context(failed)
    }
}
