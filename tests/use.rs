//! What people do with a model and with their own text: large corpora, other namings, generating, scoring.

use std::env;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;

use ptb_word_lm::reader::RawData;

/// The most memory that this process has had at once, in bytes.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Writes a text of about so many bytes: words of 2 to 7 letters, 4.4 on average, by Zipf's law. Half of it is one single line.
fn write_text(path: &Path, bytes: usize) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    let (mut random, mut written) = (1u64, 0);
    while written < bytes {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let uniform = (random >> 11) as f64 / (1u64 << 53) as f64;
        let rank = 50_000f64.powf(uniform) as u64;
        let end = if written > bytes / 2 && random % 25 == 0 { '\n' } else { ' ' };
        let word = format!("w{rank}{end}");
        file.write_all(word.as_bytes()).unwrap();
        written += word.len();
    }
    file.flush().unwrap();
}

/// 80 MB of text: memory for 4 bytes a token and little more, in a process of its own, since its peak is measured.
#[test]
fn a_large_corpus_takes_memory_for_its_ids_and_not_for_its_text() {
    const FOLDER: &str = "READ_THIS_AND_TELL_THE_PEAK";
    if let Ok(folder) = env::var(FOLDER) {
        let before = peak_memory();
        let data = RawData::read(&folder).unwrap();
        println!("\nPEAK {} {}", data.train.tokens.len(), peak_memory() - before);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let bytes = 80_000_000;
    write_text(&folder.path().join("train.txt"), bytes);
    for name in ["valid.txt", "test.txt"] {
        write_text(&folder.path().join(name), 1000);
    }
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "a_large_corpus_takes_memory_for_its_ids_and_not_for_its_text", "--nocapture"])
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("PEAK ")).unwrap_or_else(|| panic!("{text}"));
    let figures: Vec<u64> = line.split(' ').map(|n| n.parse().unwrap()).collect();
    let (tokens, peak) = (figures[0], figures[1]);
    assert!(tokens > 13_000_000, "{tokens}");
    assert!(peak < 4 * tokens + 16_000_000, "{tokens} tokens took {peak} bytes");
    assert!(peak < bytes as u64, "{peak} bytes for a text of {bytes}");
}
