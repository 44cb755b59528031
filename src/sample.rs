//! The sample corpus: newspaper-like text in PTB's format from a source whose probabilities are
//! known exactly.
//!
//! PTB needs a licence; this text needs none, and it brings what PTB cannot: since the program that
//! wrote it is here, so is the probability of every next word, and with it the best perplexity that
//! any model can reach. That number, [`best_perplexity`], is a check of a whole training run.
//!
//! # The source
//!
//! The source is an automaton whose state is a function of the words so far: what may come next is
//! a list of arcs, each a class of words with a probability and the state it leads to, and no word
//! is in two of them. So who knows the rules is never in doubt about the state, and `p(word | all
//! words before) = p(arc) * p(word | class)` is exact. Within a class, as in Zipf's law, the word
//! of rank 1, 2, 3, ... has a weight of 1, 1/2, 1/3, ...
//!
//! What has to be remembered, as in real text, and for how long:
//!
//! | what | shows in | reaches over |
//! |---|---|---|
//! | number of the subject | its verb | the phrase between them, which may hold a noun of the other number |
//! | what the last sentence was about: a thing, things, a person | `it`, `they`, `she`; `its`, `their`, `her` | the rest of the sentence and any quotation after it |
//! | topic: money, weather, sport | nouns, units | about twenty sentences |
//! | tense of the narration | verbs | about twenty sentences, and over quotations, which are in the present |
//! | an open quotation | `we`, `our`, the present tense, the closing `''` | its sentences |
//!
//! All but the first outlive the end of a sentence. This is what the LSTM's state, carried from one
//! batch to the next, is good for: a reader who forgets at every `<eos>` has a perplexity about a
//! quarter higher at best (a test computes it).

use anyhow::{Context, Result, ensure};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// The committed `ptb.train.txt` of the sample corpus.
pub const TRAIN: &str = include_str!("../data/sample/ptb.train.txt");
/// The committed `ptb.valid.txt` of the sample corpus.
pub const VALID: &str = include_str!("../data/sample/ptb.valid.txt");
/// The committed `ptb.test.txt` of the sample corpus.
pub const TEST: &str = include_str!("../data/sample/ptb.test.txt");
/// The seed that [`TRAIN`], [`VALID`] and [`TEST`] were drawn with.
pub const SEED: u64 = 2016;

/// Three texts from one source in PTB's format: lower case, one sentence a line, a space before and
/// after every word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corpus {
    /// About 100,000 tokens, counting each newline as the token `<eos>`.
    pub train: String,
    /// About 10,000 tokens.
    pub valid: String,
    /// About 10,000 tokens.
    pub test: String,
}

/// Draws a corpus. A seed always gives the same text, on every machine: ChaCha8 gives the random
/// bits, and nothing is done with floating-point numbers beyond `+ - * /`.
pub fn generate(seed: u64) -> Corpus {
    let text = |stream, tokens| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream); // the three texts are independent of each other
        write_text(&mut rng, tokens)
    };
    Corpus { train: text(0, 100_000), valid: text(1, 10_000), test: text(2, 10_000) }
}

/// Whole sentences until there are at least `tokens` tokens.
fn write_text(rng: &mut ChaCha8Rng, tokens: usize) -> String {
    let mut text = String::from(" ");
    let mut state = State::start();
    let mut written = 0;
    while written < tokens || state.slot != Slot::Sentence {
        let (word, next) = state.draw(rng);
        text.push_str(if word == "<eos>" { "\n" } else { word });
        text.push(' ');
        state = next;
        written += 1;
    }
    text.pop();
    text
}

/// ln p(token | all tokens before), in nats and exact, for each token of a text of the source,
/// `<eos>` included.
///
/// # Errors
/// A token that the source cannot produce at its place: the text is not one of the source's, or
/// does not start at its start.
pub fn best_log_probs(tokens: &[&str]) -> Result<Vec<f64>> {
    let mut state = State::start();
    let mut log_probs = Vec::with_capacity(tokens.len());
    for (i, token) in tokens.iter().enumerate() {
        let (p, next) = state.read(token).with_context(|| {
            format!("token {i}, {token:?}, cannot come from the sample corpus's source there")
        })?;
        log_probs.push(p.ln());
        state = next;
    }
    Ok(log_probs)
}

/// The best perplexity on a text of the source, taken over the very tokens that a model is scored
/// on with this batch_size and num_steps.
///
/// As the producer cuts it, the text becomes `batch_size` rows of `batch_len = len / batch_size`
/// tokens; in each row `epoch_size * num_steps` tokens after the first are predicted, `epoch_size =
/// (batch_len - 1) / num_steps`. With 1 and 1, as for the test text, these are all tokens but the
/// first.
///
/// It is the best in this sense: no model that has not seen this very text can expect to do better.
/// (A model that was trained on it can.) In rows that start in mid-text the source knows the rows
/// before while a model starts from nothing, so there the best that a model can reach is a little
/// worse.
///
/// # Errors
/// Fewer tokens than one batch takes, or a text that is not the source's.
pub fn best_perplexity(tokens: &[&str], batch_size: usize, num_steps: usize) -> Result<f64> {
    ensure!(batch_size > 0 && num_steps > 0, "batch_size and num_steps must be at least 1");
    let batch_len = tokens.len() / batch_size;
    let scored = batch_len.saturating_sub(1) / num_steps * num_steps;
    ensure!(scored > 0, "{} tokens are too few: decrease batch_size or num_steps", tokens.len());
    let log_probs = best_log_probs(tokens)?;
    let sum: f64 =
        log_probs.chunks(batch_len).take(batch_size).flat_map(|row| &row[1..=scored]).sum();
    Ok((-sum / (batch_size * scored) as f64).exp())
}

/// Grammatical number; the index of a noun's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Number {
    Singular,
    Plural,
}
use Number::{Plural, Singular};

/// The tense of the narration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Tense {
    Past,
    Present,
}
use Tense::{Past, Present};

/// What a pronoun outside quotations refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Referent {
    Thing(Number),
    Person,
}

/// What a noun phrase is for, and so what comes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Role {
    /// The first subject of a sentence outside quotations: later pronouns refer to it.
    FirstSubject,
    Subject,
    /// Inside the phrase after a subject; the subject's verb is still to come.
    InSubject,
    Object,
    /// Inside the phrase after an object.
    InObject,
}

/// The place in the sentence: which kind of word comes next, if nothing optional comes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Slot {
    Sentence,
    Weekday,
    Subject,
    Name,
    Age,
    Years,
    Old,
    PersonVerb,
    Said,
    Determiner(Role),
    Adjective(Role, Number),
    Noun(Role, Number),
    SubjectPhrase,
    Verb,
    Predicate,
    AfterVerb,
    Amount,
    Unit,
    ObjectPhrase,
    ClauseEnd,
    Place,
    SentenceEnd,
    Eos,
}

/// What the source remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    slot: Slot,
    /// Number of the subject whose verb is due.
    number: Number,
    referent: Referent,
    /// Index into [`TOPICS`].
    topic: usize,
    /// Whether a word of this sentence has shown the topic; until then it may still change.
    topic_shown: bool,
    tense: Tense,
    /// The same for the tense.
    tense_shown: bool,
    quoted: bool,
}

/// A class of words that lead to one state, and the probability that the next word is one of them.
struct Arc {
    p: f64,
    words: &'static [&'static str],
    next: State,
}

impl Arc {
    /// The probability of the word at `index`.
    fn p_word(&self, index: usize) -> f64 {
        let weight = |index: usize| 1.0 / (index + 1) as f64;
        self.p * weight(index) / (0..self.words.len()).map(weight).sum::<f64>()
    }
}

/// Collects the arcs that leave a state.
#[derive(Default)]
struct Arcs(Vec<Arc>);

impl Arcs {
    /// With probability `p` one of `words`, and then `next`.
    fn word(mut self, p: f64, words: &'static [&'static str], next: State) -> Self {
        if p > 0.0 {
            self.0.push(Arc { p, words, next });
        }
        self
    }

    /// With probability `p` nothing here, but what may come in `state`.
    fn skip(mut self, p: f64, state: State) -> Self {
        self.0.extend(state.arcs().into_iter().map(|arc| Arc { p: p * arc.p, ..arc }));
        self
    }

    /// With probability `p` one of the verbs, in the form that tense and number ask for, and then
    /// `slot`.
    fn verb(self, p: f64, verbs: &'static Forms, state: State, slot: Slot) -> Self {
        state.tenses().into_iter().fold(self, |arcs, (p_tense, form, shown)| {
            arcs.word(p * p_tense, verbs[form], shown.at(slot))
        })
    }
}

/// How probable it is that a sentence keeps the topic of the one before; if not, the other topics
/// are equally probable.
const KEEP_TOPIC: f64 = 0.95;
/// How probable it is that a sentence keeps the tense of the narration.
const KEEP_TENSE: f64 = 0.95;

impl State {
    /// Where every text starts: as if after a sentence about a thing of the first topic, in the
    /// past.
    fn start() -> State {
        State {
            slot: Slot::Sentence,
            number: Singular,
            referent: Referent::Thing(Singular),
            topic: 0,
            topic_shown: false,
            tense: Past,
            tense_shown: false,
            quoted: false,
        }
    }

    fn at(self, slot: Slot) -> State {
        State { slot, ..self }
    }

    /// The state after `<eos>`.
    fn next_sentence(self) -> State {
        State {
            slot: Slot::Sentence,
            number: Singular,
            topic_shown: false,
            tense_shown: false,
            ..self
        }
    }

    /// The topics that the next noun or unit may show, with their probabilities.
    fn topics(self) -> Vec<(f64, State)> {
        if self.topic_shown {
            return vec![(1.0, self)];
        }
        let change = (1.0 - KEEP_TOPIC) / (TOPICS.len() - 1) as f64;
        let p = |topic| if topic == self.topic { KEEP_TOPIC } else { change };
        (0..TOPICS.len())
            .map(|topic| (p(topic), State { topic, topic_shown: true, ..self }))
            .collect()
    }

    /// The tenses that the next verb may show: probability, index of the verb's form, state.
    fn tenses(self) -> Vec<(f64, usize, State)> {
        let form = |tense| match (tense, self.number) {
            (Past, _) => 0,
            (Present, Singular) => 1,
            (Present, Plural) => 2,
        };
        if self.quoted {
            return vec![(1.0, form(Present), self)];
        }
        if self.tense_shown {
            return vec![(1.0, form(self.tense), self)];
        }
        let p = |tense| if tense == self.tense { KEEP_TENSE } else { 1.0 - KEEP_TENSE };
        [Past, Present]
            .map(|tense| (p(tense), form(tense), State { tense, tense_shown: true, ..self }))
            .to_vec()
    }

    /// Everything that may come next. The probabilities sum to 1, and no word is in two arcs.
    fn arcs(self) -> Vec<Arc> {
        let none = Arcs::default();
        let arcs = match self.slot {
            // "on friday"
            Slot::Sentence if self.quoted => none.skip(1.0, self.at(Slot::Subject)),
            Slot::Sentence => {
                none.word(0.15, &["on"], self.at(Slot::Weekday)).skip(0.85, self.at(Slot::Subject))
            }
            Slot::Weekday => none.word(1.0, WEEKDAYS, self.at(Slot::Subject)),

            // Pronouns keep to the topic.
            Slot::Subject if self.quoted => none
                .word(0.35, &["we"], State { number: Plural, ..self.at(Slot::Verb) })
                .skip(0.65, self.at(Slot::Determiner(Role::Subject))),
            Slot::Subject => {
                let (p, pronoun, number, verb): (_, &[_], _, _) = match self.referent {
                    Referent::Thing(Singular) => (0.3, &["it"], Singular, Slot::Verb),
                    Referent::Thing(Plural) => (0.3, &["they"], Plural, Slot::Verb),
                    Referent::Person => (0.5, &["she"], Singular, Slot::PersonVerb),
                };
                none.word(p, pronoun, State { number, topic_shown: true, ..self.at(verb) })
                    .word(
                        0.2 * (1.0 - p),
                        &["dr."],
                        State { referent: Referent::Person, ..self.at(Slot::Name) },
                    )
                    .skip(0.8 * (1.0 - p), self.at(Slot::Determiner(Role::FirstSubject)))
            }

            // "dr. smith N years old said that", "she visited"
            Slot::Name => none.word(1.0, NAMES, self.at(Slot::Age)),
            Slot::Age => {
                none.word(0.2, &["N"], self.at(Slot::Years)).skip(0.8, self.at(Slot::PersonVerb))
            }
            Slot::Years => none.word(1.0, &["years"], self.at(Slot::Old)),
            Slot::Old => none.word(1.0, &["old"], self.at(Slot::PersonVerb)),
            Slot::PersonVerb => none.verb(0.65, &SAY, self, Slot::Said).verb(
                0.35,
                &MEET,
                self,
                Slot::Determiner(Role::Object),
            ),
            Slot::Said => none.word(0.5, &["that"], self.at(Slot::Determiner(Role::Subject))).word(
                0.5,
                &["``"],
                State { quoted: true, ..self.at(Slot::Subject) },
            ),

            // "its new market", "some rivers"
            Slot::Determiner(role) => {
                let own: &[_] = match (self.quoted, self.referent) {
                    (true, _) => &["our"],
                    (false, Referent::Thing(Singular)) => &["its"],
                    (false, Referent::Thing(Plural)) => &["their"],
                    (false, Referent::Person) => &["her"],
                };
                none.word(0.15, own, self.at(Slot::Adjective(role, Singular)))
                    .word(
                        0.55,
                        &["the", "a", "this", "each"],
                        self.at(Slot::Adjective(role, Singular)),
                    )
                    .word(
                        0.3,
                        &["some", "many", "these", "N"],
                        self.at(Slot::Adjective(role, Plural)),
                    )
            }
            Slot::Adjective(role, number) => {
                let noun = self.at(Slot::Noun(role, number));
                none.word(0.25, ADJECTIVES, noun).skip(0.75, noun)
            }
            Slot::Noun(role, number) => self.topics().into_iter().fold(none, |arcs, (p, shown)| {
                let referent = Referent::Thing(number);
                let next = match role {
                    Role::FirstSubject => {
                        State { number, referent, ..shown.at(Slot::SubjectPhrase) }
                    }
                    Role::Subject => State { number, ..shown.at(Slot::SubjectPhrase) },
                    Role::InSubject => shown.at(Slot::Verb),
                    Role::Object => shown.at(Slot::ObjectPhrase),
                    Role::InObject => shown.at(Slot::ClauseEnd),
                };
                arcs.word(p, TOPICS[shown.topic].nouns[number as usize], next)
            }),

            // "of the banks failed again", "has a fund", "was strange", "moved by N miles"
            Slot::SubjectPhrase => none
                .word(0.25, PREPOSITIONS, self.at(Slot::Determiner(Role::InSubject)))
                .skip(0.75, self.at(Slot::Verb)),
            Slot::Verb => none
                .verb(0.6, &VERBS, self, Slot::AfterVerb)
                .verb(0.25, &BE, self, Slot::Predicate)
                .verb(0.15, &HAVE, self, Slot::Determiner(Role::Object)),
            Slot::Predicate => none.word(1.0, ADJECTIVES, self.at(Slot::ClauseEnd)),
            Slot::AfterVerb => none
                .word(0.2, ADVERBS, self.at(Slot::ClauseEnd))
                .word(0.2, &["by"], self.at(Slot::Amount))
                .skip(0.4, self.at(Slot::Determiner(Role::Object)))
                .skip(0.2, self.at(Slot::ClauseEnd)),
            Slot::Amount => none.word(1.0, &["N"], self.at(Slot::Unit)),
            Slot::Unit => self.topics().into_iter().fold(none, |arcs, (p, shown)| {
                arcs.word(p, TOPICS[shown.topic].units, shown.at(Slot::ClauseEnd))
            }),
            Slot::ObjectPhrase => none
                .word(0.15, PREPOSITIONS, self.at(Slot::Determiner(Role::InObject)))
                .skip(0.85, self.at(Slot::ClauseEnd)),

            // "and the club improved", "in boston", "''"
            Slot::ClauseEnd => none
                .word(0.12, CONJUNCTIONS, self.at(Slot::Determiner(Role::Subject)))
                .word(0.2, &["in"], self.at(Slot::Place))
                .skip(0.68, self.at(Slot::SentenceEnd)),
            Slot::Place => none.word(1.0, PLACES, self.at(Slot::SentenceEnd)),
            Slot::SentenceEnd if self.quoted => none
                .word(0.5, &["''"], State { quoted: false, ..self.at(Slot::Eos) })
                .skip(0.5, self.at(Slot::Eos)),
            Slot::SentenceEnd | Slot::Eos => none.word(1.0, EOS, self.next_sentence()),
        };
        arcs.0
    }

    /// The probability of `word` here and the state after it; `None` if it cannot come here.
    fn read(self, word: &str) -> Option<(f64, State)> {
        self.arcs().iter().find_map(|arc| {
            let index = arc.words.iter().position(|w| *w == word)?;
            Some((arc.p_word(index), arc.next))
        })
    }

    /// Draws the next word.
    fn draw(self, rng: &mut ChaCha8Rng) -> (&'static str, State) {
        // 53 random bits make a uniform number in [0, 1).
        let mut left = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let mut last = ("", self);
        for arc in self.arcs() {
            for (index, word) in arc.words.iter().enumerate() {
                last = (word, arc.next);
                left -= arc.p_word(index);
                if left < 0.0 {
                    return last;
                }
            }
        }
        last // the probabilities may sum to a hair less than 1
    }
}

/// The forms of some verbs: past, present singular, present plural; the same verbs in the same
/// order.
type Forms = [&'static [&'static str]; 3];

/// The words of a topic, which no other topic has.
struct Topic {
    /// Singular and plural, the same nouns in the same order.
    nouns: [&'static [&'static str]; 2],
    units: &'static [&'static str],
}

const EOS: &[&str] = &["<eos>"];
const WEEKDAYS: &[&str] =
    &["monday", "friday", "tuesday", "wednesday", "thursday", "sunday", "saturday"];
const NAMES: &[&str] = &[
    "<unk>", "smith", "jones", "brown", "johnson", "miller", "clark", "lewis", "baker", "adams",
    "young", "carter", "allen", "scott", "green", "hall", "turner", "parker", "evans", "morgan",
    "cooper", "reed", "bailey", "bell", "cox", "ward", "gray", "price", "foster", "long", "ross",
    "hughes", "myers", "ford", "fisher", "wells", "hunt", "black", "stone", "fox", "hill", "wood",
    "king", "lee", "moore", "cole", "grant", "webb",
];
const PREPOSITIONS: &[&str] = &["of", "for", "with", "near"];
const CONJUNCTIONS: &[&str] = &["and", "but", "while"];
const ADVERBS: &[&str] = &[
    "again", "quickly", "slightly", "yesterday", "early", "well", "badly", "rarely", "often",
    "together", "once", "twice", "slowly", "suddenly", "later", "soon", "already", "abroad",
    "outside", "easily",
];
const ADJECTIVES: &[&str] = &[
    "new", "big", "old", "small", "important", "strange", "good", "large", "quiet", "modern",
    "local", "special", "popular", "famous", "expensive", "simple", "young", "strong", "busy",
    "recent", "serious", "difficult", "central", "typical", "useful", "private", "public",
    "common", "foreign", "japanese", "western", "certain", "current", "major", "free", "weak",
    "careful", "real", "happy", "single",
];
const PLACES: &[&str] = &[
    "<unk>", "york", "boston", "chicago", "london", "tokyo", "texas", "paris", "california",
    "europe", "japan", "canada", "florida", "detroit", "dallas", "miami", "denver", "ohio",
    "germany", "italy", "atlanta", "houston", "france", "mexico", "seattle", "spain", "brazil",
    "china", "india", "kansas", "oregon",
];
const SAY: Forms =
    [&["said", "added", "noted"], &["says", "adds", "notes"], &["say", "add", "note"]];
const MEET: Forms =
    [&["met", "visited", "joined"], &["meets", "visits", "joins"], &["meet", "visit", "join"]];
const BE: Forms = [&["was"], &["is"], &["are"]];
const HAVE: Forms = [&["had"], &["has"], &["have"]];
const VERBS: Forms = [
    &[
        "helped", "changed", "followed", "moved", "improved", "failed", "returned", "worked",
        "ended", "continued",
    ],
    &[
        "helps", "changes", "follows", "moves", "improves", "fails", "returns", "works", "ends",
        "continues",
    ],
    &["help", "change", "follow", "move", "improve", "fail", "return", "work", "end", "continue"],
];
static TOPICS: [Topic; 3] = [
    Topic {
        nouns: [
            &[
                "company", "stock", "bank", "market", "fund", "investor", "bond", "broker",
                "dollar", "merger", "dealer", "trader",
            ],
            &[
                "companies", "stocks", "banks", "markets", "funds", "investors", "bonds",
                "brokers", "dollars", "mergers", "dealers", "traders",
            ],
        ],
        units: &["percent", "points", "cents"],
    },
    Topic {
        nouns: [
            &[
                "storm", "wind", "river", "coast", "island", "valley", "harbor", "cloud", "forest",
                "lake", "mountain", "beach",
            ],
            &[
                "storms", "winds", "rivers", "coasts", "islands", "valleys", "harbors", "clouds",
                "forests", "lakes", "mountains", "beaches",
            ],
        ],
        units: &["degrees", "miles", "inches"],
    },
    Topic {
        nouns: [
            &[
                "team", "player", "coach", "club", "league", "pitcher", "fan", "stadium", "season",
                "referee", "racket", "sponsor",
            ],
            &[
                "teams", "players", "coaches", "clubs", "leagues", "pitchers", "fans", "stadiums",
                "seasons", "referees", "rackets", "sponsors",
            ],
        ],
        units: &["games", "goals", "runs"],
    },
];

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;
    use crate::text::{EOS, words};

    /// The tokens as the reader makes them.
    fn tokens(text: &str) -> Vec<&str> {
        words(text).map(|word| word.unwrap_or(EOS)).collect()
    }

    /// The state before each token, and the token.
    fn walk<'a>(tokens: &'a [&str]) -> impl Iterator<Item = (State, &'a str)> {
        tokens.iter().scan(State::start(), |state, token| {
            let before = *state;
            *state = before.read(token).unwrap().1;
            Some((before, *token))
        })
    }

    #[test]
    fn the_committed_files_are_what_the_program_writes() {
        let corpus = generate(SEED);
        assert!(corpus.train == TRAIN && corpus.valid == VALID && corpus.test == TEST);
        assert_ne!(generate(SEED + 1).test, TEST);
    }

    #[test]
    fn the_text_has_the_format_of_ptb() {
        let known: HashSet<&str> = tokens(TRAIN).into_iter().collect();
        assert!((300..=800).contains(&known.len()), "{} words", known.len());
        assert!(["<unk>", "N", "<eos>"].iter().all(|word| known.contains(word)));
        for (text, size) in [(TRAIN, 100_000), (VALID, 10_000), (TEST, 10_000)] {
            for line in text.split_inclusive('\n') {
                let words =
                    line.strip_prefix(' ').and_then(|line| line.strip_suffix(" \n")).unwrap();
                assert!(
                    words
                        .split(' ')
                        .all(|word| word == "N" || !word.is_empty() && word == word.to_lowercase())
                );
            }
            let tokens = tokens(text);
            assert!((size..size + 100).contains(&tokens.len()), "{} tokens", tokens.len());
            // The reader would drop words that are not in the training text, and the state would be
            // lost.
            assert!(tokens.iter().all(|word| known.contains(word)));
        }
    }

    #[test]
    fn in_every_state_the_probabilities_sum_to_1_and_no_word_leads_to_two() {
        let train = tokens(TRAIN);
        let states: HashSet<State> = walk(&train).map(|(state, _)| state).collect();
        assert!(states.len() > 300, "only {} states", states.len());
        for state in states {
            let mut words = HashSet::new();
            let mut sum = 0.0;
            for arc in state.arcs() {
                for (index, word) in arc.words.iter().enumerate() {
                    assert!(words.insert(*word), "{word} twice in {state:?}");
                    assert_eq!(state.read(word), Some((arc.p_word(index), arc.next)));
                    sum += arc.p_word(index);
                }
            }
            assert!((sum - 1.0).abs() < 1e-12, "{sum} in {state:?}");
        }
    }

    #[test]
    fn who_reads_is_in_the_states_of_who_wrote() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut state = State::start();
        let (mut words, mut log_probs) = (Vec::new(), Vec::new());
        for _ in 0..5000 {
            let before = state;
            let (word, next) = state.draw(&mut rng);
            assert_eq!(before.read(word).unwrap().1, next);
            log_probs.push(before.read(word).unwrap().0.ln());
            words.push(word);
            state = next;
        }
        assert_eq!(best_log_probs(&words).unwrap(), log_probs);
    }

    /// The words are really drawn with the probabilities that are claimed: -ln p of the words, less
    /// the entropy of the state that each was drawn in, has a mean of 0 and a known variance.
    #[test]
    fn the_cross_entropy_is_the_entropy_within_sampling_error() {
        for text in [TRAIN, VALID, TEST] {
            let tokens = tokens(text);
            let (mut entropy, mut variance) = (0.0, 0.0);
            for (state, _) in walk(&tokens) {
                let p =
                    |arc: &Arc| (0..arc.words.len()).map(|i| arc.p_word(i)).collect::<Vec<f64>>();
                let all: Vec<f64> = state.arcs().iter().flat_map(p).collect();
                let mean: f64 = all.iter().map(|p| -p * p.ln()).sum();
                entropy += mean;
                variance += all.iter().map(|p| p * (-p.ln() - mean).powi(2)).sum::<f64>();
            }
            let cross_entropy: f64 = -best_log_probs(&tokens).unwrap().iter().sum::<f64>();
            let deviations = (cross_entropy - entropy) / variance.sqrt();
            assert!(deviations.abs() < 3.5, "{deviations} standard deviations");
        }
    }

    #[test]
    fn the_perplexity_covers_the_tokens_that_a_model_is_scored_on() {
        let tokens = tokens(TEST);
        let log_probs = best_log_probs(&tokens).unwrap();
        let all_but_first: f64 = log_probs[1..].iter().sum();
        let expected = (-all_but_first / (tokens.len() - 1) as f64).exp();
        assert!((best_perplexity(&tokens, 1, 1).unwrap() - expected).abs() < 1e-9);

        // As the producer does it: batches of targets, one token right of their inputs.
        let (batch_size, num_steps) = (7, 11);
        let batch_len = tokens.len() / batch_size;
        let (mut sum, mut count) = (0.0, 0);
        for step in 0..(batch_len - 1) / num_steps {
            for row in 0..batch_size {
                for column in 0..num_steps {
                    sum += log_probs[row * batch_len + step * num_steps + column + 1];
                    count += 1;
                }
            }
        }
        let expected = (-sum / f64::from(count)).exp();
        assert!((best_perplexity(&tokens, batch_size, num_steps).unwrap() - expected).abs() < 1e-9);
    }

    #[test]
    fn other_texts_are_refused() {
        let error = best_log_probs(&["the", "bank", "have"]).unwrap_err().to_string();
        assert!(error.contains("token 2, \"have\""), "{error}");
        assert!(best_perplexity(&["the"], 1, 1).unwrap_err().to_string().contains("decrease"));
        assert!(best_perplexity(&["the", "bank"], 0, 1).is_err());
    }

    /// What carrying the state over the ends of sentences is worth: the best perplexity of a reader
    /// who knows the source but begins every sentence with no more than how often each state begins
    /// one.
    #[test]
    fn forgetting_at_the_end_of_a_sentence_costs_a_fifth_or_more() {
        let train = tokens(TRAIN);
        let mut beginnings: HashMap<State, f64> = HashMap::new();
        for (state, _) in walk(&train).filter(|(state, _)| state.slot == Slot::Sentence) {
            *beginnings.entry(state).or_default() += 1.0;
        }
        let test = tokens(TEST);
        let mut log_prob = 0.0;
        for sentence in test.split_inclusive(|token| *token == "<eos>") {
            // Weights of the states that the reader may be in, given the words of this sentence.
            let mut weights = beginnings.clone();
            for token in sentence {
                let before: f64 = weights.values().sum();
                let mut after: HashMap<State, f64> = HashMap::new();
                for (state, weight) in weights {
                    if let Some((p, next)) = state.read(token) {
                        *after.entry(next).or_default() += weight * p;
                    }
                }
                weights = after;
                log_prob += (weights.values().sum::<f64>() / before).ln();
            }
        }
        let forgetful = (-log_prob / test.len() as f64).exp();
        let best = best_perplexity(&test, 1, 1).unwrap();
        assert!(forgetful > 1.2 * best, "{forgetful} against {best}");
    }
}
