//! The original's `main()` and `run_epoch()`: the epochs, the learning-rate schedule, the state
//! that is fed back at every step.
//!
//! A session does not print and does not write metrics. It reports what happens as [`Event`]s to
//! the `listen` callback.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use nix::sys::signal::Signal;
use tch::{Device, Kind, Tensor};
use thiserror::Error;

use crate::checkpoint::{Checkpoint, Progress, Provenance, RunConfig, SaveFolder, digest_of};
use crate::config::{ParseError, Precision, RnnMode};
use crate::device;
pub use crate::evaluate::evaluate;
use crate::evaluate::evaluate_until;
pub use crate::event::{Evaluation, Event};
use crate::model::{PtbModel, PtbVariables};
use crate::pretrained::match_rows;
use crate::reader::{Producer, RawData, Vocabulary};
use crate::rnn::State;
use crate::team::{Pending, Solo, Team};
use crate::tf;
use crate::train_step::TrainStep;

/// Steps between two comparisons of the workers' variables.
const COMPARE_EVERY: i64 = 100;

/// The three texts, laid out as batches on the model's device.
pub struct Input {
    /// Batches of the training text.
    pub train: Producer,
    /// The validation text, in the same layout.
    pub valid: Producer,
    /// The test text, read word by word (`batch_size` and `num_steps` 1), as the original reads it.
    pub test: Producer,
    /// MD5 of the three texts.
    pub md5: [String; 3],
}

impl Input {
    /// Lays the texts out for a model.
    ///
    /// # Errors
    /// A text that is too short for the configuration.
    pub fn new(data: &RawData, variables: &PtbVariables) -> Result<Self> {
        let config = variables.config();
        let device = variables.device();
        Ok(Input {
            train: Producer::new(&data.train, config.batch_size, config.num_steps, device)?,
            valid: Producer::new(&data.valid, config.batch_size, config.num_steps, device)?,
            test: Producer::new(&data.test, 1, 1, device)?,
            md5: [&data.train, &data.valid, &data.test].map(|split| split.md5.clone()),
        })
    }
}

/// How often a run is saved, besides at the end of every epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CheckpointEvery {
    /// After this many steps.
    Steps(i64),
    /// After this many minutes.
    Minutes(f64),
}

impl FromStr for CheckpointEvery {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let every = match s.strip_suffix('m') {
            Some(minutes) => {
                minutes.parse().ok().filter(|m: &f64| m.is_finite() && *m > 0.0).map(Self::Minutes)
            }
            None => s.parse().ok().filter(|&n| n > 0).map(Self::Steps),
        };
        every.ok_or(ParseError("it is a number of steps, such as 500, or of minutes, such as 10m"))
    }
}

impl fmt::Display for CheckpointEvery {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            CheckpointEvery::Steps(n) => write!(f, "{n}"),
            CheckpointEvery::Minutes(m) => write!(f, "{m}m"),
        }
    }
}

/// Options of a session that are not hyperparameters.
#[derive(Clone, Debug)]
pub struct Options {
    /// How the recurrent layers are run.
    pub rnn_mode: RnnMode,
    /// Precision of the large products.
    pub precision: Precision,
    /// Number of steps from one [`Event::Step`] to the next; 0 for none.
    pub log_every: i64,
    /// Stop after this many steps in all.
    pub max_steps: Option<i64>,
    /// Whether to evaluate the validation and test texts.
    pub evaluate: bool,
    /// When to save within an epoch.
    pub checkpoint_every: CheckpointEvery,
    /// Number of the signal to stop by, set by a signal handler; 0 is none. The session then
    /// finishes the step, saves, and stops.
    pub stop: Arc<AtomicUsize>,
    /// If true, the session finishes the step, saves, continues, and resets it.
    pub save: Arc<AtomicBool>,
    /// Whether to evaluate even after a stop by SIGINT.
    pub evaluate_when_stopped: bool,
    /// Whether to record the step on a GPU as a CUDA graph and replay it.
    pub cuda_graph: bool,
}

impl Default for Options {
    /// What `train` does without flags.
    fn default() -> Self {
        Options {
            rnn_mode: RnnMode::Cudnn,
            precision: Precision::Fp32,
            log_every: 0,
            max_steps: None,
            evaluate: true,
            checkpoint_every: CheckpointEvery::Minutes(10.0),
            stop: Arc::default(),
            save: Arc::default(),
            evaluate_when_stopped: false,
            cuda_graph: true,
        }
    }
}

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

/// A training run.
pub struct Session<'a> {
    variables: &'a PtbVariables,
    input: &'a Input,
    vocabulary: &'a Vocabulary,
    run: RunConfig,
    options: Options,
    folder: Option<&'a SaveFolder>,
    team: &'a dyn Team,
    progress: Progress,
    /// [`Provenance::init_from`]
    init_from: Option<String>,
    /// State of this worker's rows to resume from within an epoch; otherwise empty.
    resumed_state: State,
    /// The signal to stop by that all workers agreed on; 0 is none.
    agreed_stop: usize,
    /// Time of the last attempt to save, and its error if it failed.
    saved_at: Instant,
    save_error: Option<anyhow::Error>,
}

impl<'a> Session<'a> {
    /// Creates a run that starts from the beginning.
    pub fn new(
        variables: &'a PtbVariables,
        input: &'a Input,
        vocabulary: &'a Vocabulary,
        run: RunConfig,
        options: Options,
        folder: Option<&'a SaveFolder>,
    ) -> Self {
        Session {
            variables,
            input,
            vocabulary,
            run,
            options,
            folder,
            team: &Solo,
            progress: Progress::default(),
            init_from: None,
            resumed_state: State::new(),
            agreed_stop: 0,
            saved_at: Instant::now(),
            save_error: None,
        }
    }

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

    /// Position in the run.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Words of the data.
    pub fn vocabulary(&self) -> &Vocabulary {
        self.vocabulary
    }

    /// Starts from these variables instead of random ones, and from the optimizer's slots if there
    /// are any among them. If the `words` of their rows are known and are not the data's, the rows
    /// are matched by word, and words that are new begin at random. Returns how many these are;
    /// none if the words are the data's.
    ///
    /// # Errors
    /// Variables or slots that are missing or do not fit.
    pub fn start_from(
        &mut self,
        variables: &tf::Variables,
        words: Option<&Vocabulary>,
    ) -> Result<Option<usize>> {
        self.init_from = Some(digest_of(variables)?);
        let Some(words) = words.filter(|words| *words != self.vocabulary) else {
            self.variables.assign(variables)?;
            self.variables.assign_slots(variables)?;
            return Ok(None);
        };
        let fresh = self.variables.to_tensorflow()?;
        let (matched, new) = match_rows(variables, words, self.vocabulary, &fresh)?;
        self.variables.assign(&matched)?;
        self.variables.assign_slots(&matched)?;
        Ok(Some(new))
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
        for variable in self.variables.trained() {
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

    /// Trains to the end, to `max_steps` or until [`Options::stop`], and evaluates: the original's
    /// `main()`.
    ///
    /// # Errors
    /// A cost that is not finite ([`Diverged`]); the last checkpoint could not be written.
    pub fn train(&mut self, listen: &mut dyn FnMut(Event)) -> Result<()> {
        let epochs = self.run.config.max_max_epoch;
        let mut step = self.train_step()?;
        let mut validated = false;
        while self.progress.epoch < epochs && !self.at_limit() {
            let complete = self.run_epoch(&mut step, listen)?;
            // Saved before the evaluation, which may take long. On a GPU it takes less time than
            // saving, so a complete epoch is saved only once, after it.
            if !(complete && self.variables.device().is_cuda()) {
                self.save(step.state(), listen)?;
            }
            if self.evaluates() {
                self.validate(listen)?;
                validated = true;
            }
            if !complete || self.stopped() {
                break;
            }
            self.progress =
                Progress { epoch: self.progress.epoch + 1, step: 0, costs: 0.0, ..self.progress };
            self.save(&[], listen)?;
        }
        if self.evaluates() {
            if !validated && self.progress.epoch < epochs {
                self.validate(listen)?;
            }
            self.test(listen)?;
        }
        match self.save_error.take() {
            Some(error) => {
                Err(error.context("the run is over, but its last checkpoint could not be written"))
            }
            None => Ok(()),
        }
    }

    /// The original's `run_epoch(session, m, eval_op=m.train_op, verbose=True)`. Returns whether
    /// the epoch was finished.
    fn run_epoch(
        &mut self,
        train_step: &mut TrainStep,
        listen: &mut dyn FnMut(Event),
    ) -> Result<bool> {
        let producer = &self.input.train;
        let epoch_size = producer.epoch_size();
        let epoch = EpochClock { done: self.progress.step, start: Instant::now() };
        let learning_rate = self.run.config.learning_rate_at(self.progress.epoch);
        train_step.assign_lr(learning_rate)?;
        if epoch.done == 0 {
            let (_, rows) = self.team.share(producer.batch_size());
            train_step.assign_state(&self.model(true).zero_state(rows))?;
        }
        let number = self.progress.epoch + 1;
        listen(Event::Epoch { epoch: number, learning_rate, done: epoch.done, epoch_size });
        while self.progress.step < epoch_size && !self.at_limit() && !self.stopped() {
            let agreement = self.agree()?;
            // The state is fed back within `TrainStep`: each step starts from the final state of
            // the step before.
            let notice = train_step.run(&producer.columns(self.progress.step), self.mask_seed())?;
            notice.into_iter().for_each(|text| listen(Event::Notice { text }));
            self.progress.step += 1;
            self.progress.global_step += 1;
            self.report(train_step, &epoch, listen)?;
            let save_is_due = self.conclude(agreement)?;
            if save_is_due && self.progress.step < epoch_size {
                self.add_costs(train_step)?;
                self.save(train_step.state(), listen)?;
            }
        }
        self.add_costs(train_step)?;
        let complete = self.progress.step == epoch_size;
        // A process that was stopped after an epoch's last step has reported the epoch.
        if epoch.done == epoch_size {
            return Ok(complete);
        }
        let iters = self.progress.step * producer.num_steps();
        let result =
            Evaluation::new(self.progress.costs, iters, producer.batch_size(), epoch.start);
        let steps = (self.progress.step, epoch_size);
        listen(Event::EpochEnd { epoch: number, split: "train", result, complete, steps });
        Ok(complete)
    }

    /// Reports the step that was just done: the original's progress line and the logged step, if
    /// they are due.
    fn report(
        &mut self,
        train_step: &mut TrainStep,
        epoch: &EpochClock,
        listen: &mut dyn FnMut(Event),
    ) -> Result<()> {
        let producer = &self.input.train;
        let (epoch_size, done) = (producer.epoch_size(), self.progress.step);
        // Steps are counted from 0, as in the original.
        let (step, global_step) = (done - 1, self.progress.global_step - 1);
        let line = step % (epoch_size / 10).max(1) == 10;
        let log = self.options.log_every > 0 && global_step % self.options.log_every == 0;
        // On a GPU this would wait for the step, so it is done only when the costs are needed.
        if line || log || self.variables.device() == Device::Cpu {
            self.add_costs(train_step)?;
        }
        if line || log {
            let iters = done * producer.num_steps();
            let perplexity = (self.progress.costs / iters as f64).exp();
            let words = (done - epoch.done) * producer.num_steps() * producer.batch_size();
            let wps = words as f64 / epoch.start.elapsed().as_secs_f64();
            if log {
                let [cost, global_norm] = train_step.last()?;
                let (epoch, lr) = (
                    self.progress.epoch + 1,
                    self.run.config.learning_rate_at(self.progress.epoch),
                );
                listen(Event::Step {
                    epoch,
                    step,
                    global_step,
                    cost,
                    global_norm,
                    lr,
                    perplexity,
                    wps,
                });
            }
            if line {
                listen(Event::Progress {
                    fraction: step as f64 / epoch_size as f64,
                    perplexity,
                    wps,
                });
            }
        }
        listen(Event::Tick { done });
        Ok(())
    }

    fn validate(&self, listen: &mut dyn FnMut(Event)) -> Result<()> {
        listen(Event::Evaluating { split: "valid" });
        if let Some(result) =
            evaluate_until(&self.model(false), &self.input.valid, &|| !self.evaluates())?
        {
            let epoch = self.progress.epoch + 1;
            let steps = (self.progress.step, self.input.train.epoch_size());
            listen(Event::EpochEnd { epoch, split: "valid", result, complete: true, steps });
        }
        Ok(())
    }

    /// The test text is a single row, so worker 0 evaluates it alone.
    fn test(&self, listen: &mut dyn FnMut(Event)) -> Result<()> {
        if self.team.rank() == 0 {
            listen(Event::Evaluating { split: "test" });
            let model = self.model(false).with_team(&Solo);
            if let Some(result) = evaluate_until(&model, &self.input.test, &|| !self.evaluates())? {
                listen(Event::Final(result));
            }
        }
        Ok(())
    }

    fn model(&self, is_training: bool) -> PtbModel<'a> {
        PtbModel::new(self.variables, is_training, self.options.rnn_mode)
            .precision(self.options.precision)
            .with_team(self.team)
    }

    /// Creates the training step, with the state to resume from.
    fn train_step(&self) -> Result<TrainStep<'a>> {
        let batch_size = self.run.config.batch_size;
        let (_, rows) = self.team.share(batch_size);
        // Communication between workers cannot be recorded.
        let record = self.options.cuda_graph && self.team.size() == 1;
        let mut step = TrainStep::new(self.model(true), batch_size, rows, record)?;
        step.assign_state(&self.resumed_state)?;
        Ok(step)
    }

    /// Seed of the next step's dropout masks. It depends on the run's seed and the step alone, so
    /// that a resumed run draws the same masks as an uninterrupted one.
    fn mask_seed(&self) -> Option<i64> {
        let dropout = self.run.config.keep_prob < 1.0;
        dropout.then(|| step_seed(self.run.seed, self.progress.global_step))
    }

    fn at_limit(&self) -> bool {
        self.options.max_steps.is_some_and(|max| self.progress.global_step >= max)
    }

    /// The signal to stop by; 0 is none. All workers must stop after the same step, so a signal
    /// counts only when all workers have agreed on it.
    fn signal(&self) -> usize {
        if self.team.size() > 1 {
            self.agreed_stop
        } else {
            self.options.stop.load(Ordering::Relaxed)
        }
    }

    fn stopped(&self) -> bool {
        self.signal() != 0
    }

    fn evaluates(&self) -> bool {
        let interrupted = self.signal() == Signal::SIGINT as usize;
        self.options.evaluate
            && (!self.stopped() || self.options.evaluate_when_stopped && interrupted)
    }

    /// Starts to agree with the other workers on what to do after this step: which signal to stop
    /// by, and whether to save, because a worker was asked to or because it is time by worker 0's
    /// clock.
    fn agree(&self) -> Result<(Tensor, Pending)> {
        let stop = self.options.stop.load(Ordering::Relaxed) as i64;
        let asked = self.options.save.swap(false, Ordering::Relaxed);
        let save = asked || self.team.rank() == 0 && self.time_to_save();
        let wishes = Tensor::from_slice(&[stop, i64::from(save)]);
        let pending = self.team.all_reduce_max(&wishes)?;
        Ok((wishes, pending))
    }

    /// Applies what all workers agreed on for the step that was just done. Returns whether to save.
    fn conclude(&mut self, (wishes, agreed): (Tensor, Pending)) -> Result<bool> {
        agreed.wait()?;
        let [stop, save] = [0, 1].map(|i| wishes.int64_value(&[i]));
        self.agreed_stop = stop as usize;
        if stop != 0 {
            // For the exit code of workers that did not receive the signal themselves.
            self.options.stop.store(self.agreed_stop, Ordering::Relaxed);
        }
        if self.progress.global_step % COMPARE_EVERY == 0 {
            self.ensure_equal_variables()?;
        }
        Ok(match self.options.checkpoint_every {
            CheckpointEvery::Steps(n) => save != 0 || self.progress.global_step % n == 0,
            CheckpointEvery::Minutes(_) => save != 0,
        })
    }

    fn time_to_save(&self) -> bool {
        match self.options.checkpoint_every {
            CheckpointEvery::Steps(_) => false,
            CheckpointEvery::Minutes(m) => self.saved_at.elapsed().as_secs_f64() >= 60.0 * m,
        }
    }

    /// Compares all workers' variables with worker 0's.
    fn ensure_equal_variables(&self) -> Result<()> {
        let strays = self.team.strays(&self.variables.trained())?;
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

    /// Adds the costs of the steps since the last call to the epoch's.
    fn add_costs(&mut self, train_step: &mut TrainStep) -> Result<()> {
        let [cost, global_norm] = train_step.take_sums()?;
        if !(cost.is_finite() && global_norm.is_finite()) {
            return Err(self.diverged("the cost or the gradient's norm"));
        }
        self.progress.costs += cost;
        Ok(())
    }

    fn diverged(&self, what: &'static str) -> anyhow::Error {
        if self.team.rank() != 0 {
            return anyhow!("the run has diverged; rank 0 says more");
        }
        let kept = match self.folder.map(SaveFolder::newest) {
            None => "and since nothing is saved there is no checkpoint of it".to_owned(),
            Some(Some(path)) => format!("the last good checkpoint is {}", path.display()),
            Some(None) => "and there is no checkpoint of it yet".to_owned(),
        };
        let Progress { epoch, step, global_step, .. } = self.progress;
        Diverged { epoch: epoch + 1, step, global_step, what, kept }.into()
    }

    /// Writes a checkpoint; `state` is that of this worker's rows. Numbers that are not finite are
    /// never saved: they are the error [`Diverged`]. If writing fails, that is reported and
    /// training continues: the earlier checkpoints are still there.
    fn save(&mut self, state: &[Tensor], listen: &mut dyn FnMut(Event)) -> Result<()> {
        self.saved_at = Instant::now();
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
                self.save_error = None;
                listen(Event::Saved { path });
            }
            Err(error) => {
                listen(Event::SaveFailed { error: format!("{error:#}") });
                self.save_error = Some(error);
            }
        }
        Ok(())
    }
}

/// The step and the time at which this process started the epoch.
struct EpochClock {
    done: i64,
    start: Instant,
}

/// SplitMix64's finalizer over seed and step: neighbouring steps get unrelated seeds.
fn step_seed(seed: i64, global_step: i64) -> i64 {
    let mut z =
        (seed as u64).wrapping_add((global_step as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) as i64
}
