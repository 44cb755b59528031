//! The lock on a run's folder: one run at a time.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{Pid, gethostname};

use crate::files;

/// A lock on a folder, held as long as this value lives.
pub(crate) enum FolderLock {
    /// The system's lock (flock) on the file `lock`. It ends with the process, however that ends.
    System(#[expect(dead_code, reason = "held, not used")] File),
    /// The guard for file systems that have no locks.
    Owner { file: OwnerFile, why: io::Error },
}

impl FolderLock {
    /// Locks `folder`.
    ///
    /// # Errors
    /// Another run has locked it; a folder that cannot be written.
    pub fn acquire(folder: &Path) -> Result<Self> {
        let cannot = "cannot be written";
        let file =
            File::options().create(true).append(true).open(folder.join("lock")).context(cannot)?;
        match file.try_lock() {
            Ok(()) => Ok(FolderLock::System(file)),
            Err(TryLockError::WouldBlock) => {
                bail!("another run is using this folder; give each run its own")
            }
            Err(TryLockError::Error(why))
                if files::is_unsupported(&why) || files::is(&why, &[Errno::ENOLCK]) =>
            {
                Ok(FolderLock::Owner { file: OwnerFile::create(folder)?, why })
            }
            Err(TryLockError::Error(error)) => Err(error).context(cannot),
        }
    }

    /// What the user should know about this lock.
    pub fn warning(&self) -> Option<String> {
        match self {
            FolderLock::System(_) => None,
            FolderLock::Owner { file, why } => Some(format!(
                "this file system has no file locks ({why}); {} guards the folder against a second \
                 run",
                file.path.display()
            )),
        }
    }
}

/// A file `lock.owner` that names the process that uses the folder. A process that is killed leaves
/// it behind; the next one on the same host sees that the owner is gone.
pub(crate) struct OwnerFile {
    path: PathBuf,
    owner: String,
}

impl OwnerFile {
    fn create(folder: &Path) -> Result<Self> {
        let path = folder.join("lock.owner");
        let owner =
            Owner::of(std::process::id()).context("this process is not in /proc")?.to_string();
        loop {
            match File::options().write(true).create_new(true).open(&path) {
                Ok(mut file) => {
                    // Owns the file from here on, so that it is removed if writing fails.
                    let own = OwnerFile { path, owner };
                    file.write_all(own.owner.as_bytes())?;
                    files::sync(&file)?;
                    return Ok(own);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.into()),
            }
            let there = match fs::read_to_string(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                there => there?,
            };
            let refusal = || refuse(&path, &there);
            if !Owner::parse(&there).is_some_and(|owner| owner.is_gone()) {
                return Err(refusal());
            }
            // Two processes may do this at once. Each takes the file away before it looks whether
            // that is still the one that it has read.
            let aside = files::with_suffix(&path, &format!(".{}", std::process::id()));
            match files::rename(&path, &aside) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                taken => taken?,
            }
            if fs::read_to_string(&aside)? != there {
                files::rename(&aside, &path)?;
                return Err(refusal());
            }
            fs::remove_file(&aside)?;
        }
    }
}

impl Drop for OwnerFile {
    fn drop(&mut self) {
        if fs::read_to_string(&self.path).is_ok_and(|there| self.owner.starts_with(&there)) {
            fs::remove_file(&self.path).ok();
        }
    }
}

fn refuse(path: &Path, there: &str) -> anyhow::Error {
    let who = match Owner::parse(there) {
        Some(owner) => format!("process {} on {}", owner.pid, owner.host),
        None => "an unknown process".into(),
    };
    anyhow::anyhow!(
        "another run is using this folder ({who}); give each run its own. If that run is over, \
         remove {}",
        path.display()
    )
}

/// A process, told apart from all others: a later one may have the same number.
#[derive(PartialEq)]
struct Owner {
    host: String,
    /// Namespace of the process number, as containers have their own.
    namespace: String,
    pid: u32,
    /// When it was started: the boot's id, and clock ticks since then.
    started: String,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Owner { host, namespace, pid, started } = self;
        writeln!(f, "{host} {namespace} {pid} {started}")
    }
}

impl Owner {
    fn parse(text: &str) -> Option<Self> {
        // The newline shows that the line is whole.
        let mut words = text.strip_suffix('\n')?.split(' ').map(str::to_owned);
        let [host, namespace, pid, started] = [(); 4].map(|()| words.next());
        Some(Owner {
            host: host?,
            namespace: namespace?,
            pid: pid?.parse().ok()?,
            started: started?,
        })
    }

    /// The process with this number, or `None` if there is none.
    fn of(pid: u32) -> Option<Self> {
        let host = gethostname().unwrap_or_default().to_string_lossy().into_owned();
        let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let started = if Path::new("/proc/self/stat").exists() {
            let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
            // The state is field 3, the start field 22. Field 2, a name in parentheses, may have
            // spaces.
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
            // A process that is over, but that nobody has waited for.
            if fields.first() == Some(&"Z") {
                return None;
            }
            format!("{}/{}", boot.trim(), fields.get(19)?)
        } else {
            kill(Pid::from_raw(pid as i32), None).ok()?;
            "-".into()
        };
        Some(Owner { host, namespace: namespace.to_string_lossy().into_owned(), pid, started })
    }

    /// True if the process is known to be over. Of other hosts and containers nothing is known.
    fn is_gone(&self) -> bool {
        match Owner::of(std::process::id()) {
            Some(this) if this.host == self.host && this.namespace == self.namespace => {
                Owner::of(self.pid).is_none_or(|now| now != *self)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner_file(folder: &Path, owner: &Owner) {
        fs::write(folder.join("lock.owner"), owner.to_string()).unwrap();
    }

    #[test]
    fn an_owner_file_is_held_once_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let first = OwnerFile::create(folder.path()).unwrap();
        let error = OwnerFile::create(folder.path()).err().unwrap().to_string();
        let expected =
            format!("another run is using this folder (process {} on ", std::process::id());
        assert!(error.starts_with(&expected) && error.contains("lock.owner"), "{error}");
        drop(first);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        OwnerFile::create(folder.path()).unwrap();
    }

    #[test]
    fn only_an_owner_that_is_known_to_be_gone_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let of_child = || Owner::of(child.id()).unwrap();
        let held = |owner: &Owner| {
            owner_file(folder.path(), owner);
            OwnerFile::create(folder.path()).is_err()
        };
        assert!(held(&of_child()));
        // Another process that had the same number before.
        assert!(!held(&Owner { started: "boot/1".into(), ..of_child() }));
        let elsewhere = Owner { host: "elsewhere".into(), started: "boot/1".into(), ..of_child() };
        assert!(held(&elsewhere));
        assert!(held(&Owner { namespace: "pid:[1]".into(), ..of_child() }));
        let gone = of_child();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!held(&gone));
        // A line that was not written to its end may be of a process that is about to write it.
        fs::write(folder.path().join("lock.owner"), gone.to_string().trim_end()).unwrap();
        let error = OwnerFile::create(folder.path()).err().unwrap().to_string();
        assert!(error.contains("an unknown process"), "{error}");
    }
}
