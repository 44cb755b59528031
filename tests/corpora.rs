//! Every file that fuzzing found worth keeping (fuzz/corpus), and every one that once broke a reader (fuzz/regressions), through the same
//! functions as the fuzzer's: each must be read, or refused in words.

#[path = "../fuzz/src/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;

/// What a file may make its reader allocate is measured where the fuzzer's allocator is (fuzz/src/lib.rs); here it is only read.
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
    let files = |path: &Path| fs::read_dir(path).into_iter().flatten().map(|entry| entry.unwrap().path());
    // The folders and the functions are the same ones.
    let mut folders: Vec<String> = files(&fuzz.join("corpus"))
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    folders.sort();
    assert_eq!(folders, all.map(|(name, _)| name));
    for (name, target) in all {
        let mut read = 0;
        for file in files(&fuzz.join("corpus").join(name)).chain(files(&fuzz.join("regressions").join(name)))
        {
            // A panic shows which file it was.
            println!("{}", file.display());
            target(&fs::read(file).unwrap());
            read += 1;
        }
        assert!(read >= 4, "{name}: {read} files");
    }
}
