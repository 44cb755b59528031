//! What the original does not have: averages of models, and models that adapt themselves to the
//! text.

mod program;

use std::fs;
use std::path::Path;

use program::{
    Expect, checkpoint, json_lines, model, perplexities, program, repository, short_sample, text,
};
use ptb_word_lm::adapt::{Adaptation, Adaptive, Dynamic};
use ptb_word_lm::average::Mean;
use ptb_word_lm::cache::Cache;
use ptb_word_lm::checkpoint::SaveFolder;
use ptb_word_lm::config::{Config, Precision, RnnMode};
use ptb_word_lm::model::{PtbModel, PtbVariables};
use ptb_word_lm::optimizer::clip_by_global_norm;
use ptb_word_lm::predictor::{Plain, Predictor};
use ptb_word_lm::reader::{EOS, RawData, Vocabulary};
use ptb_word_lm::rnn::CellType;
use tch::{Device, Kind, Tensor};

/// Trains a small model on the sample corpus, for a second.
fn train(save: &Path, more: &[&str]) {
    let base =
        ["train", "--device", "cpu", "--model", "test", "--data-path", "sample", "--no-eval"];
    program(&[&base[..], &["--max-steps", "60", "--save-path", text(save)], more].concat()).works();
}

/// Two runs that differ in cell, layers, size, batch and seed, in folders `a` and `b`.
fn two_runs() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    train(&folder.path().join("a"), &["--hidden-size", "24", "--num-layers", "2", "--seed", "1"]);
    train(
        &folder.path().join("b"),
        &["--hidden-size", "17", "--cell", "gru", "--batch-size", "13"],
    );
    folder
}

/// Probabilities of the words of a row but the first, from zeros, by the plain softmax.
fn probabilities(variables: &PtbVariables, row: &[i32]) -> Vec<f64> {
    let model = PtbModel::new(variables, false, RnnMode::Basic);
    let ids: Vec<i64> = row.iter().map(|&id| i64::from(id)).collect();
    let (mut state, mut found) = (model.zero_state(1), Vec::new());
    for words in (0..ids.len() - 1).collect::<Vec<_>>().chunks(500) {
        let (first, last) = (words[0], words[words.len() - 1]);
        let logits;
        (logits, state) =
            model.logits(&Tensor::from_slice(&ids[first..=last]).unsqueeze(0), &state).unwrap();
        let targets = Tensor::from_slice(&ids[first + 1..=last + 1]).unsqueeze(1);
        let p = logits.softmax(1, Kind::Double).gather(1, &targets, false).squeeze_dim(1);
        found.extend(Vec::<f64>::try_from(p).unwrap());
    }
    found
}

/// Probabilities of the words of a text in so many rows, read in steps of `num_steps` words: what
/// fills no step is dropped.
fn in_rows(variables: &PtbVariables, tokens: &[i32], rows: usize, num_steps: usize) -> Vec<f64> {
    let length = tokens.len() / rows;
    let words = (length - 1) / num_steps * num_steps;
    let rows = tokens.chunks_exact(length).take(rows);
    rows.flat_map(|row| probabilities(variables, &row[..=words])).collect()
}

/// The perplexity of a text whose words have these probabilities with each of some models.
fn of_average(models: &[Vec<f64>]) -> f64 {
    let words = models[0].len();
    let mean = |word: usize| models.iter().map(|p| p[word]).sum::<f64>() / models.len() as f64;
    (-(0..words).map(|word| mean(word).ln()).sum::<f64>() / words as f64).exp()
}

fn assert_close(found: f64, expected: f64) {
    // Three decimals are printed.
    assert!((found / expected - 1.0).abs() < 1e-5, "{found} instead of {expected}");
}

#[test]
fn the_average_is_that_of_the_probabilities() {
    let folder = two_runs();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    let data = RawData::read("sample").unwrap();
    let models = [&a, &b].map(|save| model(save, Kind::Double).0);
    // The first one's rows.
    let rows = models[0].config().batch_size as usize;
    assert_ne!(rows, models[1].config().batch_size as usize);
    let valid = models.each_ref().map(|model| in_rows(model, &data.valid.tokens, rows, 2));
    let test = models.each_ref().map(|model| in_rows(model, &data.test.tokens, 1, 1));

    let base = ["eval", "--device", "cpu", "--data-path", "sample", "--checkpoint"];
    let (a, b) = (text(&a), text(&b));
    let (out, errors) = program(&[&base[..], &[a, "--checkpoint", b]].concat()).works();
    let expected = [of_average(&valid), of_average(&test)];
    for (found, expected) in perplexities(&out).into_iter().zip(expected) {
        assert_close(found, expected);
    }
    assert!(errors.contains(a) && errors.contains(b), "each model's own figures: {errors}");

    // Each alone; and the average of a model with itself is the model.
    let alone = program(&[&base[..], &[a]].concat()).works();
    assert_eq!(alone.1, "");
    for (found, expected) in perplexities(&alone.0).into_iter().zip([&valid[0], &test[0]]) {
        assert_close(found, of_average(std::slice::from_ref(expected)));
    }
    assert_eq!(
        program(&[&base[..], &[a, "--checkpoint", a, "--save_path", a]].concat()).works().0,
        alone.0
    );
}

#[test]
fn models_of_other_words_are_not_averaged() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    train(&a, &["--hidden-size", "8"]);
    let eval = |checkpoints: [&Path; 2]| {
        let [a, b] = checkpoints.map(text);
        let base = ["eval", "--device", "cpu", "--data-path", "sample"];
        program(&[&base[..], &["--checkpoint", a, "--checkpoint", b]].concat())
    };
    let refused = |checkpoints: [&Path; 2], says: &[&str]| {
        eval(checkpoints).fails_with(1, &[&checkpoints.map(text)[..], says].concat());
    };
    // As many words, two of them exchanged.
    let mut other = checkpoint(&a);
    let words = other.vocabulary.take().unwrap();
    let mut exchanged: Vec<&str> = words.words().collect();
    exchanged.swap(5, 9);
    let (fifth, ninth) = (format!("{:?}", exchanged[9]), format!("{:?}", exchanged[5]));
    other.vocabulary = Some(Vocabulary::from_words(exchanged));
    SaveFolder::open(&b, 1).unwrap().save(&other).unwrap();
    refused([&a, &b], &["word 5 is ", &fifth, &ninth]);
    // Fewer of them.
    fs::remove_dir_all(&b).unwrap();
    train(&b, &["--hidden-size", "8", "--max-vocab", "100"]);
    refused([&a, &b], &["different words"]);
    refused([&b, &a], &["different words"]);
    // Fewer, and it is not known which.
    let mut other = checkpoint(&b);
    other.vocabulary = None;
    SaveFolder::open(&b, 1).unwrap().save(&other).unwrap();
    let errors = eval([&a, &b]).fails_with(1, &["the model has 100 words", "cannot be averaged"]);
    assert!(!errors.contains("valid "), "it is said before a model is evaluated: {errors}");
    let nowhere = folder.path().join("nowhere");
    eval([&a, &nowhere]).fails_with(1, &["nowhere"]);
    program(&["eval", "--data-path", "sample"]).fails_with(2, &["--checkpoint"]);
}

/// ln p of every next word after these, on average over the models, from the beginning.
fn mean_log_probs(models: &[PtbVariables], ids: &[i32]) -> Vec<f64> {
    let x =
        Tensor::from_slice(&ids.iter().map(|&id| i64::from(id)).collect::<Vec<_>>()).unsqueeze(0);
    let p = models.iter().map(|variables| {
        let model = PtbModel::new(variables, false, RnnMode::Basic);
        let (logits, _) = model.logits(&x, &model.zero_state(1)).unwrap();
        logits.get(ids.len() as i64 - 1).softmax(0, Kind::Double)
    });
    Vec::try_from((p.sum::<Tensor>() / models.len() as f64).log()).unwrap()
}

/// The words, by their probabilities, likeliest first.
fn by_probability(log_probs: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..log_probs.len()).collect();
    order.sort_by(|&a, &b| log_probs[b].total_cmp(&log_probs[a]));
    order
}

#[test]
fn score_generate_and_predict_average_too() {
    let folder = two_runs();
    let saves = ["a", "b"].map(|name| folder.path().join(name));
    let models = saves.each_ref().map(|save| model(save, Kind::Double).0);
    let words = model(&saves[0], Kind::Double).1;
    let both =
        ["--device", "cpu", "--checkpoint", text(&saves[0]), "--checkpoint", text(&saves[1])];
    let ids = |text: &str| -> Vec<i32> {
        text.split_whitespace().map(|word| words.id(word).unwrap()).collect()
    };

    // The words of a file, and of lines that are read alone.
    let lines = ["the company said", "it is the"];
    let file = folder.path().join("lines.txt");
    fs::write(&file, lines.join("\n") + "\n").unwrap();
    let log_probs_of = |text: &[i32]| -> Vec<f64> {
        (1..text.len()).map(|k| mean_log_probs(&models, &text[..k])[text[k] as usize]).collect()
    };
    let eos = words.id(EOS).unwrap();
    for independent in [false, true] {
        let flag: &[&str] = if independent { &["--independent"] } else { &[] };
        let args = [&["score"], &both[..], &["--json", "--per-word", text(&file)], flag].concat();
        let (out, _) = program(&args).works();
        let objects = json_lines(&out);
        let per_word =
            objects.iter().flat_map(|line| line["per_word"].as_array().into_iter().flatten());
        let found: Vec<f64> =
            per_word.filter_map(|word| word["log_probability"].as_f64()).collect();
        let expected: Vec<f64> = if independent {
            let alone = lines.map(|line| [vec![eos], ids(line), vec![eos]].concat());
            alone.iter().flat_map(|line| log_probs_of(line)).collect()
        } else {
            log_probs_of(&lines.map(|line| [ids(line), vec![eos]].concat()).concat())
        };
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found / expected - 1.0).abs() < 1e-5, "{found} instead of {expected}");
        }
    }

    // The likeliest words after a text, and after the end of a sentence.
    for prompt in ["the company said", ""] {
        let begin = if prompt.is_empty() { vec![eos] } else { ids(prompt) };
        let log_probs = mean_log_probs(&models, &begin);
        let (out, errors) =
            program(&[&["predict"], &both[..], &["--top", "5", "--prompt", prompt]].concat())
                .works();
        assert_eq!(errors, "");
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines.len(), 5, "{out}");
        for (line, id) in lines.iter().zip(by_probability(&log_probs)) {
            let (probability, word) = line.split_once(' ').unwrap();
            assert_eq!(word, words.word(id as i32).unwrap(), "{out}");
            let probability: f64 = probability.parse().unwrap();
            assert!((probability - log_probs[id].exp()).abs() < 1e-6, "{line}");
        }
    }
    let alone = ["predict", "--device", "cpu", "--checkpoint", text(&saves[0]), "--prompt", "the"];
    assert_eq!(program(&alone).works().0.lines().count(), 10);
    let (out, _) = program(&[&alone[..], &["--top", "100000"]].concat()).works();
    let sum: f64 =
        out.lines().map(|line| line.split_once(' ').unwrap().0.parse::<f64>().unwrap()).sum();
    assert!(out.lines().count() == words.len() && (sum - 1.0).abs() < 1e-2, "{sum}");
    program(&[&alone[..], &["--top", "0"]].concat()).fails_with(2, &["--top"]);

    // Always the likeliest word.
    let mut text_ids = ids("the company");
    for _ in 0..12 {
        let next = by_probability(&mean_log_probs(&models, &text_ids))[0];
        text_ids.push(next as i32);
    }
    let expected: Vec<&str> = text_ids.iter().map(|&id| words.word(id).unwrap()).collect();
    let flags = ["--temperature", "0", "--words", "12", "--prompt", "the company"];
    let (out, _) = program(&[&["generate"], &both[..], &flags].concat()).works();
    let shown: Vec<&str> = expected.iter().copied().filter(|&word| word != EOS).collect();
    assert_eq!(out.split_whitespace().collect::<Vec<_>>(), shown);
}

const CONFIG: Config = Config {
    vocab_size: 19,
    hidden_size: 6,
    num_layers: 2,
    init_scale: 0.6,
    keep_prob: 0.5,
    max_grad_norm: 2.0,
    ..Config::SMALL
};

fn variables(cell: CellType, keep_prob: f64, seed: i64) -> PtbVariables {
    PtbVariables::new(&Config { keep_prob, ..CONFIG }, cell, Device::Cpu, Kind::Double, seed)
        .unwrap()
}

/// Words, some of which are frequent; a function of the seed.
fn words(n: usize, seed: u64) -> Vec<i32> {
    let mut random = seed;
    let mut next = || {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as f64 / (1u64 << 31) as f64
    };
    (0..n).map(|_| (next() * next() * CONFIG.vocab_size as f64) as i32).collect()
}

const DYNAMIC: Dynamic = Dynamic { rate: 0.3, steps: 7, decay: 0.1 };
const CACHE: Cache = Cache { size: 25, theta: 0.7, lambda: 0.2 };
const BOTH: Adaptation = Adaptation { dynamic: Some(DYNAMIC), cache: Some(CACHE) };

fn adaptive(variables: &PtbVariables, adaptation: Adaptation) -> Adaptive<'_> {
    let mode = match variables.cell() {
        CellType::BasicLstm => RnnMode::Cudnn,
        _ => RnnMode::Basic,
    };
    Adaptive::new(variables, mode, Precision::Fp32, adaptation).unwrap()
}

fn assert_all_close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (word, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            (found / expected - 1.0).abs() < 1e-9,
            "word {word}: {found} instead of {expected}"
        );
    }
}

/// Ids of words but the last, and but the first, `[1, n]`.
fn inputs_and_targets(words: &[i32]) -> (Tensor, Tensor) {
    let ids = Tensor::from_slice(words).to_kind(Kind::Int64).unsqueeze(0);
    let n = words.len() as i64 - 1;
    (ids.narrow(1, 0, n), ids.narrow(1, 1, n))
}

/// Dynamic evaluation and a cache in the plainest way: one word at a time, a pair at a time. A
/// training step is written out from the model's gradients, in a model made without dropout.
fn by_hand(trained: &PtbVariables, adaptation: Adaptation, text: &[i32]) -> Vec<f64> {
    let v = variables(trained.cell(), 1.0, 9);
    v.assign(&trained.to_tensorflow().unwrap()).unwrap();
    let model = PtbModel::new(&v, true, RnnMode::Basic);
    let mut costs = Vec::new();
    let mut state = model.zero_state(1);
    let mut pairs: Vec<(Tensor, i32)> = Vec::new();
    let (mut lesson, mut before) = (vec![text[0]], model.zero_state(1));
    for word in text.windows(2) {
        let input = Tensor::from_slice(&[i64::from(word[0])]).unsqueeze(0);
        let (logits, next) = model.logits(&input, &state).unwrap();
        let mut p = logits.softmax(1, Kind::Double).double_value(&[0, i64::from(word[1])]);
        // h of the last layer.
        let h = next.last().unwrap().get(0).detach();
        if let Some(cache) = adaptation.cache {
            let seen = &pairs[pairs.len().saturating_sub(cache.size as usize)..];
            let weight =
                |pair: &(Tensor, i32)| (cache.theta * pair.0.dot(&h).double_value(&[])).exp();
            let all: f64 = seen.iter().map(weight).sum();
            let of_word: f64 = seen.iter().filter(|pair| pair.1 == word[1]).map(weight).sum();
            if !seen.is_empty() {
                p = (1.0 - cache.lambda) * p + cache.lambda * of_word / all;
            }
        }
        pairs.push((h, word[1]));
        costs.push(-p.ln());
        state = next;
        lesson.push(word[1]);
        if let Some(dynamic) = adaptation.dynamic
            && lesson.len() as i64 > dynamic.steps
        {
            let (x, y) = inputs_and_targets(&lesson);
            let (_, gradients, _) = model.gradients(&x, &y, &before, &[]).unwrap();
            let (clipped, _) = clip_by_global_norm(&gradients, CONFIG.max_grad_norm).unwrap();
            tch::no_grad(|| {
                let here = v.trainable();
                let there = variables_like(trained);
                for ((variable, gradient), trained) in
                    here.iter().zip(&clipped).zip(there.trainable())
                {
                    let stepped = *variable - gradient.to_dense(&variable.size()) * dynamic.rate;
                    let decayed = &stepped + (trained - &stepped) * dynamic.decay;
                    variable.shallow_clone().copy_(&decayed);
                }
            });
            lesson = vec![word[1]];
            before = state.iter().map(Tensor::copy).collect();
        }
    }
    costs
}

/// The same variables in a model without dropout.
fn variables_like(trained: &PtbVariables) -> PtbVariables {
    let v = variables(trained.cell(), 1.0, 0);
    v.assign(&trained.to_tensorflow().unwrap()).unwrap();
    v
}

#[test]
fn adaptation_is_as_computed_by_hand() {
    let text = words(120, 1);
    let dynamic = Adaptation { cache: None, ..BOTH };
    let cache = Adaptation { dynamic: None, ..BOTH };
    for cell in [CellType::BasicLstm, CellType::Gru] {
        for keep_prob in [1.0, 0.5] {
            let trained = variables(cell, keep_prob, 3);
            let mut all = Vec::new();
            for adaptation in [Adaptation::default(), dynamic, cache, BOTH] {
                let costs = adaptive(&trained, adaptation).costs(&text).unwrap();
                assert_all_close(&costs, &by_hand(&trained, adaptation, &text));
                all.push(costs);
            }
            // They differ, each from when on it has something to learn from.
            let differs =
                |k: usize| all[k].iter().zip(&all[0]).position(|(a, b)| (a - b).abs() > 1e-9);
            assert_eq!([1, 2, 3].map(differs), [Some(DYNAMIC.steps as usize), Some(1), Some(1)]);
        }
    }
}

/// The scores of words are the same to the last bit, whatever comes after them.
#[test]
fn scores_do_not_depend_on_words_to_come() {
    let trained = variables(CellType::BasicLstm, 1.0, 3);
    let (text, other) = (words(100, 1), words(100, 2));
    for adaptation in
        [BOTH, Adaptation { dynamic: None, ..BOTH }, Adaptation { cache: None, ..BOTH }]
    {
        let costs = adaptive(&trained, adaptation).costs(&text).unwrap();
        for known in [2, 5, 8, 9, 50, 99] {
            let changed = [&text[..known], &other[known..]].concat();
            assert_ne!(changed, text);
            let others = adaptive(&trained, adaptation).costs(&changed).unwrap();
            assert_eq!(others[..known - 1], costs[..known - 1], "{known}");
            assert_ne!(others, costs);
        }
    }
}

/// In whatever pieces it comes, after whatever other text: the costs are the same, and the trained
/// variables stay as they are.
#[test]
fn a_text_is_read_as_if_it_were_the_first_and_whole() {
    let trained = variables(CellType::BasicLstm, 0.5, 3);
    let copy = trained.to_tensorflow().unwrap();
    let text = words(500, 1);
    for adaptation in [BOTH, Adaptation { dynamic: None, ..BOTH }] {
        let whole = adaptive(&trained, adaptation).costs(&text).unwrap();
        let mut model = adaptive(&trained, adaptation);
        model.costs(&words(333, 7)).unwrap();
        model.reset().unwrap();
        let (mut costs, mut start) = (Vec::new(), 0);
        for len in [1, 2, 6, 7, 8, 1, 1, 14, 210, 3].into_iter().cycle() {
            let end = (start + len).min(text.len() - 1);
            costs.extend(model.costs(&text[start..=end]).unwrap());
            start = end;
            if end == text.len() - 1 {
                break;
            }
        }
        assert_all_close(&costs, &whole);
        // Lines of their own, each by the trained model; also one without a word to score.
        let lines = [text[..60].to_vec(), text[..1].to_vec(), text[..300].to_vec(), Vec::new()];
        let of_lines = model.line_costs(&lines).unwrap();
        assert_all_close(&of_lines.concat(), &[&whole[..59], &whole[..299]].concat());
    }
    for (name, tensor) in trained.to_tensorflow().unwrap() {
        assert_eq!(tensor, copy[&name], "{name}");
    }
}

#[test]
fn what_changes_nothing_is_the_plain_evaluation() {
    let trained = variables(CellType::BasicLstm, 1.0, 3);
    let text = words(300, 1);
    let plain = Plain::new(PtbModel::new(&trained, false, RnnMode::Cudnn)).costs(&text).unwrap();
    let off = [
        Adaptation::default(),
        Adaptation { dynamic: Some(Dynamic { rate: 0.0, ..DYNAMIC }), cache: None },
        Adaptation { dynamic: None, cache: Some(Cache { lambda: 0.0, ..CACHE }) },
        Adaptation { dynamic: None, cache: Some(Cache { size: 0, ..CACHE }) },
    ];
    for adaptation in off {
        assert!(adaptation.is_none());
        assert_all_close(&adaptive(&trained, adaptation).costs(&text).unwrap(), &plain);
    }
    // The limits of what is trained are near it.
    let nearly = Dynamic { rate: 1e-12, ..DYNAMIC };
    let nearly =
        Adaptation { dynamic: Some(nearly), cache: Some(Cache { lambda: 1e-14, ..CACHE }) };
    assert!(!nearly.is_none());
    assert_all_close(&adaptive(&trained, nearly).costs(&text).unwrap(), &plain);
    let wrong = [
        ("dynamic ", Adaptation { dynamic: Some(Dynamic { rate: f64::NAN, ..DYNAMIC }), ..BOTH }),
        ("dynamic_steps", Adaptation { dynamic: Some(Dynamic { steps: 0, ..DYNAMIC }), ..BOTH }),
        ("dynamic_decay", Adaptation { dynamic: Some(Dynamic { decay: 1.1, ..DYNAMIC }), ..BOTH }),
        ("cache ", Adaptation { cache: Some(Cache { size: -1, ..CACHE }), ..BOTH }),
        ("cache_theta", Adaptation { cache: Some(Cache { theta: -0.1, ..CACHE }), ..BOTH }),
        ("cache_lambda", Adaptation { cache: Some(Cache { lambda: 1.0, ..CACHE }), ..BOTH }),
    ];
    for (field, adaptation) in wrong {
        let error =
            Adaptive::new(&trained, RnnMode::Cudnn, Precision::Fp32, adaptation).err().unwrap();
        assert!(error.to_string().starts_with(field), "{error}");
    }
}

/// Each model of an average adapts itself on its own.
#[test]
fn averages_are_of_adapted_models() {
    let (a, b) = (variables(CellType::BasicLstm, 1.0, 3), variables(CellType::Gru, 1.0, 4));
    let text = words(150, 1);
    let [of_a, of_b] = [&a, &b].map(|v| adaptive(v, BOTH).costs(&text).unwrap());
    let expected: Vec<f64> =
        of_a.iter().zip(&of_b).map(|(a, b)| -(((-a).exp() + (-b).exp()) / 2.0).ln()).collect();
    let mut both = Mean::of(vec![Box::new(adaptive(&a, BOTH)), Box::new(adaptive(&b, BOTH))]);
    assert_all_close(&both.costs(&text).unwrap(), &expected);
    both.reset().unwrap();
    assert_all_close(&both.costs(&text).unwrap(), &expected);
    let lines = both.line_costs(&[text.clone(), text[..1].to_vec(), text[..50].to_vec()]).unwrap();
    assert!(lines[1].is_empty());
    assert_all_close(&lines[0], &expected);
    assert_all_close(&lines[2], &expected[..49]);
    let mut one = Mean::of(vec![Box::new(adaptive(&a, BOTH))]);
    assert_eq!(one.costs(&text).unwrap(), of_a);
}

#[test]
fn eval_and_score_adapt() {
    let folder = two_runs();
    let saves = ["a", "b"].map(|name| folder.path().join(name));
    let file = |save: &Path| checkpoint(save).variables;
    let before = saves.each_ref().map(|save| file(save));
    let [a, b] = saves.each_ref().map(|save| text(save));
    let base = ["eval", "--device", "cpu", "--data-path", "sample", "--checkpoint"];
    let eval = |more: &[&str]| program(&[&base[..], &[a], more].concat()).works().0;
    let plain = eval(&[]);
    // Nothing changes without a rate, a size or a weight, to the last digit.
    for off in [
        &["--dynamic", "0"][..],
        &["--cache", "0"],
        &["--cache", "50", "--cache-lambda", "0"],
        &["--dynamic", "0", "--dynamic-steps", "3", "--dynamic-decay", "0.5", "--cache", "0"],
    ] {
        assert_eq!(eval(off), plain, "{off:?}");
    }
    let flags = "--dynamic 0.2 --dynamic-steps 15 --dynamic-decay 0.01 --cache 300 --cache-theta 0.4 \
                 --cache-lambda 0.12";
    let flags: Vec<&str> = flags.split_whitespace().collect();
    let adaptation = Adaptation {
        dynamic: Some(Dynamic { rate: 0.2, steps: 15, decay: 0.01 }),
        cache: Some(Cache { size: 300, theta: 0.4, lambda: 0.12 }),
    };
    let data = RawData::read("sample").unwrap();
    let models = saves.each_ref().map(|save| model(save, Kind::Double).0);
    let of = |tokens: &[i32]| {
        models.each_ref().map(|v| -> Vec<f64> {
            let costs = adaptive(v, adaptation).costs(tokens).unwrap();
            costs.into_iter().map(|cost| (-cost).exp()).collect()
        })
    };
    let (valid, test) = (of(&data.valid.tokens), of(&data.test.tokens));
    let out = eval(&flags);
    assert_ne!(out, plain);
    for (found, expected) in perplexities(&out).into_iter().zip([&valid[..1], &test[..1]]) {
        assert_close(found, of_average(expected));
    }
    let out = program(&[&base[..], &[a, "--checkpoint", b], &flags].concat()).works().0;
    for (found, expected) in perplexities(&out).into_iter().zip([&valid, &test]) {
        assert_close(found, of_average(expected));
    }

    // The test text's score is the same; with --independent every line is read by the trained model.
    let sample = repository("data/sample/ptb.test.txt");
    let score = ["score", "--device", "cpu", "--checkpoint", a, "--json", text(&sample)];
    let score = |more: &[&str]| {
        let (out, _) = program(&[&score[..], more].concat()).works();
        json_lines(&out).last().unwrap()["perplexity"].as_f64().unwrap()
    };
    assert_close(score(&flags), of_average(&test[..1]));
    assert_eq!(score(&["--dynamic", "0"]), score(&[]));
    let slow = ["--dynamic", "0.2", "--dynamic-steps", "1000", "--independent"];
    assert_close(score(&slow), score(&["--independent"]));

    for (save, before) in saves.iter().zip(before) {
        for (name, tensor) in file(save) {
            assert_eq!(tensor, before[&name], "{name}");
        }
    }
    for (flags, says) in [
        (&["--dynamic", "-0.1"][..], "--dynamic is -0.1"),
        (&["--dynamic", "nan"], "--dynamic is NaN"),
        (&["--dynamic", "0.1", "--dynamic-steps", "0"], "--dynamic-steps is 0"),
        (&["--dynamic", "0.1", "--dynamic-decay", "2"], "--dynamic-decay is 2"),
        (&["--cache", "-5"], "--cache is -5"),
        (&["--cache", "5", "--cache-theta", "-1"], "--cache-theta is -1"),
        (&["--cache", "5", "--cache-lambda", "1"], "--cache-lambda is 1"),
        (&["--dynamic-steps", "5"], "without --dynamic"),
        (&["--dynamic-decay", "0.5"], "without --dynamic"),
        (&["--cache-theta", "1"], "without --cache"),
        (&["--cache-lambda", "0.5"], "without --cache"),
    ] {
        program(&[&base[..], &[a], flags].concat()).fails_with(2, &[says]);
    }
    for flag in ["--dynamic", "--cache-theta", "--cache-lambda"] {
        program(&[&base[..], &[a, "--tune", flag, "0.1"]].concat())
            .fails_with(2, &[flag, "--tune"]);
    }
}

/// The grid is that of `eval`'s own numbers, and of the validation text alone.
#[test]
fn tune_prints_the_validation_text_s_perplexities() {
    let folder = two_runs();
    let saves = ["a", "b"].map(|name| folder.path().join(name));
    let data = folder.path().join("data");
    short_sample(&data);
    let [a, b] = saves.each_ref().map(|save| text(save));
    let eval = |more: &[&str]| {
        program(&[&["eval", "--device", "cpu", "--data-path", text(&data)], more].concat()).works()
    };
    let both = ["--checkpoint", a, "--checkpoint", b];
    let tune = [&both[..], &["--tune", "--cache", "100", "--dynamic-steps", "10"]].concat();
    let (out, errors) = eval(&tune);
    assert!(errors.contains(a) && errors.contains(b), "{errors}");
    let bests: Vec<(&str, f64)> = out
        .lines()
        .filter_map(|line| line.strip_prefix("Best "))
        .map(|line| line.rsplit_once(": ").unwrap())
        .map(|(flags, perplexity)| (flags, perplexity.parse().unwrap()))
        .collect();
    assert_eq!(bests.len(), 3, "{out}");
    for (flags, perplexity) in &bests {
        let mut flags: Vec<&str> = flags.split_whitespace().collect();
        if flags.contains(&"--dynamic") {
            flags.extend(["--dynamic-steps", "10"]);
        }
        assert_close(perplexities(&eval(&[&both[..], &flags].concat()).0)[0], *perplexity);
    }
    // A point that is not the best.
    let block = out.split("--dynamic ").find(|block| block.starts_with("0.05: ")).unwrap();
    let row = block.lines().find(|line| line.trim_start().starts_with("0.5 ")).unwrap();
    let cell: f64 = row.split_whitespace().nth(2).unwrap().parse().unwrap();
    let flags =
        "--dynamic 0.05 --dynamic-steps 10 --cache 100 --cache-theta 0.5 --cache-lambda 0.1";
    let flags: Vec<&str> = flags.split_whitespace().collect();
    assert_close(perplexities(&eval(&[&both[..], &flags].concat()).0)[0], cell);
    // No word of the test text matters.
    fs::write(data.join("test.txt"), "the the the\n").unwrap();
    assert_eq!(eval(&tune).0, out);
    // Without a size there is a cache of the default size; without a cache the rates remain.
    let (out, _) = eval(&["--checkpoint", a, "--tune", "--cache", "0"]);
    assert!(out.contains("Best --dynamic") && !out.contains("--cache"), "{out}");
}

/// A model that TensorFlow saved can be a member, and adapts itself.
#[test]
fn imported_models_are_averaged_and_adapt() {
    let folder = two_runs();
    let path = |name: &str| folder.path().join(name);
    let (a, b, tf, imported) = (path("a"), path("b"), path("model.ckpt"), path("imported"));
    let export = ["export", "--format", "tf-checkpoint", "--checkpoint"];
    program(&[&export[..], &[text(&a), "--output", text(&tf)]].concat()).works();
    // Its words are not known: those of the data are taken.
    program(&["import", text(&tf), "--save-path", text(&imported), "--model", "test"]).works();
    let eval = |first: &Path, more: &[&str]| {
        let base = ["eval", "--device", "cpu", "--data-path", "sample", "--checkpoint", text(&b)];
        program(&[&base[..], &["--checkpoint", text(first)], more].concat()).works().0
    };
    for flags in [&[][..], &["--dynamic", "0.1", "--cache", "200"]] {
        assert_eq!(eval(&imported, flags), eval(&a, flags), "{flags:?}");
    }
}
