//! `prepare`

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::Args;

use super::report::{line, notice, plural};
use crate::prepare::{Changes, Exists, split};

#[derive(Args)]
pub struct PrepareArgs {
    /// The text: UTF-8, best with one sentence a line
    #[arg(value_name = "FILE")]
    text: PathBuf,
    /// Folder for train.txt, valid.txt and test.txt
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Make all letters lower case, so that `The` and `the` are one word
    #[arg(long)]
    lower: bool,
    /// Set punctuation apart from words (`dog,` becomes `dog ,`); each Chinese or Japanese
    /// character becomes a word
    #[arg(long)]
    tokenize: bool,
    /// Overwrite the three files if they are there
    #[arg(long, short)]
    force: bool,
}

impl PrepareArgs {
    pub fn run(self) -> Result<()> {
        let changes = Changes { lower: self.lower, tokenize: self.tokenize };
        let parts = split(&self.text, &self.out, changes, self.force);
        let parts = parts.map_err(|error| match error.is::<Exists>() {
            true => anyhow!("{error}; --force overwrites it"),
            false => error,
        })?;
        let mut first = 1;
        for part in &parts {
            let last = first + part.lines - 1;
            let words = plural(part.words, "word");
            line(&format!("{}: lines {first} to {last}, {words}", part.path.display()));
            first = last + 1;
        }
        let lower = if self.lower { "in lower case" } else { "letters as they were" };
        let tokenize = if self.tokenize { "punctuation set apart" } else { "words as they were" };
        notice(&format!(
            "{lower}, {tokenize}. To train: `ptb-word-lm train --data-path {} --max-vocab 10000 \
             --save-path DIR`",
            super::shell_word(self.out.as_os_str())
        ));
        Ok(())
    }
}
