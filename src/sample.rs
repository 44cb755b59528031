//! The sample corpus: newspaper-like text in PTB's format from a source whose probabilities are known exactly.
//!
//! PTB needs a licence; this text needs none, and it brings something that PTB cannot: since the program that wrote it
//! is here, so is the probability of every next word, and with it the best perplexity that any model can reach.
//! A model that is trained on it can be checked against that number ([`best_perplexity`]).
//!
//! # The source
//!
//! The source is an automaton. Its [`State`] is a function of the words so far: every word that may come next belongs
//! to exactly one [`Arc`], a class of words with a probability and the state it leads to. So a reader who knows the rules is
//! never in doubt about the state, and `p(word | all words before) = p(arc) * p(word | class)`.
//! Within a class of `n` words the word of rank `r = 0, 1, ...` has a weight of `1 / (r + 2)`, as in Zipf's law.
//!
//! What has to be remembered, as in real text, and for how long:
//!
//! | what | shows in | reaches over |
//! |---|---|---|
//! | number of the subject | its verb | phrases and relative clauses between them |
//! | topic (markets, weather, sport, politics, computers) | nouns, verbs, adjectives, units | about ten sentences |
//! | tense | verbs | about ten sentences, and over quotations, which are always in the present |
//! | an open quotation | `we`, present tense, the closing `''` | the sentences of the quotation |
//! | number of the last noun that was a subject | `it` or `they` | any sentences about persons between them |
//! | the last person's title, `mr.` or `ms.` | `he` or `she` | any sentences about things between them |
//!
//! All but the first outlive the end of a sentence: this is what an LSTM's state, carried from batch to batch, is good for.

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

/// Three texts from one source, each in PTB's format: lower case, one sentence a line, a space before and after every word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corpus {
    /// About 100,000 tokens, counting each newline as the token `<eos>`.
    pub train: String,
    /// About 10,000 tokens.
    pub valid: String,
    /// About 10,000 tokens.
    pub test: String,
}

/// Draws a corpus. One seed always gives the same text, on every machine: the source uses ChaCha8 and no
/// floating-point operation beyond `+ - * /`.
pub fn generate(seed: u64) -> Corpus {
    let text = |split, tokens| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(split); // the three texts are independent of each other
        write_text(&mut rng, tokens)
    };
    Corpus { train: text(0, 100_000), valid: text(1, 10_000), test: text(2, 10_000) }
}

/// Sentences until there are at least `tokens` tokens.
fn write_text(rng: &mut ChaCha8Rng, tokens: usize) -> String {
    let mut text = String::from(" ");
    let mut state = State::start();
    let mut written = 0;
    while written < tokens || state != state.sentence() {
        let (word, next) = state.draw(rng);
        text.push_str(if word == "<eos>" { "\n" } else { word });
        text.push(' ');
        state = next;
        written += 1;
    }
    text.pop();
    text
}

/// ln p(token | all tokens before) for each token of a stream that starts where a text of the source starts.
///
/// The tokens are words and `<eos>`, as the reader makes them. The values are exact. A token that the source cannot produce
/// at its place is an error: the text is then not the source's.
pub fn best_log_probs(tokens: &[&str]) -> Result<Vec<f64>> {
    let mut state = State::start();
    let mut log_probs = Vec::with_capacity(tokens.len());
    for (i, token) in tokens.iter().enumerate() {
        let (p, next) = state.read(token).with_context(|| {
            format!("token {i}: {token:?} cannot come from the sample corpus's source here")
        })?;
        log_probs.push(p.ln());
        state = next;
    }
    Ok(log_probs)
}

/// The best perplexity on `tokens`, taken over the very tokens that a model is scored on with this batch_size and num_steps.
///
/// As the producer cuts it, the stream becomes `batch_size` rows of `batch_len = len / batch_size` tokens; in each row the
/// `epoch_size * num_steps` tokens after the first are predicted, `epoch_size = (batch_len - 1) / num_steps`. For the test
/// split (1, 1) these are all tokens but the first.
///
/// It is the best in the sense that no model which has not seen the text itself can expect to do better. A model starts each
/// row knowing nothing while the source knows all earlier rows, so the model's best is a little worse than this.
pub fn best_perplexity(tokens: &[&str], batch_size: usize, num_steps: usize) -> Result<f64> {
    ensure!(batch_size > 0 && num_steps > 0, "batch_size and num_steps must be at least 1");
    let batch_len = tokens.len() / batch_size;
    let scored = batch_len.saturating_sub(1) / num_steps * num_steps;
    ensure!(scored > 0, "{} tokens are too few: decrease batch_size or num_steps", tokens.len());
    let log_probs = best_log_probs(tokens)?;
    let sum: f64 = log_probs.chunks(batch_len).take(batch_size).flat_map(|row| &row[1..=scored]).sum();
    Ok((-sum / (batch_size * scored) as f64).exp())
}

/// Grammatical number.
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

/// What a noun phrase is for, and so what comes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Role {
    /// The first subject of a sentence, which a pronoun in the next may refer to.
    FirstSubject,
    Subject,
    /// Inside the phrase that follows a subject; the subject's verb is still to come.
    InSubject,
    Object,
    /// Inside the phrase that follows an object or a verb.
    InObject,
}

/// The place in the sentence: which kinds of word may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Slot {
    Sentence,
    Weekday,
    Subject,
    Name,
    PersonVerb,
    AfterSaid,
    /// A determiner, the start of a noun phrase.
    Determiner(Role),
    /// A noun, of either number if `None`; perhaps an adjective before it.
    Noun(Role, Option<Number>),
    NounAfterAdjective(Role, Option<Number>),
    AfterSubject,
    RelativeVerb,
    Verb,
    Predicate,
    Unit,
    AfterVerb,
    AfterObject,
    ClauseEnd,
    AfterQuote,
}

/// What the source remembers; a function of the words so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    slot: Slot,
    /// Index into [`TOPICS`].
    topic: usize,
    /// A word of this sentence has shown its topic.
    topic_shown: bool,
    tense: Tense,
    /// A word of this sentence has shown its tense.
    tense_shown: bool,
    /// Of the subject whose verb is due.
    number: Number,
    /// What the last sentence outside quotations was about: index into [`PRONOUNS`].
    referent: usize,
    quoted: bool,
}

/// Words that lead to one state, and the probability that the next word is one of them.
struct Arc {
    p: f64,
    words: &'static [&'static str],
    next: State,
}

impl Arc {
    /// The probability of the word of the given rank.
    fn p_word(&self, rank: usize) -> f64 {
        let weight = |r: usize| 1.0 / (r as f64 + 1.0);
        self.p * weight(rank) / (0..self.words.len()).map(weight).sum::<f64>()
    }
}

/// Collects the arcs that leave a state.
#[derive(Default)]
struct Arcs(Vec<Arc>);

impl Arcs {
    fn words(mut self, p: f64, words: &'static [&'static str], next: State) -> Self {
        if p > 0.0 {
            self.0.push(Arc { p, words, next });
        }
        self
    }

    /// With probability `p` the next word is one that may follow `state`: what might have come before it is left out.
    fn skip_to(mut self, p: f64, state: State) -> Self {
        self.0.extend(state.arcs().into_iter().map(|arc| Arc { p: p * arc.p, ..arc }));
        self
    }
}

/// How probable it is that a sentence keeps the topic of the one before; else each other topic is equally probable.
const KEEP_TOPIC: f64 = 0.9;
/// How probable it is that a sentence keeps the tense of the narration.
const KEEP_TENSE: f64 = 0.9;

impl State {
    /// Where every text starts: as if after a sentence about a thing on the market and one about a man, in the past.
    fn start() -> State {
        State {
            slot: Slot::Sentence,
            topic: 0,
            topic_shown: false,
            tense: Past,
            tense_shown: false,
            number: Singular,
            referent: 0,
            quoted: false,
        }
    }

    fn at(self, slot: Slot) -> State {
        State { slot, ..self }
    }

    /// The state at the start of the next sentence.
    fn sentence(self) -> State {
        State { slot: Slot::Sentence, topic_shown: false, tense_shown: false, number: Singular, ..self }
    }

    /// The topics that the next word of a topic may show, with their probabilities.
    fn topics(self) -> Vec<(f64, State)> {
        let shown = |topic| State { topic, topic_shown: true, ..self };
        if self.topic_shown {
            return vec![(1.0, self)];
        }
        let p = |topic| {
            if topic == self.topic { KEEP_TOPIC } else { (1.0 - KEEP_TOPIC) / (TOPICS.len() - 1) as f64 }
        };
        (0..TOPICS.len()).map(|topic| (p(topic), shown(topic))).collect()
    }

    /// The tenses that the next verb may show, with their probabilities and the index of the verb's form.
    fn tenses(self) -> Vec<(f64, usize, State)> {
        let form = |tense| match (tense, self.number) {
            (Past, _) => 0,
            (Present, Singular) => 1,
            (Present, Plural) => 2,
        };
        if self.quoted {
            return vec![(1.0, form(Present), self)];
        }
        [Past, Present]
            .into_iter()
            .map(|tense| {
                let p = match (self.tense_shown, tense == self.tense) {
                    (true, same) => f64::from(same),
                    (false, true) => KEEP_TENSE,
                    (false, false) => 1.0 - KEEP_TENSE,
                };
                (p, form(tense), State { tense, tense_shown: true, ..self })
            })
            .collect()
    }

    /// Everything that may come next. The probabilities sum to 1 and no word is in two arcs.
    fn arcs(self) -> Vec<Arc> {
        let arcs = Arcs::default();
        match self.slot {
            Slot::Sentence if self.quoted => arcs.skip_to(1.0, self.at(Slot::Subject)),
            Slot::Sentence => {
                arcs.words(0.15, &["on"], self.at(Slot::Weekday)).skip_to(0.85, self.at(Slot::Subject))
            }
            Slot::Weekday => arcs.words(1.0, WEEKDAYS, self.at(Slot::Subject)),
            Slot::Subject if self.quoted => {
                let we = State { number: Plural, slot: Slot::Verb, ..self };
                arcs.words(0.35, &["we"], we).skip_to(0.65, self.at(Slot::Determiner(Role::Subject)))
            }
            Slot::Subject => {
                let (number, slot) = [
                    (Singular, Slot::Verb),
                    (Plural, Slot::Verb),
                    (Singular, Slot::PersonVerb),
                    (Singular, Slot::PersonVerb),
                ][self.referent];
                let same = State { number, slot, topic_shown: true, ..self };
                let mut arcs = arcs
                    .words(0.35, &PRONOUNS[self.referent..=self.referent], same)
                    .skip_to(0.5, self.at(Slot::Determiner(Role::FirstSubject)));
                for title in 0..TITLES.len() {
                    let named = State { referent: 2 + title, number: Singular, slot: Slot::Name, ..self };
                    arcs = arcs.words(0.075, &TITLES[title..=title], named);
                }
                arcs
            }
            Slot::Name => arcs.words(1.0, NAMES, self.at(Slot::PersonVerb)),
            Slot::PersonVerb => {
                let arcs = self.verb(arcs, 0.65, &SAY, Slot::AfterSaid);
                self.verb(arcs, 0.35, &MEET, Slot::Determiner(Role::Object))
            }
            Slot::AfterSaid => arcs.words(0.5, &["that"], self.at(Slot::Determiner(Role::Subject))).words(
                0.5,
                &["``"],
                State { quoted: true, ..self.at(Slot::Subject) },
            ),
            Slot::Determiner(role) => arcs
                .words(0.5, &["the"], self.at(Slot::Noun(role, None)))
                .words(0.25, &["a", "this", "each"], self.at(Slot::Noun(role, Some(Singular))))
                .words(0.25, &["some", "many", "N", "these"], self.at(Slot::Noun(role, Some(Plural)))),
            Slot::Noun(role, number) => {
                let noun = self.at(Slot::NounAfterAdjective(role, number));
                self.topics()
                    .into_iter()
                    .fold(arcs, |arcs, (p, state)| {
                        arcs.words(
                            0.15 * p,
                            TOPICS[state.topic].adjectives,
                            State { slot: noun.slot, ..state },
                        )
                    })
                    .words(0.1, ADJECTIVES, noun)
                    .skip_to(0.75, noun)
            }
            Slot::NounAfterAdjective(role, number) => {
                let numbers = match number {
                    Some(number) => vec![(1.0, number)],
                    None => vec![(0.6, Singular), (0.4, Plural)],
                };
                let mut arcs = arcs;
                for (p_topic, state) in self.topics() {
                    for &(p, number) in &numbers {
                        let next = match role {
                            Role::FirstSubject => {
                                State { number, referent: number as usize, ..state.at(Slot::AfterSubject) }
                            }
                            Role::Subject => State { number, ..state.at(Slot::AfterSubject) },
                            Role::InSubject => state.at(Slot::Verb),
                            Role::Object => state.at(Slot::AfterObject),
                            Role::InObject => state.at(Slot::ClauseEnd),
                        };
                        arcs = arcs.words(p_topic * p, TOPICS[state.topic].nouns[number as usize], next);
                    }
                }
                arcs
            }
            Slot::AfterSubject => arcs
                .words(0.2, PREPOSITIONS, self.at(Slot::Determiner(Role::InSubject)))
                .words(0.1, &["that"], self.at(Slot::RelativeVerb))
                .skip_to(0.7, self.at(Slot::Verb)),
            Slot::RelativeVerb => self.verb(arcs, 1.0, &TRANSITIVE, Slot::Determiner(Role::InSubject)),
            Slot::Verb => {
                let mut arcs = self.verb(arcs, 0.35, &TRANSITIVE, Slot::Determiner(Role::Object));
                for (p, state) in self.topics() {
                    arcs = state.verb(arcs, 0.3 * p, &TOPICS[state.topic].intransitive, Slot::AfterVerb);
                }
                let arcs = self.verb(arcs, 0.2, &BE, Slot::Predicate);
                self.verb(arcs, 0.15, &HAVE, Slot::Determiner(Role::Object))
            }
            Slot::Predicate => self
                .topics()
                .into_iter()
                .fold(arcs, |arcs, (p, state)| {
                    arcs.words(0.6 * p, TOPICS[state.topic].adjectives, state.at(Slot::ClauseEnd))
                })
                .words(0.4, ADJECTIVES, self.at(Slot::ClauseEnd)),
            Slot::AfterVerb => arcs
                .words(0.2, ADVERBS, self.at(Slot::ClauseEnd))
                .words(0.25, &["N"], self.at(Slot::Unit))
                .words(0.15, PREPOSITIONS, self.at(Slot::Determiner(Role::InObject)))
                .skip_to(0.4, self.at(Slot::ClauseEnd)),
            Slot::Unit => self.topics().into_iter().fold(arcs, |arcs, (p, state)| {
                arcs.words(p, TOPICS[state.topic].units, state.at(Slot::ClauseEnd))
            }),
            Slot::AfterObject => arcs
                .words(0.15, PREPOSITIONS, self.at(Slot::Determiner(Role::InObject)))
                .skip_to(0.85, self.at(Slot::ClauseEnd)),
            Slot::ClauseEnd => {
                let arcs = arcs.words(0.12, CONJUNCTIONS, self.at(Slot::Determiner(Role::Subject)));
                if self.quoted {
                    arcs.words(0.4, &["''"], State { quoted: false, ..self.at(Slot::AfterQuote) }).words(
                        0.48,
                        EOS,
                        self.sentence(),
                    )
                } else {
                    arcs.words(0.88, EOS, self.sentence())
                }
            }
            Slot::AfterQuote => arcs.words(1.0, EOS, self.sentence()),
        }
        .0
    }

    /// Adds verbs in the form that tense and number ask for.
    fn verb(self, arcs: Arcs, p: f64, verbs: &'static Forms, next: Slot) -> Arcs {
        self.tenses()
            .into_iter()
            .fold(arcs, |arcs, (p_tense, form, state)| arcs.words(p * p_tense, verbs[form], state.at(next)))
    }

    /// The probability of `word` here and the state after it; `None` if it cannot come here.
    fn read(self, word: &str) -> Option<(f64, State)> {
        self.arcs().iter().find_map(|arc| {
            let rank = arc.words.iter().position(|w| *w == word)?;
            Some((arc.p_word(rank), arc.next))
        })
    }

    /// Draws the next word.
    fn draw(self, rng: &mut ChaCha8Rng) -> (&'static str, State) {
        // 53 random bits make a uniform number in [0, 1).
        let mut left = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let mut last = ("", self);
        for arc in self.arcs() {
            for (rank, word) in arc.words.iter().enumerate() {
                last = (word, arc.next);
                left -= arc.p_word(rank);
                if left < 0.0 {
                    return last;
                }
            }
        }
        last // the probabilities sum to 1 but for rounding
    }
}

/// The forms of some verbs: past, present singular, present plural; the same verbs in the same order.
type Forms = [&'static [&'static str]; 3];

/// The words of a topic, which no other topic has.
struct Topic {
    /// Singular, plural.
    nouns: [&'static [&'static str]; 2],
    adjectives: &'static [&'static str],
    intransitive: Forms,
    units: &'static [&'static str],
}

const EOS: &[&str] = &["<eos>"];
const TITLES: [&str; 2] = ["mr.", "ms."];
const PRONOUNS: [&str; 4] = ["it", "they", "he", "she"];
const WEEKDAYS: &[&str] = &["monday", "friday", "tuesday", "wednesday", "thursday"];
const NAMES: &[&str] = &[
    "<unk>", "smith", "jones", "brown", "johnson", "miller", "clark", "lewis", "baker", "adams", "young",
    "carter",
];
const PREPOSITIONS: &[&str] = &["of", "in", "for", "with", "near"];
const CONJUNCTIONS: &[&str] = &["and", "but", "while"];
const ADVERBS: &[&str] = &["again", "quickly", "slightly", "yesterday", "early"];
const ADJECTIVES: &[&str] = &["new", "big", "old", "small", "important", "strange"];
const SAY: Forms = [&["said", "added", "noted"], &["says", "adds", "notes"], &["say", "add", "note"]];
const MEET: Forms =
    [&["met", "visited", "joined"], &["meets", "visits", "joins"], &["meet", "visit", "join"]];
const BE: Forms = [&["was"], &["is"], &["are"]];
const TRANSITIVE: Forms = [
    &["helped", "reached", "followed", "changed", "needed", "noticed", "covered", "used"],
    &["helps", "reaches", "follows", "changes", "needs", "notices", "covers", "uses"],
    &["help", "reach", "follow", "change", "need", "notice", "cover", "use"],
];
const HAVE: Forms = [&["had"], &["has"], &["have"]];

static TOPICS: [Topic; 5] = [
    Topic {
        nouns: [
            &["company", "stock", "bank", "market", "fund", "investor", "bond", "broker"],
            &["stocks", "companies", "bonds", "investors", "banks", "funds", "markets", "brokers"],
        ],
        adjectives: &["financial", "foreign", "profitable", "corporate", "cheap"],
        intransitive: [
            &["rose", "fell", "traded", "closed"],
            &["rises", "falls", "trades", "closes"],
            &["rise", "fall", "trade", "close"],
        ],
        units: &["percent", "points", "dollars", "cents"],
    },
    Topic {
        nouns: [
            &["storm", "wind", "river", "coast", "island", "valley", "harbor", "cloud"],
            &["winds", "storms", "rivers", "clouds", "islands", "valleys", "coasts", "harbors"],
        ],
        adjectives: &["cold", "heavy", "coastal", "wet", "tropical"],
        intransitive: [
            &["froze", "calmed", "warmed", "darkened"],
            &["freezes", "calms", "warms", "darkens"],
            &["freeze", "calm", "warm", "darken"],
        ],
        units: &["degrees", "miles", "inches", "feet"],
    },
    Topic {
        nouns: [
            &["team", "player", "coach", "club", "league", "pitcher", "fan", "stadium"],
            &["players", "teams", "fans", "coaches", "clubs", "pitchers", "leagues", "stadiums"],
        ],
        adjectives: &["professional", "talented", "defensive", "athletic", "tired"],
        intransitive: [
            &["won", "lost", "played", "scored"],
            &["wins", "loses", "plays", "scores"],
            &["win", "lose", "play", "score"],
        ],
        units: &["games", "runs", "goals", "seasons"],
    },
    Topic {
        nouns: [
            &["senator", "court", "committee", "voter", "party", "governor", "judge", "agency"],
            &["voters", "senators", "courts", "parties", "judges", "committees", "agencies", "governors"],
        ],
        adjectives: &["federal", "public", "legal", "liberal", "conservative"],
        intransitive: [
            &["voted", "agreed", "argued", "resigned"],
            &["votes", "agrees", "argues", "resigns"],
            &["vote", "agree", "argue", "resign"],
        ],
        units: &["times", "terms", "weeks", "hours"],
    },
    Topic {
        nouns: [
            &["computer", "program", "system", "engineer", "machine", "network", "chip", "laboratory"],
            &[
                "computers",
                "engineers",
                "programs",
                "machines",
                "systems",
                "chips",
                "networks",
                "laboratories",
            ],
        ],
        adjectives: &["electronic", "fast", "digital", "scientific", "reliable"],
        intransitive: [
            &["worked", "failed", "crashed", "evolved"],
            &["works", "fails", "crashes", "evolves"],
            &["work", "fail", "crash", "evolve"],
        ],
        units: &["users", "bytes", "copies", "seconds"],
    },
];

/// scratch
pub fn forgetful(tokens: &[&str], train: &[&str]) -> f64 {
    use std::collections::HashMap;
    let mut starts: HashMap<State, f64> = HashMap::new();
    let mut s = State::start();
    let mut n = 0.0;
    for t in train {
        if s.slot == Slot::Sentence {
            *starts.entry(s).or_default() += 1.0;
            n += 1.0;
        }
        s = s.read(t).unwrap().1;
    }
    let mut sum = 0.0;
    let mut beliefs: Vec<(f64, State)> = vec![];
    for (i, t) in tokens.iter().enumerate() {
        if i == 0 || tokens[i - 1] == "<eos>" {
            beliefs = starts.iter().map(|(s, c)| (c / n, *s)).collect();
        }
        let mut p = 0.0;
        let mut next: HashMap<State, f64> = HashMap::new();
        for (b, s) in beliefs {
            if let Some((q, s)) = s.read(t) {
                p += b * q;
                *next.entry(s).or_default() += b * q;
            }
        }
        beliefs = next.into_iter().map(|(s, b)| (b / p, s)).collect();
        sum += p.ln();
    }
    (-sum / tokens.len() as f64).exp()
}
/// scratch
pub fn slots(tokens: &[&str]) -> Vec<String> {
    let mut s = State::start();
    tokens
        .iter()
        .map(|t| {
            let mut r = format!("{:?}{}", s.slot, if s.quoted { " (quoted)" } else { "" });
            if matches!(s.slot, Slot::Subject | Slot::Sentence) && s.quoted == false {
                let w = if ["it", "they"].contains(t) {
                    "it/they"
                } else if ["he", "she"].contains(t) {
                    "he/she"
                } else {
                    "other"
                };
                r += " ";
                r += w;
            }
            if !s.topic_shown && s.read(t).unwrap().1.topic_shown {
                r += if s.topic == s.read(t).unwrap().1.topic { " topic kept" } else { " topic changed" };
            }

            let nx = s.read(t).unwrap().1;
            if matches!(s.slot, Slot::AfterSubject | Slot::Verb | Slot::PersonVerb) && !s.quoted {
                r += if nx.slot == Slot::Determiner(Role::InSubject) || nx.slot == Slot::RelativeVerb {
                    " noverb"
                } else if s.tense_shown {
                    " tense known"
                } else if s.tense == nx.tense {
                    " tense kept"
                } else {
                    " tense changed"
                };
                if let Some(i) = [
                    BE[0],
                    HAVE[0],
                    TRANSITIVE[0],
                    BE[1],
                    HAVE[1],
                    TRANSITIVE[1],
                    BE[2],
                    HAVE[2],
                    TRANSITIVE[2],
                ]
                .iter()
                .position(|v| v.contains(t))
                {
                    r += ["be", "have", "tr"][i % 3];
                }
            }
            s = s.read(t).unwrap().1;
            r
        })
        .collect()
}
