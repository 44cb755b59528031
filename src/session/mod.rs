//! The original's `main()` and `run_epoch()`: the epochs, the learning-rate schedule, the state
//! that is fed back at every step.
//!
//! A session does not print and does not write metrics. It reports what happens as [`Event`]s to
//! the `listen` callback.

mod options;
mod supervisor;

use std::time::Instant;

use anyhow::Result;
use tch::Device;

use crate::checkpoint::{Progress, RunConfig, SaveFolder};
pub use crate::evaluate::evaluate;
use crate::evaluate::evaluate_until;
pub use crate::event::{Evaluation, Event};
use crate::model::{PtbModel, PtbVariables};
use crate::reader::{Producer, RawData, Vocabulary};
use crate::rnn::State;
use crate::team::{Solo, Team};
use crate::train_step::TrainStep;
pub use options::{CheckpointEvery, Options};
pub use supervisor::Diverged;
use supervisor::Supervisor;

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
    /// [`Provenance::init_from`](crate::checkpoint::Provenance::init_from)
    init_from: Option<String>,
    /// Whether a complete epoch is saved once, after its validation, which on a GPU takes less time
    /// than saving.
    saves_last: bool,
    /// State of this worker's rows to resume from within an epoch; otherwise empty.
    resumed_state: State,
    supervisor: Supervisor,
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
            saves_last: variables.device().is_cuda(),
            resumed_state: State::new(),
            supervisor: Supervisor::default(),
        }
    }

    /// Position in the run.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Trains to the end, to `max_steps` or until [`Options::stop`], and evaluates: the original's
    /// `main()`.
    ///
    /// # Errors
    /// A cost that is not finite ([`Diverged`]); the last checkpoint could not be written.
    pub fn train(&mut self, listen: &mut dyn FnMut(Event)) -> Result<()> {
        let epochs = self.run.config.max_max_epoch;
        let mut train_step = self.new_train_step()?;
        let mut trained = false;
        while self.progress.epoch < epochs && !self.reached_max_steps() {
            let complete = self.run_epoch(&mut train_step, listen)?;
            trained = true;
            if self.save_and_validate(complete, train_step.state(), listen)? {
                break;
            }
            self.progress =
                Progress { epoch: self.progress.epoch + 1, step: 0, costs: 0.0, ..self.progress };
            self.save(&[], listen)?;
        }
        if self.should_evaluate() {
            // A run that was resumed at its last step has not been validated above.
            if !trained && self.progress.epoch < epochs {
                self.validate(listen)?;
            }
            self.test(listen)?;
        }
        self.ensure_saved()
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
        let clock = EpochClock { first_step: self.progress.step, start: Instant::now() };
        let learning_rate = self.run.config.learning_rate_at(self.progress.epoch);
        train_step.assign_lr(learning_rate)?;
        if self.progress.step == 0 {
            let (_, rows) = self.team.share(producer.batch_size());
            train_step.assign_state(&self.model(true).zero_state(rows))?;
        }
        // Counted from 1, as the original prints it.
        let epoch = self.progress.epoch + 1;
        listen(Event::Epoch { epoch, learning_rate, done: self.progress.step, epoch_size });
        while self.progress.step < epoch_size && !self.reached_max_steps() && !self.is_stopped() {
            let agreement = self.start_agreement()?;
            // The state is fed back within `TrainStep`: each step starts from the final state of
            // the step before.
            let notice = train_step.run(&producer.words(self.progress.step), self.mask_seed())?;
            notice.into_iter().for_each(|text| listen(Event::Notice { text }));
            self.progress.step += 1;
            self.progress.global_step += 1;
            self.report(train_step, &clock, listen)?;
            let save_is_due = self.finish_agreement(agreement)?;
            self.compare_workers_if_due()?;
            if save_is_due && self.progress.step < epoch_size {
                self.add_costs(train_step)?;
                self.save(train_step.state(), listen)?;
            }
        }
        self.add_costs(train_step)?;
        let complete = self.progress.step == epoch_size;
        // A process that was stopped after an epoch's last step has reported the epoch.
        if clock.first_step < epoch_size {
            let iters = self.progress.step * producer.num_steps();
            let costs = self.progress.costs;
            let result = Evaluation::new(costs, iters, producer.batch_size(), clock.start);
            let steps = (self.progress.step, epoch_size);
            listen(Event::EpochEnd { epoch, split: "train", result, complete, steps });
        }
        Ok(complete)
    }

    /// Reports the last step: the original's progress line and the logged step, if they are due.
    fn report(
        &mut self,
        train_step: &mut TrainStep,
        clock: &EpochClock,
        listen: &mut dyn FnMut(Event),
    ) -> Result<()> {
        let producer = &self.input.train;
        let (epoch_size, done) = (producer.epoch_size(), self.progress.step);
        // Steps are counted from 0, as in the original.
        let (step, global_step) = (done - 1, self.progress.global_step - 1);
        let line_is_due = step % (epoch_size / 10).max(1) == 10;
        let log_is_due = self.options.log_every > 0 && global_step % self.options.log_every == 0;
        // On a GPU this would wait for the step, so it is done only when the costs are needed.
        if line_is_due || log_is_due || self.variables.device() == Device::Cpu {
            self.add_costs(train_step)?;
        }
        let iters = done * producer.num_steps();
        let perplexity = (self.progress.costs / iters as f64).exp();
        let words = (done - clock.first_step) * producer.num_steps() * producer.batch_size();
        let wps = words as f64 / clock.start.elapsed().as_secs_f64();
        if log_is_due {
            let [cost, global_norm] = train_step.last()?;
            let epoch = self.progress.epoch + 1;
            let lr = self.run.config.learning_rate_at(self.progress.epoch);
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
        if line_is_due {
            let fraction = step as f64 / epoch_size as f64;
            listen(Event::Progress { fraction, perplexity, wps });
        }
        listen(Event::Tick { done });
        Ok(())
    }

    /// Evaluates the validation text, unless the evaluation is stopped.
    fn validate(&self, listen: &mut dyn FnMut(Event)) -> Result<()> {
        listen(Event::Evaluating { split: "valid" });
        if let Some(result) =
            evaluate_until(&self.model(false), &self.input.valid, &|| !self.should_evaluate())?
        {
            let epoch = self.progress.epoch + 1;
            let steps = (self.progress.step, self.input.train.epoch_size());
            listen(Event::EpochEnd { epoch, split: "valid", result, complete: true, steps });
        }
        Ok(())
    }

    /// Evaluates the test text. It is a single row, so worker 0 evaluates it alone.
    fn test(&self, listen: &mut dyn FnMut(Event)) -> Result<()> {
        if self.team.rank() == 0 {
            listen(Event::Evaluating { split: "test" });
            let model = self.model(false).with_team(&Solo);
            if let Some(result) =
                evaluate_until(&model, &self.input.test, &|| !self.should_evaluate())?
            {
                listen(Event::Final(result));
            }
        }
        Ok(())
    }

    /// A view of the variables with this run's options.
    fn model(&self, is_training: bool) -> PtbModel<'a> {
        PtbModel::new(self.variables, is_training, self.options.rnn_mode)
            .precision(self.options.precision)
            .with_team(self.team)
    }

    /// Creates the training step, with the state to resume from.
    fn new_train_step(&self) -> Result<TrainStep<'a>> {
        let batch_size = self.run.config.batch_size;
        let (_, rows) = self.team.share(batch_size);
        // Communication between workers cannot be recorded.
        let record = self.options.cuda_graph && self.team.size() == 1;
        let mut train_step = TrainStep::new(self.model(true), batch_size, rows, record)?;
        if !self.resumed_state.is_empty() {
            train_step.assign_state(&self.resumed_state)?;
        }
        Ok(train_step)
    }

    /// Seed of the next step's dropout masks. It depends on the run's seed and the step alone, so
    /// that a resumed run draws the same masks as an uninterrupted one.
    fn mask_seed(&self) -> Option<i64> {
        let dropout = self.run.config.keep_prob < 1.0;
        dropout.then(|| step_seed(self.run.seed, self.progress.global_step))
    }

    fn reached_max_steps(&self) -> bool {
        self.options.max_steps.is_some_and(|max| self.progress.global_step >= max)
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
}

/// Where and when this process started the epoch.
struct EpochClock {
    first_step: i64,
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use nix::sys::signal::Signal;
    use tch::Kind;

    use super::*;
    use crate::config::Config;
    use crate::reader::Limits;
    use crate::rnn::CellType;
    use crate::tf::Variables;

    /// Whether an epoch is saved before its validation or after it, a run that is stopped between
    /// the two has it, and resumed goes the way of a run that was not stopped.
    #[test]
    fn a_stop_before_the_validation_loses_nothing() {
        let _random = crate::random_numbers(0);
        let folder = tempfile::tempdir().unwrap();
        let text = "the cat sat on the mat\na dog lay by the door\n".repeat(20);
        for split in ["train", "valid", "test"] {
            std::fs::write(folder.path().join(format!("ptb.{split}.txt")), &text).unwrap();
        }
        let data = RawData::read(folder.path().to_str().unwrap()).unwrap();
        let vocab_size = data.vocabulary.len() as i64;
        let config = Config {
            vocab_size,
            hidden_size: 8,
            batch_size: 4,
            num_steps: 5,
            keep_prob: 0.5,
            max_max_epoch: 3,
            ..Config::TEST
        };
        let run = RunConfig {
            config,
            cell: CellType::BasicLstm.to_string(),
            optimizer: Default::default(),
            seed: 3,
            limits: Limits::default(),
            markers: None,
        };
        // Trains in the folder, to the end or until the first epoch's training is reported.
        let train = |name: &str, saves_last: bool, stopped: bool| -> (Variables, Progress) {
            let saves = SaveFolder::open(&folder.path().join(name), 2).unwrap();
            let variables =
                PtbVariables::new(&config, CellType::BasicLstm, Device::Cpu, Kind::Float, 3)
                    .unwrap();
            let input = Input::new(&data, &variables).unwrap();
            let options = Options::default();
            let stop = Arc::clone(&options.stop);
            let words = &data.vocabulary;
            let mut session =
                Session::new(&variables, &input, words, run.clone(), options, Some(&saves));
            session.saves_last = saves_last;
            if let Some(checkpoint) = saves.latest(&mut |_| ()).unwrap() {
                session.resume(&checkpoint).unwrap();
            }
            let listen = &mut |event| {
                if stopped && matches!(event, Event::EpochEnd { split: "train", .. }) {
                    stop.store(Signal::SIGTERM as usize, Ordering::Relaxed);
                }
            };
            session.train(listen).unwrap();
            let saved = saves.latest(&mut |_| ()).unwrap().unwrap();
            (variables.to_tensorflow().unwrap(), saved.progress)
        };
        let (expected, _) = train("whole", false, false);
        for (name, saves_last) in [("first", false), ("last", true)] {
            let (_, saved) = train(name, saves_last, true);
            assert!(saved.epoch == 0 && saved.step > 0 && saved.step == saved.global_step);
            let (trained, saved) = train(name, saves_last, false);
            assert_eq!(saved.epoch, 3);
            for (name, value) in &expected {
                assert!(trained[name] == *value, "{name} differs, saves_last {saves_last}");
            }
        }
    }
}
