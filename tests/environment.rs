//! Other people's machines: what their environment sets for other programs (LD_LIBRARY_PATH, DATA,
//! pip's and cargo's variables), full disks and closed pipes, and an installed program that is
//! moved.

mod program;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};

use clap::CommandFactory;
use program::{Expect, PROGRAM, Place, TINY, json_lines, program, repository, text};

/// Compiles a shared library.
fn library(source: &str, path: &Path) {
    let file = path.with_extension("cpp");
    fs::write(&file, source).unwrap();
    let compiler = std::env::var("CXX").unwrap_or("c++".into());
    let name = format!("-Wl,-soname,{}", path.file_name().unwrap().to_str().unwrap());
    Command::new(compiler).args(["-shared", "-fPIC", &name, "-o"]).arg(path).arg(file).works();
}

/// A stand-in for a program on the search path.
fn stub(path: &Path, script: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The search path with a folder before all others.
fn path_with(folder: &Path) -> String {
    format!("{}:{}", text(folder), std::env::var("PATH").unwrap())
}

#[test]
fn our_libtorch_wins_over_another_on_the_search_path() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["libtorch_cpu.so", "libc10.so", "libtorch.so"] {
        library("", &folder.path().join(name));
    }
    let version = program(&["--version"]).env("LD_LIBRARY_PATH", folder.path()).works().0;
    assert!(version.contains("libtorch 2.11.0 (built against 2.11.0)"), "{version}");
    // The empty libraries would be found if they were looked for.
    let ldd = Command::new("ldd").arg(PROGRAM).env("LD_LIBRARY_PATH", folder.path()).works().0;
    assert!(ldd.contains("/libtorch_cpu.so") && !ldd.contains(text(folder.path())), "{ldd}");
}

#[test]
fn another_libtorch_is_refused_when_the_program_starts() {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.so");
    library(
        "#include <map>\n#include <string>\n
         namespace caffe2 {
         const std::map<std::string, std::string>& GetBuildOptions() {
             static const std::map<std::string, std::string> options{{\"TORCH_VERSION\", \"2.10.0\"}};
             return options;
         }
         }",
        &other,
    );
    for args in [
        &["train", "--data-path", "sample", "--device", "cpu"][..],
        &["eval", "--data-path", "sample", "--checkpoint", "run"],
        &["generate", "--checkpoint", "run"],
        &["score", "--checkpoint", "run"],
        &["import", "model.ckpt", "--save-path", "run"],
        &["export", "--checkpoint", "run", "--format", "tf-npz", "-o", "run.npz"],
    ] {
        program(args)
            .current_dir(folder.path())
            .env("LD_PRELOAD", &other)
            .fails_with(1, &["libtorch 2.11.0", "2.10.0"]);
    }
    let (code, out, _) = program(&["doctor"]).env("LD_PRELOAD", &other).ends();
    let says = "libtorch    2.10.0, CPU-only; this program was built against 2.11.0";
    assert!(code == Some(1) && out.contains(says), "{out}");
    assert!(!folder.path().join("run").exists(), "nothing was written");
}

#[test]
fn an_exported_data_is_no_reason_for_doctor_to_fail() {
    let doctor = |args: &[&str]| {
        program(&[&["doctor"], args].concat()).env("DATA", "/no/such/folder").ends()
    };
    let (code, out, errors) = doctor(&[]);
    assert_eq!(code, Some(0), "{out}{errors}");
    assert!(out.contains("/no/such/folder: cannot be used") && out.contains("-> "), "{out}");
    // A folder that was asked for is another matter.
    assert_eq!(doctor(&["--data-path", "/no/such/folder"]).0, Some(1));
}

/// Every subcommand with arguments that make it write to standard output.
fn writing(folder: &Path) -> BTreeMap<&'static str, Vec<Vec<String>>> {
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let args = |args: &[&str]| vec![args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>()];
    let (saved, file, imported, new) =
        (at("run"), at("run.npz"), at("imported"), at("new/run.npz"));
    let text = &at("text");
    let model = ["--device", "cpu", "--checkpoint", &saved];
    let train = [TINY, &["--max-steps", "2", "--save-path", &saved]].concat();
    let import = ["import", &file, "--save-path", &imported];
    let export = ["export", "--checkpoint", &saved, "--format", "tf-npz", "-o", &new];
    BTreeMap::from([
        ("train", args(&train)),
        ("eval", args(&[&["eval", "--data-path", "sample"], &model[..]].concat())),
        ("generate", args(&[&["generate", "--words", "5"], &model[..]].concat())),
        (
            "predict",
            [&[][..], &["--json"]]
                .iter()
                .flat_map(|flags| {
                    args(&[&["predict", "--prompt", "the company"], *flags, &model].concat())
                })
                .collect(),
        ),
        (
            "score",
            [&[][..], &["--json"], &["--per-word"]]
                .iter()
                .flat_map(|flags| args(&[&["score", text], *flags, &model].concat()))
                .collect(),
        ),
        ("import", args(&import)),
        ("export", args(&export)),
        ("prepare", args(&["prepare", text, "--out", &at("three"), "--force"])),
        (
            "compare",
            [&[][..], &["--format", "json"], &["--format", "markdown"]]
                .iter()
                .flat_map(|flags| args(&[&["compare", &saved], *flags].concat()))
                .collect(),
        ),
        ("doctor", args(&["doctor"])),
        ("completions", args(&["completions", "bash"])),
        ("help", args(&["help", "train"])),
    ])
}

#[test]
fn output_that_cannot_be_written_is_an_error_and_a_closed_pipe_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("text"), "the company said\nthe company\nthe year\n").unwrap();
    let saved = text(&at("run")).to_owned();
    program(&[TINY, &["--max-steps", "2", "--save-path", &saved]].concat()).works();
    let npz = text(&at("run.npz")).to_owned();
    program(&["export", "--checkpoint", &saved, "--format", "tf-npz", "-o", &npz]).works();

    let commands = writing(folder.path());
    let parser = ptb_word_lm::cli::Cli::command();
    let names = parser.get_subcommands().map(|command| command.get_name());
    // `man` writes files, and nothing to standard output.
    let writes: Vec<&str> = names.filter(|&name| name != "man").collect();
    assert!(
        writes.len() >= 10 && writes.iter().all(|name| commands.contains_key(name)),
        "{writes:?}"
    );
    let flags = [vec!["--help".to_owned()], vec!["--version".to_owned()]];
    for args in commands.values().flatten().chain(&flags) {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let reset = || fs::remove_dir_all(at("imported")).unwrap_or_default();
        reset();
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        program(&args).stdout(full).fails_with(1, &["No space left on device"]);

        reset();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let (_, errors) = program(&args).stdout(writer).works();
        assert!(!errors.contains("error"), "{args:?}: {errors}");
    }
}

#[test]
fn files_are_written_into_folders_that_are_not_there_yet() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| text(&folder.path().join(name)).to_owned();
    program(&[TINY, &["--max-steps", "1", "--save-path", &at("run")]].concat()).works();
    for (format, name, file) in [
        ("tf-checkpoint", "a/b/model.ckpt", "a/b/model.ckpt.index"),
        ("tf-npz", "c/d/model.npz", "c/d/model.npz"),
        ("safetensors", "e/f/model.safetensors", "e/f/model.safetensors"),
    ] {
        program(&["export", "--checkpoint", &at("run"), "--format", format, "-o", &at(name)])
            .works();
        assert!(Path::new(&at(file)).exists(), "{file}");
    }
    program(&["compare", &at("run"), "--plot", &at("g/p.svg"), "--html", &at("h/r.html")]).works();
    assert!(Path::new(&at("g/p.svg")).exists() && Path::new(&at("h/r.html")).exists());
    program(&["man", &at("i/man1")]).works();
    let page = fs::read_to_string(at("i/man1/ptb-word-lm-train.1")).unwrap();
    assert!(page.contains("\\-\\-save\\-path") && page.contains("Train a model"));
    // A file in the way is named.
    fs::write(at("file"), "").unwrap();
    let out = at("file/model.npz");
    program(&["export", "--checkpoint", &at("run"), "--format", "tf-npz", "-o", &out])
        .fails_with(1, &["file/model.npz"]);
    let says = ["file: ", "is a file, not a folder"];
    program(&["man", &at("file")]).fails_with(1, &says);
    let export = ["export", "--checkpoint", &at("run"), "--format", "pytorch", "-o"];
    program(&[&export[..], &[&at("file")]].concat()).fails_with(1, &says);
}

/// Starts to read what the program writes to a FIFO.
fn reading(fifo: PathBuf) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || fs::read(fifo).unwrap())
}

#[test]
fn pipes_and_links_are_written_to_and_stay() {
    let place = Place::new();
    place.works("$TINY --max-steps 1 --save-path run");
    let export = |format: &str, output: &str| {
        place.works(&format!("export --checkpoint run --format {format} -o {output}"))
    };
    let is_fifo = |name: &str| fs::symlink_metadata(place.at(name)).unwrap().file_type().is_fifo();
    let fifo = place.at("fifo");
    Command::new("mkfifo").arg(&fifo).works();
    let mut whole = Vec::new();
    for format in ["safetensors", "tf-npz"] {
        export(format, "regular");
        let expected = fs::read(place.at("regular")).unwrap();
        let read = reading(fifo.clone());
        export(format, "fifo");
        assert!(is_fifo("fifo") && read.join().unwrap() == expected, "{format}");
        whole = expected;
    }
    let read = reading(fifo.clone());
    place.works("compare run --html fifo");
    assert!(
        is_fifo("fifo") && String::from_utf8(read.join().unwrap()).unwrap().contains("</html>")
    );
    // Metrics go on at the end of a file; a pipe has none.
    for line in ["$TINY --max-steps 1", "eval --checkpoint run --data-path sample --device cpu"] {
        let read = reading(fifo.clone());
        place.works(&format!("{line} --metrics fifo"));
        let events = json_lines(&String::from_utf8(read.join().unwrap()).unwrap());
        assert!(is_fifo("fifo") && !events.is_empty(), "{line}");
    }

    // Standard output, as a pipe and as a file. /dev/stdout is such a link.
    symlink("/proc/self/fd/1", place.at("stdout")).unwrap();
    let line = "export --checkpoint run --format tf-npz -o stdout";
    let output = place.program(line).output().unwrap();
    assert!(output.status.success() && output.stdout == whole);
    assert!(String::from_utf8_lossy(&output.stderr).contains("stdout: Model/"));
    fs::write(place.at("file"), "before\n").unwrap();
    let file = File::options().append(true).open(place.at("file")).unwrap();
    assert!(place.program(line).stdout(file).status().unwrap().success());
    assert_eq!(fs::read(place.at("file")).unwrap(), [b"before\n", &whole[..]].concat());
    let eval = "eval --checkpoint run --data-path sample --device cpu --metrics stdout";
    let (out, _) = place.works(eval);
    let (before, event) = out.trim_end().rsplit_once('\n').unwrap();
    assert!(before.contains("Test Perplexity: ") && json_lines(event)[0]["event"] == "eval");

    // A link is followed, to a file that is there or not yet, and from folder to folder.
    fs::create_dir(place.at("far")).unwrap();
    for (link, to) in [("old", "far/old.npz"), ("new", "far/new.npz"), ("second", "new")] {
        symlink(to, place.at(link)).unwrap();
    }
    fs::write(place.at("far/old.npz"), "old").unwrap();
    for (link, file) in [("old", "old.npz"), ("new", "new.npz"), ("second", "new.npz")] {
        export("tf-npz", link);
        assert!(place.at(link).is_symlink(), "{link}");
        assert!(fs::read(place.at("far").join(file)).unwrap() == whole, "{link}");
        fs::write(place.at("far").join(file), "old").unwrap();
    }
    assert_eq!(fs::read_dir(place.at("far")).unwrap().count(), 2, "nothing is left beside them");
    for (link, to) in [("one", "two"), ("two", "one")] {
        symlink(to, place.at(link)).unwrap();
    }
    place.fails_with(1, "export --checkpoint run --format tf-npz -o one", &["one: ", "links"]);

    // A run may be in a linked folder, with a linked checkpoint: it goes on there.
    symlink("run", place.at("linked")).unwrap();
    fs::rename(place.at("run/model-1.safetensors"), place.at("far/one")).unwrap();
    symlink("../far/one", place.at("run/model-1.safetensors")).unwrap();
    place.works("$TINY --max-steps 2 --no-eval --save-path linked");
    assert!(place.at("linked").is_symlink() && place.at("run/model-1.safetensors").is_symlink());
    assert_eq!(place.checkpoint("run").progress.global_step, 2);
}

#[test]
fn a_run_s_checkpoints_are_not_overwritten() {
    let place = Place::new();
    place.works("$TINY --max-steps 1 --no-eval --save-path run");
    let checkpoint = place.at("run/model-1.safetensors");
    let before = fs::read(&checkpoint).unwrap();
    symlink("run/model-1.safetensors", place.at("other")).unwrap();
    let export = "export --checkpoint run --format";
    let eval = "eval --checkpoint run --data-path sample --device cpu";
    for line in [
        format!("{export} safetensors -o run/model-1.safetensors"),
        format!("{export} tf-npz -o run/../run/model-2.safetensors"),
        format!("{export} pytorch -o run/model-1.safetensors"),
        format!("{export} safetensors -o other"),
        "compare run --html other".into(),
        format!("{eval} --metrics run/model-1.safetensors"),
        "$TINY --max-steps 1 --metrics run/model-1.safetensors".into(),
    ] {
        place.fails_with(1, &line, &["a checkpoint", "another name"]);
    }
    assert!(fs::read(&checkpoint).unwrap() == before);
    assert!(!place.at("run/model-2.safetensors").exists() && !place.at("run/words.txt").exists());
    // Other names there, and such a name elsewhere, are free.
    place.works(&format!("{export} safetensors -o run/exported.safetensors"));
    place.works(&format!("{export} safetensors -o elsewhere/model-1.safetensors"));
    // What is no file's name leaves nothing behind.
    fs::create_dir(place.at("empty")).unwrap();
    let line = format!("{export} tf-checkpoint -o empty/..");
    place.fails_with(1, &line, &["--output empty/..", "not a file's name"]);
    assert_eq!(fs::read_dir(place.at("empty")).unwrap().count(), 0);
    assert!(!place.at("...words.txt").exists() && !place.at("empty/...words.txt").exists());
}

/// A copy of scripts/ with lists of packages as small as can be, which pip finds without a network.
struct Fetch {
    folder: tempfile::TempDir,
}

/// Makes wheels `NAME-1.0-py3-none-any.whl` with one file each: `wheels.py FOLDER
/// NAME=FILE=CONTENT...`; prints a list with their digests.
const WHEELS: &str = r#"
import hashlib, sys, zipfile
for wheel in sys.argv[2:]:
    name, file, content = wheel.split("=")
    path = f"{sys.argv[1]}/{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(file, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    print(f"{name}==1.0 --hash=sha256:{hashlib.sha256(open(path, 'rb').read()).hexdigest()}")
"#;

impl Fetch {
    fn new() -> Self {
        let fetch = Fetch { folder: tempfile::tempdir().unwrap() };
        Command::new("cp").arg("-r").arg(repository("scripts")).arg(fetch.at("")).works();
        fs::create_dir(fetch.at("wheels")).unwrap();
        fetch.list(
            "cpu",
            &["torch=torch/lib/libtorch_cpu.so=cpu", "cudart=nvidia/cu13/lib/libcudart.so=old"],
        );
        fetch.list(
            "cuda",
            &["cudnn=nvidia/cudnn/lib/libcudnn.so=new", "cudart2=nvidia/cu13/lib/libcudart.so=new"],
        );
        stub(&fetch.at("bin/nvidia-smi"), "exit 0");
        fetch
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn list(&self, kind: &str, wheels: &[&str]) {
        let mut python = Command::new("python3");
        let list = python.args(["-c", WHEELS]).arg(self.at("wheels")).args(wheels).works().0;
        fs::write(self.at(&format!("scripts/libtorch-{kind}.txt")), list).unwrap();
    }

    fn libtorch(&self, kind: &str) -> Command {
        let mut command = Command::new("bash");
        command
            .arg(self.at("scripts/libtorch.sh"))
            .arg(kind)
            .env("PATH", path_with(&self.at("bin")))
            .env("PIP_NO_INDEX", "1")
            .env("PIP_FIND_LINKS", self.at("wheels"))
            .env_remove("LIBTORCH")
            .env_remove("PYTHON");
        command
    }

    fn fetched(&self, path: &str) -> String {
        fs::read_to_string(self.at(".libtorch").join(path))
            .unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

#[test]
fn libtorch_is_fetched_whatever_pip_is_set_to() {
    let fetch = Fetch::new();
    let astray = text(&fetch.at("astray")).to_owned();
    let settings = format!(
        "[global]\nuser = true\ntarget = {astray}\nprefix = {astray}\nrequire-virtualenv = true\n\
         [install]\nuser = true\ntarget = {astray}\n[download]\nrequire-virtualenv = true\n"
    );
    fs::write(fetch.at("pip.conf"), settings).unwrap();
    let variables = [
        ("PIP_USER", "1"),
        ("PIP_REQUIRE_VIRTUALENV", "1"),
        ("PIP_TARGET", &astray),
        ("PIP_PREFIX", &astray),
        ("PIP_ROOT", &astray),
        ("PIP_NO_BINARY", ":all:"),
        ("PIP_DRY_RUN", "1"),
        ("PIP_CONSTRAINT", "/no/such/file"),
        ("PIP_PLATFORM", "win_amd64"),
        ("PIP_CONFIG_FILE", text(&fetch.at("pip.conf"))),
    ]
    .map(|(name, value)| (name, value.to_owned()));
    fetch.libtorch("cpu").envs(variables.clone()).works();
    assert_eq!(fetch.fetched("torch/lib/libtorch_cpu.so"), "cpu");
    assert_eq!(fetch.fetched("nvidia/cu13/lib/libcudart.so"), "old");
    assert!(fetch.at(".libtorch/cpu.stamp").exists());

    // The other libraries come into the same folders. A program that has the old one open keeps it.
    let open = fs::File::open(fetch.at(".libtorch/nvidia/cu13/lib/libcudart.so")).unwrap();
    fetch.libtorch("cuda").envs(variables).works();
    assert_eq!(fetch.fetched("nvidia/cu13/lib/libcudart.so"), "new");
    assert_eq!(fetch.fetched("nvidia/cudnn/lib/libcudnn.so"), "new");
    assert_eq!(std::io::read_to_string(open).unwrap(), "old");
    assert!(fetch.at(".libtorch/cuda.stamp").exists() && !fetch.at("astray").exists());
    for entry in fs::read_dir(fetch.at(".libtorch")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.contains("part") && !name.contains("wheels"), "{name} was left behind");
    }
    // What is there is not fetched again.
    fs::remove_dir_all(fetch.at("wheels")).unwrap();
    fetch.libtorch("cpu").works();
    fetch.libtorch("cuda").works();
}

#[test]
fn another_file_than_the_pinned_one_is_not_taken() {
    let fetch = Fetch::new();
    let list = fs::read_to_string(fetch.at("scripts/libtorch-cpu.txt")).unwrap();
    fetch.list("cpu", &["torch=torch/lib/libtorch_cpu.so=another"]);
    fs::write(fetch.at("scripts/libtorch-cpu.txt"), list).unwrap();
    fetch.libtorch("cpu").fails();
    assert!(!fetch.at(".libtorch").exists(), "nothing of it is taken for a libtorch");
}

#[test]
fn a_python_without_pip_helps_itself_or_says_what_to_install() {
    let fetch = Fetch::new();
    let python = fetch.at("bin/python");
    // Debian's: no pip, but environments have it.
    let real = "exec python3 \"$@\"";
    let makes = format!(
        "case \"$1 $2\" in '-m pip') exit 1 ;; '-m venv') mkdir -p \"$3/bin\"; \
         printf '#!/bin/sh\\nexec python3 \"$@\"\\n' > \"$3/bin/python\"; chmod +x \"$3/bin/python\"; exit ;; esac\n{real}"
    );
    stub(&python, &makes);
    fetch.libtorch("cpu").env("PYTHON", &python).works();
    assert_eq!(fetch.fetched("torch/lib/libtorch_cpu.so"), "cpu");

    // Debian's without python3-venv: neither.
    fs::remove_dir_all(fetch.at(".libtorch")).unwrap();
    stub(&python, &format!("[ \"$1\" != -m ] || exit 1\n{real}"));
    fetch
        .libtorch("cpu")
        .env("PYTHON", &python)
        .fails_with(1, &["no pip", "python3-pip", "LIBTORCH"]);
    fetch
        .libtorch("cpu")
        .env("PYTHON", "/no/such/python")
        .fails_with(1, &["/no/such/python was not found"]);
    stub(&python, "[ \"$1\" != -c ] || exit 1\necho Python 3.8.10");
    fetch.libtorch("cpu").env("PYTHON", &python).fails_with(1, &["Python 3.8.10 is too old"]);
}

#[test]
fn libtorch_is_fetched_for_linux_on_two_processors_only() {
    let fetch = Fetch::new();
    let machine = |system: &str, processor: &str| {
        let script = format!("[ \"$1\" = -s ] && echo {system} || echo {processor}");
        stub(&fetch.at("bin/uname"), &script);
        fetch.libtorch("cpu").ends()
    };
    for (system, processor) in [("Darwin", "arm64"), ("Linux", "riscv64"), ("Linux", "armv7l")] {
        let (code, _, errors) = machine(system, processor);
        assert!(code == Some(1) && errors.contains(&format!("{system}-{processor}")), "{errors}");
    }
    let (code, _, errors) = machine("Linux", "aarch64");
    assert_eq!(code, Some(0), "{errors}");
    // NVIDIA's packages are the same for every Python, so each has one digest for each processor.
    for list in ["libtorch-cpu.txt", "libtorch-cuda.txt", "cuda-headers.txt"] {
        let list = fs::read_to_string(repository("scripts").join(list)).unwrap();
        let packages = list.split("\nnvidia-").skip(1);
        assert!(
            packages.map(|package| package.matches("sha256:").count()).all(|count| count == 2),
            "{list}"
        );
    }
}

#[test]
fn another_libtorch_is_refused_before_anything_is_built() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let check = |libtorch: &Path| {
        let mut make = Command::new("make");
        make.args(["--no-print-directory", "build"])
            .current_dir(repository(""))
            .env("LIBTORCH", libtorch);
        // Cargo is not to be reached.
        stub(&at("bin/cargo"), "echo cargo was reached >&2; exit 1");
        for name in
            ["MAKEFLAGS", "MAKELEVEL", "LIBTORCH_USE_PYTORCH", "LIBTORCH_INCLUDE", "LIBTORCH_LIB"]
        {
            make.env_remove(name);
        }
        make.env("PATH", path_with(&at("bin"))).ends().2
    };
    assert!(check(&at("torch")).contains("has no lib/libtorch_cpu.so"));
    for folder in ["torch/lib", "torch/include/torch/csrc/api/include/torch"] {
        fs::create_dir_all(at(folder)).unwrap();
    }
    fs::write(at("torch/lib/libtorch_cpu.so"), "").unwrap();
    assert!(check(&at("torch")).contains("of an unknown version, not 2.11.0"));
    // As old releases have it, and as new ones have it.
    let version =
        |version: &str| format!("#pragma once\n#define TORCH_VERSION \\\n  \"{version}\"\n");
    fs::write(at("torch/include/torch/csrc/api/include/torch/version.h"), version("2.6.0"))
        .unwrap();
    assert!(check(&at("torch")).contains("libtorch 2.6.0, not 2.11.0"));
    fs::create_dir_all(at("torch/include/torch/headeronly")).unwrap();
    let header = at("torch/include/torch/headeronly/version.h");
    fs::write(&header, version("2.12.0")).unwrap();
    assert!(check(&at("torch")).contains("libtorch 2.12.0, not 2.11.0"));
    fs::write(&header, version("2.11.0")).unwrap();
    assert!(check(&at("torch")).contains("cargo was reached"));
    assert!(check(Path::new("torch")).contains("not an absolute path"));
}

#[test]
fn make_finds_the_program_where_cargo_builds_it() {
    let would_run = |variables: &[(&str, &str)]| {
        let mut make = Command::new("make");
        make.args(["--no-print-directory", "-n", "compare"]).current_dir(repository(""));
        for name in [
            "MAKEFLAGS",
            "MAKELEVEL",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET_DIR",
            "CARGO_BUILD_TARGET",
        ] {
            make.env_remove(name);
        }
        make.envs(variables.iter().copied()).works().0
    };
    for (variables, program) in [
        (&[][..], "target/release/ptb-word-lm"),
        (&[("CARGO_TARGET_DIR", "/some where")], "/some where/release/ptb-word-lm"),
        (&[("CARGO_TARGET_DIR", "built")], "built/release/ptb-word-lm"),
        (&[("CARGO_BUILD_TARGET_DIR", "/there")], "/there/release/ptb-word-lm"),
        (&[("CARGO_BUILD_TARGET", "a-b-c")], "target/a-b-c/release/ptb-word-lm"),
    ] {
        let commands = would_run(variables);
        assert!(commands.contains(&format!("'{program}' compare")), "{variables:?}: {commands}");
    }
}

#[test]
fn an_installed_program_can_be_moved() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let script = repository("scripts/install.sh");
    Command::new(&script)
        .args(["relative", PROGRAM])
        .current_dir(repository(""))
        .fails_with(2, &["not an absolute path"]);
    let install = || Command::new(&script).arg(at("first place")).arg(PROGRAM).works();
    install();
    install(); // over the one that is there
    fs::rename(at("first place"), at("moved")).unwrap();

    let moved = at("moved/bin/ptb-word-lm");
    let ldd = Command::new("ldd").arg(&moved).env_remove("LD_LIBRARY_PATH").works().0;
    let libraries: Vec<&str> = ldd.lines().filter_map(|line| line.split(" => ").nth(1)).collect();
    // Its own libraries lie beside it, and the rest is the system's.
    let own = ["libtorch_cpu.so", "libc10.so", "libgomp"];
    for library in own {
        let path =
            libraries.iter().find(|path| path.contains(library)).unwrap_or_else(|| panic!("{ldd}"));
        assert!(path.starts_with(text(&at("moved"))), "{path}");
    }
    for path in libraries {
        let system =
            ["/lib", "/usr/lib", "/usr/local/lib"].iter().any(|start| path.starts_with(start));
        assert!(system || path.starts_with(text(&at("moved"))), "{path}");
    }
    let mut command = Command::new(&moved);
    command.args([TINY, &["--max-steps", "1"]].concat()).env("OMP_NUM_THREADS", "1");
    let trained = command.env_remove("LD_LIBRARY_PATH").current_dir(folder.path()).works().0;
    assert!(trained.contains("Test Perplexity: "), "{trained}");

    let read = |path: &str| fs::read_to_string(at("moved/share").join(path)).unwrap();
    assert!(read("man/man1/ptb-word-lm.1").contains(".TH ptb-word-lm"));
    assert!(read("man/man1/ptb-word-lm-export.1").contains("tf\\-checkpoint"));
    assert!(read("bash-completion/completions/ptb-word-lm").contains("--save-path"));
    assert!(read("zsh/site-functions/_ptb-word-lm").starts_with("#compdef ptb-word-lm"));
    assert!(read("fish/vendor_completions.d/ptb-word-lm.fish").contains("complete -c ptb-word-lm"));
    assert!(read("doc/ptb-word-lm/LICENSE").contains("Apache License"));
}

/// `cp -n` fails in coreutils 9.2 to 9.4 where it skips a file.
#[test]
fn scripts_use_no_option_that_some_systems_lack() {
    let mut read = 0;
    for entry in fs::read_dir(repository("scripts")).unwrap() {
        let path = entry.unwrap().path();
        let script = fs::read_to_string(&path).unwrap();
        for line in script.lines().filter(|line| line.trim_start().starts_with("cp ")) {
            let options = line
                .split_whitespace()
                .filter(|word| word.starts_with('-') && !word.starts_with("--"));
            assert!(
                options.into_iter().all(|word| !word.contains('n')),
                "{}: {line}",
                path.display()
            );
            read += 1;
        }
    }
    assert!(read >= 4, "{read} lines");
}

#[test]
fn every_top_level_folder_has_its_line_in_the_readme() {
    let readme = fs::read_to_string(repository("README.md")).unwrap();
    let ignored = fs::read_to_string(repository(".gitignore")).unwrap();
    let mut folders = 0;
    for entry in fs::read_dir(repository("")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !path.is_dir()
            || name == ".git"
            || ignored.lines().any(|line| line == format!("/{name}"))
        {
            continue;
        }
        assert!(readme.contains(&format!("`{name}/")), "{name}/ has no line in README.md");
        folders += 1;
    }
    assert!(folders >= 10, "{folders}");
}
