//! Runs that are killed, stopped, or refused by the disk: nothing may be lost, and what goes on
//! must be the same run to the last bit.
//!
//! How often is set by the environment: KILLS (12 unless told) and DISK_FAULTS (4); `make torture`
//! sets both high. Lines that begin with TORTURE are rows of docs/reliability.md: what was tried,
//! how often, how often survived, and lost.

mod program;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use program::{DROPOUT, Expect, TINY, checkpoint, ended, program, text, texts};
use ptb_word_lm::checkpoint::{Checkpoint, SaveFolder};
use ptb_word_lm::{sample, tf};

/// What is said beside the tiny run: two epochs, a checkpoint every third step.
const MORE: &[&str] =
    &["--threads", "1", "--max-max-epoch", "2", "--checkpoint-every", "3", "--save-path"];

fn command(save: &Path) -> Command {
    command_with(save, &[])
}

/// The run with other values for some of its flags.
fn command_with(save: &Path, others: &[(&str, &str)]) -> Command {
    let mut flags = [TINY, DROPOUT, MORE].concat();
    for (flag, value) in others {
        let at = flags.iter().position(|f| f == flag).unwrap();
        flags[at + 1] = value;
    }
    let mut command = program(&flags);
    command.arg(save);
    command
}

/// What a run comes to: its variables, its state's end, and the perplexities that it prints, in the
/// order of the epochs.
fn outcome(save: &Path) -> (Checkpoint, Vec<String>) {
    let text = fs::read_to_string(save.join("metrics.jsonl")).unwrap();
    let mut epochs = std::collections::BTreeMap::new();
    for line in text.lines() {
        // A kill may tear the line that was being written.
        let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        // An epoch that continued after a kill has a line for each time. They differ only while it
        // is not complete.
        if event["event"] == "final" || event["event"] == "epoch" && event["complete"] == true {
            epochs.insert(
                format!("{} {}", event["epoch"], event["split"]),
                event["perplexity"].to_string(),
            );
        }
    }
    (
        checkpoint(save),
        epochs.into_iter().map(|(which, perplexity)| format!("{which} {perplexity}")).collect(),
    )
}

fn assert_same(run: &Path, reference: &(Checkpoint, Vec<String>), what: &str) {
    let (checkpoint, perplexities) = outcome(run);
    assert_eq!(checkpoint.variables, reference.0.variables, "{what}: the variables differ");
    assert_eq!(checkpoint.progress, reference.0.progress, "{what}");
    assert_eq!(perplexities, reference.1, "{what}: the perplexities differ");
}

/// Waits for a run that must succeed.
fn finish(child: Child, what: &str) {
    let (code, _, errors) = ended(child.wait_with_output().unwrap());
    assert_eq!(code, Some(0), "{what}: {errors}");
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
    let done = kill_at_random_moments(&[], count("KILLS", 12));
    println!(
        "TORTURE | SIGKILL at a random moment, dropout on, then resumed | {done} | {done} | 0 |"
    );
}

/// Adam's slots have to come back too.
#[test]
fn a_run_of_adam_killed_at_random_moments_comes_to_the_same_end() {
    let done = kill_at_random_moments(&ADAM, count("KILLS", 12) / 2);
    println!("TORTURE | the same, trained by Adam | {done} | {done} | 0 |");
}

const ADAM: [&str; 4] = ["--optimizer", "adam", "--learning-rate", "0.01"];

/// Kills runs with these flags so many times, and compares their end with that of a run that was
/// not killed.
fn kill_at_random_moments(flags: &[&str], kills: u64) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let run = |save: &Path| {
        let mut run = command(save);
        run.args(flags);
        run
    };
    let whole = folder.path().join("whole");
    let start = std::time::Instant::now();
    run(&whole).works();
    let longest = start.elapsed().as_millis() as u64;
    let reference = outcome(&whole);
    let (mut done, mut runs) = (0, 0);
    let mut random = Random(2016);
    while done < kills {
        let save = folder.path().join(format!("killed {runs}"));
        runs += 1;
        loop {
            let mut child = run(&save).spawn().unwrap();
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
    done
}

/// A run of another optimizer is another run. Slots that are not all there do not continue one.
#[test]
fn a_run_of_another_optimizer_is_not_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let steps = ["--max-steps", "2", "--no-eval"];
    for (name, flags) in [("sgd", &[][..]), ("adam", &ADAM)] {
        command(&at(name)).args(steps).args(flags).works();
    }
    let refused = |save: &str, flags: &[&str], says: &[&str]| {
        command(&at(save)).args(steps).args(flags).fails_with(1, says);
    };
    refused("sgd", &ADAM, &["optimizer is \"sgd\" there and \"adam\" here"]);
    refused("adam", &[], &["optimizer is \"adam\" there and \"sgd\" here"]);
    let without = |save: &str, missing: &dyn Fn(&str) -> bool| {
        let mut checkpoint = checkpoint(&at("adam"));
        checkpoint.variables.retain(|name, _| !missing(name));
        SaveFolder::open(&at(save), 1).unwrap().save(&checkpoint).unwrap();
    };
    without("no slots", &|name| name.contains("Adam") || name.contains("power"));
    refused("no slots", &ADAM, &["slots are missing"]);
    without("no m", &|name| name == "Model/embedding/Adam");
    refused("no m", &ADAM, &["Adam's m", "variable Model/embedding", "missing"]);
    without("no power", &|name| name == "beta1_power");
    refused("no power", &ADAM, &["variable beta1_power is missing"]);
}

/// Equal runs write equal files: a checkpoint's bytes depend on the run alone.
#[test]
fn equal_runs_write_equal_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let files = ["one", "other"].map(|name| {
        let save = folder.path().join(name);
        command(&save).works();
        let names = checkpoints(&save);
        assert!(!names.is_empty());
        names
            .into_iter()
            .map(|name| (fs::read(save.join(&name)).unwrap(), name))
            .collect::<Vec<_>>()
    });
    for ((one, name), (other, other_name)) in files[0].iter().zip(&files[1]) {
        assert_eq!(name, other_name);
        assert!(one == other, "{name} differs");
    }
}

fn send(signal: &str, child: &Child) {
    let sent = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

#[test]
fn signals_save_and_exit_with_their_number() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    command(&whole).works();
    let reference = outcome(&whole);
    let save = folder.path().join("stopped");
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let before =
            Checkpoint::load(&save, &mut |n| panic!("{n}")).map_or(0, |c| c.progress.global_step);
        let child = command(&save).spawn().unwrap();
        // Until it has come some way, so that the signal meets a run at work.
        while Checkpoint::load(&save, &mut |_| ()).map_or(0, |c| c.progress.global_step)
            < before + 6
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        send(signal, &child);
        let (found, lines, errors) = ended(child.wait_with_output().unwrap());
        assert_eq!(found, Some(code), "{errors}");
        assert!(
            lines.lines().last().unwrap().contains("Train Perplexity"),
            "the perplexity so far: {lines}"
        );
    }
    command(&save).works();
    assert_same(&save, &reference, "stopped three times");

    // With --test-on-interrupt it still evaluates.
    let save = folder.path().join("tested");
    let child = command(&save).arg("--test-on-interrupt").spawn().unwrap();
    while Checkpoint::load(&save, &mut |_| ()).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    send("INT", &child);
    let (code, lines, _) = ended(child.wait_with_output().unwrap());
    assert_eq!(code, Some(130));
    assert!(lines.lines().last().unwrap().starts_with("Test Perplexity"), "{lines}");
}

/// A second SIGINT or SIGTERM does not wait for the step, nor for anything else. A SIGHUP is not
/// counted: a closed terminal sends two of them, and a logout SIGTERM as well.
#[test]
fn a_second_signal_ends_the_process_at_once() {
    let folder = tempfile::tempdir().unwrap();
    for (signals, code) in
        [(&["INT", "INT"][..], 130), (&["HUP", "HUP", "TERM", "HUP", "TERM"], 143)]
    {
        // One step of this takes minutes.
        let save = folder.path().join(signals[0]);
        let base = ["train", "--data-path", "sample", "--device", "cpu", "--rnn-mode", "basic"];
        let size = ["--hidden-size", "1000", "--batch-size", "60", "--num-steps", "150"];
        let mut slow = program(&[&base[..], &size, &["--save-path", text(&save)]].concat());
        let mut child = slow.stderr(Stdio::null()).spawn().unwrap();
        wait_for_first_line(&mut child);
        // A signal before the step begins would stop the run without it.
        std::thread::sleep(Duration::from_secs(1));
        for (k, signal) in signals.iter().enumerate() {
            let status = child.try_wait().unwrap();
            assert_eq!(status, None, "{signals:?}: it ended before signal {k}");
            send(signal, &child);
            std::thread::sleep(Duration::from_millis(300));
        }
        let status = match child.try_wait().unwrap() {
            Some(status) => status,
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("{signals:?}: it continues after the last signal");
            }
        };
        assert_eq!(status.code(), Some(code), "{signals:?}");
    }
}

/// Waits for the line with which an epoch begins.
fn wait_for_first_line(child: &mut Child) {
    let mut line = String::new();
    let output = child.stdout.as_mut().unwrap();
    while !line.ends_with('\n') {
        let mut byte = [0];
        assert_eq!(std::io::Read::read(output, &mut byte).unwrap(), 1, "no line: {line}");
        line.push(byte[0] as char);
    }
    assert!(line.starts_with("Epoch: 1 Learning rate"), "{line}");
}

/// SIGUSR1 saves within the epoch, and the run stays the same.
#[test]
fn a_checkpoint_is_saved_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let run = |save: &Path| {
        let mut command = command_with(save, &[("--checkpoint-every", "1000000")]);
        command.args(["--keep", "100"]);
        command
    };
    let whole = folder.path().join("whole");
    run(&whole).works();
    let save = folder.path().join("asked");
    let mut child = run(&save).spawn().unwrap();
    wait_for_first_line(&mut child);
    send("USR1", &child);
    finish(child, "asked to save");
    assert_same(&save, &outcome(&whole), "asked to save");
    let [whole, mut asked] = [&whole, &save].map(|save| checkpoints(save));
    assert_eq!(whole.len(), 2, "one for each epoch: {whole:?}");
    asked.retain(|name| !whole.contains(name));
    assert_eq!(asked.len(), 1, "{asked:?}");
    let checkpoint = Checkpoint::read(&save.join(&asked[0])).unwrap();
    assert!(
        checkpoint.progress.step > 0 && !checkpoint.state.is_empty(),
        "{:?}",
        checkpoint.progress
    );
}

/// Under nohup a hangup changes nothing.
#[test]
fn a_hangup_that_is_ignored_stays_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, save] = ["whole", "nohup"].map(|name| folder.path().join(name));
    command(&whole).works();
    let plain = command(&save);
    let mut child = Command::new("sh")
        .args(["-c", "trap '' HUP; exec \"$@\"", "sh"])
        .arg(plain.get_program())
        .args(plain.get_args())
        .env("OMP_NUM_THREADS", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_first_line(&mut child);
    send("HUP", &child);
    finish(child, "a hangup that is ignored");
    assert_same(&save, &outcome(&whole), "a hangup that is ignored");
}

/// A terminal that is closed, as when an ssh connection breaks: the run saves after its step.
#[test]
fn a_closed_terminal_saves_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let save = folder.path().join("run");
    let endless =
        command_with(&save, &[("--max-max-epoch", "100000"), ("--checkpoint-every", "1000000")]);
    let line: Vec<String> = std::iter::once(endless.get_program())
        .chain(endless.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    let mut terminal = Command::new("script")
        .args([
            "--quiet",
            "--command",
            // Whoever runs the tests may ignore it.
            &format!("exec env --default-signal=HUP {} --log-every 1", line.join(" ")),
            "/dev/null",
        ])
        .env("OMP_NUM_THREADS", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("`script`, of util-linux, gives it a terminal");
    let steps = || {
        let metrics = fs::read_to_string(save.join("metrics.jsonl")).unwrap_or_default();
        metrics.lines().filter(|line| line.contains("\"event\":\"step\"")).count()
    };
    let start = std::time::Instant::now();
    while steps() < 5 {
        assert!(start.elapsed() < Duration::from_secs(120), "no steps in two minutes");
        std::thread::sleep(Duration::from_millis(5));
    }
    terminal.kill().unwrap();
    terminal.wait().unwrap();
    // The lock is free once the run has ended.
    let start = std::time::Instant::now();
    while SaveFolder::open(&save, 100).is_err() {
        assert!(start.elapsed() < Duration::from_secs(60), "it outlives its terminal by a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
    let checkpoint = checkpoint(&save);
    assert_eq!(checkpoint.progress.global_step, steps() as i64);
}

/// A cost that is not finite, a gradient's norm that is not, an update that overflows: each stops
/// the run before anything is saved.
#[test]
fn a_run_that_diverges_stops_and_keeps_the_last_good_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let start = folder.path().join("start");
    command(&start).args(["--max-steps", "9", "--no-eval"]).works();
    let good = checkpoint(&start);
    let scaled = |factor: f64| -> tf::Variables {
        good.variables.iter().map(|(name, tensor)| (name.clone(), tensor * factor)).collect()
    };
    let mut steep = scaled(1.0);
    let softmax_w = &steep["Model/softmax_w"] * 1e38;
    steep.insert("Model/softmax_w".into(), softmax_w);
    for (name, variables, flags, says) in [
        // A finite cost whose gradient is not.
        ("steep", steep, &[][..], "the cost or the gradient's norm"),
        // The first step is finite, and takes the variables out of float32's range.
        (
            "a leap",
            scaled(1.0),
            &["--learning-rate", "1e300", "--max-grad-norm", "1e30"],
            "a variable",
        ),
    ] {
        let save = folder.path().join(name);
        let mut checkpoint = checkpoint(&start);
        checkpoint.variables = variables;
        if name == "a leap" {
            checkpoint.run.config.learning_rate = 1e300;
            checkpoint.run.config.max_grad_norm = 1e30;
        }
        let written = SaveFolder::open(&save, 2).unwrap().save(&checkpoint).unwrap();
        let before = fs::read(&written).unwrap();
        let last = format!("the last good checkpoint is {}", written.display());
        let says =
            ["diverged: at epoch 1, step 10 (global step 10)", says, "--learning-rate", &last];
        let mut run = command_with(&save, &[("--checkpoint-every", "1")]);
        run.args(flags).fails_with(1, &says);
        assert_eq!(checkpoints(&save), ["model-9.safetensors"], "{name}");
        assert_eq!(fs::read(&written).unwrap(), before, "{name}");
    }
}

/// A checkpoint with variables that are no numbers, which this program would not have written, is
/// refused, and the variable is named.
#[test]
fn a_checkpoint_with_nan_is_not_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let save = folder.path().join("run");
    command(&save).args(["--max-steps", "9", "--no-eval"]).works();
    for value in [f64::NAN, f64::INFINITY] {
        let mut checkpoint = checkpoint(&save);
        let _ = checkpoint.variables.get_mut("Model/softmax_b").unwrap().get(0).fill_(value);
        let bad = folder.path().join(format!("{value}"));
        SaveFolder::open(&bad, 2).unwrap().save(&checkpoint).unwrap();
        command(&bad).fails_with(1, &["cannot be resumed", "Model/softmax_b"]);
        assert_eq!(checkpoints(&bad), ["model-9.safetensors"]);
    }
}

/// The names of the checkpoints in a folder.
fn checkpoints(save: &Path) -> Vec<String> {
    let names = fs::read_dir(save).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|n| n.contains("model-")).collect();
    names.sort_by_key(|name| (name.len(), name.clone()));
    names
}

/// How the next process finds what a run left: the number kept, half a file, damaged ones, other
/// data, other threads.
#[test]
fn what_a_run_left_is_taken_up_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let save = folder.path().join("run");
    // Checkpoints are made at 3, 6, ..., 18 and at the end.
    let run = |flags: &[&str]| command(&save).args(flags).works().1;
    run(&["--max-steps", "20", "--no-eval", "--keep", "3"]);
    assert_eq!(
        checkpoints(&save),
        ["model-15.safetensors", "model-18.safetensors", "model-20.safetensors"]
    );

    // A process that was killed while it wrote leaves half a file beside; the next one removes it.
    let half = save.join(".model-18.safetensors.tmp");
    fs::write(&half, b"half").unwrap();
    // A damaged checkpoint is not counted among those that are kept: with --keep 1 the only good
    // one would go for it.
    fs::write(save.join("model-20.safetensors"), b"torn").unwrap();
    let said = run(&["--max-steps", "19", "--no-eval", "--keep", "1"]);
    assert!(!half.exists());
    assert!(said.contains("the damaged file is now") && said.contains("global step 18"), "{said}");
    assert_eq!(checkpoints(&save), ["model-19.safetensors", "model-20.safetensors.damaged"]);

    // Other threads, another mode: said, and done.
    let said = run(&["--max-steps", "21", "--no-eval", "--rnn-mode", "block"]);
    assert!(
        said.contains("rnn_mode was cudnn, is block: the run goes on equal to rounding"),
        "{said}"
    );
    let mut threads = command_with(&save, &[("--threads", "2")]);
    let (_, said) = threads.args(["--max-steps", "22", "--no-eval"]).works();
    assert!(said.contains("threads was 1, is 2"), "{said}");

    // The same words in another order are other data.
    let data = folder.path().join("data");
    let mut lines: Vec<&str> = sample::TRAIN.split_inclusive('\n').collect();
    lines.reverse();
    texts(&data, [&lines.concat(), sample::VALID, sample::TEST]);
    command_with(&save, &[("--data-path", text(&data))]).fails_with(
        1,
        &[
            "cannot be resumed",
            "the training text is not the one",
            "Give the same --data-path to resume it",
        ],
    );

    // A checkpoint with the right checksum whose content cannot be.
    let good = || checkpoint(&save);
    type Wrong = fn(&mut Checkpoint);
    let wrongs: [(Wrong, &str); 6] = [
        (|c| c.run.config.batch_size = 0, "its configuration is invalid: batch_size is 0"),
        (|c| c.run.config.num_layers = 1 << 40, "its configuration is invalid: num_layers"),
        (|c| c.run.cell = "transformer".into(), "its cell"),
        (|c| c.progress.step = -1, "its position in the run is invalid"),
        (|c| c.run.config.vocab_size += 1, "words, expected"),
        (|c| c.state.truncate(1), "the state has shapes"),
    ];
    for (k, (wrong, says)) in wrongs.into_iter().enumerate() {
        let mut checkpoint = good();
        wrong(&mut checkpoint);
        let save = folder.path().join(format!("wrong {k}"));
        fs::create_dir(&save).unwrap();
        // As another program may write it: ours would refuse to.
        SaveFolder::open(&save, 1).unwrap().save(&checkpoint).unwrap();
        command(&save).fails_with(1, &[says]);
    }
}

/// A lock holds as long as its process, however that ends.
#[test]
fn a_lock_does_not_outlive_its_process() {
    let folder = tempfile::tempdir().unwrap();
    let save = folder.path().join("run");
    let mut first = command_with(&save, &[("--max-max-epoch", "100")]).spawn().unwrap();
    while Checkpoint::load(&save, &mut |_| ()).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut second = command_with(&save, &[("--max-max-epoch", "100")]);
    second.fails_with(1, &["another run is using this folder"]);
    first.kill().unwrap();
    first.wait().unwrap();
    command(&save).args(["--max-steps", "1", "--no-eval"]).works();
}

/// A folder that nothing can be written to is refused before anything else is done. A tmpfs mounted
/// read-only, since root may write anywhere else; without the right to mount one, a folder without
/// the right to write.
#[test]
fn a_read_only_folder_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "ro", "tmpfs"]).arg(&disk).output();
    let _unmount = mounted.is_ok_and(|m| m.status.success()).then(|| Unmount(&disk));
    let mut rights = fs::metadata(&disk).unwrap().permissions();
    rights.set_readonly(true);
    let _ = fs::set_permissions(&disk, rights);
    if fs::write(disk.join("writable"), b"").is_ok() {
        panic!("root without the right to mount: there is no read-only folder to try");
    }
    for save in [disk.clone(), disk.join("below")] {
        let (code, out, said) = command(&save).ends();
        assert_eq!((code, out.as_str()), (Some(1), ""), "it trained: {said}");
        assert!(said.contains("--save-path") && said.contains("cannot be written"), "{said}");
    }
}

/// A disk that fills up, at several sizes, in a small tmpfs: needs the right to mount one.
#[test]
#[ignore = "mounts a tmpfs, so it needs root"]
fn a_full_disk_is_told_and_costs_nothing_but_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    command(&whole).works();
    let reference = outcome(&whole);
    let size =
        fs::metadata(whole.join(format!("model-{}.safetensors", reference.0.progress.global_step)))
            .unwrap()
            .len();
    let mount = folder.path().join("disk");
    fs::create_dir(&mount).unwrap();
    let faults = count("DISK_FAULTS", 4);
    for k in 0..faults {
        // Room for the lock, the metrics, and between one and a little under three checkpoints: two
        // kept and one being written do not fit.
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
        let (_, _, errors) = command(&save).ends();
        assert!(
            errors.contains("could not be written") && errors.contains("training goes on"),
            "{room}: {errors}"
        );
        assert!(errors.contains("No space left on device"), "{errors}");
        // Whatever is there is whole, and goes on to the same end once there is room.
        let kept = checkpoint(&save);
        assert!(kept.progress.global_step > 0);
        let roomy = folder.path().join(format!("roomy {k}"));
        copy(&save, &roomy);
        drop(unmount);
        command(&roomy).works();
        let (checkpoint, _) = outcome(&roomy);
        assert_eq!(checkpoint.variables, reference.0.variables);
    }
    println!(
        "TORTURE | disk full while saving, then resumed with room | {faults} | {faults} | 0 |"
    );
}

/// Copies the files of a folder into a new one.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

/// The newest checkpoint torn or damaged at random places: the one before it takes over, and the
/// run ends as it would have.
#[test]
fn a_torn_checkpoint_costs_only_the_steps_since_the_one_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    command(&whole).works();
    let reference = outcome(&whole);
    let start = folder.path().join("start");
    command(&start).args(["--max-steps", "31", "--no-eval"]).works();
    let newest = fs::read(start.join("model-31.safetensors")).unwrap();
    let mut random = Random(7);
    let faults = count("DISK_FAULTS", 4);
    for k in 0..faults {
        let save = folder.path().join(format!("torn {k}"));
        copy(&start, &save);
        let mut torn = newest.clone();
        let place = random.below(newest.len() as u64) as usize;
        if k % 2 == 0 {
            torn.truncate(place);
        } else {
            torn[place] ^= 1 << random.below(8);
        }
        fs::write(save.join("model-31.safetensors"), &torn).unwrap();
        let (_, errors) = command(&save).works();
        assert!(
            errors.contains("model-31.safetensors")
                && errors.contains("resuming at epoch 1, step 30"),
            "{errors}"
        );
        assert_same(&save, &reference, &format!("torn at {place}"));
    }
    println!(
        "TORTURE | newest checkpoint torn or a bit flipped, then resumed | {faults} | {faults} | 0 |"
    );
}
