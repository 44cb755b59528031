//! The fuzzer's seeds (fuzz/corpus) and the files that it found worth keeping (fuzz/found.tar.gz)
//! through the same functions as the fuzzer's: each must be read, or refused with a message.

#[path = "../fuzz/src/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;
use std::process::Command;

/// What a file may make its reader allocate is measured where the fuzzer's allocator is
/// (fuzz/src/lib.rs); here it is only read.
fn within(_len: usize, _factor: usize, read: impl FnOnce()) {
    read();
}

#[test]
fn what_fuzzing_found_is_read_or_refused() {
    type Target = fn(&[u8]);
    let all: [(&str, Target); 8] = [
        ("bundle", targets::bundle),
        ("checkpoint", targets::checkpoint),
        ("config", targets::config),
        ("config_file", targets::config_file),
        ("metrics", targets::metrics),
        ("npz", targets::npz),
        ("reader", targets::reader),
        ("v1", targets::v1),
    ];
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let files =
        |path: &Path| fs::read_dir(path).into_iter().flatten().map(|entry| entry.unwrap().path());
    // The folders and the functions are the same ones.
    let mut folders: Vec<String> = files(&fuzz.join("corpus"))
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    folders.sort();
    assert_eq!(folders, all.map(|(name, _)| name));
    // An archive, since they are many, and of use to nobody but the fuzzer.
    let found = tempfile::tempdir().unwrap();
    let archive = fuzz.join("found.tar.gz");
    let tar = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(found.path()).status();
    assert!(tar.unwrap().success());
    let mut all_read = 0;
    for (name, target) in all {
        let folders = [fuzz.join("corpus"), found.path().to_owned()];
        let mut read = 0;
        for file in folders.iter().flat_map(|folder| files(&folder.join(name))) {
            // A panic shows which file it was.
            println!("{}", file.display());
            target(&fs::read(file).unwrap());
            read += 1;
        }
        assert!(read >= 4, "{name}: {read} files");
        all_read += read;
    }
    assert!(all_read > 900, "only {all_read} files");
}
