//! A run of its own beside others, as one of several independent tasks of a job: the launcher's
//! variables are those of one of several workers, and `--workers 1` says that it is not.

mod program;

use std::process::Command;

use program::{Expect, TINY, metrics, program, text};

/// What each launcher of docs/distributed.md sets for the second of two tasks, and which variable
/// gives their number.
const LAUNCHERS: [(&str, &[(&str, &str)]); 5] = [
    (
        "WORLD_SIZE",
        &[
            ("RANK", "1"),
            ("WORLD_SIZE", "2"),
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "2"),
            ("MASTER_ADDR", "127.0.0.1"),
            ("MASTER_PORT", "29500"),
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
        ],
    ),
    ("WORLD_SIZE", &[("RANK", "1"), ("WORLD_SIZE", "2")]),
    (
        "OMPI_COMM_WORLD_SIZE",
        &[
            ("OMPI_COMM_WORLD_RANK", "1"),
            ("OMPI_COMM_WORLD_SIZE", "2"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
        ],
    ),
    (
        "PMI_SIZE",
        &[("PMI_RANK", "1"), ("PMI_SIZE", "2"), ("MPI_LOCALRANKID", "1"), ("MPI_LOCALNRANKS", "2")],
    ),
    (
        "SLURM_STEP_NUM_TASKS",
        &[
            ("SLURM_PROCID", "1"),
            ("SLURM_STEP_NUM_TASKS", "2"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_STEP_TASKS_PER_NODE", "2"),
        ],
    ),
];

fn run(flags: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = program(&[TINY, flags].concat());
    command.envs(environment.iter().copied());
    command
}

#[test]
fn one_worker_is_alone_whatever_the_environment_says() {
    let folder = tempfile::tempdir().unwrap();
    let nonsense: [&[(&str, &str)]; 2] =
        [&[("RANK", "one")], &[("RANK", "7"), ("WORLD_SIZE", "2")]];
    for (k, environment) in LAUNCHERS.into_iter().map(|(_, set)| set).chain(nonsense).enumerate() {
        for more in [&["--workers", "1"][..], &["--workers=1", "--num_gpus=0"]] {
            let file = folder.path().join(format!("{k}.jsonl"));
            let flags = ["--max-steps", "2", "--no-eval", "--metrics", text(&file)];
            let (out, _) = run(&[&flags, more].concat(), environment).works();
            assert!(out.contains("Train Perplexity"), "rank 1 prints too");
            assert_eq!(metrics(&file)[0]["workers"], 1, "{environment:?}");
        }
    }
}

#[test]
fn a_refusal_names_the_variable_and_the_way_out() {
    for (variable, environment) in LAUNCHERS {
        // 99 rows cannot be shared out between two.
        for flags in [&["--batch-size", "99"][..], &["--workers", "3"]] {
            // Without MASTER_ADDR it does not get that far, and names both.
            let says = ["A run of its own needs --workers 1", variable];
            run(flags, environment).fails_with(2, &says);
        }
    }
    for (environment, says) in [
        (&[("RANK", "one")][..], "RANK is \"one\""),
        (&[("RANK", "1")], "WORLD_SIZE is not set"),
        (&[("RANK", "2"), ("WORLD_SIZE", "2")], "the last is 1"),
    ] {
        run(&[], environment).fails_with(2, &[says, "--workers 1"]);
    }
    // A number that the user has given himself is not the environment's.
    let said = run(&["--workers", "3"], &[]).fails_with(2, &["1, 2, 4, 5, 10"]);
    assert!(!said.contains("--workers 1\n"), "{said}");
}
