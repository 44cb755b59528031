//! Text from a model, word by word: each word is drawn from the model's distribution after all
//! words before it, and fed back. Several models are averaged.

use anyhow::{Result, bail, ensure};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use tch::{Kind, Tensor};

use crate::config::{ConfigError, check};
use crate::predictor::LanguageModel;
use crate::rnn::State;

/// Words of a prompt that are read at once.
const PROMPT_PIECE: usize = 400;

/// How the next word is chosen from the logits; applied in the order of the fields.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// The logits are divided by it: below 1 likely words become likelier. 0 takes the likeliest
    /// word, of several the first by id.
    pub temperature: f64,
    /// Only so many likeliest words are left, if given.
    pub top_k: Option<usize>,
    /// Of them the fewest likeliest whose probabilities add up to this at least; 1 is all.
    pub top_p: f64,
}

impl Default for Sampling {
    /// The model's own distribution.
    fn default() -> Self {
        Sampling { temperature: 1.0, top_k: None, top_p: 1.0 }
    }
}

impl Sampling {
    /// Checks the fields.
    ///
    /// # Errors
    /// Names the first unusable field, its value and what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let Sampling { temperature, top_k, top_p } = *self;
        let is_temperature = temperature >= 0.0 && temperature.is_finite();
        let allowed = "it must be 0 (always the likeliest word) or a number above 0";
        check(is_temperature, "temperature", temperature, allowed)?;
        check(top_k != Some(0), "top_k", 0, "it must be 1 or more")?;
        let allowed = "it is a probability, above 0 and at most 1";
        check(top_p > 0.0 && top_p <= 1.0, "top_p", top_p, allowed)
    }

    /// The words that may come next and their probabilities, which add up to 1; the likeliest
    /// first, of equals the one of the lower id.
    ///
    /// # Errors
    /// Logits that are not numbers.
    pub fn distribution(&self, logits: &[f32]) -> Result<Vec<(usize, f64)>> {
        let mut words = self.candidates(logits, None)?;
        Ok((0..).map_while(|rank| words.get(rank)).collect())
    }

    /// The same of all words but `never`.
    fn candidates(&self, logits: &[f32], never: Option<i32>) -> Result<Candidates> {
        ensure!(
            logits.iter().all(|logit| logit.is_finite()),
            "the model's outputs are not finite numbers: its run has diverged"
        );
        // -0 and 0 are equals.
        let mut words: Vec<(i32, f32)> = (0..).zip(logits.iter().map(|&x| x + 0.0)).collect();
        if let Some(never) = never.and_then(|id| usize::try_from(id).ok())
            && never < words.len()
        {
            words.remove(never);
        }
        ensure!(!words.is_empty(), "there are no words to choose from");
        let keep = if self.temperature == 0.0 { 1 } else { self.top_k.unwrap_or(words.len()) };
        if keep < words.len() {
            // So many first, in any order: a whole vocabulary need not be sorted.
            words.select_nth_unstable_by(keep.max(1) - 1, likelier);
            words.truncate(keep.max(1));
        }
        let temperature = if self.temperature == 0.0 { 1.0 } else { self.temperature };
        let highest = words.iter().map(|&(_, x)| x).fold(f32::MIN, f32::max);
        let highest = f64::from(highest);
        let mut words = Candidates { words, sorted: 0, parts: 0, highest, temperature, sum: 1.0 };
        words.normalize();
        if self.top_p < 1.0 {
            let (mut kept, mut sum) = (0, 0.0);
            while sum < self.top_p
                && let Some((_, p)) = words.get(kept)
            {
                sum += p;
                kept += 1;
            }
            words.words.truncate(kept);
            words.sorted = kept;
            words.normalize();
        }
        Ok(words)
    }
}

/// The order of words with their logits: the likelier one first, of equals the one of the lower id.
fn likelier((a, x): &(i32, f32), (b, y): &(i32, f32)) -> std::cmp::Ordering {
    y.total_cmp(x).then(a.cmp(b))
}

/// Logarithms of the factors by which words of a rank are at most less likely than the first: the
/// words are sorted in so many parts, each when it is asked for. With PTB's vocabulary the first
/// part has some hundred words, and most words that are drawn.
const PARTS: [f64; 3] = [7.0, 12.0, f64::INFINITY];

/// Words that may come next, in the order of [`likelier`].
struct Candidates {
    /// Ids and logits.
    words: Vec<(i32, f32)>,
    /// So many of them are sorted.
    sorted: usize,
    /// So many of the [`PARTS`] are sorted.
    parts: usize,
    highest: f64,
    temperature: f64,
    /// Of all [`Self::weight`]s.
    sum: f64,
}

impl Candidates {
    /// The word of this rank and its probability; none after the last.
    fn get(&mut self, rank: usize) -> Option<(usize, f64)> {
        while rank >= self.sorted
            && let Some(part) = PARTS.get(self.parts)
        {
            let lowest = self.highest - part * self.temperature;
            let begin = self.sorted;
            for k in begin..self.words.len() {
                if f64::from(self.words[k].1) >= lowest {
                    self.words.swap(k, self.sorted);
                    self.sorted += 1;
                }
            }
            self.words[begin..self.sorted].sort_unstable_by(likelier);
            self.parts += 1;
        }
        let &(id, x) = self.words.get(rank)?;
        Some((id as usize, self.weight(x) / self.sum))
    }

    /// Probability of a logit, relative to the highest one's.
    fn weight(&self, x: f32) -> f64 {
        ((f64::from(x) - self.highest) / self.temperature).exp()
    }

    fn normalize(&mut self) {
        self.sum = self.words.iter().map(|&(_, x)| self.weight(x)).sum();
    }

    /// The word at `uniform` in [0, 1), where the words lie side by side, each as wide as its
    /// probability.
    fn draw(mut self, uniform: f64) -> usize {
        let (mut below, mut last) = (0.0, 0);
        for rank in 0.. {
            let Some((word, p)) = self.get(rank) else { break };
            below += p;
            last = word;
            if uniform < below {
                break;
            }
        }
        // Rounding may leave the sum a little below 1.
        last
    }
}

/// A number in [0, 1) from the 53 highest of 64 random bits.
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// The next word of a text, as one model predicts it, or the average of several.
pub struct NextWord<'a> {
    models: Vec<&'a dyn LanguageModel>,
    /// Each model's state after the words so far.
    states: Vec<State>,
    /// Each model's logits after them, `[vocab]`.
    logits: Vec<Tensor>,
}

impl<'a> NextWord<'a> {
    /// Begins in the original's zero state. The models have the same words, and should be views
    /// that are not training.
    pub fn new(models: Vec<&'a dyn LanguageModel>) -> Self {
        let states = models.iter().map(|model| model.zero_state(1)).collect();
        NextWord { models, states, logits: Vec::new() }
    }

    /// Reads words.
    ///
    /// # Errors
    /// An id that is not in the vocabulary; errors of libtorch.
    pub fn read(&mut self, ids: &[i32]) -> Result<()> {
        for model in &self.models {
            let words = model.vocab_size();
            if let Some(id) = ids.iter().find(|&&id| i64::from(id) >= words || id < 0) {
                bail!("there is no word {id}; the model has {words}, counted from 0");
            }
        }
        for piece in ids.chunks(PROMPT_PIECE) {
            let ids: Vec<i64> = piece.iter().map(|&id| i64::from(id)).collect();
            let ids = Tensor::f_from_slice(&ids)?.f_unsqueeze(0)?;
            self.logits.clear();
            for (model, state) in self.models.iter().zip(&mut self.states) {
                let logits;
                (logits, *state) = model.logits(&ids, state)?;
                self.logits.push(logits.f_get(piece.len() as i64 - 1)?);
            }
        }
        Ok(())
    }

    /// Logits of the next word: one model's own, or the logarithms of the models' mean
    /// probabilities.
    ///
    /// # Errors
    /// No word was read before.
    pub fn logits(&self) -> Result<Vec<f32>> {
        let logits = match &self.logits[..] {
            [] => bail!("a text begins with a word that is given, such as <eos>"),
            [logits] => logits.shallow_clone(),
            several => {
                let log_p = |logits: &Tensor| logits.f_log_softmax(0, Kind::Double);
                let log_p = several.iter().map(log_p).collect::<Result<Vec<_>, _>>()?;
                Tensor::f_stack(&log_p, 0)?.f_logsumexp(0, false)? - (several.len() as f64).ln()
            }
        };
        Ok(Vec::try_from(logits.f_to_kind(Kind::Float)?)?)
    }
}

/// A text in the making.
///
/// The random numbers are ChaCha8's, one for every word, and a function of the seed alone: the same
/// seed gives the same text, on every machine that computes the same logits.
pub struct Generator<'a> {
    next: NextWord<'a>,
    sampling: Sampling,
    never: Option<i32>,
    rng: ChaCha8Rng,
}

impl<'a> Generator<'a> {
    /// A text of which there is nothing yet. `model` should be a view that is not training.
    ///
    /// # Errors
    /// A value of `sampling` that cannot be used.
    pub fn new(
        model: &'a dyn LanguageModel,
        sampling: Sampling,
        seed: u64,
    ) -> Result<Self, ConfigError> {
        Self::with(NextWord::new(vec![model]), sampling, seed)
    }

    /// Continues what `next` has read.
    ///
    /// # Errors
    /// A value of `sampling` that cannot be used.
    pub fn with(next: NextWord<'a>, sampling: Sampling, seed: u64) -> Result<Self, ConfigError> {
        sampling.validate()?;
        Ok(Generator { next, sampling, never: None, rng: ChaCha8Rng::seed_from_u64(seed) })
    }

    /// Never draws the word with this id: the others have its share, in proportion. It can still be
    /// read.
    pub fn without(self, id: i32) -> Self {
        Generator { never: Some(id), ..self }
    }

    /// Goes on with words that are given: a prompt. Ids are below the vocabulary's size.
    ///
    /// # Errors
    /// As of [`NextWord::read`].
    pub fn read(&mut self, ids: &[i32]) -> Result<()> {
        self.next.read(ids)
    }

    /// Draws the next word, and reads it.
    ///
    /// # Errors
    /// Nothing was read before: a text begins with a prompt, or with `<eos>`.
    pub fn next_word(&mut self) -> Result<i32> {
        let words = self.sampling.candidates(&self.next.logits()?, self.never)?;
        let drawn = words.draw(uniform(&mut self.rng)) as i32;
        self.read(&[drawn])?;
        Ok(drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits of a softmax with probabilities 0.4, 0.3, 0.2, 0.1 for the words 2, 0, 3, 1, and
    /// another constant.
    const LOGITS: [f32; 4] = [1.796_027_2, 0.697_414_9, 2.083_709_3, 1.390_562];

    fn chosen(sampling: Sampling) -> Vec<(usize, f64)> {
        sampling.distribution(&LOGITS).unwrap()
    }

    fn assert_close(got: &[(usize, f64)], expected: &[(usize, f64)]) {
        assert_eq!(got.len(), expected.len(), "{got:?}");
        for (g, e) in got.iter().zip(expected) {
            assert!(g.0 == e.0 && (g.1 - e.1).abs() < 1e-6, "{got:?} instead of {expected:?}");
        }
    }

    #[test]
    fn distributions_are_as_defined() {
        let all = Sampling::default();
        assert_close(&chosen(all), &[(2, 0.4), (0, 0.3), (3, 0.2), (1, 0.1)]);
        // Temperature 1/2 squares the probabilities: 16, 9, 4, 1 of 30.
        let cold = chosen(Sampling { temperature: 0.5, ..all });
        assert_close(&cold, &[(2, 16.0 / 30.0), (0, 0.3), (3, 4.0 / 30.0), (1, 1.0 / 30.0)]);
        assert_close(
            &chosen(Sampling { top_k: Some(2), ..all }),
            &[(2, 4.0 / 7.0), (0, 3.0 / 7.0)],
        );
        assert_eq!(chosen(Sampling { top_k: Some(9), ..all }), chosen(all));
        // The fewest words that reach the sum: 0.4 is not 0.5, 0.7 is.
        assert_close(&chosen(Sampling { top_p: 0.5, ..all }), &[(2, 4.0 / 7.0), (0, 3.0 / 7.0)]);
        assert_close(
            &chosen(Sampling { top_p: 0.71, ..all }),
            &[(2, 4.0 / 9.0), (0, 3.0 / 9.0), (3, 2.0 / 9.0)],
        );
        assert_close(&chosen(Sampling { top_p: 1e-9, ..all }), &[(2, 1.0)]);
        // After top-k, top-p is of what is left: 4/7 is above 0.57.
        assert_close(&chosen(Sampling { top_k: Some(2), top_p: 0.57, ..all }), &[(2, 1.0)]);
        // Temperature comes before both: at 1/2, 16/30 is above 0.53.
        assert_close(&chosen(Sampling { temperature: 0.5, top_p: 0.53, ..all }), &[(2, 1.0)]);
        assert_close(&chosen(Sampling { temperature: 0.0, ..all }), &[(2, 1.0)]);
        // Equals go by their ids; so do 0 and -0.
        let greedy = Sampling { temperature: 0.0, ..all };
        assert_eq!(greedy.distribution(&[1.0, 3.0, 3.0]).unwrap(), [(1, 1.0)]);
        assert_eq!(greedy.distribution(&[-0.0, 0.0]).unwrap(), [(0, 1.0)]);
        // However small the temperature or large the logits, these are probabilities.
        let coldest = Sampling { temperature: 1e-300, ..all }.distribution(&[1e30, 2e30]).unwrap();
        assert_eq!(coldest[0], (1, 1.0));
        assert!(all.distribution(&[f32::NAN, 1.0]).is_err() && all.distribution(&[]).is_err());
    }

    #[test]
    fn words_are_drawn_as_often_as_they_should_be() {
        let n = 100_000;
        for sampling in [
            Sampling::default(),
            Sampling { temperature: 0.5, ..Sampling::default() },
            Sampling { top_k: Some(3), ..Sampling::default() },
            Sampling { top_p: 0.6, ..Sampling::default() },
        ] {
            let words = chosen(sampling);
            let mut counts = [0u32; 4];
            let mut rng = ChaCha8Rng::seed_from_u64(3);
            for _ in 0..n {
                let candidates = sampling.candidates(&LOGITS, None).unwrap();
                counts[candidates.draw(uniform(&mut rng))] += 1;
            }
            // Pearson's statistic; with up to 3 degrees of freedom it is above 16.3 once in a
            // thousand times.
            let chi2: f64 = words
                .iter()
                .map(|&(word, p)| {
                    (f64::from(counts[word]) - p * f64::from(n)).powi(2) / (p * f64::from(n))
                })
                .sum();
            assert!(chi2 < 16.3, "{sampling:?}: {counts:?}, {chi2}");
            let drawn = words.iter().map(|&(word, _)| counts[word]).sum::<u32>();
            assert_eq!(drawn, n as u32, "others were drawn");
        }
        // Rounding may leave the sum a little below 1.
        let candidates =
            |sum| Candidates { sum, ..Sampling::default().candidates(&LOGITS, None).unwrap() };
        let sum =
            candidates(1.0).words.iter().map(|&(_, x)| candidates(1.0).weight(x)).sum::<f64>();
        assert_eq!(candidates(sum * (1.0 + 1e-12)).draw(1.0 - 1e-16), 1);
    }

    /// However few are sorted at a time, they come in the order of a full sort, and each is drawn
    /// where it lies.
    #[test]
    fn candidates_come_in_the_order_of_their_probabilities() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        for words in [1, 2, 63, 64, 65, 512, 513, 5000] {
            // Many of them are equals.
            let logits: Vec<f32> =
                (0..words).map(|_| (uniform(&mut rng) * 900.0).floor() as f32 / 90.0).collect();
            let mut expected: Vec<usize> = (0..words).collect();
            expected.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            let all = Sampling::default().distribution(&logits).unwrap();
            assert_eq!(all.iter().map(|&(word, _)| word).collect::<Vec<_>>(), expected);
            let sum: f64 = all.iter().map(|(_, p)| p).sum();
            assert!((sum - 1.0).abs() < 1e-12, "{sum}");
            let mut below = 0.0;
            for (word, p) in all {
                let candidates = Sampling::default().candidates(&logits, None).unwrap();
                assert_eq!(candidates.draw(below + p / 2.0), word);
                below += p;
            }
        }
    }

    #[test]
    fn a_word_that_never_comes_leaves_its_share_to_the_others() {
        let without = |sampling: Sampling, id| {
            let mut words = sampling.candidates(&LOGITS, Some(id)).unwrap();
            (0..).map_while(|rank| words.get(rank)).collect::<Vec<_>>()
        };
        let all = Sampling::default();
        assert_close(&without(all, 2), &[(0, 0.5), (3, 2.0 / 6.0), (1, 1.0 / 6.0)]);
        assert_close(&without(Sampling { top_k: Some(1), ..all }, 2), &[(0, 1.0)]);
        assert_close(&without(Sampling { temperature: 0.0, ..all }, 0), &[(2, 1.0)]);
        assert_close(&without(Sampling { top_p: 0.6, ..all }, 2), &[(0, 0.6), (3, 0.4)]);
        assert_eq!(without(all, 4).len(), 4);
        assert!(all.candidates(&[1.0], Some(0)).is_err());
    }

    #[test]
    fn unusable_values_are_refused_by_field() {
        let refused = |s: Sampling| s.validate().unwrap_err().to_string();
        let s = Sampling::default();
        for temperature in [-0.1, f64::NAN, f64::INFINITY] {
            assert!(refused(Sampling { temperature, ..s }).starts_with("temperature is "));
        }
        for top_p in [0.0, -0.5, 1.01, f64::NAN] {
            assert!(refused(Sampling { top_p, ..s }).starts_with("top_p is "));
        }
        assert!(refused(Sampling { top_k: Some(0), ..s }).starts_with("top_k is 0; "));
        assert!(Sampling { temperature: 0.0, top_k: Some(1), top_p: 1.0 }.validate().is_ok());
    }
}
