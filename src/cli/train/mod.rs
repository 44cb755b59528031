//! `train`

mod start;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use anyhow::{Result, anyhow, ensure};
use clap::Args;
use serde_json::{Value, json};
use tch::{Device, Kind};

use super::data::{data_of_metrics, read_data, read_with};
use super::flags::config_file::{self, Given};
use super::flags::numbers::{boolean, whole};
use super::flags::signals::{self, Signals};
use super::flags::{
    DeviceFlags, Hyperparameters, LimitFlags, MarkersFlag, UsageError, WorkerFlags,
};
use super::open_save_path;
use super::report::tensorboard::EventFile;
use super::report::{Metrics, Reporter, line, notice, plural};
use crate::checkpoint::{Progress, RunConfig, SaveFolder};
use crate::config::{Config, Model, Precision, RnnMode};
use crate::device;
use crate::distributed::Team;
use crate::model::{PtbVariables, TooLarge};
use crate::reader::{RawData, SAMPLE};
use crate::sample;
use crate::session::{CheckpointEvery, Diverged, Event, Input, Options, Session};
use start::{Start, refuse_tensorflow_s};

// args_override_self: the command line's flags come after those of --config and win.
#[derive(Args)]
#[command(args_override_self = true)]
pub struct TrainArgs {
    /// Folder of the three texts; `sample` is one built in
    ///
    /// They are ptb.train.txt, ptb.valid.txt and ptb.test.txt (or train.txt and so on, or
    /// wiki.train.tokens and so on). `ptb-word-lm prepare` makes them from one text.
    #[arg(long, value_name = "DIR", help_heading = "The original's flags")]
    data_path: String,
    /// Folder for checkpoints; a run in it is resumed
    ///
    /// Metrics and TensorBoard's event files are written there too.
    #[arg(long, value_name = "DIR", help_heading = "The original's flags")]
    save_path: Option<PathBuf>,
    /// small, medium, large or test
    #[arg(long, value_enum, default_value_t = Model::Small, hide_possible_values = true)]
    #[arg(help_heading = "The original's flags")]
    model: Model,
    /// How to run the layers: cudnn (default), block, basic
    ///
    /// cudnn runs the whole sequence in one fused call, block has one fused operation per time
    /// step, basic runs operation by operation. The numbers are the same up to rounding.
    #[arg(long, value_enum, value_name = "MODE", hide_possible_values = true, ignore_case = true)]
    #[arg(help_heading = "The original's flags")]
    rnn_mode: Option<RnnMode>,

    /// Take flags from a JSON file, or from a run
    ///
    /// The file is such as {"model": "medium", "seed": 1}; flags on the command line win. The
    /// metrics.jsonl of a run, or its save path, repeats that run exactly.
    #[arg(long, value_name = "FILE", help_heading = "Running")]
    config: Option<PathBuf>,
    #[command(flatten)]
    workers: WorkerFlags,
    #[command(flatten)]
    device: DeviceFlags,
    /// The same as --precision fp16, which needs a GPU
    ///
    /// --nouse-fp16, as the original has it, is off.
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true)]
    #[arg(default_value = "false", default_missing_value = "true")]
    #[arg(value_parser = boolean)]
    #[arg(hide_possible_values = true, hide_default_value = true)]
    #[arg(help_heading = "The original's flags")]
    use_fp16: bool,
    /// Precision of the large matrix products, which are most of the arithmetic: fp32 or bf16; on
    /// a GPU also tf32-cudnn (TF32 in the LSTM alone), tf32 and fp16. Variables stay float32
    /// [default: fp32; on a GPU tf32-cudnn, as in PyTorch]
    #[arg(long, value_enum, hide_possible_values = true, help_heading = "Running")]
    precision: Option<Precision>,
    /// On a GPU, launch the kernels of a step one by one instead of as a CUDA graph
    #[arg(long, help_heading = "Running")]
    no_cuda_graph: bool,
    /// Random seed
    ///
    /// It is that of the initial variables and the dropout masks.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    #[arg(value_parser = whole::<i64>(..), help_heading = "Running")]
    seed: i64,
    /// Start from a model's variables instead of random ones: from what TensorFlow saved (a
    /// checkpoint's prefix, its folder, one of its files, or a .npz), from a run's save path or an
    /// exported .safetensors, or from a .safetensors of PyTorch's example word_language_model. Rows
    /// of another vocabulary are matched by word; new words begin at random
    #[arg(long, value_name = "FILE", help_heading = "Running")]
    init_from: Option<PathBuf>,
    /// Write metrics to this file as JSON lines [default: metrics.jsonl in the save path]
    #[arg(long, value_name = "FILE", help_heading = "Running")]
    metrics: Option<PathBuf>,
    /// Log every Nth step to the metrics file; 0 logs no steps
    #[arg(long, value_name = "N", default_value_t = 100, allow_negative_numbers = true)]
    #[arg(value_parser = whole(0i64..), help_heading = "Running")]
    log_every: i64,
    /// Stop after N training steps in total
    ///
    /// The model is then still evaluated; 0 trains nothing.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = whole(0i64..), help_heading = "Running")]
    max_steps: Option<i64>,
    /// Save within an epoch too: 500 for every 500 steps, 10m for every 10 minutes
    #[arg(long, value_name = "N", default_value_t = CheckpointEvery::Minutes(10.0))]
    #[arg(help_heading = "Running")]
    checkpoint_every: CheckpointEvery,
    /// Number of checkpoints to keep
    #[arg(long, value_name = "N", default_value_t = 2)]
    #[arg(value_parser = whole(1u32..), help_heading = "Running")]
    keep: u32,
    /// Still evaluate the validation and test texts after Ctrl-C
    #[arg(long, help_heading = "Running")]
    test_on_interrupt: bool,
    /// Do not evaluate the validation and test texts
    #[arg(long, help_heading = "Running")]
    no_eval: bool,
    /// Print only final perplexities, warnings, errors
    #[arg(long, short, help_heading = "Running")]
    quiet: bool,

    #[command(flatten)]
    hyperparameters: Hyperparameters,
    #[command(flatten)]
    limits: LimitFlags,
    #[command(flatten)]
    markers: MarkersFlag,
    /// Number of words in the vocabulary, as the original's configurations have it. It is only
    /// compared: the vocabulary is that of the training text
    #[arg(long, value_name = "N", value_parser = whole(1i64..), hide_short_help = true)]
    #[arg(help_heading = "Vocabulary (without these flags: all words, as in the original)")]
    vocab_size: Option<i64>,

    #[arg(skip)]
    pub given: Given,
}

impl TrainArgs {
    pub fn run(self) -> Result<ExitCode> {
        let config = self.hyperparameters.config(self.model)?;
        let rnn_mode = self.hyperparameters.rnn_mode(self.rnn_mode)?;
        self.refuse_ignored_flags()?;
        let signals = signals::listen()?;
        self.workers.run(self.device.device, config.batch_size, &signals, |device, team| {
            self.device.set_threads();
            self.refuse_flags_ignored_on(device, team)?;
            let precision = self.precision(device)?;
            device::set_precision(precision);
            let signals = &signals;
            Training { args: &self, device, team, signals, rnn_mode, precision }.run(config)
        })
    }

    /// Refuses flags that would have no effect beside the others.
    fn refuse_ignored_flags(&self) -> Result<(), UsageError> {
        let saves = self.save_path.is_some();
        let logs = saves || self.metrics.is_some();
        let cell = format!("with --cell {}", self.hyperparameters.cell);
        self.refuse(&[
            ("keep", !saves, "without --save-path"),
            ("checkpoint_every", !saves, "without --save-path"),
            ("log_every", !logs && self.log_every > 0, "without --metrics or --save-path"),
            ("test_on_interrupt", self.no_eval, "with --no-eval"),
            ("init_scale", self.init_from.is_some(), "with --init-from"),
            ("forget_bias", self.hyperparameters.ignores_forget_bias(), &cell),
        ])
    }

    /// Refuses flags that would have no effect on this device and with these workers.
    fn refuse_flags_ignored_on(&self, device: Device, team: &dyn Team) -> Result<(), UsageError> {
        let alone = "with one worker; --workers and --num-gpus start several";
        self.refuse(&[
            ("worker_timeout", team.size() == 1, alone),
            ("no_cuda_graph", !device.is_cuda(), "on the CPU; --device cuda takes a GPU"),
        ])
    }

    /// Refuses the first flag that was given though it has no effect. A rule is the flag, whether
    /// it has no effect, and where.
    fn refuse(&self, rules: &[(&str, bool, &str)]) -> Result<(), UsageError> {
        match rules.iter().find(|(flag, ignored, _)| *ignored && self.given.is_typed(flag)) {
            Some((flag, _, where_not)) => Err(UsageError::no_effect(flag, where_not)),
            None => Ok(()),
        }
    }

    /// `--precision`, or the original's `--use_fp16`, or the device's default.
    fn precision(&self, device: Device) -> Result<Precision, UsageError> {
        let precision = match self.precision {
            Some(precision) if self.use_fp16 && precision != Precision::Fp16 => {
                return Err(UsageError(format!(
                    "--use-fp16 is --precision fp16, and --precision is {precision}: give one of \
                     them"
                )));
            }
            None if self.use_fp16 => Precision::Fp16,
            precision => precision.unwrap_or(Precision::default_on(device.is_cuda())),
        };
        precision.check(device.is_cuda()).map_err(|error| {
            let flag = if self.use_fp16 { "--use-fp16: " } else { "" };
            let error = UsageError::from(error);
            UsageError(format!(
                "{flag}{error}; the CPU has --precision fp32 and, at half the width, --precision \
                 bf16"
            ))
        })?;
        Ok(precision)
    }
}

/// A training run, as one of its workers takes part in it. Worker 0 alone prints, logs and saves.
struct Training<'a> {
    args: &'a TrainArgs,
    device: Device,
    team: &'a dyn Team,
    signals: &'a Signals,
    rnn_mode: RnnMode,
    precision: Precision,
}

/// What a run reads and writes.
struct Opened {
    data: RawData,
    run: RunConfig,
    folder: Option<SaveFolder>,
    start: Start,
}

impl Training<'_> {
    fn run(&self, config: Config) -> Result<ExitCode> {
        let on_cpu = !self.device.is_cuda();
        if on_cpu && self.precision == Precision::Bf16 && !device::has_fast_bfloat16() {
            self.notice(
                "warning: this processor has no instructions for bfloat16, so --precision bf16 is \
                 many times slower here than --precision fp32",
            );
        }
        let Opened { data, run, folder, start } = self.open(config)?;
        self.ensure_same_everywhere(&run, &data)?;
        let args = self.args;
        let cell = args.hyperparameters.cell;
        let variables = PtbVariables::new(&run.config, cell, self.device, Kind::Float, args.seed)
            .map_err(|error| match error.downcast_ref() {
                Some(TooLarge { hidden_size }) => {
                    let cause = error.root_cause();
                    anyhow!("no memory for layers of --hidden-size {hidden_size}: {cause}")
                }
                None => error,
            })?
            .with_optimizer(run.optimizer);
        let input = Input::new(&data, &variables)?;
        let options = self.options();
        let mut session = Session::new(
            &variables,
            &input,
            &data.vocabulary,
            run.clone(),
            options,
            folder.as_ref(),
        );
        let resumed_at = self.prepare(&mut session, start, &variables, &data.vocabulary)?;
        session.join(self.team)?;
        let reporter = self.record(&data, &run, resumed_at)?;
        let perplexity = self.train(&mut session, reporter)?;
        self.conclude(session.progress(), &data, perplexity)
    }

    /// Opens the data and the save path. What can fail is tried before anything long begins: the
    /// save path before the data, the data before the model.
    fn open(&self, mut config: Config) -> Result<Opened> {
        let args = self.args;
        let folder = args.save_path.as_deref().filter(|_| self.is_first());
        folder.map_or(Ok(()), refuse_tensorflow_s)?;
        let folder = folder.map(|path| open_save_path(path, args.keep as usize)).transpose()?;
        let (limits, markers) = (args.limits.limits(), args.markers.markers());
        let data = match self.is_first() {
            true => read_data(&args.data_path, limits, markers, args.quiet)?,
            false => read_with(&args.data_path, limits, markers, &mut |_| ())?,
        };
        if let Some(start) = &args.given.start {
            config_file::ensure_same_texts(start, &args.data_path, &data)?;
        }
        let start = self.start(folder.as_ref())?;
        config.vocab_size = data.vocabulary.len() as i64;
        self.ensure_vocab_size(config.vocab_size)?;
        config.forget_bias = self.forget_bias(&config, &start)?;
        config.validate()?;
        let Hyperparameters { cell, optimizer, .. } = args.hyperparameters;
        let run = RunConfig {
            config,
            cell: cell.to_string(),
            optimizer,
            seed: args.seed,
            limits,
            markers: Some(markers),
        };
        match &start {
            Start::Random => {}
            Start::Imported(imported) => self.ensure_imported_fits(imported, &run)?,
            Start::Resumed(checkpoint) => self.ensure_resumable(checkpoint, &run, &data)?,
        }
        Ok(Opened { data, run, folder, start })
    }

    /// Compares the vocabulary with `--vocab-size`.
    fn ensure_vocab_size(&self, words: i64) -> Result<(), UsageError> {
        let Some(asked) = self.args.vocab_size.filter(|&asked| asked != words) else {
            return Ok(());
        };
        let advice = match words > asked.max(1) {
            true => format!("--max-vocab {asked} keeps the most frequent of them; otherwise leave"),
            false => "leave".to_owned(),
        };
        Err(UsageError(format!(
            "--vocab-size {asked} does not fit --data-path {}, whose training text has {words} \
             words in its vocabulary: {advice} --vocab-size out",
            self.args.data_path
        )))
    }

    fn options(&self) -> Options {
        let args = self.args;
        Options {
            rnn_mode: self.rnn_mode,
            precision: self.precision,
            log_every: args.log_every,
            max_steps: args.max_steps,
            evaluate: !args.no_eval,
            checkpoint_every: args.checkpoint_every,
            stop: self.signals.stop.clone(),
            save: self.signals.save.clone(),
            evaluate_when_stopped: args.test_on_interrupt,
            cuda_graph: !args.no_cuda_graph,
        }
    }

    /// Opens the files that record the run, and writes and prints how it starts.
    fn record(&self, data: &RawData, run: &RunConfig, resumed_at: Option<i64>) -> Result<Reporter> {
        let args = self.args;
        let config = &run.config;
        let save_path = args.save_path.as_deref();
        let metrics = args.metrics.clone().or(save_path.map(|path| path.join("metrics.jsonl")));
        let metrics = metrics
            .filter(|_| self.is_first())
            .map(|path| Metrics::create(&path, resumed_at.is_some()))
            .transpose()?;
        let events = save_path
            .filter(|_| self.is_first())
            .map(|path| EventFile::create(path, config.num_steps, resumed_at.unwrap_or(0)));
        // A full disk takes the events, not the run.
        let events = events.and_then(|events| {
            events
                .inspect_err(|error| notice(&format!("{error:#}; training goes on without them")))
                .ok()
        });
        let mut reporter =
            Reporter::new(metrics, events, config.max_max_epoch, args.max_steps).quiet(args.quiet);
        reporter.metric(&self.start_event(data, run, resumed_at));
        let workers = match self.team.size() {
            1 => String::new(),
            size => format!("{size} workers, each on "),
        };
        self.say(&format!(
            "model {} on {workers}{}, {}: {}, learning-rate schedule {}",
            args.model,
            device::name(self.device),
            plural(tch::get_num_threads(), "thread"),
            plural(config.vocab_size, "word"),
            config.lr_schedule,
        ));
        Ok(reporter)
    }

    /// The metrics' `start` event: everything that the run is.
    fn start_event(&self, data: &RawData, run: &RunConfig, resumed_at: Option<i64>) -> Value {
        let args = self.args;
        json!({
            "event": "start",
            "model": args.model,
            "config": run.config,
            "cell": run.cell,
            "optimizer": run.optimizer,
            "rnn_mode": self.rnn_mode,
            "precision": self.precision,
            "seed": run.seed,
            "max_vocab": run.limits.max_vocab,
            "min_count": run.limits.min_count,
            "markers": run.markers,
            "device": device::name(self.device),
            "threads": tch::get_num_threads(),
            "workers": self.team.size(),
            "init_from": args.init_from,
            "resumed_at": resumed_at,
            "versions": config_file::versions(),
            "data": data_of_metrics(&args.data_path, data),
            "flags": args.given.flags,
        })
    }

    /// Trains. Returns the perplexity of the test text, if it was evaluated.
    fn train(&self, session: &mut Session, mut reporter: Reporter) -> Result<Option<f64>> {
        let mut perplexity = None;
        let trained = session.train(&mut |event| {
            if let Event::Final(result) = &event {
                perplexity = Some(result.perplexity);
            }
            if self.is_first() {
                reporter.show(&event);
            }
        });
        if trained.is_err() {
            reporter.clear();
        }
        trained.map_err(|error| match error.is::<Diverged>() {
            true => anyhow!(
                "{error:#}. What helps: a smaller --learning-rate, a smaller --max-grad-norm, a \
                 smaller --init-scale; with --init-from, other variables"
            ),
            false => error,
        })?;
        reporter.finish();
        Ok(perplexity)
    }

    /// Says where the run stands. Returns the exit code.
    fn conclude(&self, at: &Progress, data: &RawData, perplexity: Option<f64>) -> Result<ExitCode> {
        let signal = self.signals.stop.load(Ordering::Relaxed);
        // The original's last line. Here the model has been saved before the test.
        if let Some(path) = &self.args.save_path
            && signal == 0
            && perplexity.is_some()
            && self.is_first()
            && !self.args.quiet
        {
            line(&format!("Saving model to {}.", path.display()));
        }
        // The source writes no <unk> for other words, and no text without them.
        let is_sample =
            self.args.data_path == SAMPLE && data.test.replaced + data.test.dropped == 0;
        if let Some(perplexity) = perplexity.filter(|_| is_sample) {
            let ids = data.test.tokens.iter();
            let words: Vec<&str> = ids.filter_map(|&id| data.vocabulary.word(id)).collect();
            let best = sample::best_perplexity(&words, 1, 1)?;
            self.say(&format!(
                "The sample corpus has a known source: no model can reach a lower test perplexity \
                 than {best:.3} on average. This model: {perplexity:.3} ({:+.1}%).",
                100.0 * (perplexity / best - 1.0)
            ));
        }
        if signal == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        let saved = match self.args.save_path {
            Some(_) => ": saved, and the same command goes on from there",
            None => "",
        };
        let Progress { epoch, step, global_step, .. } = at;
        let epoch = epoch + 1;
        self.notice(&format!(
            "stopped at epoch {epoch}, step {step} (global step {global_step}){saved}"
        ));
        Ok(ExitCode::from(128 + signal as u8))
    }

    /// Refuses to train beside workers that have other flags or other data.
    fn ensure_same_everywhere(&self, run: &RunConfig, data: &RawData) -> Result<()> {
        let args = self.args;
        let ours = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "run": run,
            "rnn_mode": self.rnn_mode,
            "precision": self.precision,
            "max_steps": args.max_steps,
            "no_eval": args.no_eval,
            "test_on_interrupt": args.test_on_interrupt,
            "checkpoint_every": args.checkpoint_every.to_string(),
            "train": data.train.md5,
            "valid": data.valid.md5,
            "test": data.test.md5,
        });
        let theirs = self.team.broadcast_text("run", &ours.to_string())?;
        let theirs: Value = serde_json::from_str(&theirs)?;
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

    fn is_first(&self) -> bool {
        self.team.rank() == 0
    }

    /// Writes a notice, once for all workers.
    fn notice(&self, text: &str) {
        if self.is_first() {
            notice(text);
        }
    }

    /// Writes a notice, unless `--quiet`.
    fn say(&self, text: &str) {
        if !self.args.quiet {
            self.notice(text);
        }
    }
}
