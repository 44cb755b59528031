//! Timings of the parts at `small`'s real sizes: `cargo bench` for all, `cargo bench -- update` for
//! those whose name has the word.
//!
//! The text is PTB where `PTB_DATA` names its folder, else a generated one of PTB's size. Threads:
//! all cores, or `OMP_NUM_THREADS`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use criterion::{Criterion, Throughput};
use ptb_word_lm::config::{Config, Precision, RnnMode};
use ptb_word_lm::device::keep_freed_memory;
use ptb_word_lm::model::{PtbModel, PtbVariables, SoftmaxLayer};
use ptb_word_lm::optimizer::{Optimizer, clip_scale, global_norm};
use ptb_word_lm::reader::{Producer, RawData, Vocabulary};
use ptb_word_lm::rnn::CellType;
use tch::{Device, Kind, Tensor};

/// Words per training step of `small`: 20 rows of 20.
const WORDS: u64 = 400;

/// Three texts of PTB's sizes: 9,999 words drawn with probabilities that fall with their rank, in
/// lines of 21.
fn write_text(folder: &Path) -> Result<()> {
    let mut random = 1u64;
    for (split, lines) in [("train", 42_254), ("valid", 3_352), ("test", 3_746)] {
        let mut text = String::new();
        let mut drawn = 0;
        for _ in 0..lines {
            for _ in 0..21 {
                // Knuth's linear congruential generator; its upper bits as a number in [0, 1).
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let uniform = (random >> 11) as f64 / (1u64 << 53) as f64;
                // Every word once at the beginning of the training text, then by Zipf's law:
                // log-uniform ranks.
                let rank = if split == "train" && drawn < 9_999 {
                    drawn
                } else {
                    9_999f64.powf(uniform) as u64
                };
                write!(text, " w{rank}")?;
                drawn += 1;
            }
            text.push_str(" \n");
        }
        std::fs::write(folder.join(format!("ptb.{split}.txt")), text)?;
    }
    Ok(())
}

fn reader(c: &mut Criterion, folder: &str, data: &RawData) -> Result<()> {
    let words: Vec<&str> =
        data.train.tokens.iter().filter_map(|&id| data.vocabulary.word(id)).collect();
    let mut counts: HashMap<String, u64> = HashMap::new();
    for word in &words {
        *counts.entry((*word).to_owned()).or_default() += 1;
    }
    let mut group = c.benchmark_group("reader");
    group.sample_size(10);
    group.throughput(Throughput::Elements(data.train.tokens.len() as u64));
    group.bench_function("three texts from files", |b| {
        b.iter(|| RawData::read(folder).map(black_box).is_ok())
    });
    group.bench_function("ids of the training text", |b| {
        b.iter(|| {
            words.iter().filter_map(|word| data.vocabulary.id(word)).map(i64::from).sum::<i64>()
        })
    });
    group.throughput(Throughput::Elements(counts.len() as u64));
    group.bench_function("vocabulary from counts", |b| {
        b.iter_batched(|| counts.clone(), Vocabulary::from_counts, criterion::BatchSize::LargeInput)
    });
    group.finish();

    let config = Config::SMALL;
    let new = || Producer::new(&data.train, config.batch_size, config.num_steps, Device::Cpu);
    let producer = new()?;
    let mut step = 0;
    let mut group = c.benchmark_group("producer");
    group.bench_function("laying out the training text", |b| {
        b.iter(|| new().map(black_box).is_ok())
    });
    group.throughput(Throughput::Elements(WORDS));
    group.bench_function("batch", |b| {
        b.iter(|| {
            step = (step + 1) % producer.epoch_size();
            producer.batch(step)
        })
    });
    group.finish();
    Ok(())
}

/// The parts of a training step, one after the other, then the step as a whole.
fn step(c: &mut Criterion, data: &RawData) -> Result<()> {
    let config = Config { vocab_size: data.vocabulary.len() as i64, ..Config::SMALL };
    let variables = PtbVariables::new(&config, CellType::BasicLstm, Device::Cpu, Kind::Float, 0)?;
    let (hidden, batch_size) = (config.hidden_size, config.batch_size);
    let rows_of = |ids: &Tensor| {
        tch::no_grad(|| variables.trainable()[0].index_select(0, &ids.flatten(0, -1)))
    };
    let train = Producer::new(&data.train, batch_size, config.num_steps, Device::Cpu)?;
    let (x, y) = train.batch(0);
    let embedded = rows_of(&x).view([batch_size, config.num_steps, hidden]);
    let targets = y.flatten(0, -1);

    let mut group = c.benchmark_group("step");
    group
        .measurement_time(Duration::from_secs(4))
        .sample_size(20)
        .throughput(Throughput::Elements(WORDS));

    // Forward and backward of the recurrent part in all modes.
    for (name, mode) in
        [("cudnn", RnnMode::Cudnn), ("block", RnnMode::Block), ("basic", RnnMode::Basic)]
    {
        let model = PtbModel::new(&variables, true, mode);
        let state = model.zero_state(batch_size);
        group.bench_function(format!("forward, {name}"), |b| {
            b.iter(|| tch::no_grad(|| model.outputs(&embedded, &state, &[])).map(black_box).is_ok())
        });
        let trainable = variables.trainable();
        let leaf = embedded.copy().set_requires_grad(true);
        let leaves = [&[&leaf], &trainable[1..trainable.len() - 2]].concat();
        let above = Tensor::ones([WORDS as i64, hidden], (Kind::Float, Device::Cpu));
        group.bench_function(format!("forward and backward, {name}"), |b| {
            b.iter(|| {
                model
                    .outputs(&leaf, &state, &[])
                    .and_then(|(output, _)| {
                        let sum = (output * &above).sum(Kind::Float);
                        Ok(Tensor::f_run_backward(&[sum], &leaves, false, false)?)
                    })
                    .map(black_box)
                    .is_ok()
            })
        });
    }

    // The softmax layer: by its plain definition under autograd, in float32 and in double
    // precision, and as the step does it.
    let model = PtbModel::new(&variables, true, RnnMode::Cudnn);
    let state = model.zero_state(batch_size);
    let (output, _) = tch::no_grad(|| model.outputs(&embedded, &state, &[]))?;
    for kind in [Kind::Float, Kind::Double] {
        let trainable = variables.trainable();
        let leaf = |t: &Tensor| t.detach().copy().to_kind(kind).set_requires_grad(true);
        let (w, b, output) = (
            leaf(trainable[trainable.len() - 2]),
            leaf(trainable[trainable.len() - 1]),
            leaf(&output),
        );
        let layer = SoftmaxLayer { w: &w, b: &b, precision: Precision::Fp32 };
        group.bench_function(format!("loss, plain definition, {kind:?}"), |bench| {
            bench.iter(|| {
                layer
                    .cost(&output, &targets, batch_size)
                    .and_then(|cost| {
                        Ok(Tensor::f_run_backward(&[cost], &[&output, &w, &b], false, false)?)
                    })
                    .map(black_box)
                    .is_ok()
            })
        });
        if kind == Kind::Float {
            let [output, w, b] = [&output, &w, &b].map(Tensor::detach);
            for precision in [Precision::Fp32, Precision::Bf16] {
                let layer = SoftmaxLayer { w: &w, b: &b, precision };
                group.bench_function(format!("loss, as the step does it, {precision}"), |bench| {
                    bench.iter(|| layer.cost_and_gradients(&output, &targets, batch_size))
                });
                group.bench_function(format!("loss, without gradients, {precision}"), |bench| {
                    bench.iter(|| layer.costs(&output, &targets).map(black_box).is_ok())
                });
            }
        }
    }

    // The update. A learning rate of 0 keeps the variables as they are, at the same cost.
    let (_, gradients, _) = model.gradients(&x, &y, &state, &[])?;
    let scale = clip_scale(&global_norm(&gradients), config.max_grad_norm);
    let zero = Tensor::from(0f32);
    group.bench_function("global norm", |b| b.iter(|| global_norm(&gradients)));
    group.bench_function("update", |b| {
        b.iter(|| {
            Optimizer::GradientDescent.apply_gradients(
                &variables.trainable(),
                &gradients,
                &scale,
                &zero,
            )
        })
    });

    group.bench_function("gradients", |b| {
        b.iter(|| model.gradients(&x, &y, &state, &[]).map(black_box).is_ok())
    });
    group.bench_function("whole training step", |b| {
        b.iter(|| model.train_step(&x, &y, &state, 0.0).map(black_box).is_ok())
    });

    // Evaluation: a step of the validation text, and 400 words of the test text in one piece.
    let model = PtbModel::new(&variables, false, RnnMode::Cudnn);
    group.bench_function("evaluation, valid", |b| {
        b.iter(|| model.evaluate(&x, &y, &state).map(black_box).is_ok())
    });
    let (x, y) = Producer::new(&data.test, 1, WORDS as i64, Device::Cpu)?.batch(0);
    let state = model.zero_state(1);
    group.bench_function("evaluation, test", |b| {
        b.iter(|| model.evaluate(&x, &y, &state).map(black_box).is_ok())
    });
    group.finish();
    Ok(())
}

fn main() -> Result<()> {
    keep_freed_memory();
    let generated = tempfile::tempdir()?;
    let folder = match std::env::var("PTB_DATA") {
        Ok(folder) => folder,
        Err(_) => {
            write_text(generated.path())?;
            generated.path().display().to_string()
        }
    };
    let data = RawData::read(&folder)?;
    let mut criterion = Criterion::default().configure_from_args();
    reader(&mut criterion, &folder, &data)?;
    step(&mut criterion, &data)?;
    criterion.final_summary();
    Ok(())
}
