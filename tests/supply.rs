//! What the program is made of: where `unsafe` stands, which module imports which, and that what is
//! fetched is known by its digest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The C++ beside src/ and what libtorch and the system have in C: called from these files alone,
/// each time with a word on why it is sound.
#[test]
fn unsafe_stands_in_the_named_files_with_its_reason() {
    let named = |name: &str| {
        name.starts_with("src/kernels/")
            || ["src/device.rs", "src/distributed/c10d.rs", "src/train_step.rs"].contains(&name)
    };
    let mut all = Vec::new();
    for folder in ["src", "examples", "microbenchmarks", "fuzz/src", "fuzz/fuzz_targets"] {
        files(&root().join(folder), &mut all);
    }
    let mut blocks = 0;
    for path in all {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (k, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap();
            if !code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe")
            {
                continue;
            }
            assert!(named(&name), "{name}:{}: unsafe outside of the named files", k + 1);
            // Declarations of C functions, and types of pointers to them, do nothing by themselves.
            if code.contains("unsafe extern") {
                continue;
            }
            blocks += 1;
            let above = &lines[k.saturating_sub(6)..=k];
            assert!(
                above.iter().any(|l| l.contains("// SAFETY: ")),
                "{name}:{}: unsafe without its reason",
                k + 1
            );
        }
    }
    assert!(blocks > 3, "{blocks} blocks were found");
}

/// No module imports one that imports it, directly or through others; config, text, reader and rnn
/// know nothing of the model, and only cli knows of cli. (Tests inside the files may.)
#[test]
fn modules_import_one_way() {
    let src = root().join("src");
    let mut all = Vec::new();
    files(&src, &mut all);
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in all {
        let name = path.strip_prefix(&src).unwrap().to_str().unwrap();
        let module = name.trim_end_matches(".rs").split('/').next().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let code = code.lines().map(|line| line.split("//").next().unwrap());
        let code = code.collect::<Vec<_>>().join("\n");
        let imported = code.split("crate::").skip(1).map(|rest| {
            rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
        });
        imports.entry(module.clone()).or_default().extend(imported.filter(|name| *name != module));
    }
    let all_below = |module: &str| {
        let (mut below, mut next) = (BTreeSet::new(), vec![module]);
        while let Some(module) = next.pop() {
            for name in imports.get(module).into_iter().flatten() {
                if below.insert(name.as_str()) {
                    next.push(name);
                }
            }
        }
        below
    };
    assert!(imports["session"].contains("model") && imports.len() > 30, "{imports:?}");
    for module in imports.keys() {
        let below = all_below(module);
        assert!(!below.contains(module.as_str()), "{module} imports itself through {below:?}");
        assert!(!below.contains("cli") || module == "main", "{module} imports cli");
        let is_low = ["config", "text", "reader", "rnn"].contains(&module.as_str());
        assert!(!is_low || !below.contains("model"), "{module} imports the model");
    }
}

/// pip takes a package only if its digest is the one in the list.
#[test]
fn fetched_packages_are_pinned_by_digest() {
    // Each list with the least number of packages that it has.
    let lists = [
        ("scripts/libtorch-cpu.txt", 3),
        ("scripts/libtorch-cuda.txt", 3),
        ("scripts/cuda-headers.txt", 2),
        ("bench/requirements-tf.txt", 3),
        ("bench/requirements-torch.txt", 3),
    ];
    for (list, least) in lists {
        let text = fs::read_to_string(root().join(list)).unwrap().replace("\\\n", " ");
        let requirements: Vec<&str> =
            text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).collect();
        assert!(requirements.len() >= least, "{list}");
        for line in requirements {
            let (package, digests) =
                line.split_once(" --hash").unwrap_or_else(|| panic!("{list}: {line}"));
            assert!(package.contains("==") && !package.contains('*'), "{list}: {package}");
            for digest in digests.trim().split("--hash") {
                let digest = digest
                    .trim()
                    .strip_prefix("=sha256:")
                    .unwrap_or_else(|| panic!("{list}: {line}"));
                assert_eq!(digest.len(), 64, "{list}: {line}");
            }
        }
    }
    assert!(root().join("Cargo.lock").exists());
}
