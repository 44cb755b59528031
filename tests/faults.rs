//! Runs that are killed, stopped, or refused by the disk: nothing may be lost, and what goes on must be the same run to the last bit.
//!
//! How often is set by the environment: KILLS (12 unless told) and DISK_FAULTS (4); `make torture` sets both high.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ptb_word_lm::checkpoint::Checkpoint;

/// Dropout on, two epochs of some 60 steps, a checkpoint every third step.
const FLAGS: &[&str] = &[
    "train",
    "--data-path",
    "sample",
    "--device",
    "cpu",
    "--threads",
    "1",
    "--model",
    "test",
    "--hidden-size",
    "16",
    "--num-layers",
    "2",
    "--num-steps",
    "15",
    "--batch-size",
    "100",
    "--keep-prob",
    "0.5",
    "--max-max-epoch",
    "2",
    "--checkpoint-every",
    "3",
    "--save-path",
];

fn command(save: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ptb-word-lm"));
    command.args(FLAGS).arg(save).env("OMP_NUM_THREADS", "1").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a run comes to: its variables, its state's end, and the perplexities that it prints, in the order of the epochs.
fn outcome(save: &Path) -> (Checkpoint, Vec<String>) {
    let checkpoint = Checkpoint::load(save, &mut |n| panic!("{n}")).unwrap();
    let text = fs::read_to_string(save.join("metrics.jsonl")).unwrap();
    let mut epochs = std::collections::BTreeMap::new();
    for line in text.lines() {
        // A kill may tear the line that was being written.
        let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        // An epoch that went on after a kill is told again, and differently only while it is not complete.
        if event["event"] == "final" || event["event"] == "epoch" && event["complete"] == true {
            epochs.insert(format!("{} {}", event["epoch"], event["split"]), event["perplexity"].to_string());
        }
    }
    (checkpoint, epochs.into_iter().map(|(which, perplexity)| format!("{which} {perplexity}")).collect())
}

fn assert_same(run: &Path, reference: &(Checkpoint, Vec<String>), what: &str) {
    let (checkpoint, perplexities) = outcome(run);
    assert_eq!(checkpoint.variables, reference.0.variables, "{what}: the variables differ");
    assert_eq!(checkpoint.progress, reference.0.progress, "{what}");
    assert_eq!(perplexities, reference.1, "{what}: the perplexities differ");
}

fn finish(child: Child, what: &str) -> String {
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{what}: {errors}");
    errors
}

fn count(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |n| n.parse().unwrap_or_else(|_| panic!("{name}={n} is not a number")))
}

/// SplitMix64: the moments are random, and the same every time.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

#[test]
fn a_run_killed_at_random_moments_comes_to_the_same_end() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let start = std::time::Instant::now();
    finish(command(&whole).spawn().unwrap(), "the reference");
    let longest = start.elapsed().as_millis() as u64;
    let reference = outcome(&whole);
    let (kills, mut done, mut runs) = (count("KILLS", 12), 0, 0);
    let mut random = Random(2016);
    while done < kills {
        let save = folder.path().join(format!("killed {runs}"));
        runs += 1;
        loop {
            let mut child = command(&save).spawn().unwrap();
            if done < kills {
                std::thread::sleep(Duration::from_millis(random.below(longest)));
                // std's kill is SIGKILL.
                child.kill().unwrap();
                if !child.wait().unwrap().success() {
                    done += 1;
                    continue;
                }
                break;
            }
            finish(child, "after the last kill");
            break;
        }
        assert_same(&save, &reference, &format!("run {runs}"));
        fs::remove_dir_all(&save).unwrap();
    }
    println!("TORTURE | SIGKILL at a random moment, dropout on, then resumed | {done} | {done} | 0 |");
}

#[test]
fn signals_save_and_exit_with_their_number() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    finish(command(&whole).spawn().unwrap(), "the reference");
    let reference = outcome(&whole);
    let save = folder.path().join("stopped");
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let before = Checkpoint::load(&save, &mut |n| panic!("{n}")).map_or(0, |c| c.progress.global_step);
        let child = command(&save).spawn().unwrap();
        // Until it has come some way, so that the signal meets a run at work.
        while Checkpoint::load(&save, &mut |_| ()).map_or(0, |c| c.progress.global_step) < before + 6 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let sent =
            Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8(output.stdout).unwrap();
        assert!(lines.lines().last().unwrap().contains("Train Perplexity"), "the perplexity so far: {lines}");
    }
    finish(command(&save).spawn().unwrap(), "resumed");
    assert_same(&save, &reference, "stopped twice");

    // With --test-on-interrupt it still evaluates.
    let save = folder.path().join("tested");
    let child = command(&save).arg("--test-on-interrupt").spawn().unwrap();
    while Checkpoint::load(&save, &mut |_| ()).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(String::from_utf8(output.stdout).unwrap().lines().last().unwrap().starts_with("Test Perplexity"));
}

#[test]
fn a_run_that_diverges_stops_and_keeps_the_last_good_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let save = folder.path().join("run");
    finish(command(&save).args(["--max-steps", "9", "--no-eval"]).spawn().unwrap(), "nine steps");
    let good = fs::read(save.join("model-9.safetensors")).unwrap();
    // Variables that have overflowed.
    let mut bad = Checkpoint::load(&save, &mut |n| panic!("{n}")).unwrap();
    for tensor in bad.variables.values_mut() {
        *tensor = &*tensor * 1e39;
    }
    let other = folder.path().join("bad");
    ptb_word_lm::checkpoint::SaveFolder::open(&other, 2).unwrap().save(&bad).unwrap();
    let output = command(&other).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    for words in ["diverged", "epoch 1, step ", "--learning-rate", "holds the last good checkpoint"] {
        assert!(errors.contains(words), "{words}: {errors}");
    }
    assert_eq!(
        fs::read_dir(&other)
            .unwrap()
            .filter(|f| f.as_ref().unwrap().file_name().to_string_lossy().starts_with("model"))
            .count(),
        1
    );
    assert_eq!(fs::read(save.join("model-9.safetensors")).unwrap(), good);
}

/// A disk that fills up, at several sizes, in a small tmpfs: needs the right to mount one.
#[test]
#[ignore = "mounts a tmpfs, so it needs root"]
fn a_full_disk_is_told_and_costs_nothing_but_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    finish(command(&whole).spawn().unwrap(), "the reference");
    let reference = outcome(&whole);
    let size = fs::metadata(whole.join(format!("model-{}.safetensors", reference.0.progress.global_step)))
        .unwrap()
        .len();
    let mount = folder.path().join("disk");
    fs::create_dir(&mount).unwrap();
    let faults = count("DISK_FAULTS", 4);
    for k in 0..faults {
        // Room for the lock, the metrics, and between one and a little under three checkpoints: two kept and one being written do not fit.
        let room = size + 40_000 + 2 * size * k / faults;
        let options = format!("size={room}");
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&mount)
            .status()
            .unwrap();
        assert!(status.success(), "mounting a tmpfs");
        let unmount = Unmount(&mount);
        let save = mount.join("run");
        let output = command(&save).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            errors.contains("could not be written") && errors.contains("training goes on"),
            "{room}: {errors}"
        );
        assert!(errors.contains("No space left on device"), "{errors}");
        // Whatever is there is whole, and goes on to the same end once there is room.
        let kept = Checkpoint::load(&save, &mut |n| panic!("{n}")).unwrap();
        assert!(kept.progress.global_step > 0);
        let roomy = folder.path().join(format!("roomy {k}"));
        fs::create_dir(&roomy).unwrap();
        for entry in fs::read_dir(&save).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, roomy.join(path.file_name().unwrap())).unwrap();
        }
        drop(unmount);
        finish(command(&roomy).spawn().unwrap(), "with room");
        let (checkpoint, _) = outcome(&roomy);
        assert_eq!(checkpoint.variables, reference.0.variables);
    }
    println!("TORTURE | disk full while saving, then resumed with room | {faults} | {faults} | 0 |");
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

/// The newest checkpoint torn or damaged at random places: the one before it takes over, and the run ends as it would have.
#[test]
fn a_torn_checkpoint_costs_only_the_steps_since_the_one_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    finish(command(&whole).spawn().unwrap(), "the reference");
    let reference = outcome(&whole);
    let start = folder.path().join("start");
    finish(command(&start).args(["--max-steps", "31", "--no-eval"]).spawn().unwrap(), "31 steps");
    let newest = fs::read(start.join("model-31.safetensors")).unwrap();
    let mut random = Random(7);
    let faults = count("DISK_FAULTS", 4);
    for k in 0..faults {
        let save = folder.path().join(format!("torn {k}"));
        fs::create_dir(&save).unwrap();
        for entry in fs::read_dir(&start).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, save.join(path.file_name().unwrap())).unwrap();
        }
        let mut torn = newest.clone();
        let place = random.below(newest.len() as u64) as usize;
        if k % 2 == 0 {
            torn.truncate(place);
        } else {
            torn[place] ^= 1 << random.below(8);
        }
        fs::write(save.join("model-31.safetensors"), &torn).unwrap();
        let errors = finish(command(&save).spawn().unwrap(), "resumed");
        assert!(
            errors.contains("model-31.safetensors") && errors.contains("resuming at epoch 1, step 30"),
            "{errors}"
        );
        assert_same(&save, &reference, &format!("torn at {place}"));
    }
    println!("TORTURE | newest checkpoint torn or a bit flipped, then resumed | {faults} | {faults} | 0 |");
}
