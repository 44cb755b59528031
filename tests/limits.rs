//! What lies at the edge of the usual: each works, or is refused in words.

mod program;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use program::{Expect, PROGRAM, program, text, texts};
use ptb_word_lm::reader::RawData;

/// A data folder of three texts.
fn data(folder: &Path, three: [&[u8]; 3]) -> PathBuf {
    texts(folder, three);
    folder.to_owned()
}

/// A step on a corpus, with a checkpoint and an evaluation.
fn train(data: &Path, more: &[&str]) -> Command {
    let flags = ["train", "--device", "cpu", "--model", "test", "--max-steps", "1", "--data-path"];
    program(&[&flags[..], &[text(data)], more].concat())
}

#[test]
fn a_path_with_spaces_and_letters_of_any_script() {
    let folder = tempfile::tempdir().unwrap();
    let lines = b" the cat sat on the mat \n the dog sat on the cat \n".repeat(20);
    let strange = "été à  la  mer 日本語 'q\" $HOME #1";
    let data = data(&folder.path().join(strange).join("data"), [&lines, &lines, &lines]);
    let save = folder.path().join(strange).join("my run");
    let save = text(&save);
    for _ in 0..2 {
        // The second one resumes it.
        train(&data, &["--save-path", save]).works();
    }
    program(&["eval", "--device", "cpu", "--checkpoint", save, "--data-path", text(&data)]).works();
    let file = folder.path().join(strange).join("model.npz");
    let file = text(&file);
    program(&["export", "--checkpoint", save, "--format", "tf-npz", "--output", file]).works();
    let imported = folder.path().join(strange).join("imported");
    program(&["import", file, "--save-path", text(&imported)]).works();
    let metrics = fs::read_to_string(Path::new(save).join("metrics.jsonl")).unwrap();
    assert!(metrics.contains("日本語"), "{metrics}");
}

/// A save path that is not even Unicode.
#[cfg(unix)]
#[test]
fn a_path_that_is_not_unicode() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let save = folder.path().join(OsStr::from_bytes(b"caf\xe9"));
    let mut command = train(Path::new("sample"), &["--save-path"]);
    let (code, _, said) = command.arg(&save).ends();
    assert!(code == Some(0) || code == Some(1) && said.contains("--save-path"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    let is_there = save.join("model-1.safetensors").exists();
    assert_eq!(code == Some(0), is_there, "{said}");
    // In the original's spelling, too.
    let argument = [b"--save_path=", save.as_os_str().as_bytes()].concat();
    let mut command = train(Path::new("sample"), &[]);
    let (again, _, said) = command.arg(OsStr::from_bytes(&argument)).ends();
    assert_eq!(again, code, "{said}");
    assert_eq!(said.contains("resuming"), is_there, "{said}");
    // A flag that takes no other text than UTF-8 is named.
    for (command, flag) in
        [("train", "--data-path"), ("eval", "--data-path"), ("predict", "--prompt")]
    {
        let mut command = program(&[command, flag]);
        command.arg(OsStr::from_bytes(b"caf\xe9")).fails_with(2, &[flag, "not UTF-8"]);
    }
}

#[test]
fn a_vocabulary_of_a_million_words() {
    let folder = tempfile::tempdir().unwrap();
    let mut million = Vec::new();
    for k in 0..1_000_000 {
        write!(million, "w{k}{}", if k % 20 == 19 { '\n' } else { ' ' }).unwrap();
    }
    let small = b"w1 w2 w3 w999999\n".repeat(20);
    let data = data(folder.path(), [&million, &small, &small]);
    let read = RawData::read(text(&data)).unwrap();
    assert_eq!(read.vocabulary.len(), 1_000_001);
    assert_eq!(read.train.tokens.len(), 1_050_000);
    for k in [0, 77, 999_999] {
        let word = format!("w{k}");
        let id = read.vocabulary.id(&word).unwrap();
        assert_eq!(read.vocabulary.word(id), Some(word.as_str()));
    }
    let save = folder.path().join("run");
    for _ in 0..2 {
        let (out, _) = train(&data, &["--save-path", text(&save)]).works();
        assert!(out.contains("Test Perplexity"), "{out}");
    }
}

/// A line of 10 MB of words is words; one word of 10 MB is none.
#[test]
fn a_line_of_ten_megabytes() {
    let folder = tempfile::tempdir().unwrap();
    let short = b" a b c \n".repeat(50);
    let line = b"a b c d ".repeat(10 << 17);
    let long = data(&folder.path().join("line"), [&line, &short, &short]);
    let read = RawData::read(text(&long)).unwrap();
    assert_eq!(read.train.tokens.len(), 4 * (10 << 17));
    train(&long, &["--no-eval"]).works();

    let word = [&b"a b c\n"[..], &b"x".repeat(10 << 20)].concat();
    let one = data(&folder.path().join("word"), [&word, &short, &short]);
    let said = train(&one, &["--no-eval"]).fails_with(1, &["train.txt", "line 2"]);
    assert!(said.len() < 1000, "an error of {} bytes", said.len());
}

/// Windows line ends, a byte-order mark, no newline at the end: the same words as without.
#[test]
fn texts_of_other_systems() {
    let folder = tempfile::tempdir().unwrap();
    let plain = b" the cat sat \n on the mat \n".repeat(10);
    let windows = [
        b"\xef\xbb\xbf".to_vec(),
        String::from_utf8(plain.clone()).unwrap().replace('\n', "\r\n").into(),
    ]
    .concat();
    let open = plain[..plain.len() - 1].to_vec();
    let read = |name: &str, bytes: &[u8]| {
        let data = data(&folder.path().join(name), [bytes; 3]);
        train(&data, &["--save-path", text(&data.join("run"))]).works();
        RawData::read(text(&data)).unwrap()
    };
    let plain = read("plain", &plain);
    let windows = read("windows", &windows);
    assert_eq!(windows.vocabulary, plain.vocabulary);
    assert_eq!(windows.train.tokens, plain.train.tokens);
    // One line's end less than the same text has.
    let open = read("open", &open);
    let words = |data: &RawData| -> Vec<String> {
        data.train.tokens.iter().map(|&id| data.vocabulary.word(id).unwrap().to_owned()).collect()
    };
    assert_eq!(words(&open), words(&plain)[..plain.train.tokens.len() - 1]);
}

/// Words are split where Python's `str.split()` splits them: in the texts, in a prompt, in a scored
/// text.
#[test]
fn words_are_separated_by_python_s_white_space() {
    let folder = tempfile::tempdir().unwrap();
    let plain = " the cat sat \n on the mat \n".repeat(30);
    // All but the newline, which is a word.
    let spaces: Vec<char> =
        "\t\u{b}\u{c}\r\u{1c}\u{1d}\u{1e}\u{1f}\u{85}\u{a0}\u{1680}\u{2000}\u{200a}\
                             \u{2028}\u{2029}\u{202f}\u{205f}\u{3000}"
            .chars()
            .collect();
    let mut next = spaces.iter().cycle();
    let spread = |text: &str, next: &mut dyn Iterator<Item = &char>| -> String {
        text.chars().map(|c| if c == ' ' { *next.next().unwrap() } else { c }).collect()
    };
    let other = spread(&plain, &mut next);
    assert!(spaces.iter().all(|&space| other.contains(space)));
    let [plain_data, other_data] = [("plain", &plain), ("other", &other)]
        .map(|(name, text)| data(&folder.path().join(name), [text.as_bytes(); 3]));
    let read = |data: &Path| RawData::read(text(data)).unwrap();
    let (expected, found) = (read(&plain_data), read(&other_data));
    assert_eq!(found.vocabulary, expected.vocabulary);
    assert_eq!(found.train.tokens, expected.train.tokens);

    let save = folder.path().join("run");
    let model = ["--device", "cpu", "--checkpoint", text(&save)];
    train(&other_data, &["--no-eval", "--save-path", text(&save)]).works();
    let printed = |args: &[&str]| {
        let (out, errors) = program(&[args, &model].concat()).works();
        assert_eq!(errors, "", "{args:?}");
        out
    };
    let generate = |prompt| printed(&["generate", "--words", "5", "--prompt", prompt]);
    assert_eq!(generate("the\u{1c}cat\u{85}sat\u{1f}"), generate("the cat sat"));
    for independent in [&[][..], &["--independent"]] {
        let score = |name: &str, scored: &str| {
            let file = folder.path().join(name);
            fs::write(&file, scored).unwrap();
            let args = ["score", "--json", "--per-word", text(&file)];
            printed(&[&args[..], independent].concat())
        };
        assert_eq!(score("other.txt", &other), score("plain.txt", &plain));
    }
}

/// A corpus of 1 GB: 4 bytes a token, not the text. Run by `make torture`.
#[test]
#[ignore = "writes and reads 1 GB: make torture"]
fn a_corpus_of_a_gigabyte() {
    let folder = tempfile::tempdir().unwrap();
    let small = b" a b c \n".repeat(50);
    let data = data(folder.path(), [b"", &small, &small]);
    let mut file = std::io::BufWriter::new(fs::File::create(data.join("train.txt")).unwrap());
    let mut written = 0;
    let mut k: u32 = 0;
    while written < 1 << 30 {
        k = k.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let line = format!(" a b word{} of line{} c \n", k >> 20, k >> 25);
        written += line.len();
        file.write_all(line.as_bytes()).unwrap();
    }
    file.flush().unwrap();
    let script = "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); \
                  print('PEAK', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)";
    let train = train(&data, &["--no-eval"]);
    let mut python = Command::new("python3");
    python.args(["-c", script, PROGRAM]).args(train.get_args());
    let (lines, _) = python.works();
    let peak: u64 = lines.lines().find_map(|l| l.strip_prefix("PEAK ")).unwrap().parse().unwrap();
    assert!(peak < 1_400_000, "{peak} KiB at the peak");
    println!("TORTURE | a corpus of 1 GB, read and trained in {} MiB | 1 | 1 | 0 |", peak / 1024);
}
