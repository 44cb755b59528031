//! Evaluation: what each word of a text costs, and the text's perplexity.
//!
//! Each word is predicted from all words before it, so the original reads a row of text from left
//! to right; its test text is a single row. A batch of one row leaves most of the machine idle. But
//! a trained LSTM forgets: after some hundred words its state no longer depends on where it began,
//! beyond float32's rounding. So a row is cut into pieces, which are read in parallel as one batch.
//! Each piece but the first starts from a zero state, some words before its first scored word (the
//! warm-up):
//!
//! ```text
//! the row    |-------- piece 0 --------|-------- piece 1 --------|-------- piece 2 --------|
//! one batch  begin ---------------> end
//!                         0 ~~~~~~> begin ---------------> end
//!                                                   0 ~~~~~~> begin ---------------> end
//! ```
//!
//! Whether the warm-up was long enough is checked at every seam: a piece must begin in the state in
//! which the piece before it ended. A piece that does not is read again from that state. So the
//! result is that of a plain reading up to rounding, for every model; it is fast for one that
//! forgets.

use std::cmp::Reverse;
use std::ops::Range;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tch::{Device, Kind, Tensor};

use crate::config::Precision;
use crate::event::Evaluation;
use crate::model::PtbModel;
use crate::reader::{Producer, Split};
use crate::rnn::State;

/// Warm-up: each piece but the first starts this many words before its first scored word. Of 117
/// places where trained `small` models began with zeros, the state differed from the true one by
/// more than 1e-5 in 53 after 500 words, in 7 after 1000, and in 2 (at most 4e-4) after 1500.
const WARM_UP: i64 = 1500;
/// Fewest words in a piece; a shorter one is not worth its warm-up.
const SHORTEST: i64 = 2000;
/// Most words in a piece; the warm-up is then already a small part of it. Longer texts are read in
/// several windows, one after the other, so that the memory does not grow with the text.
const LONGEST: i64 = 1 << 14;

/// Number of pieces that are read in parallel, of all rows together. With more pieces a word takes
/// less time, until the matrix products reach their full speed, but each piece needs a warm-up.
fn pieces_at_once(device: Device) -> i64 {
    if device == Device::Cpu { 16 } else { 64 }
}

/// Words that go through the model in one call, of all pieces together. On a GPU the kernels of a
/// call must be long enough to hide their launches. On the CPU a call should be short, so that an
/// evaluation can be stopped.
fn words_at_once(device: Device) -> i64 {
    if device == Device::Cpu { 1600 } else { 8000 }
}

/// Evaluates a whole split without training: the original's `run_epoch(session, mvalid)` and
/// `run_epoch(session, mtest)`.
///
/// As in the original, each word is predicted from all words before it in its row. Since the
/// variables do not change between steps, the words need not be read step by step or from one place
/// in the text: the result is the same to float32's rounding.
///
/// With several workers, each evaluates its own rows, and the result is that of all rows. A text of
/// a single row cannot be shared: it needs a model with the team [`Solo`](crate::team::Solo).
///
/// # Errors
/// Errors of libtorch, such as too little memory; a worker is lost.
pub fn evaluate(model: &PtbModel, producer: &Producer) -> Result<Evaluation> {
    evaluate_until(model, producer, &|| false)?.context("the evaluation was stopped")
}

/// [`evaluate`], or `None` as soon as `stopped`.
pub(crate) fn evaluate_until(
    model: &PtbModel,
    producer: &Producer,
    stopped: &dyn Fn() -> bool,
) -> Result<Option<Evaluation>> {
    let start = Instant::now();
    let batch_size = producer.batch_size();
    let (first, rows) = model.team().share(batch_size);
    let reader = RowReader { stopped, ..RowReader::new(model, producer, first..first + rows) };
    let mut total = 0.0;
    let read = reader.read_all(model.zero_state(rows), &mut |costs| {
        total += costs.f_sum(Kind::Double)?.f_double_value(&[])?;
        Ok(())
    });
    match read {
        Err(error) if error.is::<Stopped>() => return Ok(None),
        read => drop(read?),
    }
    total = model.team().sum(total)?;
    let iters = producer.epoch_size() * producer.num_steps();
    Ok(Some(Evaluation::new(total / batch_size as f64, iters, batch_size, start)))
}

/// Costs in nats of all words of a split, `[rows, words]`, float64, in the windows in which they
/// are read; on one worker. On one device, the windows of a split are the same for every model.
pub(crate) fn text_windows(model: &PtbModel, producer: &Producer) -> Result<Vec<Tensor>> {
    let rows = producer.batch_size();
    let reader = RowReader::new(model, producer, 0..rows);
    let mut windows = Vec::new();
    reader.read_all(model.zero_state(rows), &mut |costs| {
        windows.push(costs);
        Ok(())
    })?;
    Ok(windows)
}

/// Costs in nats of all words of a text but the first, which is only context, and the state after
/// the second to last word. Reading starts from `state`, which has one row.
pub(crate) fn text_costs(
    model: &PtbModel,
    text: Vec<i32>,
    state: State,
) -> Result<(Vec<f64>, State)> {
    let split = Split { tokens: text.into(), ..Split::default() };
    let producer = Producer::new(&split, 1, 1, model.device())?;
    let reader = RowReader::new(model, &producer, 0..1);
    let mut all = Vec::with_capacity(split.tokens.len() - 1);
    let state = reader.read_all(state, &mut |costs| {
        all.extend(Vec::<f64>::try_from(costs.f_flatten(0, -1)?)?);
        Ok(())
    })?;
    Ok((all, state))
}

/// [`text_costs`] of independent lines, each read from a zero state. Lines of similar length form a
/// batch.
pub(crate) fn line_costs(model: &PtbModel, lines: &[Vec<i32>]) -> Result<Vec<Vec<f64>>> {
    let mut costs = vec![Vec::new(); lines.len()];
    let steps = |line: usize| lines[line].len().saturating_sub(1);
    let mut order: Vec<usize> = (0..lines.len()).filter(|&line| steps(line) > 0).collect();
    order.sort_by_key(|&line| Reverse(steps(line)));
    let mut rest = &order[..];
    while let Some(&longest) = rest.first() {
        let words = words_at_once(model.device()) as usize;
        if steps(longest) > words {
            (costs[longest], _) = text_costs(model, lines[longest].clone(), model.zero_state(1))?;
            rest = &rest[1..];
            continue;
        }
        let (batch, others) = rest.split_at(rest.len().min(words / steps(longest)));
        rest = others;
        let batch_lines: Vec<&[i32]> = batch.iter().map(|&line| &lines[line][..]).collect();
        let mut found = batch_costs(model, &batch_lines)?.into_iter();
        for &line in batch {
            costs[line] = found.by_ref().take(steps(line)).collect();
        }
    }
    Ok(costs)
}

/// Costs of the words of some lines, one line after the other. The first line is the longest.
fn batch_costs(model: &PtbModel, lines: &[&[i32]]) -> Result<Vec<f64>> {
    let steps = lines[0].len() - 1;
    let (mut inputs, mut targets, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for (row, line) in lines.iter().enumerate() {
        let (x, y) = (&line[..line.len() - 1], &line[1..]);
        places.extend((row * steps..).take(y.len()).map(|place| place as i64));
        targets.extend_from_slice(y);
        inputs.extend_from_slice(x);
        // Shorter lines are padded with an arbitrary word. As with dynamic_rnn's sequence_length,
        // the padding does not count: it changes nothing before it, its outputs are left out below,
        // and the state after it is not used.
        inputs.resize((row + 1) * steps, 0);
    }
    let on_device = |ids: Tensor| ids.f_to_device(model.device());
    let inputs = Tensor::f_from_slice(&inputs)?.f_view([lines.len() as i64, steps as i64])?;
    let inputs = on_device(inputs.to_kind(Kind::Int64))?;
    let (output, _) = model.forward(&inputs, &model.zero_state(lines.len() as i64))?;
    let output = output.f_index_select(0, &on_device(Tensor::f_from_slice(&places)?)?)?;
    let targets = on_device(Tensor::f_from_slice(&targets)?.to_kind(Kind::Int64))?;
    Ok(Vec::try_from(model.costs(&output, &targets)?)?)
}

/// The error of an evaluation that was stopped.
#[derive(Debug, thiserror::Error)]
#[error("the evaluation was stopped")]
struct Stopped;

/// Reads some rows of a text.
struct RowReader<'a> {
    model: &'a PtbModel<'a>,
    text: &'a Producer,
    rows: Range<i64>,
    /// Most words in a piece; at least twice [`WARM_UP`], since all pieces of a window have the
    /// same length.
    longest: i64,
    stopped: &'a dyn Fn() -> bool,
}

/// Row and column of the text where a piece begins.
type Place = (i64, i64);

/// Pieces of a text that were read in parallel: the states that they began and ended in, and their
/// words' costs, `[pieces, words]`.
struct Window {
    begin: State,
    end: State,
    costs: Tensor,
}

impl Window {
    /// Replaces the pieces with these indices.
    fn replace(&mut self, index: &Tensor, new: Window) -> Result<()> {
        self.costs = self.costs.f_index_copy(0, index, &new.costs)?;
        let old = self.begin.iter_mut().chain(&mut self.end);
        for (old, new) in old.zip(new.begin.iter().chain(&new.end)) {
            *old = old.f_index_copy(0, index, new)?;
        }
        Ok(())
    }
}

impl<'a> RowReader<'a> {
    fn new(model: &'a PtbModel<'a>, text: &'a Producer, rows: Range<i64>) -> Self {
        RowReader { model, text, rows, longest: LONGEST, stopped: &|| false }
    }

    /// Reads the rows window by window, starting from `state`. Passes the costs of each window,
    /// `[rows, words]`, in nats, to `take`. Returns the final state.
    fn read_all(
        &self,
        mut state: State,
        take: &mut dyn FnMut(Tensor) -> Result<()>,
    ) -> Result<State> {
        let words = self.text.epoch_size() * self.text.num_steps();
        let rows = self.rows.end - self.rows.start;
        let at_most = (pieces_at_once(self.model.device()) + rows - 1) / rows;
        let mut column = 0;
        while column < words {
            let left = words - column;
            let pieces = (left / SHORTEST).clamp(1, at_most);
            let windows = left / (pieces * self.longest) + 1;
            let length = left / (windows * pieces);
            let costs;
            (costs, state) = self.read_window(column, pieces, length, state)?;
            take(costs)?;
            column += pieces * length;
        }
        Ok(state)
    }

    /// Reads the words from `column` on, in `pieces` pieces per row of `length` words each, in
    /// parallel. Returns their costs, `[rows, pieces * length]`, and the final state of each row.
    fn read_window(
        &self,
        column: i64,
        pieces: i64,
        length: i64,
        state: State,
    ) -> Result<(Tensor, State)> {
        let rows = self.rows.end - self.rows.start;
        // The first piece of every row, then the second of every row, and so on.
        let in_order = |piece| self.rows.clone().map(move |row| (row, column + piece * length));
        let places: Vec<Place> = (0..pieces).flat_map(in_order).collect();
        let begin = self.warm_up(&places, state)?;
        let (costs, end) = self.read_places(&places, length, &begin, true)?;
        let mut window = Window { begin, end, costs };
        self.repair(&mut window, &places, length)?;
        let Window { costs, end, .. } = window;
        let costs = costs.f_view([pieces, rows, length])?.transpose(0, 1).f_reshape([rows, -1])?;
        Ok((costs, end.iter().map(|t| t.narrow(0, (pieces - 1) * rows, rows)).collect()))
    }

    /// The states that the pieces at `places` begin in: the first piece of each row in `state`, the
    /// others after their warm-up.
    fn warm_up(&self, places: &[Place], state: State) -> Result<State> {
        let rows = (self.rows.end - self.rows.start) as usize;
        if places.len() == rows {
            return Ok(state);
        }
        let early: Vec<Place> =
            places[rows..].iter().map(|&(row, column)| (row, column - WARM_UP)).collect();
        let zeros = self.model.zero_state(early.len() as i64);
        let (_, others) = self.read_places(&early, WARM_UP, &zeros, false)?;
        let all =
            state.iter().zip(&others).map(|(first, others)| Tensor::f_cat(&[first, others], 0));
        Ok(all.collect::<Result<_, _>>()?)
    }

    /// Reads the pieces again that did not begin where the piece before them ended, until all do.
    fn repair(&self, window: &mut Window, places: &[Place], length: i64) -> Result<()> {
        let rows = self.rows.end - self.rows.start;
        let mut unfit_before = usize::MAX;
        loop {
            let mut unfit = self.unfit(&window.begin, &window.end)?;
            let Some(&first) = unfit.first() else { return Ok(()) };
            // Reading all of them again gives each another `length` words of warm-up. If that
            // repaired fewer than half, the model hardly forgets: then only the first unfit pieces
            // are read, and each one after them has to wait for the one before it.
            let helped = unfit.len() <= unfit_before / 2;
            unfit_before = unfit.len();
            if !helped {
                unfit.retain(|piece| piece / rows == first / rows);
            }
            let places: Vec<Place> = unfit.iter().map(|&piece| places[piece as usize]).collect();
            let index = Tensor::f_from_slice(&unfit)?.f_to_device(self.model.device())?;
            let previous = &index - rows;
            let begin = window.end.iter().map(|t| t.f_index_select(0, &previous));
            let begin = begin.collect::<Result<State, _>>()?;
            let (costs, end) = self.read_places(&places, length, &begin, true)?;
            window.replace(&index, Window { begin, end, costs })?;
        }
    }

    /// Returns the pieces that did not begin in the state in which the piece before them ended.
    fn unfit(&self, begin: &State, end: &State) -> Result<Vec<i64>> {
        let rows = self.rows.end - self.rows.start;
        let seams = begin[0].size()[0] - rows;
        let mut unfit = Vec::new();
        if seams == 0 {
            return Ok(unfit);
        }
        let mut differences = Vec::new();
        for (begin, end) in begin.iter().zip(end) {
            let (begin, end) = (begin.narrow(0, rows, seams), end.narrow(0, 0, seams));
            differences.push(((begin - &end).abs() / (end.abs() + 1.0)).f_amax(1, false)?);
        }
        let largest = Tensor::f_stack(&differences, 0)?.f_amax(0, false)?.to_kind(Kind::Double);
        let rounding = state_rounding(self.model.layers_precision());
        for (seam, difference) in Vec::<f64>::try_from(largest)?.into_iter().enumerate() {
            // A piece with NaN is not read again, since it would be NaN again.
            if difference > rounding {
                unfit.push(seam as i64 + rows);
            }
        }
        Ok(unfit)
    }

    /// Reads `length` words from each of `places` on, in parallel, starting from `state`. Returns
    /// their costs, `[places, length]`, or `[places, 0]` without `score`, and the final state.
    fn read_places(
        &self,
        places: &[Place],
        length: i64,
        state: &State,
        score: bool,
    ) -> Result<(Tensor, State)> {
        let steps = (words_at_once(self.model.device()) / places.len() as i64).max(1);
        let mut state: State = state.iter().map(Tensor::shallow_clone).collect();
        let mut costs =
            vec![Tensor::f_empty([places.len() as i64, 0], (Kind::Double, self.model.device()))?];
        for start in (0..length).step_by(steps as usize) {
            ensure!(!(self.stopped)(), Stopped);
            let len = steps.min(length - start);
            let places: Vec<Place> =
                places.iter().map(|&(row, column)| (row, column + start)).collect();
            let words = self.text.words_at(&places, len + 1)?;
            let output;
            (output, state) = self.model.forward(&words.narrow(1, 0, len), &state)?;
            if score {
                let targets = words.narrow(1, 1, len).f_flatten(0, -1)?;
                costs.push(self.model.costs(&output, &targets)?.f_view([-1, len])?);
            }
        }
        Ok((Tensor::f_cat(&costs, 1)?, state))
    }
}

/// Largest difference of two states, relative to 1 + |value|, that counts as rounding when both
/// have read the same words for long enough. In a trained `small`, at 15 places of PTB's test text,
/// the difference is at most 2e-6 in float32, 8e-3 in bfloat16 and 3e-3 in float16.
fn state_rounding(precision: Precision) -> f64 {
    match precision {
        Precision::Fp32 => 1e-5,
        // TF32's products read as many bits as float16's.
        Precision::Fp16 | Precision::Tf32 | Precision::Tf32Cudnn => 1e-2,
        Precision::Bf16 => 3e-2,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::config::{Config, Precision, RnnMode};
    use crate::model::PtbVariables;
    use crate::rnn::CellType;

    const CONFIG: Config =
        Config { vocab_size: 23, hidden_size: 7, num_layers: 2, init_scale: 0.5, ..Config::SMALL };
    /// Biases of the forget gate with which a model forgets within some hundred words, within some
    /// thousand, and never.
    const FORGETS: [f64; 3] = [0.0, 4.0, 30.0];

    fn variables(forget_bias: f64) -> PtbVariables {
        let v =
            PtbVariables::new(&CONFIG, CellType::BasicLstm, Device::Cpu, Kind::Double, 2).unwrap();
        let mut named = v.to_tensorflow().unwrap();
        for (_, bias) in named.iter_mut().filter(|(name, _)| name.ends_with("cell/bias")) {
            // (input, j, forget, output)
            let _ = bias.narrow(0, 2 * CONFIG.hidden_size, CONFIG.hidden_size).fill_(forget_bias);
        }
        v.assign(&named).unwrap();
        v
    }

    fn tokens(words: i64) -> Vec<i32> {
        let _random = crate::random_numbers(5);
        Tensor::randint(CONFIG.vocab_size, [words], (Kind::Int, Device::Cpu)).try_into().unwrap()
    }

    fn producer(tokens: &[i32], batch_size: i64) -> Producer {
        let split = Split { tokens: tokens.to_vec().into(), ..Split::default() };
        Producer::new(&split, batch_size, 1, Device::Cpu).unwrap()
    }

    /// Costs of all words of a single row but the first, read from zeros in one place.
    fn in_one_place(model: &PtbModel, tokens: &[i32]) -> Vec<f64> {
        let (mut costs, mut state) = (Vec::new(), model.zero_state(1));
        for words in (0..tokens.len() - 1).collect::<Vec<_>>().chunks(5000) {
            let ids = |shift: usize| {
                let ids = &tokens[words[0] + shift..=words[words.len() - 1] + shift];
                Tensor::from_slice(ids).to_kind(Kind::Int64).unsqueeze(0)
            };
            let output;
            (output, state) = model.forward(&ids(0), &state).unwrap();
            let found = model.costs(&output, &ids(1).flatten(0, -1)).unwrap();
            costs.extend(Vec::<f64>::try_from(found).unwrap());
        }
        costs
    }

    /// What is read of a text of one row: all costs, how many there are in each window, and the
    /// calls of the model.
    fn read_all(model: &PtbModel, text: &Producer, longest: i64) -> (Vec<f64>, Vec<usize>, usize) {
        let (mut costs, mut windows, calls) = (Vec::new(), Vec::new(), Cell::new(0));
        let stopped = || {
            calls.set(calls.get() + 1);
            false
        };
        let reader = RowReader { model, text, rows: 0..1, longest, stopped: &stopped };
        let mut take = |found: Tensor| {
            windows.push(found.numel());
            costs.extend(Vec::<f64>::try_from(found.flatten(0, -1))?);
            Ok(())
        };
        reader.read_all(model.zero_state(1), &mut take).unwrap();
        (costs, windows, calls.get())
    }

    fn assert_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (word, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!((found - expected).abs() < 1e-4, "word {word}: {found} instead of {expected}");
        }
        let [found, expected] = [found, expected].map(|costs| costs.iter().sum::<f64>());
        assert!((found / expected - 1.0).abs() < 1e-8, "{found} instead of {expected}");
    }

    fn calls(pieces: i64, words: i64) -> usize {
        let steps = words_at_once(Device::Cpu) / pieces;
        ((words + steps - 1) / steps) as usize
    }

    /// Every word of a row that is cut costs what it costs in one place. A model that forgets is
    /// read once; one that forgets slowly is read a second time; one that never does, piece after
    /// piece.
    #[test]
    fn a_row_in_pieces_is_the_row_in_one_place() {
        let (pieces, length) = (13, 2000);
        let tokens = tokens(pieces * length + 6);
        for forget_bias in FORGETS {
            let v = variables(forget_bias);
            let model = PtbModel::new(&v, false, RnnMode::Cudnn);
            let (costs, windows, read) = read_all(&model, &producer(&tokens, 1), LONGEST);
            assert_close(&costs, &in_one_place(&model, &tokens));
            assert_eq!(windows, [26_000, 5]);
            // All pieces and their warm-up, and the words that fill no piece.
            let once = calls(pieces - 1, WARM_UP) + calls(pieces, length) + 1;
            let again = calls(pieces - 1, length);
            let one_by_one = (pieces - 2) as usize * calls(1, length);
            match forget_bias {
                0.0 => assert_eq!(read, once),
                4.0 => assert!((once + again..once + 2 * again).contains(&read), "{read}"),
                _ => assert_eq!(read, once + again + one_by_one),
            }
        }
    }

    /// The same for all cells in all modes, and in half width, whose rounding is no reason to read
    /// a piece again.
    #[test]
    fn all_models_are_read_in_pieces() {
        let tokens = tokens(3 * SHORTEST + 2);
        let once = calls(2, WARM_UP) + calls(3, SHORTEST) + 1;
        let new = |cell, kind| PtbVariables::new(&CONFIG, cell, Device::Cpu, kind, 2).unwrap();
        for cell in CellType::ALL {
            let v = new(cell, Kind::Double);
            let block = (cell == CellType::BasicLstm).then_some(RnnMode::Block);
            for mode in block.into_iter().chain([RnnMode::Basic]) {
                let model = PtbModel::new(&v, false, mode);
                let (costs, _, read) = read_all(&model, &producer(&tokens, 1), LONGEST);
                assert_close(&costs, &in_one_place(&model, &tokens));
                assert_eq!(read, once, "{cell} {mode}");
            }
        }
        let (wide, narrow) =
            (new(CellType::BasicLstm, Kind::Double), new(CellType::BasicLstm, Kind::Float));
        narrow.assign(&wide.to_tensorflow().unwrap()).unwrap();
        let model = PtbModel::new(&narrow, false, RnnMode::Cudnn).precision(Precision::Fp16);
        let (costs, _, read) = read_all(&model, &producer(&tokens, 1), LONGEST);
        let expected = in_one_place(&PtbModel::new(&wide, false, RnnMode::Cudnn), &tokens);
        let [found, expected] = [&costs, &expected].map(|costs| costs.iter().sum::<f64>());
        assert!((found / expected - 1.0).abs() < 1e-4, "{found} instead of {expected}");
        assert_eq!(read, once);
    }

    /// A short row is not cut, and many rows are not: their numbers are those of a plain reading.
    #[test]
    fn rows_that_are_not_cut_are_read_once() {
        let v = variables(30.0);
        let model = PtbModel::new(&v, false, RnnMode::Cudnn);
        let tokens = tokens(20 * 3000);
        let (costs, _, read) =
            read_all(&model, &producer(&tokens[..2 * SHORTEST as usize], 1), LONGEST);
        assert_close(&costs, &in_one_place(&model, &tokens[..2 * SHORTEST as usize]));
        assert_eq!(read, calls(1, 2 * SHORTEST - 1));
        let calls_made = Cell::new(0);
        let stopped = || {
            calls_made.set(calls_made.get() + 1);
            false
        };
        let found = evaluate_until(&model, &producer(&tokens, 20), &stopped).unwrap().unwrap();
        assert_eq!(calls_made.get(), calls(20, 2999));
        let expected: f64 = tokens.chunks(3000).flat_map(|row| in_one_place(&model, row)).sum();
        assert_eq!(found.tokens, 20 * 2999);
        assert!((found.perplexity.ln() / (expected / found.tokens as f64) - 1.0).abs() < 1e-10);
    }

    /// A long text goes through in windows, each from the state in which the one before it ended:
    /// no more costs are there at once, and they are the right ones.
    #[test]
    fn a_text_of_any_length_is_read_in_windows() {
        let v = variables(4.0);
        let model = PtbModel::new(&v, false, RnnMode::Cudnn);
        let longest = 2 * WARM_UP;
        let largest = (pieces_at_once(Device::Cpu) * longest) as usize;
        let tokens = tokens(largest as i64 * 3 / 2);
        let (costs, windows, _) = read_all(&model, &producer(&tokens, 1), longest);
        assert!(windows.len() > 1 && windows.iter().all(|&words| words <= largest), "{windows:?}");
        assert_close(&costs, &in_one_place(&model, &tokens));
    }

    /// It is stopped within a call of the model, in the warm-up, in the pieces, where a piece is
    /// read again, and in the rest.
    #[test]
    fn evaluation_stops_within_a_window() {
        let v = variables(30.0);
        let model = PtbModel::new(&v, false, RnnMode::Cudnn);
        let text = producer(&tokens(8_003), 1);
        let (_, _, all) = read_all(&model, &text, LONGEST);
        assert!(all > 15, "{all}");
        for stop_at in 1..=all + 1 {
            let calls = Cell::new(0);
            let stopped = || {
                calls.set(calls.get() + 1);
                calls.get() >= stop_at
            };
            let found = evaluate_until(&model, &text, &stopped).unwrap();
            assert_eq!((found.is_some(), calls.get()), (stop_at > all, stop_at.min(all)));
        }
    }

    #[test]
    fn a_model_that_is_not_finite_has_no_perplexity() {
        let v = variables(0.0);
        let _ = tch::no_grad(|| v.trainable()[1].get(0).fill_(f64::NAN));
        let model = PtbModel::new(&v, false, RnnMode::Cudnn);
        let (costs, _, read) = read_all(&model, &producer(&tokens(8_001), 1), LONGEST);
        assert!(costs.iter().all(|cost| cost.is_nan()));
        assert_eq!(read, calls(3, WARM_UP) + calls(4, 2000));
    }

    /// Lines of their own, in any order, of any length: each as if it were alone.
    #[test]
    fn lines_are_texts_of_their_own() {
        let tokens = tokens(9_000);
        for mode in [RnnMode::Cudnn, RnnMode::Basic] {
            let v = variables(4.0);
            let model = PtbModel::new(&v, false, mode);
            let at_once = words_at_once(Device::Cpu) as usize;
            let long = if mode == RnnMode::Cudnn { 6001 } else { at_once + 2 };
            let lengths = [5, 2, 0, 7, 1, 400, long, 5, 3, at_once + 1, 30, 2];
            let lines: Vec<Vec<i32>> = lengths
                .iter()
                .enumerate()
                .map(|(k, &length)| tokens[k * 11..][..length].to_vec())
                .collect();
            let costs = line_costs(&model, &lines).unwrap();
            assert_eq!(costs.len(), lines.len());
            for (line, costs) in lines.iter().zip(&costs) {
                if line.len() < 2 {
                    assert!(costs.is_empty());
                } else {
                    assert_close(costs, &in_one_place(&model, line));
                }
            }
            assert!(line_costs(&model, &[]).unwrap().is_empty());
        }
    }
}
