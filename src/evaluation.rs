//! The evaluation of a text on the CPU, read in several places at once.
//!
//! The rows of a batch are independent of each other, so threads share them out. Within a row every word waits for the one before: the test text, which is
//! one row, would be read by one thread, word by word. But a trained LSTM forgets: after some hundreds of words its state no longer tells where it
//! began, beyond float32's rounding. So a long row is cut into pieces, and each is read from zeros, beginning early enough for them to be forgotten.
//! Whether they were is then checked, piece after piece: the state in which it began must be the one in which the piece before it ended. A
//! piece for which it is not is read once more, from that state. So every model gets its row's own number, and those that forget get it soon.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use tch::{Kind, Tensor};

use crate::model::TextReader;
use crate::rnn::State;

/// Pieces of all rows together, at least, where the text is long enough: the recurrent part of two threads then works on four at a time.
const PIECES: usize = 8;
/// Words that a piece is begun early. In a trained `small`, zeros make a difference of 2e-3 after 500 words, 1e-5 after 1000, and none beyond
/// rounding (2e-6) after 1500.
const EARLY: usize = 1500;
/// Shorter pieces are not worth it.
const SHORTEST: usize = 4 * EARLY;
/// The difference of two states, relative to 1 + |value|, that counts as rounding. What forgets zeros forgets it too: it changes the costs of some
/// hundred words, by so much each, which is 1e-8 of a text of PTB's size.
const ROUNDING: f64 = 1e-5;
/// Words that a thread's recurrent part reads at once, all its pieces together.
const WORDS: usize = 1000;

/// A text in rows, as a `Producer` has it.
pub(crate) struct TextRows<'a> {
    /// Word ids.
    pub tokens: &'a [i32],
    /// Where each row starts.
    pub starts: Vec<usize>,
    /// Words of each that are read; the one after them is there too.
    pub words: usize,
}

/// Where the rows are cut.
struct Pieces<'a> {
    text: TextRows<'a>,
    /// Of each row.
    per_row: usize,
    /// Words in a piece.
    length: usize,
}

impl Pieces<'_> {
    fn start(&self, number: usize) -> usize {
        self.text.starts[number / self.per_row] + number % self.per_row * self.length
    }

    /// Whether a row starts with this piece.
    fn is_first(&self, number: usize) -> bool {
        number.is_multiple_of(self.per_row)
    }
}

/// A piece that was read: its total cross entropy in nats, and the states before and after it.
struct Piece {
    total: f64,
    begin: State,
    end: State,
}

/// Total cross entropy of a text in nats, every row from the state `zero` on (c and h of each layer, `[1, hidden]`); `None` as soon as `stopped`.
///
/// # Errors
/// What libtorch says.
pub(crate) fn total_cost(
    reader: &TextReader,
    text: TextRows,
    zero: &State,
    stopped: &dyn Fn() -> bool,
) -> Result<Option<f64>> {
    let (rows, words) = (text.starts.len(), text.words);
    let threads = tch::get_num_threads().max(1) as usize;
    let per_row = (words / SHORTEST).clamp(1, PIECES.max(threads).div_ceil(rows));
    let pieces = Pieces { text, per_row, length: words / per_row };
    let stop = AtomicBool::new(false);
    let poll = || stop.fetch_or(stopped(), Ordering::Relaxed) || stop.load(Ordering::Relaxed);
    let read = {
        // Every thread reads pieces of its own: libtorch's threads would be in each other's way.
        let _restored = OneThread::new();
        read_by_threads(reader, &pieces, threads, zero, &stop, &poll)?
    };
    let Some(read) = read else { return Ok(None) };

    let (mut total, mut state) = (0.0, share(zero));
    for (number, mut piece) in read.into_iter().enumerate() {
        if f64::is_nan(total) {
            break;
        }
        if !pieces.is_first(number) && !only_rounding(&piece.begin, &state)? {
            let start = pieces.start(number);
            let again = read_rows(reader, pieces.text.tokens, &[start], pieces.length, state, true, &poll)?;
            let Some((totals, end)) = again else { return Ok(None) };
            piece = Piece { total: totals[0], begin: piece.begin, end };
        }
        total += piece.total;
        state = piece.end;
        if pieces.is_first(number + 1) {
            // The words at the row's end that fill no piece.
            let start = pieces.start(number) + pieces.length;
            let rest = words - per_row * pieces.length;
            let rest = read_rows(reader, pieces.text.tokens, &[start], rest, state, true, &poll)?;
            let Some((totals, end)) = rest else { return Ok(None) };
            total += totals[0];
            state = end;
        }
    }
    Ok(Some(total))
}

/// While it lives, libtorch computes with one thread.
struct OneThread {
    before: i32,
}

impl OneThread {
    fn new() -> Self {
        let before = tch::get_num_threads();
        tch::set_num_threads(1);
        OneThread { before }
    }
}

impl Drop for OneThread {
    fn drop(&mut self) {
        tch::set_num_threads(self.before);
    }
}

fn share(state: &State) -> State {
    state.iter().map(Tensor::shallow_clone).collect()
}

/// Reads all pieces, shared out among so many threads, of which the calling one sees to stopping.
fn read_by_threads(
    reader: &TextReader,
    pieces: &Pieces,
    threads: usize,
    zero: &State,
    stop: &AtomicBool,
    poll: &dyn Fn() -> bool,
) -> Result<Option<Vec<Piece>>> {
    let count = pieces.text.starts.len() * pieces.per_row;
    let groups = count.min(threads);
    // (the first group, this thread's, is never smaller than another)
    let group = |g: usize| (count * g).div_ceil(groups)..(count * (g + 1)).div_ceil(groups);
    let read = |reader: &TextReader, g: usize, zero: &State, stopped: &dyn Fn() -> bool| {
        let read = read_pieces(reader, pieces, group(g), zero, stopped);
        // An error ends it for all.
        stop.fetch_or(read.is_err(), Ordering::Relaxed);
        read
    };
    let read: Vec<Option<Vec<Piece>>> = thread::scope(|scope| {
        let helpers: Vec<_> = (1..groups)
            .map(|g| {
                let (reader, zero, read) = (reader.share(), share(zero), &read);
                scope.spawn(move || {
                    tch::set_num_threads(1);
                    read(&reader, g, &zero, &|| stop.load(Ordering::Relaxed))
                })
            })
            .collect();
        let mut all = vec![read(reader, 0, zero, poll)];
        while helpers.iter().any(|helper| !helper.is_finished()) {
            poll();
            thread::sleep(Duration::from_millis(1));
        }
        let join = |helper: thread::ScopedJoinHandle<_>| {
            helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        all.extend(helpers.into_iter().map(join));
        all.into_iter().collect::<Result<_>>()
    })?;
    Ok(read.into_iter().collect::<Option<Vec<_>>>().map(|groups| groups.into_iter().flatten().collect()))
}

/// Reads the pieces of these numbers side by side.
fn read_pieces(
    reader: &TextReader,
    pieces: &Pieces,
    numbers: Range<usize>,
    zero: &State,
    stopped: &dyn Fn() -> bool,
) -> Result<Option<Vec<Piece>>> {
    let starts: Vec<usize> = numbers.clone().map(|number| pieces.start(number)).collect();
    let tokens = pieces.text.tokens;
    let mut begin: State =
        zero.iter().map(|t| Tensor::f_cat(&vec![t; starts.len()], 0)).collect::<Result<_, _>>()?;
    if pieces.per_row > 1 {
        let early: Vec<usize> = starts.iter().map(|start| start.saturating_sub(EARLY)).collect();
        let Some((_, state)) = read_rows(reader, tokens, &early, EARLY, begin, false, stopped)? else {
            return Ok(None);
        };
        begin = state;
        for (r, _) in numbers.clone().enumerate().filter(|&(_, number)| pieces.is_first(number)) {
            // What stands before a row is not its own: it does begin with zeros.
            for (t, zero) in begin.iter().zip(zero) {
                t.narrow(0, r as i64, 1).f_copy_(zero)?;
            }
        }
    }
    let from = begin.iter().map(Tensor::copy).collect();
    let Some((totals, end)) = read_rows(reader, tokens, &starts, pieces.length, from, true, stopped)? else {
        return Ok(None);
    };
    let row = |state: &State, r: usize| state.iter().map(|t| t.narrow(0, r as i64, 1)).collect();
    let piece = |(r, total)| Piece { total, begin: row(&begin, r), end: row(&end, r) };
    Ok(Some(totals.into_iter().enumerate().map(piece).collect()))
}

/// Reads `length` words from each of these places on, side by side. Returns each row's total cross entropy in nats (0 if it is not to `score`), and
/// the final state; `None` as soon as `stopped`.
fn read_rows(
    reader: &TextReader,
    tokens: &[i32],
    starts: &[usize],
    length: usize,
    mut state: State,
    score: bool,
    stopped: &dyn Fn() -> bool,
) -> Result<Option<(Vec<f64>, State)>> {
    let mut totals = vec![0.0; starts.len()];
    let at_once = WORDS.div_ceil(starts.len());
    for done in (0..length).step_by(at_once) {
        if stopped() {
            return Ok(None);
        }
        let len = at_once.min(length - done);
        // The words `shift` places on, [rows, len].
        let ids = |shift: usize| -> Result<Tensor> {
            let rows: Vec<&[i32]> = starts
                .iter()
                .map(|start| tokens.get(start + done + shift..start + done + shift + len))
                .collect::<Option<_>>()
                .context("a place outside the text")?;
            Ok(Tensor::f_from_slice(&rows.concat())?
                .f_view([starts.len() as i64, len as i64])?
                .to_kind(Kind::Int64))
        };
        let output;
        (output, state) = reader.outputs(&ids(0)?, &state)?;
        if score {
            let costs = reader.scorer.costs(&output.flatten(0, 1), &ids(1)?.flatten(0, 1))?;
            for (total, costs) in totals.iter_mut().zip(costs.chunks(len)) {
                *total += costs.iter().sum::<f64>();
            }
        }
    }
    Ok(Some((totals, state)))
}

/// Whether two states differ by no more than rounding.
fn only_rounding(a: &State, b: &State) -> Result<bool> {
    for (a, b) in a.iter().zip(b) {
        let difference = ((a - b).abs() / (b.abs() + 1.0)).max().f_double_value(&[])?;
        // (a NaN is no rounding)
        if difference.is_nan() || difference > ROUNDING {
            return Ok(false);
        }
    }
    Ok(true)
}
