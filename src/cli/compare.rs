//! `compare`

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::report::{line, notice};
use crate::results::{self, Run};

#[derive(Args)]
pub struct CompareArgs {
    /// Metrics files, or save paths of runs [default: all of results/]
    #[arg(value_name = "RUN")]
    runs: Vec<PathBuf>,
}

impl CompareArgs {
    pub fn run(self) -> Result<()> {
        let paths = if self.runs.is_empty() { results::in_folder("results".as_ref())? } else { self.runs };
        let runs = paths.iter().map(|path| Run::read(path, &mut notice)).collect::<Result<Vec<_>>>()?;
        line(results::table(&runs)?.trim_end());
        Ok(())
    }
}
