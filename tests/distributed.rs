//! Workers as processes of their own on the loopback: they must compute the run that one computes,
//! and end with an error that says so when one of them is lost.
//!
//! Some tests start this very program again as a worker, by the name of an ignored test.

mod golden_file;
mod program;

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use golden_file::Golden;
use program::{DROPOUT, Ended, Expect, TINY, checkpoint, ended, metrics, program, text};
use ptb_word_lm::checkpoint::{Checkpoint, RunConfig};
use ptb_word_lm::config::{Config, Precision, RnnMode};
use ptb_word_lm::distributed::{Place, ProcessGroup, Team};
use ptb_word_lm::model::{PtbModel, PtbVariables};
use ptb_word_lm::optimizer::{self, Optimizer};
use ptb_word_lm::reader::RawData;
use ptb_word_lm::rnn::CellType;
use ptb_word_lm::session::{CheckpointEvery, Event, Input, Options, Session};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

fn tiny(more: &[&str]) -> Command {
    let logged = if more.contains(&"--save-path") { &["--log-every", "1"][..] } else { &[] };
    program(&[TINY, DROPOUT, logged, more].concat())
}

/// Flags of a run that ends only by a signal.
const ENDLESS: [&str; 3] = ["--max-max-epoch", "10000", "--no-eval"];

/// Waits until something is done, `seconds` at most.
fn wait_until(seconds: u64, what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(seconds), "{what}: not in {seconds} seconds");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A figure of each of the given events, by their order.
fn figures(path: &Path, event: &str, name: &str) -> Vec<f64> {
    let lines = fs::read_to_string(path).unwrap();
    // The last line of a run that goes on may not be whole yet.
    let events = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let events = events.filter(|line| line["event"] == event);
    events.map(|line| line[name].as_f64().unwrap()).collect()
}

fn assert_close(ours: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert!(
        !expected.is_empty() && ours.len() == expected.len(),
        "{what}: {} and {}",
        ours.len(),
        expected.len()
    );
    for (k, (ours, expected)) in ours.iter().zip(expected).enumerate() {
        assert!(
            (ours / expected - 1.0).abs() < tolerance,
            "{what} {k}: {ours} instead of {expected}"
        );
    }
}

fn assert_same_variables(ours: &Checkpoint, expected: &Checkpoint, tolerance: f64, what: &str) {
    assert_eq!(ours.progress.global_step, expected.progress.global_step, "{what}");
    assert!(ours.variables.keys().eq(expected.variables.keys()));
    let states = ours.state.iter().zip(&expected.state);
    for (ours, expected) in ours.variables.values().zip(expected.variables.values()).chain(states) {
        assert_eq!(ours.size(), expected.size(), "{what}");
        let difference = (ours - expected).abs().max().double_value(&[]);
        assert!(difference < tolerance, "{what}: variables differ by {difference}");
    }
}

/// A port that is free now.
fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string()
}

/// As a launcher, or a person, would set them.
fn as_rank(command: &mut Command, rank: usize, size: usize, port: &str) {
    command
        .envs(
            [("RANK", rank), ("WORLD_SIZE", size), ("LOCAL_RANK", rank)]
                .map(|(name, n)| (name, n.to_string())),
        )
        .envs([("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", port)])
        .env("OMP_NUM_THREADS", "1");
}

/// Waits for a process.
fn end_of(child: Child) -> Ended {
    ended(child.wait_with_output().unwrap())
}

/// Runs an ignored test of this file in `size` processes; their results.
fn as_workers(test: &str, size: usize, environment: &[(&str, &str)]) -> Vec<Ended> {
    let port = free_port();
    let start = |rank| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        as_rank(&mut command, rank, size, &port);
        command
            .args(["--exact", test, "--include-ignored", "--nocapture"])
            .envs(environment.iter().copied());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<Child> = (0..size).map(start).collect();
    children.into_iter().map(end_of).collect()
}

fn assert_all_pass(workers: &[Ended], test: &str) {
    for (rank, (code, out, errors)) in workers.iter().enumerate() {
        assert!(
            *code == Some(0) && out.contains("1 passed"),
            "{test}, rank {rank}: {out} {errors}"
        );
    }
}

/// This process as a worker of [`as_workers`].
fn join() -> ProcessGroup {
    let place = Place::from_environment().unwrap().expect("started by as_workers");
    ProcessGroup::join(&place, Device::Cpu, Duration::from_secs(30)).unwrap()
}

#[test]
fn collectives() {
    for size in [2, 4] {
        assert_all_pass(&as_workers("collectives_worker", size, &[]), "collectives");
    }
}

#[test]
#[ignore = "a worker of `collectives`"]
fn collectives_worker() {
    let group = join();
    let (rank, size) = (group.rank(), group.size());
    let ranks = || Tensor::arange(size, (Kind::Float, Device::Cpu));
    for kind in [Kind::Float, Kind::Double, Kind::Int64] {
        // Larger than one of Gloo's segments, and with every rank's own values.
        let own = Tensor::arange(300_001, (kind, Device::Cpu)).g_add_scalar(rank);
        let sum = own.copy();
        group.all_reduce(&sum).unwrap().wait().unwrap();
        let expected =
            Tensor::arange(300_001, (kind, Device::Cpu)) * size + (size * (size - 1) / 2);
        // float32's sums are exact here too: below 2^24.
        assert_eq!(sum, expected);
        let largest = own.copy();
        group.all_reduce_max(&largest).unwrap().wait().unwrap();
        assert_eq!(largest, Tensor::arange(300_001, (kind, Device::Cpu)) + (size - 1));
    }
    // Two under way at once.
    let (a, b) = (ranks().get(rank), ranks().get(rank) * 10);
    let (first, second) = (group.all_reduce(&a).unwrap(), group.all_reduce(&b).unwrap());
    second.wait().unwrap();
    first.wait().unwrap();
    let total = ranks().sum(Kind::Float);
    assert_eq!((a, b), (total.copy(), total * 10));

    let (all, gathered) =
        group.all_gather(&Tensor::from_slice(&[rank, -rank]).view([1, 2])).unwrap();
    gathered.wait().unwrap();
    let expected: Vec<Vec<i64>> = (0..size).map(|r| vec![r, -r]).collect();
    assert_eq!(Vec::<Vec<i64>>::try_from(all).unwrap(), expected);

    let of_rank_0 = Tensor::from(rank as f64 + 7.0);
    group.broadcast(&of_rank_0).unwrap();
    assert_eq!(of_rank_0.double_value(&[]), 7.0);
    let long = "x".repeat(100_000);
    assert_eq!(
        group.broadcast_text("key", if rank == 0 { &long } else { "not mine" }).unwrap(),
        long
    );
    assert_eq!(group.sum(rank as f64).unwrap(), (size * (size - 1) / 2) as f64);
    let shares = group.rows(&Tensor::arange(4 * size, (Kind::Int64, Device::Cpu)));
    assert_eq!(Vec::<i64>::try_from(shares).unwrap(), (4 * rank..4 * rank + 4).collect::<Vec<_>>());
    group.barrier().unwrap();
}

/// TensorFlow's own numbers, through several workers: every golden file whose batch can be shared
/// out.
#[test]
fn golden_files_through_workers() {
    for size in [2, 4] {
        let outputs = as_workers("golden_worker", size, &[]);
        assert_all_pass(&outputs, "golden_worker");
        let seen = outputs[0].1.matches("GOLDEN ").count();
        assert!(
            seen >= 2,
            "{size} workers: only {seen} golden files have a batch that they can share out"
        );
    }
}

#[test]
#[ignore = "a worker of `golden_files_through_workers`"]
fn golden_worker() {
    let group = join();
    for golden in Golden::all() {
        let config = &golden.config;
        if config.batch_size % group.size() != 0 {
            continue;
        }
        println!("GOLDEN {}", golden.name);
        for mode in [RnnMode::Basic, RnnMode::Block, RnnMode::Cudnn] {
            let variables = golden.variables(Kind::Float, Device::Cpu);
            let model = PtbModel::new(&variables, true, mode).with_team(&group);
            let mut state = model.zero_state(config.batch_size / group.size());
            for k in 0..golden.steps {
                let masks = golden.masks(k, Kind::Float, Device::Cpu);
                let (x, y) = golden.batch(k, Device::Cpu);
                let (cost, gradients, next) = model.gradients(&x, &y, &state, &masks).unwrap();
                let norm = optimizer::global_norm(&gradients);
                let what = format!("{} {mode} step {k}", golden.name);
                for (ours, name) in [(&cost, "cost"), (&norm, "global_norm")] {
                    assert_close(&[ours.double_value(&[])], &[golden.at(name, k)], 1e-5, &what);
                }
                let scale = optimizer::clip_scale(&norm, config.max_grad_norm);
                let rate = Tensor::from(config.learning_rate as f32);
                Optimizer::GradientDescent.apply_gradients(
                    &variables.trainable(),
                    &gradients,
                    &scale,
                    &rate,
                );
                state = next;
            }
            let ours = variables.to_tensorflow().unwrap();
            for (variable, expected) in golden.group("final") {
                let scale = expected.abs().max().double_value(&[]).max(1e-12);
                let difference =
                    (&ours[&variable] - &expected).abs().max().double_value(&[]) / scale;
                assert!(difference < 1e-5, "{} {mode} {variable}: {difference}", golden.name);
            }
        }
    }
}

/// One epoch with dropout, by 1, 2 and 4 workers, in all modes: the same costs and norms step by
/// step, perplexities, lines and variables.
#[test]
fn several_workers_compute_the_run_of_one() {
    for mode in ["cudnn", "block", "basic"] {
        compare_with_one(&["2", "4"], &["--rnn-mode", mode]);
    }
}

/// Adam's slots are on every worker; they are saved, resumed and compared with the variables.
#[test]
fn several_workers_compute_the_run_of_one_by_adam() {
    let adam = ["--optimizer", "adam", "--learning-rate", "0.01"];
    let folder = compare_with_one(&["2"], &adam);
    let trained = checkpoint(&folder.path().join("2"));
    assert!(trained.variables.contains_key("Model/embedding/Adam_1"));
    assert!(trained.variables["Model/softmax_w/Adam"].abs().max().double_value(&[]) > 0.0);
    // Worker 0 shares the slots of its checkpoint out to the others.
    let parts = folder.path().join("parts");
    for (workers, steps) in [("2", "10"), ("1", "20"), ("2", "1000")] {
        let more = ["--workers", workers, "--max-steps", steps, "--save-path", text(&parts)];
        tiny(&[&adam[..], &more].concat()).works();
    }
    assert_same_variables(&checkpoint(&parts), &trained, 1e-4, "2, 1, 2 workers");
}

/// Compares a run by several workers with the run of one. Returns the folder with the runs, each
/// named by its number of workers.
fn compare_with_one(several: &[&str], flags: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let run = |workers: &str| {
        let save = folder.path().join(workers);
        let more = ["--workers", workers, "--save-path", text(&save)];
        let (lines, _) = tiny(&[flags, &more].concat()).works();
        (save, lines)
    };
    let (one, lines) = run("1");
    for &workers in several {
        let (several, their_lines) = run(workers);
        let what = format!("{flags:?}, {workers} workers");
        let starts = |lines: &str| {
            let numbered = lines.lines().filter_map(|line| line.split_once(": "));
            numbered.map(|(start, _)| start.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(starts(&their_lines), starts(&lines), "{what}: rank 0 alone prints");
        let files = [&several, &one].map(|save| save.join("metrics.jsonl"));
        for (event, name, tolerance) in [
            ("step", "cost", 1e-5),
            ("step", "global_norm", 1e-4),
            ("epoch", "perplexity", 1e-5),
            ("epoch", "tokens", 1e-9),
            ("final", "perplexity", 1e-5),
        ] {
            let [ours, expected] = files.each_ref().map(|file| figures(file, event, name));
            assert_close(&ours, &expected, tolerance, &format!("{what}: {event} {name}"));
        }
        assert_eq!(metrics(&files[0])[0]["workers"].to_string(), workers);
        assert_same_variables(&checkpoint(&several), &checkpoint(&one), 1e-5, &what);
    }
    folder
}

#[test]
fn a_run_goes_on_with_another_number_of_workers() {
    let folder = tempfile::tempdir().unwrap();
    let (straight, changing) = (folder.path().join("straight"), folder.path().join("changing"));
    tiny(&["--max-steps", "40", "--no-eval", "--save-path", text(&straight)]).works();
    for (workers, steps) in [("4", "10"), ("1", "20"), ("2", "30"), ("4", "40")] {
        tiny(&[
            "--max-steps",
            steps,
            "--no-eval",
            "--workers",
            workers,
            "--save-path",
            text(&changing),
        ])
        .works();
    }
    let [straight, changing] = [checkpoint(&straight), checkpoint(&changing)];
    // In the middle of an epoch, so that the state of all rows is there too.
    assert_eq!(changing.state.len(), 4);
    assert_same_variables(&changing, &straight, 1e-5, "4, 1, 2, 4 workers");
}

/// Kills or stops workers in the middle of a run: within the time-out all others end, and one of
/// them says who was lost; the checkpoint is whole, and the run goes on from it.
#[test]
fn a_lost_worker_ends_the_run_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let timeout = 5;
    for (workers, victim, signal) in [
        (2, 1, "KILL"),
        (2, 1, "STOP"),
        (2, 0, "KILL"),
        (2, 0, "STOP"),
        (4, 2, "KILL"),
        (4, 3, "STOP"),
    ] {
        let what = format!("SIG{signal} to rank {victim} of {workers}");
        let save = folder.path().join(&what);
        let (count, seconds) = (workers.to_string(), timeout.to_string());
        let more = ["--workers", &count, "--worker-timeout", &seconds, "--save-path", text(&save)];
        let endless = [&ENDLESS[..], &["--checkpoint-every", "3"], &more].concat();
        let parent = tiny(&endless).spawn().unwrap();
        wait_for_step(&save, 6);
        let start = Instant::now();
        signal_to(signal, worker_pid(&parent, victim));
        let (code, _, errors) = end_of(parent);
        assert_ne!(code, Some(0), "{what}");
        // Some seconds beyond: a worker that is silent is held for lost only then.
        assert!(
            start.elapsed() < Duration::from_secs(timeout + 10),
            "{what}: it took {:?}",
            start.elapsed()
        );
        assert!(errors.contains(&format!("rank {victim} is lost")), "{what}: {errors}");
        if signal == "KILL" {
            assert!(
                errors.contains(&format!("rank {victim} (process "))
                    && errors.contains("ended by signal 9"),
                "{errors}"
            );
        }
        let kept = checkpoint(&save).progress.global_step;
        assert!(kept >= 6, "{what}");
        let (steps, workers) = ((kept + 2).to_string(), if workers == 2 { "4" } else { "1" });
        let more = ["--max-steps", &steps, "--workers", workers, "--save-path", text(&save)];
        tiny(&[&ENDLESS[..], &more].concat()).works();
        assert_eq!(checkpoint(&save).progress.global_step, kept + 2, "{what}");
    }
}

fn wait_for_step(save: &Path, step: i64) {
    wait_until(120, &format!("a checkpoint of step {step}"), || {
        Checkpoint::load(save, &mut |_| ()).is_ok_and(|c| c.progress.global_step >= step)
    });
}

fn signal_to(signal: &str, process: u32) {
    let sent =
        Command::new("kill").args([&format!("-{signal}"), &process.to_string()]).status().unwrap();
    assert!(sent.success());
}

/// A worker's process, by the RANK in its environment.
fn worker_pid(parent: &Child, rank: usize) -> u32 {
    let children = format!("/proc/{0}/task/{0}/children", parent.id());
    let wanted = format!("RANK={rank}");
    let of_rank = |pid: &&str| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
        environment.split(|&byte| byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    let children = fs::read_to_string(children).unwrap();
    children.split_whitespace().find(of_rank).expect("a worker of this rank").parse().unwrap()
}

#[test]
fn a_signal_stops_all_workers_after_the_same_step_and_saves() {
    let folder = tempfile::tempdir().unwrap();
    let more = ["--checkpoint-every", "3", "--workers", "2", "--save-path"];
    let endless = [&ENDLESS[..], &more].concat();
    // To the starting process, and to one worker alone, which tells the other.
    for (to, signal, code) in
        [(None, "INT", 130), (None, "TERM", 143), (None, "HUP", 129), (Some(1), "TERM", 143)]
    {
        let save = folder.path().join(format!("{to:?} {signal}"));
        let parent = tiny(&[&endless[..], &[text(&save)]].concat()).spawn().unwrap();
        wait_for_step(&save, 6);
        signal_to(signal, to.map_or(parent.id(), |rank| worker_pid(&parent, rank)));
        let (found, _, errors) = end_of(parent);
        assert_eq!(found, Some(code), "{to:?} {signal}: {errors}");
        let steps = figures(&save.join("metrics.jsonl"), "step", "global_step");
        assert_eq!(checkpoint(&save).progress.global_step, *steps.last().unwrap() as i64 + 1);
    }
    // The starting process itself is killed: the workers stop and save.
    let save = folder.path().join("parent");
    let mut parent = tiny(&[&endless[..], &[text(&save)]].concat()).spawn().unwrap();
    wait_for_step(&save, 6);
    let workers = [0, 1].map(|rank| worker_pid(&parent, rank));
    parent.kill().unwrap();
    parent.wait().unwrap();
    // A zombie, which nobody waits for here, has no command line.
    let is_gone = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default() == b"";
    let what = "the end of the workers whose starting process was killed";
    wait_until(30, what, || workers.iter().all(is_gone));
    assert!(checkpoint(&save).progress.global_step >= 6);
}

/// SIGUSR1 to the starting process, or to any worker: rank 0 saves once, and all continue.
#[test]
fn a_checkpoint_of_all_workers_is_saved_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let endless = [&ENDLESS[..], &["--checkpoint-every", "1000000", "--keep", "1000000"]].concat();
    for to in [None, Some(0), Some(1)] {
        let save = folder.path().join(format!("{to:?}"));
        let flags = [&endless[..], &["--workers", "2", "--save-path", text(&save)]].concat();
        let parent = tiny(&flags).spawn().unwrap();
        let steps = || {
            let file = save.join("metrics.jsonl");
            if file.exists() { figures(&file, "step", "global_step") } else { vec![] }
        };
        let wait_for = |step: f64| {
            wait_until(120, &format!("{to:?}: step {step}"), || {
                steps().last().is_some_and(|last| *last >= step)
            });
        };
        wait_for(3.0);
        let epoch = Checkpoint::load(&save, &mut |_| ()).map_or(0, |c| c.progress.epoch);
        signal_to("USR1", to.map_or(parent.id(), |rank| worker_pid(&parent, rank)));
        let within_epochs = || {
            let names = fs::read_dir(&save).unwrap().map(|entry| entry.unwrap().path());
            let checkpoints =
                names.filter(|path| path.extension().is_some_and(|e| e == "safetensors"));
            let checkpoints = checkpoints.filter_map(|path| Checkpoint::read(&path).ok());
            checkpoints.filter(|checkpoint| !checkpoint.state.is_empty()).collect::<Vec<_>>()
        };
        wait_until(60, &format!("{to:?}: a checkpoint"), || !within_epochs().is_empty());
        let saved = within_epochs();
        assert!(saved[0].progress.epoch >= epoch);
        // The state is that of all rows.
        assert_eq!(saved[0].state[0].size(), [100, 16], "{to:?}");
        wait_for(saved[0].progress.global_step as f64 + 5.0);
        signal_to("TERM", parent.id());
        let (code, _, errors) = end_of(parent);
        assert_eq!(code, Some(143), "{to:?}: {errors}");
        // That one, and the one at the end.
        assert!(within_epochs().len() <= 2, "{to:?}");
    }
}

/// By hand, or on several machines: RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the
/// environment, the store kept by rank 0.
#[test]
fn workers_started_one_by_one_find_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let (alone, save) = (folder.path().join("alone"), folder.path().join("save"));
    tiny(&["--max-steps", "20", "--no-eval", "--save-path", text(&alone)]).works();
    let port = free_port();
    let start = |rank, size, more: &[&str]| {
        let mut command = tiny(more);
        as_rank(&mut command, rank, size, &port);
        command.spawn().unwrap()
    };
    let more = ["--max-steps", "20", "--no-eval", "--save-path", text(&save)];
    let late = start(1, 2, &more);
    std::thread::sleep(Duration::from_millis(500));
    let [first, second] = [start(0, 2, &more), late].map(end_of);
    assert_eq!(first.0, Some(0), "{}", first.2);
    assert_eq!(second, (Some(0), String::new(), String::new()), "rank 1 prints nothing");
    assert_same_variables(&checkpoint(&save), &checkpoint(&alone), 1e-5, "by hand");

    // Rank 0, and the store with it, is killed.
    let save = folder.path().join("endless");
    let more = ["--checkpoint-every", "3", "--worker-timeout", "5", "--save-path", text(&save)];
    let endless = [&ENDLESS[..], &more].concat();
    let (mut first, second) = (start(0, 2, &endless), start(1, 2, &endless));
    wait_for_step(&save, 6);
    first.kill().unwrap();
    first.wait().unwrap();
    let (code, _, message) = end_of(second);
    assert_eq!(code, Some(1));
    assert!(
        message.starts_with("error: rank 1: rank 0, which keeps the store at 127.0.0.1:"),
        "{message}"
    );
    assert!(checkpoint(&save).progress.global_step >= 6);

    // Rank 1 never comes.
    let (_, _, message) = end_of(start(0, 2, &["--worker-timeout", "2"]));
    assert!(
        message.contains("rank 1 of 2 did not come to 127.0.0.1:")
            && message.contains("within 2 s"),
        "{message}"
    );

    // Told different things.
    let two = |first: &[&str], second: &[&str]| {
        [start(0, 2, first), start(1, 2, second)].map(|child| end_of(child).2)
    };
    let [first, second] = two(&["--max-steps", "3", "--seed", "1"], &["--max-steps", "3"]);
    assert!(second.contains("rank 1: the workers do not run the same: run is"), "{second}");
    assert!(first.contains("rank 1 failed: the workers do not run the same"), "{first}");

    // A failure of one worker's own reaches the other.
    let [first, second] = two(&["--save-path", "/proc/none"], &[]);
    assert!(first.contains("error: --save-path /proc/none: cannot be written"), "{first}");
    assert!(second.contains("rank 1: rank 0 failed: --save-path /proc/none"), "{second}");
}

/// What differs between the workers is found out, and whose it is.
#[test]
fn variables_that_drift_apart_are_an_error() {
    let outputs = as_workers("drifting_worker", 2, &[]);
    assert_all_pass(&outputs, "drifting_worker");
}

#[test]
#[ignore = "a worker of `variables_that_drift_apart_are_an_error`"]
fn drifting_worker() {
    let group = join();
    let data = RawData::read("sample").unwrap();
    let config = Config {
        vocab_size: data.vocabulary.len() as i64,
        hidden_size: 8,
        num_steps: 5,
        batch_size: 20,
        max_max_epoch: 1,
        ..Config::TEST
    };
    let variables =
        PtbVariables::new(&config, CellType::BasicLstm, Device::Cpu, Kind::Float, 0).unwrap();
    let input = Input::new(&data, &variables).unwrap();
    let run = RunConfig {
        config,
        cell: "basic_lstm".into(),
        optimizer: Default::default(),
        seed: 0,
        limits: Default::default(),
        markers: None,
    };
    let options = Options {
        rnn_mode: RnnMode::Cudnn,
        precision: Precision::Fp32,
        cuda_graph: false,
        log_every: 0,
        max_steps: Some(250),
        evaluate: false,
        checkpoint_every: CheckpointEvery::Steps(1000),
        stop: Default::default(),
        save: Default::default(),
        evaluate_when_stopped: false,
    };
    let mut session = Session::new(&variables, &input, &data.vocabulary, run, options, None);
    session.join(&group).unwrap();
    let mut steps = 0;
    let error = session.train(&mut |event| {
        if let Event::Tick { done } = event {
            steps = done;
            if done == 120 && group.rank() == 1 {
                // One value of one variable, by a little.
                let _ =
                    tch::no_grad(|| variables.trainable()[0].get(0).get(0).g_mul_scalar_(1.001));
            }
        }
    });
    let error = format!("{:#}", error.unwrap_err());
    assert!(
        error.contains("after global step 200 the variables of rank 1 are not those of rank 0"),
        "{error}"
    );
    assert_eq!(steps, 200);
    group.barrier().unwrap();
}

#[test]
fn what_cannot_be_shared_out_is_refused_in_words() {
    let fails = |more: &[&str], environment: &[(&str, &str)]| {
        tiny(more).envs(environment.iter().copied()).fails()
    };
    let (code, error) = fails(&["--workers", "3"], &[]);
    assert!(
        code == 2
            && error.contains("1, 2, 4, 5, 10, 20, 25, 50, 100")
            && error.contains("--batch-size is 100; ")
            && error.contains("Or take 99 or 102 "),
        "{error}"
    );
    let (code, error) = fails(&["--num-gpus", "2"], &[]);
    assert!(code == 2 && error.contains("--device cpu --workers 2"), "{error}");
    let (code, error) = fails(
        &["--workers", "2"],
        &[("RANK", "0"), ("WORLD_SIZE", "4"), ("MASTER_ADDR", "127.0.0.1")],
    );
    assert!(code == 2 && error.contains("has started 4 workers (WORLD_SIZE)"), "{error}");
    let (code, error) = fails(&[], &[("RANK", "0"), ("WORLD_SIZE", "4")]);
    assert!(code == 2 && error.contains("MASTER_ADDR is not set"), "{error}");
}

#[test]
#[ignore = "needs PTB: its folder in PTB_DATA (make test-distributed DATA=FOLDER)"]
fn ptb_two_workers_cost_what_one_does() {
    let data = std::env::var("PTB_DATA").expect("PTB_DATA names PTB's folder");
    let folder = tempfile::tempdir().unwrap();
    for model in ["small", "medium"] {
        let costs: BTreeMap<&str, Vec<f64>> = ["1", "2"]
            .map(|workers| {
                let file = folder.path().join(format!("{model} {workers}"));
                let base = ["train", "--device", "cpu", "--model", model, "--data-path", &data];
                let short = ["--max-steps", "10", "--no-eval", "--log-every", "1"];
                let more = ["--workers", workers, "--metrics", text(&file)];
                program(&[&base[..], &short, &more].concat()).works();
                (workers, figures(&file, "step", "cost"))
            })
            .into();
        assert_eq!(costs["2"].len(), 10);
        assert_close(&costs["2"], &costs["1"], 1e-5, model);
    }
}
