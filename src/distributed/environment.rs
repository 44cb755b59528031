//! Which worker this process is, by the environment that torchrun, mpirun or Slurm gave it.

use std::env;

use thiserror::Error;

use crate::config::ConfigError;

/// An environment in which the place cannot be found. The message names the variable.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct EnvironmentError(String);

/// A worker's place among the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number, from 0 (`RANK`).
    pub rank: i64,
    /// How many workers there are (`WORLD_SIZE`).
    pub size: i64,
    /// The variable of the launcher that gives `size`.
    pub size_from: &'static str,
    /// Its number on its machine, from 0: which GPU it takes (`LOCAL_RANK`).
    pub local_rank: i64,
    /// The machine where the workers find each other (`MASTER_ADDR`): worker 0's, unless the
    /// launcher keeps the store itself.
    pub host: String,
    /// And the port there (`MASTER_PORT`).
    pub port: u16,
    /// Whether the launcher keeps the store (`TORCHELASTIC_USE_AGENT_STORE`), and not worker 0.
    pub agent_store: bool,
    /// How often the launcher has started the workers again (`TORCHELASTIC_RESTART_COUNT`).
    pub restart: i64,
}

/// The variables of launchers: rank, size, rank on the machine, and size on the machine. The first
/// launcher whose rank is set counts.
const LAUNCHERS: [[&str; 4]; 4] = [
    // torchrun, this program for the workers that it starts, and people by hand
    ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"],
    // Open MPI's mpirun
    [
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ],
    // MPICH's and Intel's
    ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"],
    // Slurm's srun. (SLURM_NTASKS is also set where nothing was started by srun: in a batch script
    // itself.)
    ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"],
];

const DEFAULT_PORT: u16 = 29500;

impl Place {
    /// This process's place, if a launcher started it as one of several workers.
    ///
    /// # Errors
    /// Variables that are missing, no numbers, or contradict each other.
    pub fn from_environment() -> Result<Option<Self>, EnvironmentError> {
        Self::from(|name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, EnvironmentError> {
        let number = |name: &str| match get(name) {
            None => Ok(None),
            Some(text) => match text.parse::<i64>() {
                Ok(n) if n >= 0 => Ok(Some(n)),
                _ => Err(EnvironmentError(format!(
                    "the environment's {name} is {text:?}; it must be a number from 0"
                ))),
            },
        };
        let missing = |name: &str, because: &str| {
            EnvironmentError(format!(
                "{because}, but {name} is not set: each worker needs RANK, WORLD_SIZE, LOCAL_RANK, \
                 MASTER_ADDR and MASTER_PORT in its environment (docs/distributed.md)"
            ))
        };
        let Some([rank_name, size_name, local_name, local_size_name]) =
            LAUNCHERS.into_iter().find(|[rank, size, ..]| {
                get(rank).is_some() && (*rank == "RANK" || get(size).is_some())
            })
        else {
            return Ok(None);
        };
        let rank = number(rank_name)?.unwrap_or(0);
        let size = number(size_name)?
            .ok_or_else(|| missing(size_name, &format!("{rank_name} is {rank}")))?;
        if size <= 1 {
            return Ok(None);
        }
        if rank >= size {
            return Err(EnvironmentError(format!(
                "{rank_name} is {rank} and {size_name} {size}: ranks count from 0, so the last is \
                 {}",
                size - 1
            )));
        }
        // Slurm's is a list such as 4(x2); a plain number is one machine.
        let local_size = get(local_size_name).and_then(|text| text.parse::<i64>().ok());
        let one_machine = local_size == Some(size);
        // Only the GPU hangs on it: where nobody tells, it is the machine's first.
        let local_rank = number(local_name)?.unwrap_or(0);
        let host = match get("MASTER_ADDR") {
            Some(host) => host,
            None if one_machine => "127.0.0.1".into(),
            None => return Err(missing("MASTER_ADDR", &format!("{size_name} is {size}"))),
        };
        let port = match get("MASTER_PORT") {
            Some(text) => text.parse().ok().filter(|&port| port > 0).ok_or_else(|| {
                EnvironmentError(format!(
                    "the environment's MASTER_PORT is {text:?}; it must be a port, such as 29500"
                ))
            })?,
            None => DEFAULT_PORT,
        };
        let agent_store = get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
        let restart = number("TORCHELASTIC_RESTART_COUNT")?.unwrap_or(0);
        Ok(Some(Place {
            rank,
            size,
            size_from: size_name,
            local_rank,
            host,
            port,
            agent_store,
            restart,
        }))
    }
}

/// Refuses a batch that cannot be shared out evenly, and says what can.
///
/// # Errors
/// `workers` does not divide `batch_size`.
pub fn check_batch_size(batch_size: i64, workers: i64) -> Result<(), ConfigError> {
    if workers > 0 && batch_size % workers == 0 {
        return Ok(());
    }
    let divisors: Vec<String> =
        (1..=batch_size.min(4096)).filter(|n| batch_size % n == 0).map(|n| n.to_string()).collect();
    let (below, above) = (batch_size / workers * workers, (batch_size / workers + 1) * workers);
    let sizes = if below > 0 { format!("{below} or {above}") } else { above.to_string() };
    let allowed = format!(
        "{workers} workers cannot share out so many rows evenly. Workers that can: {}. Or take \
         {sizes} (another batch size is another run)",
        divisors.join(", ")
    );
    Err(ConfigError::new("batch_size", batch_size, &allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(variables: &[(&str, &str)]) -> Result<Option<Place>, EnvironmentError> {
        Place::from(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn launchers_are_understood() {
        let torchrun = [
            ("RANK", "5"),
            ("WORLD_SIZE", "8"),
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "4"),
            ("MASTER_ADDR", "node0"),
            ("MASTER_PORT", "1234"),
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
            ("TORCHELASTIC_RESTART_COUNT", "2"),
        ];
        let expected = Place {
            rank: 5,
            size: 8,
            size_from: "WORLD_SIZE",
            local_rank: 1,
            host: "node0".into(),
            port: 1234,
            agent_store: true,
            restart: 2,
        };
        assert_eq!(place(&torchrun).unwrap(), Some(expected));
        let mpirun = [
            ("OMPI_COMM_WORLD_RANK", "1"),
            ("OMPI_COMM_WORLD_SIZE", "2"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
        ];
        let found = place(&mpirun).unwrap().unwrap();
        assert_eq!((found.rank, found.size, found.local_rank), (1, 2, 1));
        assert_eq!(found.size_from, "OMPI_COMM_WORLD_SIZE");
        assert_eq!(
            (found.host.as_str(), found.port, found.agent_store),
            ("127.0.0.1", DEFAULT_PORT, false)
        );
        let srun = [
            ("SLURM_PROCID", "3"),
            ("SLURM_STEP_NUM_TASKS", "4"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_STEP_TASKS_PER_NODE", "2(x2)"),
            ("MASTER_ADDR", "node0"),
        ];
        let found = place(&srun).unwrap().unwrap();
        assert_eq!(
            (found.rank, found.size, found.local_rank, found.host.as_str()),
            (3, 4, 1, "node0")
        );
        assert_eq!(found.size_from, "SLURM_STEP_NUM_TASKS");
    }

    #[test]
    fn what_is_not_a_launcher_is_left_alone() {
        for alone in [
            vec![],
            vec![("WORLD_SIZE", "4")],
            vec![("RANK", "0"), ("WORLD_SIZE", "1")],
            // A batch script of Slurm's, and an interactive shell.
            vec![("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")],
            vec![("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "1")],
        ] {
            assert_eq!(place(&alone).unwrap(), None, "{alone:?}");
        }
    }

    #[test]
    fn half_an_environment_is_an_error_that_names_the_rest() {
        let error = |variables: &[_]| place(variables).unwrap_err().0;
        assert!(error(&[("RANK", "1")]).contains("WORLD_SIZE is not set"));
        assert!(error(&[("RANK", "1"), ("WORLD_SIZE", "2")]).contains("MASTER_ADDR is not set"));
        assert!(error(&[("RANK", "2"), ("WORLD_SIZE", "2")]).contains("the last is 1"));
        assert!(error(&[("RANK", "one"), ("WORLD_SIZE", "2")]).contains("RANK is \"one\""));
        let with_port = |port| {
            error(&[
                ("RANK", "1"),
                ("WORLD_SIZE", "2"),
                ("MASTER_ADDR", "a"),
                ("MASTER_PORT", port),
            ])
        };
        assert!(
            with_port("0").contains("MASTER_PORT") && with_port("70000").contains("MASTER_PORT")
        );
    }

    #[test]
    fn uneven_batches_say_what_works() {
        assert!(check_batch_size(20, 4).is_ok());
        let error = check_batch_size(20, 3).unwrap_err().to_string();
        assert!(
            error.contains("1, 2, 4, 5, 10, 20.") && error.contains("Or take 18 or 21 "),
            "{error}"
        );
        let error = check_batch_size(2, 4).unwrap_err().to_string();
        assert!(error.contains("1, 2.") && error.contains("Or take 4 "), "{error}");
    }
}
