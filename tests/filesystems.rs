//! File systems that lack an operation. A small library, preloaded into the program, refuses flock,
//! fsync or rename with a given error number, as such file systems do.

mod program;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use program::{Expect, TINY, checkpoint, program, text};

const REFUSE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

static int refused(const char *variable) {
    const char *number = getenv(variable);
    if (number) errno = atoi(number);
    return number != NULL;
}

int flock(int fd, int operation) {
    if (refused("REFUSE_FLOCK")) return -1;
    int (*real)(int, int) = dlsym(RTLD_NEXT, "flock");
    return real(fd, operation);
}

int fsync(int fd) {
    struct stat status;
    int is_folder = fstat(fd, &status) == 0 && S_ISDIR(status.st_mode);
    if (refused(is_folder ? "REFUSE_FSYNC_FOLDER" : "REFUSE_FSYNC")) return -1;
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    return real(fd);
}

int rename(const char *from, const char *to) {
    if (refused("REFUSE_RENAME")) return -1;
    int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "rename");
    return real(from, to);
}
"#;

/// Compiles the library.
fn library(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("refuse.c"), folder.join("refuse.so"));
    fs::write(&source, REFUSE).unwrap();
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let mut command = Command::new(compiler);
    command.args(["-shared", "-fPIC", "-o"]).args([&library, &source]).arg("-ldl");
    command.works();
    library
}

/// A short run on a file system that refuses something.
fn command(library: &Path, refusal: &str, errno: Errno, save: &Path) -> Command {
    let more = ["--no-eval", "--checkpoint-every", "1", "--save-path", text(save)];
    let mut command = program(&[TINY, &more].concat());
    command.env("LD_PRELOAD", library).env(refusal, (errno as i32).to_string());
    command
}

fn steps_of(save: &Path) -> i64 {
    checkpoint(save).progress.global_step
}

#[test]
fn without_file_locks_a_run_is_guarded_by_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let library = library(folder.path());
    for errno in [Errno::ENOSYS, Errno::EOPNOTSUPP, Errno::ENOLCK] {
        let save = folder.path().join(format!("{errno:?}"));
        let run = |flags: &[&str]| {
            let mut command = command(&library, "REFUSE_FLOCK", errno, &save);
            command.args(flags);
            command
        };
        let owner = save.join("lock.owner");
        let (_, said) = run(&["--max-steps", "1"]).works();
        let warning = format!("warning: {}: this file system has no file locks", save.display());
        assert!(said.contains(&warning) && said.contains(&owner.display().to_string()), "{said}");
        assert!(!owner.exists(), "{errno}: it stays after the run");

        // A second run beside the first.
        let mut first = run(&["--max-max-epoch", "100000"]).spawn().unwrap();
        while steps_of(&save) < 3 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let who = format!(
            "--save-path {}: another run is using this folder (process {} on ",
            save.display(),
            first.id()
        );
        let remove = format!("remove {}", owner.display());
        run(&["--max-max-epoch", "100000"]).fails_with(1, &[&who, &remove]);

        // Killed, the first leaves its file, which the next run replaces.
        first.kill().unwrap();
        first.wait().unwrap();
        assert!(owner.exists());
        let steps = steps_of(&save) + 2;
        run(&["--max-max-epoch", "100000", "--max-steps", &steps.to_string()]).works();
        assert_eq!(steps_of(&save), steps);
        assert!(!owner.exists());

        // The owner is on another host, of which nothing is known.
        fs::write(&owner, "another-host pid:[4026531836] 17 boot/12345\n").unwrap();
        run(&["--max-steps", "1"]).fails_with(1, &["process 17 on another-host"]);
        assert!(owner.exists());
    }
}

#[test]
fn what_a_file_system_does_not_have_is_done_without() {
    let folder = tempfile::tempdir().unwrap();
    let library = library(folder.path());
    for (refusal, errno) in [
        ("REFUSE_FSYNC_FOLDER", Errno::EINVAL),
        ("REFUSE_FSYNC_FOLDER", Errno::EOPNOTSUPP),
        ("REFUSE_FSYNC", Errno::EINVAL),
        ("REFUSE_FSYNC", Errno::ENOSYS),
        ("REFUSE_RENAME", Errno::ENOSYS),
        ("REFUSE_RENAME", Errno::EXDEV),
        ("REFUSE_RENAME", Errno::EPERM),
    ] {
        let save = folder.path().join(format!("{refusal} {errno:?}"));
        for steps in ["2", "4"] {
            let mut command = command(&library, refusal, errno, &save);
            let (_, said) = command.args(["--max-steps", steps]).works();
            assert!(!said.contains("warning"), "{refusal} {errno}: {said}");
        }
        assert_eq!(steps_of(&save), 4);
        let hidden = fs::read_dir(&save).unwrap().map(|entry| entry.unwrap().file_name());
        let hidden: Vec<_> =
            hidden.filter(|name| name.to_string_lossy().starts_with('.')).collect();
        assert!(hidden.is_empty(), "{refusal} {errno}: {hidden:?} is left over");
    }
}

/// An error of the disk is an error.
#[test]
fn a_failing_disk_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let library = library(folder.path());
    for refusal in ["REFUSE_FLOCK", "REFUSE_FSYNC_FOLDER", "REFUSE_FSYNC", "REFUSE_RENAME"] {
        let save = folder.path().join(refusal);
        let expected = format!("error: --save-path {}: cannot be written", save.display());
        let mut command = command(&library, refusal, Errno::EIO, &save);
        command.args(["--max-steps", "1"]).fails_with(1, &[&expected, "Input/output error"]);
    }
}
