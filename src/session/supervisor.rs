//! What the original leaves to `tf.train.Supervisor`: resuming, saving and stopping a run; with
//! several workers, all of them after the same step.

use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use nix::sys::signal::Signal;
use tch::{Kind, Tensor};
use thiserror::Error;

use super::{CheckpointEvery, Session};
use crate::checkpoint::{Checkpoint, Progress, Provenance, SaveFolder};
use crate::device;
use crate::event::Event;
use crate::rnn::State;
use crate::team::{Pending, Team};
use crate::tf;

/// Steps between two comparisons of the workers' variables.
const COMPARE_EVERY: i64 = 100;

/// The error of a run whose cost, gradients or variables are no longer finite numbers.
#[derive(Debug, Error)]
#[error(
    "the run has diverged: at epoch {epoch}, step {step} (global step {global_step}) {what} is \
     no longer a finite number. Nothing of it was saved; {kept}"
)]
pub struct Diverged {
    /// Counted from 1.
    epoch: i64,
    /// Steps of the epoch that were done.
    step: i64,
    /// Steps that were done in all.
    global_step: i64,
    what: &'static str,
    /// Says which checkpoint is left.
    kept: String,
}

/// State of stopping and saving.
pub(super) struct Supervisor {
    /// The signal to stop by that all workers agreed on; 0 is none.
    agreed_stop: usize,
    /// Time of the last attempt to save, and its error if it failed.
    saved_at: Instant,
    save_error: Option<anyhow::Error>,
}

/// What the workers are agreeing on.
pub(super) struct Agreement {
    /// The signal to stop by, and whether to save: of this worker, then the largest of all.
    request: Tensor,
    pending: Pending,
}

impl Default for Supervisor {
    fn default() -> Self {
        Supervisor { agreed_stop: 0, saved_at: Instant::now(), save_error: None }
    }
}

impl<'a> Session<'a> {
    /// Data and settings that this run's numbers depend on.
    pub fn provenance(&self) -> Provenance {
        let with = [
            ("device", device::name(self.variables.device())),
            ("threads", tch::get_num_threads().to_string()),
            ("rnn_mode", self.options.rnn_mode.to_string()),
            ("precision", self.options.precision.to_string()),
        ];
        let with = with.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Provenance { data: Some(self.input.md5.clone()), init_from: self.init_from.clone(), with }
    }

    /// Starts from these variables, and the optimizer's slots if there are any among them, instead
    /// of random ones. `origin` is [`Provenance::init_from`]: the digest of the variables as they
    /// were read.
    ///
    /// # Errors
    /// Variables or slots that are missing or do not fit.
    pub fn start_from(&mut self, variables: &tf::Variables, origin: String) -> Result<()> {
        self.variables.assign(variables)?;
        self.variables.assign_slots(variables)?;
        self.init_from = Some(origin);
        Ok(())
    }

    /// Resumes from `checkpoint`.
    ///
    /// # Errors
    /// Variables or a state that do not fit; other data.
    pub fn resume(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        checkpoint.made.ensure_same_data(&self.provenance())?;
        let sizes = |state: &State| state.iter().map(Tensor::size).collect::<Vec<_>>();
        let zero_state = self.model(true).zero_state(self.run.config.batch_size);
        let expected = sizes(&self.variables.narrow_state(&zero_state));
        let found = sizes(&checkpoint.state);
        ensure!(
            found == expected || found.is_empty() && checkpoint.progress.step == 0,
            "the state has shapes {found:?}, but this model needs {expected:?}"
        );
        self.variables.assign(&checkpoint.variables)?;
        let slots = self.variables.assign_slots(&checkpoint.variables)?;
        ensure!(
            slots || checkpoint.progress.global_step == 0,
            "the optimizer's slots are missing, which a run needs after its first step"
        );
        self.resumed_state = self.variables.widen_state(&checkpoint.state);
        self.progress = checkpoint.progress.clone();
        self.init_from = checkpoint.made.init_from.clone();
        Ok(())
    }

    /// Makes this session one of the workers of `team`. All workers start from worker 0's position
    /// and variables, so worker 0 must resume before it joins. Only worker 0 has a `folder`.
    ///
    /// # Errors
    /// A worker is lost; variables that still differ afterwards.
    pub fn join(&mut self, team: &'a dyn Team) -> Result<()> {
        let start = serde_json::to_string(&(&self.progress, self.resumed_state.len()))?;
        let start = team.broadcast_text("start", &start)?;
        let (progress, states): (Progress, usize) = serde_json::from_str(&start)?;
        for variable in self.variables.global_variables() {
            team.broadcast(&variable.detach())?;
        }
        let batch_size = self.run.config.batch_size;
        let mut whole = std::mem::take(&mut self.resumed_state);
        if whole.len() != states {
            whole = self.model(false).zero_state(batch_size);
        }
        for tensor in whole {
            let tensor = tensor.contiguous();
            team.broadcast(&tensor)?;
            self.resumed_state.push(team.rows(&tensor).copy());
        }
        self.progress = progress;
        self.team = team;
        self.ensure_equal_variables()
    }

    /// The signal to stop by; 0 is none. All workers must stop after the same step, so a signal
    /// counts only when all workers have agreed on it.
    fn signal(&self) -> usize {
        if self.team.size() > 1 {
            self.supervisor.agreed_stop
        } else {
            self.options.stop.load(Ordering::Relaxed)
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.signal() != 0
    }

    /// Whether the validation and test texts are still to be evaluated.
    pub(super) fn should_evaluate(&self) -> bool {
        let interrupted = self.signal() == Signal::SIGINT as usize;
        self.options.evaluate
            && (!self.is_stopped() || self.options.evaluate_when_stopped && interrupted)
    }

    /// Saves after an epoch, or after the part of it that was trained, and evaluates the validation
    /// text. Returns whether the run ends here.
    ///
    /// It is saved before the evaluation, which may take long. If a complete epoch is to be saved
    /// only once, that is after it, when the epoch is over; here if the run ends or the evaluation
    /// fails.
    pub(super) fn save_and_validate(
        &mut self,
        complete: bool,
        state: &[Tensor],
        listen: &mut dyn FnMut(Event),
    ) -> Result<bool> {
        let saved = !(complete && self.saves_last);
        if saved {
            self.save(state, listen)?;
        }
        let validated = if self.should_evaluate() { self.validate(listen) } else { Ok(()) };
        let ends = !complete || self.is_stopped();
        if !saved && (ends || validated.is_err()) {
            self.save(state, listen)?;
        }
        validated.map(|()| ends)
    }

    /// Starts to agree with the other workers on what to do after this step: which signal to stop
    /// by, and whether to save, because a worker was asked to or because it is time by worker 0's
    /// clock.
    pub(super) fn start_agreement(&self) -> Result<Agreement> {
        let stop = self.options.stop.load(Ordering::Relaxed) as i64;
        let asked = self.options.save.swap(false, Ordering::Relaxed);
        let save = asked || self.team.rank() == 0 && self.save_is_due_by_time();
        let request = Tensor::from_slice(&[stop, i64::from(save)]);
        let pending = self.team.all_reduce_max(&request)?;
        Ok(Agreement { request, pending })
    }

    /// Applies what all workers agreed on for the step that was just done. Returns whether to save.
    pub(super) fn finish_agreement(&mut self, agreement: Agreement) -> Result<bool> {
        agreement.pending.wait()?;
        let [stop, save] = [0, 1].map(|i| agreement.request.int64_value(&[i]));
        self.supervisor.agreed_stop = stop as usize;
        if stop != 0 {
            // For the exit code of workers that did not receive the signal themselves.
            self.options.stop.store(stop as usize, Ordering::Relaxed);
        }
        Ok(match self.options.checkpoint_every {
            CheckpointEvery::Steps(n) => save != 0 || self.progress.global_step % n == 0,
            CheckpointEvery::Minutes(_) => save != 0,
        })
    }

    /// Compares all workers' variables with worker 0's, every [`COMPARE_EVERY`] steps.
    pub(super) fn compare_workers_if_due(&self) -> Result<()> {
        if self.progress.global_step % COMPARE_EVERY == 0 {
            self.ensure_equal_variables()?;
        }
        Ok(())
    }

    fn save_is_due_by_time(&self) -> bool {
        match self.options.checkpoint_every {
            CheckpointEvery::Steps(_) => false,
            CheckpointEvery::Minutes(m) => {
                self.supervisor.saved_at.elapsed().as_secs_f64() >= 60.0 * m
            }
        }
    }

    /// Compares all workers' variables with worker 0's.
    fn ensure_equal_variables(&self) -> Result<()> {
        let strays = self.team.strays(&self.variables.global_variables())?;
        let strays: Vec<String> = strays.iter().map(|rank| format!("rank {rank}")).collect();
        ensure!(
            strays.is_empty(),
            "after global step {} the variables of {} are not those of rank 0. All workers must \
             run on machines of one kind; where they do, a machine's memory or processor has \
             failed. Nothing was saved after the last comparison",
            self.progress.global_step,
            strays.join(", ")
        );
        Ok(())
    }

    pub(super) fn diverged(&self, what: &'static str) -> anyhow::Error {
        if self.team.rank() != 0 {
            return anyhow!("the run has diverged; the message of rank 0 says more");
        }
        let kept = match self.folder.map(SaveFolder::newest) {
            None => "and since nothing is saved there is no checkpoint of it".to_owned(),
            Some(Some(path)) => format!("the last good checkpoint is {}", path.display()),
            Some(None) => "and there is no checkpoint of it yet".to_owned(),
        };
        let Progress { epoch, step, global_step, .. } = self.progress;
        Diverged { epoch: epoch + 1, step, global_step, what, kept }.into()
    }

    /// Errors if the last attempt to save failed.
    pub(super) fn ensure_saved(&mut self) -> Result<()> {
        match self.supervisor.save_error.take() {
            Some(error) => {
                Err(error.context("the run is over, but its last checkpoint could not be written"))
            }
            None => Ok(()),
        }
    }

    /// Writes a checkpoint; `state` is that of this worker's rows. Numbers that are not finite are
    /// never saved: they are the error [`Diverged`]. If writing fails, that is reported and
    /// training continues: the earlier checkpoints are still there.
    pub(super) fn save(&mut self, state: &[Tensor], listen: &mut dyn FnMut(Event)) -> Result<()> {
        self.supervisor.saved_at = Instant::now();
        self.ensure_equal_variables()?;
        let mut whole = State::new();
        for own in state {
            let (all, gathered) = self.team.all_gather(own)?;
            gathered.wait()?;
            whole.push(all);
        }
        let Some(folder) = self.folder else { return Ok(()) };
        let mut variables = self.variables.to_tensorflow()?;
        variables.extend(self.variables.slots_to_tensorflow()?);
        let checkpoint = Checkpoint {
            run: self.run.clone(),
            made: self.provenance(),
            progress: self.progress.clone(),
            variables,
            state: self.variables.narrow_state(&whole),
            vocabulary: Some(self.vocabulary.clone()),
        };
        for tensor in checkpoint.variables.values().chain(&checkpoint.state) {
            // A cost that is finite may still come with an update that is not.
            if !tensor.f_sum(Kind::Double)?.f_double_value(&[])?.is_finite() {
                return Err(self.diverged("a variable"));
            }
        }
        match folder.save(&checkpoint) {
            Ok(path) => {
                self.supervisor.save_error = None;
                listen(Event::Saved { path });
            }
            Err(error) => {
                listen(Event::SaveFailed { error: format!("{error:#}") });
                self.supervisor.save_error = Some(error);
            }
        }
        Ok(())
    }
}
