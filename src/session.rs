//! What the original's `main()` and `run_epoch()` do: the epochs, the learning-rate schedule, the state fed back at every step.
//!
//! Nothing here knows about terminals or files of figures: what happens is told as [`Event`]s to whoever listens.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::checkpoint::{Checkpoint, Made, Progress, RunConfig, SaveFolder};
use crate::config::{ConfigError, Precision, RnnMode};
use crate::device;
use crate::distributed::{Pending, Workers, digest};
use crate::evaluate::evaluate_until;
use crate::graph::FixedStep;
use crate::model::{PtbModel, PtbVariables};
use crate::reader::{Producer, RawData, Vocabulary};
use crate::rnn::State;

pub use crate::evaluate::{Evaluation, evaluate};

/// Every so many steps the workers' variables are compared.
const COMPARE_EVERY: i64 = 100;

/// What happens in a run, in the order in which it happens. Epochs count from 1 here, as they are printed.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An epoch begins, or goes on after a resume.
    Epoch {
        /// Counted from 1.
        epoch: i64,
        /// Of this epoch.
        learning_rate: f64,
        /// Steps of the epoch that an earlier process did.
        done: i64,
        /// Steps in the epoch.
        epoch_size: i64,
    },
    /// A training step is done. Nothing is read from the device for it.
    Tick {
        /// Steps of the epoch that are done.
        done: i64,
    },
    /// The original's progress line is due.
    Progress {
        /// Part of the epoch that is behind, as the original counts it: `step / epoch_size`.
        fraction: f64,
        /// Of the epoch so far.
        perplexity: f64,
        /// Words per second of the epoch so far, in this process.
        wps: f64,
    },
    /// Every `log_every` steps.
    Step {
        /// Counted from 1.
        epoch: i64,
        /// Counted from 0, within the epoch.
        step: i64,
        /// Counted from 0, over all epochs.
        global_step: i64,
        /// This step's own: total cross entropy divided by the batch size.
        cost: f64,
        /// TensorFlow's global norm before clipping.
        global_norm: f64,
        /// Learning rate.
        lr: f64,
        /// Of the epoch so far.
        perplexity: f64,
        /// Words per second of the epoch so far, in this process.
        wps: f64,
    },
    /// A pass over a split is done: training, or validation after it.
    EpochEnd {
        /// Counted from 1.
        epoch: i64,
        /// `train` or `valid`.
        split: &'static str,
        /// Its figures.
        result: Evaluation,
        /// Whether the pass covered the whole split; `--max-steps` may end training within an epoch.
        complete: bool,
    },
    /// The test text is evaluated: the run is over.
    Final(Evaluation),
    /// A checkpoint is written.
    Saved {
        /// Where.
        path: PathBuf,
    },
    /// Something that a person should know; training goes on.
    Notice {
        /// In words.
        text: String,
    },
    /// A checkpoint could not be written; training goes on, and the next one is tried in its time.
    SaveFailed {
        /// Why, in words.
        error: String,
    },
}

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
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum CheckpointEvery {
    /// After so many steps.
    Steps(i64),
    /// After so much time.
    Minutes(f64),
}

impl FromStr for CheckpointEvery {
    type Err = ConfigError;

    fn from_str(s: &str) -> Result<Self, ConfigError> {
        let every = match s.strip_suffix('m') {
            Some(minutes) => {
                minutes.parse().ok().filter(|m: &f64| m.is_finite() && *m > 0.0).map(Self::Minutes)
            }
            None => s.parse().ok().filter(|&n| n > 0).map(Self::Steps),
        };
        every.ok_or_else(|| {
            ConfigError("it is a number of steps, such as 500, or of minutes, such as 10m".into())
        })
    }
}

impl TryFrom<String> for CheckpointEvery {
    type Error = ConfigError;

    fn try_from(s: String) -> Result<Self, ConfigError> {
        s.parse()
    }
}

impl From<CheckpointEvery> for String {
    fn from(every: CheckpointEvery) -> String {
        every.to_string()
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

/// How a session runs, apart from what it computes.
#[derive(Clone, Debug)]
pub struct Options {
    /// How the recurrent layers are run.
    pub rnn_mode: RnnMode,
    /// What the large products are computed in.
    pub precision: Precision,
    /// An [`Event::Step`] every so many steps; 0 for none.
    pub log_every: i64,
    /// Stop after this many steps in all.
    pub max_steps: Option<i64>,
    /// Whether to evaluate the validation and test texts.
    pub evaluate: bool,
    /// When to save within an epoch.
    pub checkpoint_every: CheckpointEvery,
    /// Not 0: finish the step, save, and stop. Signal handlers set it, to the signal's number.
    pub stop: Arc<AtomicUsize>,
    /// Evaluate even when stopped, if by SIGINT.
    pub evaluate_when_stopped: bool,
    /// On a GPU: record the step as a CUDA graph and replay it.
    pub cuda_graph: bool,
}

/// A training run.
pub struct Session<'a> {
    variables: &'a PtbVariables,
    input: &'a Input,
    vocabulary: &'a Vocabulary,
    run: RunConfig,
    options: Options,
    folder: Option<&'a SaveFolder>,
    workers: Option<&'a dyn Workers>,
    progress: Progress,
    /// Of this worker's rows.
    state: State,
    /// The signal to stop by that all workers know of; 0 is none.
    agreed_stop: usize,
    /// When the last checkpoint was due, and why it could not be written, if so.
    saved_at: Instant,
    save_error: Option<anyhow::Error>,
    /// Cost and global norm, added up on the device since they were last read, in double precision.
    pending: Tensor,
    /// On a GPU: the step on fixed buffers, which `state` then stands in.
    fixed: Option<FixedStep<'a>>,
}

impl<'a> Session<'a> {
    /// A run from its beginning.
    pub fn new(
        variables: &'a PtbVariables,
        input: &'a Input,
        vocabulary: &'a Vocabulary,
        run: RunConfig,
        options: Options,
        folder: Option<&'a SaveFolder>,
    ) -> Self {
        let pending = Tensor::zeros([2], (Kind::Double, variables.device()));
        Session {
            variables,
            input,
            vocabulary,
            run,
            options,
            folder,
            workers: None,
            progress: Progress::default(),
            state: State::new(),
            agreed_stop: 0,
            saved_at: Instant::now(),
            save_error: None,
            pending,
            fixed: None,
        }
    }

    /// From which data this run is made, and with what.
    pub fn made(&self) -> Made {
        let with = [
            ("device", device::name(self.variables.device())),
            ("threads", tch::get_num_threads().to_string()),
            ("rnn_mode", self.options.rnn_mode.to_string()),
            ("precision", self.options.precision.to_string()),
        ];
        let with = with.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Made { data: Some(self.input.md5.clone()), with }
    }

    /// Where the run stands.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Goes on where `checkpoint` was written.
    ///
    /// # Errors
    /// Variables or a state that do not fit; other data.
    pub fn resume(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        checkpoint.made.ensure_same_data(&self.made())?;
        let sizes = |state: &State| state.iter().map(Tensor::size).collect::<Vec<_>>();
        let expected = sizes(&self.model(true).zero_state(self.run.config.batch_size));
        let found = sizes(&checkpoint.state);
        ensure!(
            found == expected || found.is_empty() && checkpoint.progress.step == 0,
            "the state has shapes {found:?}, but this model needs {expected:?}"
        );
        self.variables.assign(&checkpoint.variables)?;
        let device = self.variables.device();
        self.state = checkpoint.state.iter().map(|tensor| tensor.to_device(device)).collect();
        self.progress = checkpoint.progress.clone();
        Ok(())
    }

    /// Makes this session one of several, after worker 0's was resumed, if it was: all others take over where it stands. `folder` is worker
    /// 0's alone.
    ///
    /// # Errors
    /// A worker is lost; variables that differ all the same.
    pub fn join(&mut self, workers: &'a dyn Workers) -> Result<()> {
        let start = serde_json::to_string(&(&self.progress, self.state.len()))?;
        let start = workers.broadcast_text("start", &start)?;
        let (progress, states): (Progress, usize) = serde_json::from_str(&start)?;
        for variable in self.variables.trainable() {
            workers.broadcast(&variable.detach())?;
        }
        if self.state.len() != states {
            self.state = self.model(false).zero_state(self.run.config.batch_size);
        }
        self.state = self
            .state
            .iter()
            .map(|whole| {
                let whole = whole.contiguous();
                workers.broadcast(&whole)?;
                Ok(workers.rows(&whole).copy())
            })
            .collect::<Result<_>>()?;
        self.progress = progress;
        self.workers = Some(workers);
        self.ensure_equal_variables()
    }

    /// Compares this worker's variables with worker 0's, by a digest.
    fn ensure_equal_variables(&self) -> Result<()> {
        let Some(workers) = self.workers else { return Ok(()) };
        let variables = self.variables.trainable();
        let (digests, gathered) =
            workers.all_gather(&digest(&variables).unsqueeze(0).to_device(Device::Cpu))?;
        gathered.wait()?;
        let differs = |rank: i64| digests.get(rank) != digests.get(0);
        let others: Vec<String> =
            (0..workers.size()).filter(|&rank| differs(rank)).map(|rank| format!("rank {rank}")).collect();
        ensure!(
            others.is_empty(),
            "after global step {} the variables of {} are not those of rank 0. All workers must run on machines of one kind; where they do, a \
             machine's memory or processor has failed. Nothing was saved after the last comparison",
            self.progress.global_step,
            others.join(", ")
        );
        Ok(())
    }

    /// The state of all rows, from all workers.
    fn whole_state(&self) -> Result<State> {
        let whole = |own: &Tensor| match self.workers {
            None => Ok(own.shallow_clone()),
            Some(workers) => {
                let (all, gathered) = workers.all_gather(own)?;
                gathered.wait()?;
                Ok(all)
            }
        };
        self.state.iter().map(whole).collect()
    }

    /// Begins to agree with the other workers on what follows this step: whether to stop, and by worker 0's clock whether to save.
    fn agree(&self) -> Result<Option<(Tensor, Pending)>> {
        let Some(workers) = self.workers else { return Ok(None) };
        let stop = self.options.stop.load(Ordering::Relaxed) as i64;
        let wishes = Tensor::from_slice(&[stop, i64::from(workers.rank() == 0 && self.time_to_save())]);
        let pending = workers.all_reduce_max(&wishes)?;
        Ok(Some((wishes, pending)))
    }

    fn time_to_save(&self) -> bool {
        match self.options.checkpoint_every {
            CheckpointEvery::Steps(_) => false,
            CheckpointEvery::Minutes(m) => self.saved_at.elapsed().as_secs_f64() >= 60.0 * m,
        }
    }

    /// Trains to the end, or to `max_steps`, or until [`Options::stop`]; and evaluates.
    ///
    /// # Errors
    /// A cost that is not finite; the last checkpoint could not be written.
    pub fn train(&mut self, listen: &mut dyn FnMut(Event)) -> Result<()> {
        let epochs = self.run.config.max_max_epoch;
        let mut validated = false;
        while self.progress.epoch < epochs && !self.at_limit() {
            let complete = self.train_epoch(listen)?;
            // Saved before the evaluation, which may take long; on a GPU it is over sooner than the saving.
            if !(complete && self.variables.device().is_cuda()) {
                self.save(listen)?;
            }
            if self.evaluates() {
                self.validate(listen)?;
                validated = true;
            }
            if !complete || self.stopped() {
                break;
            }
            self.progress = Progress { epoch: self.progress.epoch + 1, step: 0, costs: 0.0, ..self.progress };
            self.state.clear();
            self.save(listen)?;
        }
        if self.evaluates() {
            if !validated && self.progress.epoch < epochs {
                self.validate(listen)?;
            }
            if self.workers.is_none_or(|workers| workers.rank() == 0) {
                // One text, one worker: the others are done.
                let model = self.model(false).among(None);
                if let Some(result) = evaluate_until(&model, &self.input.test, &|| !self.evaluates())? {
                    listen(Event::Final(result));
                }
            }
        }
        match self.save_error.take() {
            Some(error) => {
                Err(error.context("the run is over, but its last checkpoint could not be written"))
            }
            None => Ok(()),
        }
    }

    /// The signal to stop by; 0 is none. All workers must stop after the same step.
    fn signal(&self) -> usize {
        if self.workers.is_some() { self.agreed_stop } else { self.options.stop.load(Ordering::Relaxed) }
    }

    fn stopped(&self) -> bool {
        self.signal() != 0
    }

    fn evaluates(&self) -> bool {
        let interrupted = self.signal() == libc::SIGINT as usize;
        self.options.evaluate && (!self.stopped() || self.options.evaluate_when_stopped && interrupted)
    }

    fn model(&self, is_training: bool) -> PtbModel<'a> {
        PtbModel::new(self.variables, is_training, self.options.rnn_mode)
            .precision(self.options.precision)
            .among(self.workers)
    }

    fn at_limit(&self) -> bool {
        self.options.max_steps.is_some_and(|max| self.progress.global_step >= max)
    }

    fn validate(&self, listen: &mut dyn FnMut(Event)) -> Result<()> {
        let model = self.model(false);
        if let Some(result) = evaluate_until(&model, &self.input.valid, &|| !self.evaluates())? {
            listen(Event::EpochEnd {
                epoch: self.progress.epoch + 1,
                split: "valid",
                result,
                complete: true,
            });
        }
        Ok(())
    }

    /// The original's `run_epoch(session, m, eval_op=m.train_op, verbose=True)`. True if the epoch was finished.
    fn train_epoch(&mut self, listen: &mut dyn FnMut(Event)) -> Result<bool> {
        let producer = &self.input.train;
        let model = self.model(true);
        let (epoch_size, batch_size, num_steps) =
            (producer.epoch_size(), producer.batch_size(), producer.num_steps());
        let epoch = self.progress.epoch + 1;
        let learning_rate = self.run.config.learning_rate_at(self.progress.epoch);
        let done = self.progress.step;
        listen(Event::Epoch { epoch, learning_rate, done, epoch_size });
        if done == 0 {
            self.state = model.zero_state(self.workers.map_or(batch_size, |w| w.share(batch_size).1));
        }
        if self.fixed.is_none()
            && self.workers.is_none()
            && self.options.cuda_graph
            && self.variables.device().is_cuda()
        {
            self.fixed = Some(FixedStep::new(self.model(true), batch_size, num_steps, &self.pending, true)?);
        }
        if let Some(fixed) = &mut self.fixed {
            self.state = fixed.set(&self.state, learning_rate)?;
        }
        let dropout = self.run.config.keep_prob < 1.0;
        let start = Instant::now();
        while self.progress.step < epoch_size && !self.at_limit() && !self.stopped() {
            let Progress { step, global_step, .. } = self.progress;
            let agreement = self.agree()?;
            // A function of seed and step alone, so that a resumed run draws the masks that it would have drawn.
            let seed = dropout.then(|| step_seed(self.run.seed, global_step));
            let figures = if let Some(fixed) = &mut self.fixed {
                let notice = fixed.run(&producer.columns(step), seed)?;
                notice.into_iter().for_each(|text| listen(Event::Notice { text }));
                fixed.figures().shallow_clone()
            } else {
                if let Some(seed) = seed {
                    tch::manual_seed(seed);
                }
                let (x, y) = producer.batch(step);
                let result = model.train_step(&x, &y, &self.state, learning_rate)?;
                self.state = result.state;
                let figures = Tensor::stack(&[result.cost, result.global_norm], 0).to_kind(Kind::Double);
                let _ = self.pending.g_add_(&figures);
                figures
            };
            self.progress.step += 1;
            self.progress.global_step += 1;

            let line = step % (epoch_size / 10).max(1) == 10;
            let log = self.options.log_every > 0 && global_step % self.options.log_every == 0;
            if line || log || self.variables.device() == tch::Device::Cpu {
                self.read_costs()?;
            }
            if line || log {
                let iters = (step + 1) * num_steps;
                let perplexity = (self.progress.costs / iters as f64).exp();
                let words = (step + 1 - done) * num_steps * batch_size;
                let wps = words as f64 / start.elapsed().as_secs_f64();
                if log {
                    let [cost, global_norm] = [0, 1].map(|i| figures.double_value(&[i]));
                    listen(Event::Step {
                        epoch,
                        step,
                        global_step,
                        cost,
                        global_norm,
                        lr: learning_rate,
                        perplexity,
                        wps,
                    });
                }
                if line {
                    listen(Event::Progress { fraction: step as f64 / epoch_size as f64, perplexity, wps });
                }
            }
            listen(Event::Tick { done: step + 1 });
            let mut due = self.time_to_save();
            if let Some((wishes, agreed)) = agreement {
                agreed.wait()?;
                self.agreed_stop = wishes.int64_value(&[0]) as usize;
                due = wishes.int64_value(&[1]) != 0;
                if self.stopped() {
                    // For the exit code, on those that had no signal of their own.
                    self.options.stop.store(self.agreed_stop, Ordering::Relaxed);
                }
                if self.progress.global_step % COMPARE_EVERY == 0 {
                    self.ensure_equal_variables()?;
                }
            }
            if let CheckpointEvery::Steps(n) = self.options.checkpoint_every {
                due = self.progress.global_step % n == 0;
            }
            if due && self.progress.step < epoch_size {
                self.save(listen)?;
            }
        }
        self.read_costs()?;
        let complete = self.progress.step == epoch_size;
        let result = Evaluation::new(self.progress.costs, self.progress.step * num_steps, batch_size, start);
        listen(Event::EpochEnd { epoch, split: "train", result, complete });
        Ok(complete)
    }

    /// Reads the costs added up on the device.
    fn read_costs(&mut self) -> Result<()> {
        let [cost, global_norm] = [0, 1].map(|i| self.pending.double_value(&[i]));
        let _ = self.pending.zero_();
        if !(cost.is_finite() && global_norm.is_finite()) {
            return Err(self.diverged("the cost or the gradient's norm"));
        }
        self.progress.costs += cost;
        Ok(())
    }

    fn diverged(&self, what: &str) -> anyhow::Error {
        if self.workers.is_some_and(|workers| workers.rank() != 0) {
            return anyhow!("the run has diverged; rank 0 says more");
        }
        let kept = match self.folder {
            None => "and without --save-path there is no checkpoint of it".to_owned(),
            Some(folder) => match folder.newest() {
                Some(path) => format!("the last good checkpoint is {}", path.display()),
                None => "and there is no checkpoint of it yet".to_owned(),
            },
        };
        anyhow!(
            "the run has diverged: at epoch {}, step {} (global step {}) {what} is no longer a finite number. Nothing of it was saved; {kept}. \
             What helps: a smaller --learning-rate, a smaller --max-grad-norm, a smaller --init-scale; with --init-from, other variables",
            self.progress.epoch + 1,
            self.progress.step,
            self.progress.global_step,
        )
    }

    /// Writes a checkpoint, but never one with a number that is not finite. If the disk refuses it, that is told and training goes on: the earlier checkpoints are still there.
    fn save(&mut self, listen: &mut dyn FnMut(Event)) -> Result<()> {
        if self.folder.is_none() && self.workers.is_none() {
            return Ok(());
        }
        self.read_costs()?;
        self.saved_at = Instant::now();
        self.ensure_equal_variables()?;
        let state = self.whole_state()?;
        let Some(folder) = self.folder else { return Ok(()) };
        let checkpoint = Checkpoint {
            run: self.run.clone(),
            made: self.made(),
            progress: self.progress.clone(),
            variables: self.variables.to_tensorflow()?,
            state,
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

/// SplitMix64's finalizer over seed and step: neighbouring steps get unrelated seeds.
fn step_seed(seed: i64, global_step: i64) -> i64 {
    let mut z = (seed as u64).wrapping_add((global_step as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) as i64
}
