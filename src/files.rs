//! Writing files so that a crash leaves the old file or the whole new one, on any file system.
//! Devices and pipes, such as `/dev/stdout`, are written to as they are.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;

/// Makes a folder, and those above it, if they are not there.
///
/// # Errors
/// A place where none can be made, such as below a file.
pub(crate) fn make_folder(folder: &Path) -> Result<()> {
    let is_other = |path: &&Path| path.exists() && !path.is_dir();
    if let Some(file) = folder.ancestors().find(is_other) {
        bail!("{} is a file, not a folder", file.display());
    }
    Ok(fs::create_dir_all(folder)?)
}

/// Makes the folder of `file`, and those above it, if they are not there.
///
/// # Errors
/// A place where none can be made. The error names the file.
pub fn make_folder_of(file: &Path) -> Result<()> {
    let folder = file.parent().map_or(Ok(()), make_folder);
    folder.with_context(|| format!("{}: its folder could not be made", file.display()))
}

/// Writes `path` through a file beside it, which is flushed to the disk and renamed.
///
/// A symbolic link stays, and the file that it leads to is written. What is no regular file, such
/// as a device or a pipe, and the standard output, whatever that is, is written to directly.
///
/// Where the file system cannot rename, the new file is copied over the old one, and a crash may
/// leave it cut off.
///
/// # Errors
/// A place that cannot be written, a full disk. The old file is then untouched. The error names the
/// path.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<()>,
) -> Result<()> {
    let cannot = || format!("{}: could not be written", path.display());
    if let Some(stream) = open_stream(path).with_context(cannot)? {
        let mut writer = BufWriter::new(stream);
        let written = write(&mut writer).and_then(|()| Ok(writer.flush()?));
        return written.with_context(cannot);
    }
    let target = follow(path);
    let name =
        target.file_name().with_context(|| format!("{}: is not a file's name", path.display()))?;
    let folder = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut beside = OsString::from(".");
    beside.push(name);
    beside.push(".tmp");
    let beside = folder.join(beside);
    let written = (|| -> Result<()> {
        let mut writer = BufWriter::new(File::create(&beside)?);
        write(&mut writer)?;
        writer.flush()?;
        sync(writer.get_ref())?;
        rename(&beside, &target)?;
        // The new name is on the disk once the folder is.
        sync_folder(folder)?;
        Ok(())
    })();
    if written.is_err() {
        fs::remove_file(&beside).ok();
    }
    written.with_context(cannot)
}

/// Opens what can only be written to as it is: a device, a pipe, and the process's own standard
/// output or standard error, even where that is a file. None for other files, and for none.
///
/// # Errors
/// It cannot be opened.
pub(crate) fn open_stream(path: &Path) -> io::Result<Option<File>> {
    let there = match fs::metadata(path) {
        Ok(there) if there.is_dir() => return Ok(None),
        Ok(there) => there,
        Err(error) if is(&error, &[Errno::ELOOP]) => return Err(error),
        Err(_) => return Ok(None),
    };
    // A copy of the descriptor shares its position: what else is printed comes after it.
    for own in [io::stdout().as_fd(), io::stderr().as_fd()] {
        let own = own.try_clone_to_owned().map(File::from);
        if let Ok(own) = own
            && own.metadata().is_ok_and(|metadata| is_same(&there, &metadata))
        {
            return Ok(Some(own));
        }
    }
    // A descriptor's link, as in /proc/self/fd, may lead to a file that has no name any more.
    let has_name = || fs::metadata(follow(path)).is_ok_and(|found| is_same(&there, &found));
    match there.is_file() && has_name() {
        true => Ok(None),
        false => File::options().write(true).open(path).map(Some),
    }
}

/// True if a path leads to what the process has as its standard output.
pub(crate) fn is_stdout(path: &Path) -> bool {
    let stdout = io::stdout().as_fd().try_clone_to_owned().map(File::from);
    let (there, own) = (fs::metadata(path), stdout.and_then(|stdout| stdout.metadata()));
    matches!((there, own), (Ok(there), Ok(own)) if is_same(&there, &own))
}

fn is_same(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// The path to which symbolic links lead, even if nothing is there yet.
pub(crate) fn follow(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    // As many as Linux follows: links may lead to each other.
    for _ in 0..40 {
        let Ok(target) = fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    path
}

/// Renames a file, or copies it where the file system cannot rename.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error)
            if is_unsupported(&error)
                || is(&error, &[Errno::EXDEV, Errno::EEXIST, Errno::EPERM]) =>
        {
            // Not fs::copy, which also copies permissions.
            let mut copy = File::create(to)?;
            io::copy(&mut File::open(from)?, &mut copy)?;
            sync(&copy)?;
            fs::remove_file(from)
        }
        result => result,
    }
}

/// Appends to the last part of a path.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Flushes a file to the disk, if the file system has such a call.
pub(crate) fn sync(file: &File) -> io::Result<()> {
    match file.sync_all() {
        Err(error) if is_unsupported(&error) => Ok(()),
        result => result,
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder) {
        Ok(folder) => sync(&folder),
        // Some file systems do not open folders, and a folder may be writable but not readable.
        Err(error) if is_unsupported(&error) || is(&error, &[Errno::EACCES, Errno::EISDIR]) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// True for the errors with which file systems refuse an operation that they do not have.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    is(error, &[Errno::EINVAL, Errno::ENOSYS, Errno::ENOTSUP, Errno::EOPNOTSUPP])
}

pub(crate) fn is(error: &io::Error, errors: &[Errno]) -> bool {
    error.raw_os_error().is_some_and(|raw| errors.contains(&Errno::from_raw(raw)))
}
