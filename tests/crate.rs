//! The crate as others meet it: packed, documented without libtorch, used by a program of one's
//! own.
//!
//! Two tests compile for minutes; `make package` runs them, and `cargo test` does not.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Where this test was built, and what it builds is built too.
fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target/tmp lies in a folder")
}

fn cargo(folder: &Path, args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO"));
    let output = command
        .args(args)
        .current_dir(folder)
        .env_remove("RUSTFLAGS")
        .output()
        .expect("cargo starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {args:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The map at the top of the library's documentation.
#[test]
fn the_map_of_the_library_names_its_public_modules_and_no_others() {
    let lib = include_str!("../src/lib.rs");
    let public = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    // The program's own, which is hidden.
    let public: BTreeSet<&str> = public.filter(|&module| module != "cli").collect();
    let links = lib.lines().filter_map(|line| line.strip_prefix("//! | "));
    let links = links.flat_map(|row| row.split("[`").skip(1));
    let named: BTreeSet<&str> =
        links.map(|link| link.split(['`', ':']).next().unwrap_or_default()).collect();
    assert_eq!(named, public);
}

#[test]
fn the_package_holds_what_its_users_need_and_no_more() {
    let list = cargo(Path::new(ROOT), &["package", "--list", "--allow-dirty", "--offline"]);
    let files: BTreeSet<&str> = list.lines().collect();
    for file in [
        "Cargo.toml",
        "build.rs",
        "src/lib.rs",
        "src/main.rs",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CITATION.cff",
        "CONTRIBUTING.md",
        "docs/port.md",
        "examples/train.rs",
        "data/sample/ptb.train.txt",
        "data/reference.json",
    ] {
        assert!(files.contains(file), "{file} is missing: {files:?}");
    }
    // Everything that is compiled, C++ too.
    let mut folders = vec![Path::new(ROOT).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(ROOT).unwrap().to_str().unwrap().to_owned();
            match path.is_dir() {
                true => folders.push(path),
                false => assert!(files.contains(name.as_str()), "{name} is missing"),
            }
        }
    }
    for folder in ["fuzz/", "results/", "tests/", "bench/", "scripts/", ".ci/", ".cargo/"] {
        assert!(!files.iter().any(|file| file.starts_with(folder)), "{folder} is in the package");
    }
    assert!(files.len() < 150, "{}", files.len());

    let metadata = cargo(Path::new(ROOT), &["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let package = &metadata["packages"][0];
    for key in ["description", "license", "documentation", "readme", "rust_version", "links"] {
        assert!(package[key].is_string(), "{key}: {}", package[key]);
    }
    let keywords = package["keywords"].as_array().unwrap();
    assert!(
        (1..=5).contains(&keywords.len()) && !package["categories"].as_array().unwrap().is_empty()
    );
    assert_eq!(package["metadata"]["docs"]["rs"]["features"], serde_json::json!(["doc-only"]));
}

#[test]
fn what_is_cited_and_listed_is_this_version() {
    let read = |name: &str| fs::read_to_string(Path::new(ROOT).join(name)).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert!(read("CITATION.cff").contains(&format!("\nversion: {version}\n")));
    assert!(read("CITATION.cff").contains("arXiv:1409.2329"));
    assert!(read("CHANGELOG.md").contains(&format!("\n## {version}\n")));
    let rust = env!("CARGO_PKG_RUST_VERSION");
    assert!(read("README.md").contains(&format!("The oldest Rust is {rust}")));
}

/// As docs.rs builds it: from the package alone, in a place without libtorch.
#[test]
#[ignore = "compiles for minutes (make package)"]
fn the_documentation_is_built_without_libtorch() {
    let root = Path::new(ROOT);
    let packed = target().join("package");
    let into = target().to_str().unwrap();
    let args =
        ["package", "--no-verify", "--allow-dirty", "--offline", "--quiet", "--target-dir", into];
    cargo(root, &args);
    let name = format!("ptb-word-lm-{}", env!("CARGO_PKG_VERSION"));
    let folder = tempfile::tempdir().unwrap();
    let archive = packed.join(format!("{name}.crate"));
    let tar = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(folder.path()).status();
    assert!(tar.unwrap().success());
    let docs = target().join("doc-only");
    let status = Command::new(env!("CARGO"))
        .args([
            "doc", "--no-deps", "--features", "doc-only", "--offline", "--quiet", "--target-dir",
        ])
        .arg(&docs)
        .current_dir(folder.path().join(name))
        .env_remove("LIBTORCH")
        .env_remove("LIBTORCH_USE_PYTORCH")
        .env_remove("LD_LIBRARY_PATH")
        // A C++ compiler is not needed either.
        .env("CXX", "false")
        .env("RUSTDOCFLAGS", "-D warnings")
        .status();
    assert!(status.unwrap().success());
    let index = fs::read_to_string(docs.join("doc/ptb_word_lm/index.html")).unwrap();
    assert!(index.contains("PTB word language model"));
}

/// The code blocks of README.md's section on a program of one's own, in order.
fn blocks(readme: &str) -> Vec<String> {
    let section = readme.split("## From your own program").nth(1).expect("the section is there");
    let section = section.split("\n## ").next().unwrap();
    let fences = section.split("```").skip(1).step_by(2);
    let code = fences.filter_map(|fence| fence.split_once('\n'));
    code.filter(|(language, _)| *language != "sh").map(|(_, code)| code.to_owned()).collect()
}

/// The package of README.md, with one of the examples as its program, starts in an empty
/// environment.
#[test]
#[ignore = "compiles for minutes (make package)"]
fn a_program_of_ones_own_is_built_and_starts() {
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let blocks: Vec<String> = blocks(&readme)
        .into_iter()
        .map(|block| block.replace("/path/to/ptb-word-lm", ROOT))
        .collect();
    let [manifest, config, build] = &blocks[..] else { panic!("{blocks:?}") };
    // Not in a folder of this repository, whose own .cargo/config.toml would help.
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    // With this package's profile and versions, torch-sys need not be compiled again.
    write("Cargo.toml", &format!("{manifest}\n[profile.release]\ndebug = \"line-tables-only\"\n"));
    write("Cargo.lock", &fs::read_to_string(Path::new(ROOT).join("Cargo.lock")).unwrap());
    write("build.rs", build);
    write("src/main.rs", include_str!("../examples/sample_corpus.rs"));
    write("src/bin/train.rs", include_str!("../examples/train.rs"));
    // The libtorch that this test was built with.
    let libtorch = std::env::var_os("LIBTORCH").map(PathBuf::from);
    let config = match &libtorch {
        Some(folder) => format!("[env]\nLIBTORCH = {:?}\n", folder),
        None => config.clone(),
    };
    write(".cargo/config.toml", &config);
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--release", "--offline", "--quiet"]).current_dir(folder.path());
    for name in ["LIBTORCH", "LD_LIBRARY_PATH", "CARGO_MANIFEST_DIR"] {
        command.env_remove(name);
    }
    let status = command.env("CARGO_TARGET_DIR", target()).status();
    assert!(status.unwrap().success());

    let run = |name: &str| {
        let mut program = Command::new(target().join("release").join(name));
        program.env_clear().env("OMP_NUM_THREADS", "1").current_dir(folder.path());
        program
    };
    let output = run("train").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("Test Perplexity: "));
    assert!(run("mine").arg("corpus").status().unwrap().success());
    // The search path for libraries leads nowhere else.
    for name in ["mine", "train"] {
        fs::remove_file(target().join("release").join(name)).ok();
    }
}
