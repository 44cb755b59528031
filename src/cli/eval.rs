//! `eval`

use std::fmt::Write;
use std::mem;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use serde_json::json;
use tch::Device;

use super::data::{data_of_metrics, read_data, read_data_of};
use super::flags::config_file;
use super::flags::{
    AdaptFlags, MarkersFlag, PrecisionFlag, SavedFlags, SavedPath, UsageError, advise_markers,
    rnn_mode,
};
use super::model_of_size;
use super::report::evaluated::{Costs, EvalEvent, Member};
use super::report::{Metrics, line, notice, plural};
use crate::adapt::{Adaptation, Adaptive, Dynamic};
use crate::average::{Average, CommonWords};
use crate::cache::Cache;
use crate::checkpoint::{Checkpoint, Misfit};
use crate::config::{Config, LrSchedule, Model, Precision, RnnMode};
use crate::device;
use crate::event::Evaluation;
use crate::model::{PtbModel, PtbVariables};
use crate::predictor::Predictor;
use crate::reader::{Limits, Markers, Producer, RawData, Split, Vocabulary};
use crate::rnn::CellType;
use crate::tune::{Grid, Point, Tuning, best};

#[derive(Args)]
pub struct EvalArgs {
    #[command(flatten)]
    saved: SavedFlags,
    /// Folder of the training text (for the vocabulary), the validation and the test text, named as
    /// for `train`; or `sample`
    #[arg(long, value_name = "DIR")]
    data_path: String,
    /// How to run the recurrent layers: cudnn, block or basic, as for `train`
    #[arg(long, value_enum, value_name = "MODE", hide_possible_values = true, ignore_case = true)]
    rnn_mode: Option<RnnMode>,
    #[command(flatten)]
    markers: MarkersFlag,
    #[command(flatten)]
    precision: PrecisionFlag,
    #[command(flatten)]
    adapt: AdaptFlags,
    /// Try some learning rates of --dynamic, and some values of --cache-theta and --cache-lambda,
    /// on the validation text; print its perplexities and the best values
    #[arg(long, help_heading = "Adapting to the text (not in the original)")]
    tune: bool,
    /// Append the perplexities to this file as a JSON line, which `compare` reads
    #[arg(long, value_name = "FILE", help_heading = "Running")]
    metrics: Option<PathBuf>,
}

/// The models, as far as all of them are looked at before the first is evaluated.
struct Looked<'a> {
    paths: Vec<SavedPath<'a>>,
    /// The checkpoint of a single model. Those of several are loaded again, each in its turn, as
    /// they may not fit in memory together.
    only: Option<Checkpoint>,
    /// The words of one of them, and its flag.
    words: Option<(String, Vocabulary)>,
    limits: Limits,
    markers: Option<Markers>,
    /// The flag and the number of words of the first.
    first: String,
    vocab_size: i64,
    /// `batch_size` and `num_steps` of the first: all read the text as its run does.
    layout: (i64, i64),
    /// Each of them, for the metrics; their perplexities are still to come.
    members: Vec<Member>,
    /// The preset and the learning-rate schedule of all, if they have the same.
    model: Option<Model>,
    lr_schedule: Option<LrSchedule>,
}

/// With what the models are evaluated.
#[derive(Clone, Copy)]
struct With {
    device: Device,
    precision: Precision,
    adaptation: Adaptation,
}

/// The perplexities of the validation and the test text, of each model and of their average.
struct Found {
    members: Vec<Member>,
    valid: Evaluation,
    test: Evaluation,
    seconds: f64,
}

impl EvalArgs {
    pub fn run(self) -> Result<()> {
        let device = self.saved.device()?;
        let tuned = self.tune.then(|| self.adapt.to_tune()).transpose()?;
        if self.tune && self.metrics.is_some() {
            return Err(UsageError::no_effect("metrics", "with --tune").into());
        }
        let adaptation = match tuned {
            Some(_) => Adaptation::default(),
            None => self.adapt.adaptation()?.effective(),
        };
        let mut looked = self.look()?;
        let precision = self.precision.select(device)?;
        let data = self.data(&looked)?;
        for split in [&data.valid, &data.test] {
            ensure_words(split)?;
        }
        if let Some(tuned) = tuned {
            return self.tune(tuned, &mut looked, &data, device, precision);
        }
        // A file that cannot be written is reported before anything long begins.
        let metrics =
            self.metrics.as_deref().map(|path| Metrics::create(path, true)).transpose()?;
        let with = With { device, precision, adaptation };
        let found = self.evaluate(&mut looked, &data, with)?;
        line(&format!("Valid Perplexity: {:.3}", found.valid.perplexity));
        line(&format!("Test Perplexity: {:.3}", found.test.perplexity));
        match metrics {
            Some(mut metrics) => metrics.write(&json!(self.event(&looked, found, &data, with))),
            None => Ok(()),
        }
    }

    /// The metrics' line.
    fn event(&self, looked: &Looked, found: Found, data: &RawData, with: With) -> EvalEvent {
        let Found { members, valid, test, seconds } = found;
        EvalEvent {
            event: EvalEvent::NAME.to_owned(),
            model: looked.model.map(|model| model.to_string()),
            lr_schedule: looked.lr_schedule.map(|schedule| schedule.to_string()),
            models: members.len() as u64,
            members,
            valid: Some(valid.perplexity),
            test: Some(test.perplexity),
            cost_per_word: Costs { valid: Some(valid.cost), test: Some(test.cost) },
            dynamic: with.adaptation.dynamic,
            cache: with.adaptation.cache,
            seconds: Some(seconds),
            precision: json!(with.precision),
            device: json!(device::name(with.device)),
            threads: json!(tch::get_num_threads()),
            vocab_size: Some(data.vocabulary.len() as u64),
            versions: config_file::versions(),
            data: data_of_metrics(&self.data_path, data),
        }
    }

    /// Evaluates the models, one after the other.
    fn evaluate(&self, looked: &mut Looked, data: &RawData, with: With) -> Result<Found> {
        let With { device, precision, adaptation } = with;
        let start = Instant::now();
        let mut members = mem::take(&mut looked.members);
        let texts = match adaptation.is_none() {
            true => {
                let (batch_size, num_steps) = valid_layout(&data.valid, looked.layout);
                let valid = Producer::new(&data.valid, batch_size, num_steps, device)?;
                Some((valid, Producer::new(&data.test, 1, 1, device)?))
            }
            false => None,
        };
        let (mut valid, mut test) = (Average::default(), Average::default());
        for (k, member) in members.iter_mut().enumerate() {
            let (variables, mode) = self.load(looked, k, data, device)?;
            let [own_valid, own_test] = match &texts {
                Some((valid_text, test_text)) => {
                    let model = PtbModel::new(&variables, false, mode).precision(precision);
                    [valid.add(&model, valid_text)?, test.add(&model, test_text)?]
                }
                None => {
                    let model = &mut Adaptive::new(&variables, mode, precision, adaptation)?;
                    [add(&mut valid, model, &data.valid)?, add(&mut test, model, &data.test)?]
                }
            };
            if looked.paths.len() > 1 {
                let here = looked.paths[k].here();
                notice(&format!("{here}: valid {own_valid:.3}, test {own_test:.3}"));
            }
            (member.valid, member.test) = (Some(own_valid), Some(own_test));
        }
        let (valid, test) = (valid.evaluation()?, test.evaluation()?);
        Ok(Found { members, valid, test, seconds: start.elapsed().as_secs_f64() })
    }

    /// Reads the texts with the models' words, if these are known.
    fn data(&self, looked: &Looked) -> Result<RawData> {
        let path = &self.data_path;
        let markers = self.markers.given().or(looked.markers).unwrap_or_default();
        let Some((name, words)) = &looked.words else {
            let data = read_data(path, looked.limits, markers, false)?;
            let (name, rows) = (&looked.first, looked.vocab_size);
            ensure!(
                data.vocabulary.len() as i64 == rows,
                "{name}: the model has {rows} words, which ones is not known, and --data-path \
                 {path} has {}{}. `import` it again with --vocab, or with --data-path and \
                 --max-vocab or --min-count",
                data.vocabulary.len(),
                advise_markers(None, &data, markers)
            );
            return Ok(data);
        };
        let read = read_data_of(words, path, looked.limits, markers);
        let (data, _) = read.map_err(|error| match error.downcast_ref() {
            Some(Misfit::Vocabulary(difference)) => anyhow!(
                "{name}: the model's vocabulary is not that of --data-path {path}, so this is \
                 not the data that it was trained on: {difference}. `score` reads any text"
            ),
            _ => error,
        })?;
        Ok(data)
    }

    /// Looks at all models.
    fn look(&self) -> Result<Looked<'_>> {
        let paths = self.saved.paths();
        let (mut only, mut words, mut first) = (None, CommonWords::default(), None);
        let (mut limits, mut markers) = (Limits::default(), None);
        let (mut members, mut models, mut schedules) = (Vec::new(), Vec::new(), Vec::new());
        for path in &paths {
            let checkpoint = path.open()?;
            let cell = checkpoint.cell().with_context(|| path.here())?;
            rnn_mode(cell, self.rnn_mode)?;
            let Config { hidden_size, num_layers, lr_schedule, .. } = checkpoint.run.config;
            models.push(
                model_of_size(hidden_size, num_layers).filter(|_| cell == CellType::BasicLstm),
            );
            schedules.push((!checkpoint.is_imported()).then_some(lr_schedule));
            members.push(member(path, &checkpoint));
            if let Some(own) = &checkpoint.vocabulary {
                words.add(path.here(), own.clone())?;
            }
            ensure_as_many_words(&first, path, &checkpoint.run.config)?;
            limits = if limits.is_none() { checkpoint.run.limits } else { limits };
            markers = markers.or(checkpoint.run.markers);
            let config = &checkpoint.run.config;
            first.get_or_insert((path.here(), *config));
            only = (paths.len() == 1).then_some(checkpoint);
        }
        let (first, config) = first.context("there is no --checkpoint")?;
        let layout = (config.batch_size, config.num_steps);
        let (words, vocab_size) = (words.into_inner(), config.vocab_size);
        let (model, lr_schedule) = (common(&models), common(&schedules));
        Ok(Looked {
            paths,
            only,
            words,
            limits,
            markers,
            first,
            vocab_size,
            layout,
            members,
            model,
            lr_schedule,
        })
    }

    /// Loads the variables of model `k`, and its mode.
    fn load(
        &self,
        looked: &mut Looked,
        k: usize,
        data: &RawData,
        device: Device,
    ) -> Result<(PtbVariables, RnnMode)> {
        let path = &looked.paths[k];
        let checkpoint = looked.only.take().map_or_else(|| path.open(), Ok)?;
        let mode = rnn_mode(checkpoint.cell()?, self.rnn_mode)?;
        let config = Config { vocab_size: data.vocabulary.len() as i64, ..checkpoint.run.config };
        Ok((path.variables(&checkpoint, &config, device)?, mode))
    }

    /// Prints the perplexity of the validation text for all settings of the grid. The rest of the
    /// settings is as given.
    fn tune(
        &self,
        (dynamic, cache): (Dynamic, Cache),
        looked: &mut Looked,
        data: &RawData,
        device: Device,
        precision: Precision,
    ) -> Result<()> {
        let grid = Grid::default();
        let mut tuning = Tuning::new(grid.clone(), dynamic, cache);
        for k in 0..looked.paths.len() {
            let (variables, mode) = self.load(looked, k, data, device)?;
            let here = looked.paths[k].here();
            let text = &data.valid.tokens;
            tuning.add(&variables, mode, precision, text, &mut |rate, perplexity| {
                notice(&format!("{here} --dynamic {rate}: valid {perplexity:.3}"));
            })?;
        }
        let points = tuning.points()?;
        line(table(&grid, &points).trim_end());
        let of_all = || points.iter().copied();
        let alone = |point: &Point| point.rate == 0.0;
        let bests = [
            best(of_all().filter(|point| point.cache.is_none())),
            best(of_all().filter(|point| alone(point) && point.cache.is_some())),
            best(of_all()),
        ];
        line("");
        for point in bests.into_iter().flatten() {
            line(&format!("Best{}: {:.3}", flags(&point, cache.size), point.perplexity));
        }
        Ok(())
    }
}

/// What a model's checkpoint says of it. Of an imported one, only the variables are known.
fn member(path: &SavedPath, checkpoint: &Checkpoint) -> Member {
    let checkpoint_path = Some(path.path().to_string_lossy().into_owned());
    if checkpoint.is_imported() {
        return Member { checkpoint: checkpoint_path, ..Member::default() };
    }
    let run = &checkpoint.run;
    Member {
        checkpoint: checkpoint_path,
        seed: Some(run.seed),
        epochs: Some(checkpoint.progress.epoch),
        config: json!(run.config),
        cell: json!(run.cell),
        optimizer: json!(run.optimizer),
        ..Member::default()
    }
}

/// Refuses to average models whose numbers of words differ.
fn ensure_as_many_words(
    first: &Option<(String, Config)>,
    path: &SavedPath,
    config: &Config,
) -> Result<()> {
    let Some((name, first)) = first else { return Ok(()) };
    ensure!(
        first.vocab_size == config.vocab_size,
        "{}: the model has {} words, and that of {name} has {}, so they cannot be averaged",
        path.here(),
        config.vocab_size,
        first.vocab_size
    );
    Ok(())
}

/// The value that all have, if it is the same.
fn common<T: Copy + PartialEq>(values: &[Option<T>]) -> Option<T> {
    let first = values.first().copied().flatten();
    first.filter(|_| values.iter().all(|value| *value == first))
}

/// Checks that there is a word to predict.
fn ensure_words(split: &Split) -> Result<()> {
    let words = split.tokens.len();
    let are = plural(words as u64, "word");
    ensure!(words > 1, "{}: a text of {are} has no word to predict", split.name);
    Ok(())
}

/// Rows and steps of the validation text: those of the run or, for a text too short for them, one
/// row that is read word by word, as the test text.
fn valid_layout(valid: &Split, (batch_size, num_steps): (i64, i64)) -> (i64, i64) {
    let words = valid.tokens.len() as i64;
    if words / batch_size > num_steps {
        return (batch_size, num_steps);
    }
    notice(&format!(
        "{}: {words} words are too few for the run's {batch_size} rows in steps of {num_steps} \
         words; they are read as one row",
        valid.name
    ));
    (1, 1)
}

/// Adds the costs of a split that is read in one place. Returns the perplexity of these alone.
fn add(average: &mut Average, model: &mut dyn Predictor, split: &Split) -> Result<f64> {
    model.reset()?;
    let costs = model.costs(&split.tokens)?;
    average.add_row(&costs)
}

/// The perplexities of all points: for each rate a row per theta, a column per lambda.
fn table(grid: &Grid, points: &[Point]) -> String {
    let mut text = String::new();
    for &rate in &grid.rates {
        let mut of_rate = points.iter().filter(|point| point.rate == rate);
        let Some(without) = of_rate.next() else { continue };
        let _ = writeln!(text, "--dynamic {rate}: Valid Perplexity {:.3}", without.perplexity);
        let cells: Vec<String> =
            of_rate.map(|point| format!("{:>9.3}", point.perplexity)).collect();
        if !cells.is_empty() {
            let lambdas: Vec<String> = grid.lambdas.iter().map(|l| format!("{l:>9}")).collect();
            let _ = writeln!(text, "  theta\\lambda{}", lambdas.concat());
            for (theta, cells) in grid.thetas.iter().zip(cells.chunks(grid.lambdas.len())) {
                let _ = writeln!(text, "{theta:>14}{}", cells.concat());
            }
        }
    }
    text
}

/// The flags that select a point.
fn flags(point: &Point, cache_size: i64) -> String {
    let mut flags = String::new();
    if point.rate > 0.0 {
        let _ = write!(flags, " --dynamic {}", point.rate);
    }
    if let Some((theta, lambda)) = point.cache {
        let _ =
            write!(flags, " --cache {cache_size} --cache-theta {theta} --cache-lambda {lambda}");
    }
    flags
}
