//! `train`

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use serde_json::{Map, Value, json};
use tch::Kind;

use super::data::{LimitFlags, read_data, read_with};
use super::launch::WorkerFlags;
use super::report::tensorboard::EventFile;
use super::report::{Metrics, Reporter, notice};
use super::signals::{self, Signals};
use super::{config_file, open_save_path, rnn_mode};
use crate::checkpoint::{RunConfig, ensure_same_run, ensure_same_vocabulary};
use crate::config::{Config, ConfigError, LrSchedule, Model, Precision, RnnMode};
use crate::device::{self, DeviceArg};
use crate::distributed::Team;
use crate::model::PtbVariables;
use crate::optimizer::OptimizerType;
use crate::reader::{RawData, SAMPLE, Split};
use crate::rnn::CellType;
use crate::sample;
use crate::session::{CheckpointEvery, Diverged, Event, Input, Options, Session};
use crate::tf;

// args_override_self: the command line's flags come after those of --config and win.
#[derive(Args)]
#[command(args_override_self = true)]
pub struct TrainArgs {
    /// Folder with the texts: ptb.train.txt, ptb.valid.txt and ptb.test.txt; or train.txt, ...; or wiki.train.tokens, ...; `sample` is
    /// the corpus inside this program
    #[arg(long, value_name = "DIR", help_heading = "The original's flags")]
    data_path: String,
    /// Folder to keep checkpoints, metrics and TensorBoard's event files in; a run that is there already goes on where it stopped
    #[arg(long, value_name = "DIR", help_heading = "The original's flags")]
    save_path: Option<PathBuf>,
    /// Which of the original's configurations: small, medium, large or test
    #[arg(long, value_enum, default_value_t = Model::Small, hide_possible_values = true, help_heading = "The original's flags")]
    model: Model,
    /// How the recurrent layers are run, the same numbers each way: cudnn (the whole sequence in one fused call; the default), block
    /// (one fused op per time step) or basic (op by op)
    #[arg(
        long,
        value_enum,
        value_name = "MODE",
        hide_possible_values = true,
        help_heading = "The original's flags"
    )]
    rnn_mode: Option<RnnMode>,

    /// Take flags from a JSON file, such as {"model": "medium", "seed": 1}; those given here win. A run's metrics.jsonl (or its save
    /// path) repeats that run exactly
    #[arg(long, value_name = "FILE", help_heading = "Running")]
    config: Option<PathBuf>,
    #[command(flatten)]
    launch: WorkerFlags,
    #[command(flatten)]
    device: DeviceFlags,
    /// The original's float16: --precision fp16, on a GPU
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
          value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set, value_name = "BOOL",
          hide_possible_values = true, hide_default_value = true, help_heading = "The original's flags")]
    use_fp16: bool,
    /// Precision of the large products, most of the arithmetic: fp32 or bf16; on a GPU also tf32-cudnn (TF32 in the LSTM alone), tf32 and
    /// fp16. Variables stay float32 [default: fp32; on a GPU tf32-cudnn, as in PyTorch]
    #[arg(long, value_enum, hide_possible_values = true, help_heading = "Running")]
    precision: Option<Precision>,
    /// On a GPU, launch the step's kernels one by one instead of as one CUDA graph
    #[arg(long, help_heading = "Running")]
    no_cuda_graph: bool,
    /// What the initial variables and the dropout masks are a function of
    #[arg(
        long,
        default_value_t = 0,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Running"
    )]
    seed: i64,
    /// Start from variables that TensorFlow saved, instead of random ones: a checkpoint's prefix,
    /// its folder, one of its files, or a .npz
    #[arg(long, value_name = "FILE", help_heading = "Running")]
    init_from: Option<PathBuf>,
    /// Write metrics here as JSON lines [default: metrics.jsonl in the save path]
    #[arg(long, value_name = "FILE", help_heading = "Running")]
    metrics: Option<PathBuf>,
    /// Put a step's figures into the metrics every N steps; 0 for none
    #[arg(long, default_value_t = 100, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(0..), help_heading = "Running")]
    log_every: i64,
    /// Stop after N training steps in all, then still evaluate; 0 trains nothing
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(0..), help_heading = "Running")]
    max_steps: Option<i64>,
    /// Save within an epoch too, every N steps or every Nm minutes
    #[arg(long, default_value_t = CheckpointEvery::Minutes(10.0), value_name = "N", help_heading = "Running")]
    checkpoint_every: CheckpointEvery,
    /// Checkpoints to keep
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Running")]
    keep: u32,
    /// When stopped by Ctrl-C, still evaluate the validation and test texts
    #[arg(long, help_heading = "Running")]
    test_on_interrupt: bool,
    /// Do not evaluate the validation and test texts
    #[arg(long, help_heading = "Running")]
    no_eval: bool,
    /// Print the final perplexities, warnings and errors, and nothing else
    #[arg(long, short, help_heading = "Running")]
    quiet: bool,

    /// Which recurrent cell: basic_lstm (the original's), lstm, gru or basic_rnn
    #[arg(long, default_value_t = CellType::BasicLstm, help_heading = "Hyperparameters (each overrides the model's)")]
    cell: CellType,
    /// sgd (the original's gradient descent) or adam (the walkthrough's, as TensorFlow 1 computes it; its learning rate is
    /// --learning-rate, about 0.001)
    #[arg(
        long,
        value_enum,
        default_value_t = OptimizerType::Sgd,
        hide_possible_values = true,
        value_name = "NAME",
        help_heading = "Hyperparameters (each overrides the model's)"
    )]
    optimizer: OptimizerType,
    /// Which of the original's learning-rate schedules; the published table was made with 2016's
    #[arg(
        long,
        value_enum,
        value_name = "YEAR",
        help_heading = "Hyperparameters (each overrides the model's)"
    )]
    lr_schedule: Option<LrSchedule>,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    limits: LimitFlags,

    /// All of the above, for the metrics' `start` event.
    #[arg(skip)]
    pub flags: Map<String, Value>,
    /// The `start` event that `--config` gave, if it was one.
    #[arg(skip)]
    pub repeats: Option<Value>,
}

/// Where to compute; shared by all commands that do.
#[derive(Args)]
pub struct DeviceFlags {
    /// auto, cpu, cuda or cuda:N; auto takes a GPU if there is one
    #[arg(long, default_value_t = DeviceArg::Auto, value_name = "DEVICE", help_heading = "Running")]
    device: DeviceArg,
    /// CPU threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=4096), help_heading = "Running")]
    threads: Option<i32>,
}

impl DeviceFlags {
    /// Sets libtorch up. Must come before its first use.
    pub fn select(&self) -> Result<tch::Device> {
        let device = device::select(self.device)?;
        self.set_threads();
        Ok(device)
    }

    fn set_threads(&self) {
        if let Some(threads) = self.threads {
            tch::set_num_threads(threads);
        }
    }
}

/// Declares the overriding flags, one per hyperparameter, and how they are laid over a preset.
macro_rules! overrides {
    ($($(#[doc = $doc:literal])* $field:ident: $type:ty),* $(,)?) => {
        #[derive(Args)]
        #[command(next_help_heading = "Hyperparameters (each overrides the model's)")]
        struct Overrides {
            $($(#[doc = $doc])* #[arg(long, allow_negative_numbers = true, value_name = "N")] $field: Option<$type>,)*
        }

        impl Overrides {
            fn over(&self, mut config: Config) -> Config {
                $(if let Some(value) = self.$field { config.$field = value; })*
                config
            }
        }
    };
}

overrides! {
    /// Units per layer: 200, 650, 1500 (small, medium, large)
    hidden_size: i64,
    /// Stacked LSTM layers: 2 in all three
    num_layers: i64,
    /// Words per step of truncated back-propagation: 20, 35, 35
    num_steps: i64,
    /// Rows of text read side by side: 20 in all three
    batch_size: i64,
    /// Probability that dropout keeps an element: 1, 0.5, 0.35
    keep_prob: f64,
    /// Learning rate of the first epochs: 1 in all three
    learning_rate: f64,
    /// Its factor per epoch after them: 0.5, 0.8, 1/1.15
    lr_decay: f64,
    /// Variables start uniform in [-N, N]: 0.1, 0.05, 0.04
    init_scale: f64,
    /// Gradients are scaled down to this global norm: 5, 5, 10
    max_grad_norm: f64,
    /// Epochs at the full learning rate: 4, 6, 14
    max_epoch: i64,
    /// Added to the forget gates, and not trained: 0 in all three
    forget_bias: f64,
    /// Epochs in all: 13, 39, 55
    max_max_epoch: i64,
}

impl TrainArgs {
    /// `--precision`, or the original's `--use_fp16`, or the device's default.
    fn precision(&self, device: tch::Device) -> Result<Precision, ConfigError> {
        match self.precision {
            Some(precision) if self.use_fp16 && precision != Precision::Fp16 => Err(ConfigError(format!(
                "--use-fp16 is --precision fp16, and --precision is {precision}: give one of them"
            ))),
            None if self.use_fp16 => Ok(Precision::Fp16),
            precision => Ok(precision.unwrap_or(Precision::default_on(device.is_cuda()))),
        }
    }

    pub fn run(self) -> Result<ExitCode> {
        let config = self.config()?;
        let signals = signals::listen()?;
        let (device, batch_size) = (self.device.device, config.batch_size);
        self.launch.run(device, batch_size, &signals, |device, team| {
            self.device.set_threads();
            self.train(config, device, team, &signals)
        })
    }

    fn config(&self) -> Result<Config> {
        let mut config = self.overrides.over(self.model.config());
        if let Some(schedule) = self.lr_schedule {
            config.lr_schedule = schedule;
        }
        config.validate()?;
        rnn_mode(self.cell, self.rnn_mode)?;
        Ok(config)
    }

    /// Trains, alone or as one of several workers, of which the first alone prints, logs and saves.
    fn train(
        &self,
        mut config: Config,
        device: tch::Device,
        team: &dyn Team,
        signals: &Signals,
    ) -> Result<ExitCode> {
        let first = team.rank() == 0;
        let notice = |text: &str| {
            if first {
                notice(text);
            }
        };
        let rnn_mode = rnn_mode(self.cell, self.rnn_mode)?;
        let precision = self.precision(device)?;
        let say = |text: &str| {
            if !self.quiet {
                notice(text)
            }
        };
        precision.check(device.is_cuda())?;
        device::set_precision(precision);
        // What can fail is tried before anything long begins: the save path before the data, the data before the model.
        let save_path = self.save_path.as_deref().filter(|_| first);
        let folder = save_path.map(|path| open_save_path(path, self.keep as usize)).transpose()?;
        let limits = self.limits.limits();
        let data = match first {
            true => read_data(&self.data_path, limits)?,
            false => read_with(&self.data_path, limits, &mut |_| ())?,
        };
        if let Some(start) = &self.repeats {
            config_file::ensure_same_texts(start, &self.data_path, &data)?;
        }
        config.vocab_size = data.vocabulary.len() as i64;
        config.validate()?;
        let run = RunConfig {
            config,
            cell: self.cell.to_string(),
            optimizer: self.optimizer,
            seed: self.seed,
            limits,
        };

        let checkpoint = match &folder {
            Some(folder) => folder.latest(&mut |text| notice(text))?,
            None => None,
        };
        if let Some(checkpoint) = &checkpoint {
            let path = self.save_path.clone().unwrap_or_default();
            let misfit = || format!("{}: cannot be resumed", path.display());
            ensure_same_run(&checkpoint.run, &run).with_context(misfit)?;
            if let Some(vocabulary) = &checkpoint.vocabulary {
                ensure_same_vocabulary(vocabulary, &data.vocabulary).with_context(misfit)?;
            }
        }

        self.ensure_same_everywhere(team, &run, precision, &data)?;
        let variables = PtbVariables::new(&config, self.cell, device, Kind::Float, self.seed)?
            .with_optimizer(self.optimizer);
        let input = Input::new(&data, &variables)?;
        let options = Options {
            rnn_mode,
            precision,
            log_every: self.log_every,
            max_steps: self.max_steps,
            evaluate: !self.no_eval,
            checkpoint_every: self.checkpoint_every,
            stop: signals.stop.clone(),
            save: signals.save.clone(),
            evaluate_when_stopped: self.test_on_interrupt,
            cuda_graph: !self.no_cuda_graph,
        };
        if folder.is_none() {
            say("without --save-path this run cannot be resumed, and its model is not kept");
        }
        if let Some(path) = self.init_from.as_deref().filter(|_| first && checkpoint.is_none()) {
            let from = || format!("--init-from {}", path.display());
            let model = tf::Model::read(path).with_context(from)?;
            for note in model.notes() {
                say(&format!("{}: not part of the model: {note}", path.display()));
            }
            variables.assign(&model.variables).with_context(from)?;
        }
        let mut session = Session::new(&variables, &input, &data.vocabulary, run, options, folder.as_ref());
        if let Some(checkpoint) = &checkpoint {
            let path = self.save_path.clone().unwrap_or_default();
            session.resume(checkpoint).with_context(|| format!("{}: cannot be resumed", path.display()))?;
            let at = &checkpoint.progress;
            say(&format!(
                "resuming at epoch {}, step {} (global step {})",
                at.epoch + 1,
                at.step,
                at.global_step
            ));
            for difference in checkpoint.made.differences(&session.provenance()) {
                notice(&format!("{difference}: the run goes on equal to rounding, not to the last bit"));
            }
        }

        session.join(team)?;

        let metrics = self.metrics.clone().or(self.save_path.as_ref().map(|path| path.join("metrics.jsonl")));
        let metrics =
            metrics.filter(|_| first).map(|path| Metrics::create(&path, checkpoint.is_some())).transpose()?;
        let done = checkpoint.as_ref().map_or(0, |c| c.progress.global_step);
        let events = save_path.map(|path| EventFile::create(path, config.num_steps, done));
        // A full disk takes the events, not the run.
        let events = events.and_then(|events| {
            events.inspect_err(|error| notice(&format!("{error:#}; training goes on without them"))).ok()
        });
        let mut reporter =
            Reporter::new(metrics, events, config.max_max_epoch, self.max_steps).quiet(self.quiet);
        let digest =
            |split: &Split| json!({"file": split.name, "tokens": split.tokens.len(), "md5": split.md5});
        reporter.metric(&json!({
            "event": "start",
            "model": self.model,
            "config": config,
            "cell": self.cell.to_string(),
            "optimizer": self.optimizer,
            "rnn_mode": rnn_mode,
            "precision": precision,
            "seed": self.seed,
            "max_vocab": limits.max_vocab,
            "min_count": limits.min_count,
            "device": device::name(device),
            "threads": tch::get_num_threads(),
            "workers": team.size(),
            "init_from": self.init_from,
            "resumed_at": checkpoint.as_ref().map(|c| c.progress.global_step),
            "versions": config_file::versions(),
            "data": {"path": self.data_path, "train": digest(&data.train), "valid": digest(&data.valid), "test": digest(&data.test)},
            "flags": self.flags,
        }));
        say(&format!(
            "model {} on {}{}, {} threads: {} words, learning-rate schedule {}",
            self.model,
            if team.size() > 1 { format!("{} workers, each on ", team.size()) } else { String::new() },
            device::name(device),
            tch::get_num_threads(),
            config.vocab_size,
            config.lr_schedule,
        ));
        let mut test_perplexity = None;
        session.train(&mut |event| {
            if let Event::Final(result) = &event {
                test_perplexity = Some(result.perplexity);
            }
            if first {
                reporter.show(&event);
            }
        })
        .map_err(|error| match error.is::<Diverged>() {
            true => anyhow!(
                "{error:#}. What helps: a smaller --learning-rate, a smaller --max-grad-norm, a smaller --init-scale; with --init-from, \
                 other variables"
            ),
            false => error,
        })?;
        reporter.finish();
        if let Some(perplexity) = test_perplexity.filter(|_| self.data_path == SAMPLE) {
            let words: Vec<&str> =
                data.test.tokens.iter().filter_map(|&id| data.vocabulary.word(id)).collect();
            let best = sample::best_perplexity(&words, 1, 1)?;
            say(&format!(
                "The sample corpus has a known source: no model can reach a lower test perplexity than {best:.3} on average. \
                 This model: {perplexity:.3} ({:+.1}%).",
                100.0 * (perplexity / best - 1.0)
            ));
        }
        let signal = signals.stop.load(Ordering::Relaxed);
        if signal == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        let at = session.progress();
        notice(&format!(
            "stopped at epoch {}, step {} (global step {}){}",
            at.epoch + 1,
            at.step,
            at.global_step,
            if folder.is_some() { ": saved, and the same command goes on from there" } else { "" }
        ));
        Ok(ExitCode::from(128 + signal as u8))
    }
}

impl TrainArgs {
    /// Refuses to train beside workers that were told something else, or have other data.
    fn ensure_same_everywhere(
        &self,
        team: &dyn Team,
        run: &RunConfig,
        precision: Precision,
        data: &RawData,
    ) -> Result<()> {
        let ours = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "run": run,
            "rnn_mode": self.rnn_mode,
            "precision": precision,
            "max_steps": self.max_steps,
            "no_eval": self.no_eval,
            "test_on_interrupt": self.test_on_interrupt,
            "checkpoint_every": self.checkpoint_every,
            "train": data.train.md5,
            "valid": data.valid.md5,
            "test": data.test.md5,
        });
        let theirs: serde_json::Value =
            serde_json::from_str(&team.broadcast_text("run", &ours.to_string())?)?;
        for (name, value) in ours.as_object().into_iter().flatten() {
            let rank_0_s = &theirs[name];
            ensure!(
                rank_0_s == value,
                "the workers do not run the same: {name} is {value} here and {rank_0_s} on rank 0 \
                 (a run of its own that a launcher starts beside others needs --workers 1)"
            );
        }
        Ok(())
    }
}
