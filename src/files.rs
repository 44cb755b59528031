//! Writing files so that a crash leaves the old one or the whole new one.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

/// Makes the folder of `file`, and those above it, if they are not there.
///
/// # Errors
/// A place where none can be made. The error names the file.
pub fn make_folder_of(file: &Path) -> Result<()> {
    let folder = file.parent().map_or(Ok(()), fs::create_dir_all);
    folder.with_context(|| format!("{}: its folder could not be made", file.display()))
}

/// Writes `path` through a file beside it that is flushed to the disk and then renamed into place.
///
/// # Errors
/// A place that cannot be written, a full disk; the old file is then untouched. The error names the path.
pub fn write_atomically(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let name = path.file_name().with_context(|| format!("{}: is not a file's name", path.display()))?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(".tmp");
    let beside = folder.join(beside);
    let written = (|| -> Result<()> {
        let mut writer = BufWriter::new(File::create(&beside)?);
        write(&mut writer)?;
        writer.flush()?;
        writer.get_ref().sync_all()?;
        fs::rename(&beside, path)?;
        // The rename is on the disk once its folder is; some file systems have no such call.
        File::open(folder)?.sync_all().ok();
        Ok(())
    })();
    if written.is_err() {
        fs::remove_file(&beside).ok();
    }
    written.with_context(|| format!("{}: could not be written", path.display()))
}
