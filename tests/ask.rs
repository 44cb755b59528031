//! What people ask a trained model: how likely are these lines, which of them is the best, what
//! comes next; about texts of all kinds, also those that other toolkits wrote.

mod program;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use program::{Expect, SMALL, checkpoint, ended, json_lines, program, text, texts};
use ptb_word_lm::reader::{EOS, UNK};
use serde_json::Value;

/// A folder with texts of one's own, and a model of them.
struct Own {
    folder: tempfile::TempDir,
    /// Standard error of its training.
    notices: String,
}

impl Own {
    /// The three texts are these, and the model trains for a second.
    fn of(three: [&str; 3], flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        texts(folder.path(), three);
        let mut own = Own { folder, notices: String::new() };
        let more = ["--batch-size", "4", "--max-steps", "40"];
        let (data, save) = (own.data(), own.save());
        let places = ["--data-path", &data, "--save-path", &save];
        own.notices = program(&[SMALL, &more, &places, flags].concat()).works().1;
        own
    }

    /// All three texts are 200 times these lines.
    fn lines(lines: &[&str], flags: &[&str]) -> Self {
        let text = (lines.join("\n") + "\n").repeat(200);
        Self::of([&text; 3], flags)
    }

    fn data(&self) -> String {
        text(self.folder.path()).to_owned()
    }

    fn save(&self) -> String {
        text(&self.folder.path().join("run")).to_owned()
    }

    fn words(&self) -> Vec<String> {
        let checkpoint = checkpoint(&self.folder.path().join("run"));
        checkpoint.vocabulary.unwrap().words().map(str::to_owned).collect()
    }

    /// A command on the model, which reads this on standard input.
    fn program(&self, command: &str, flags: &[&str], input: &str) -> Command {
        let save = self.save();
        let model = [command, "--device", "cpu", "--checkpoint", &save];
        let mut program = program(&[&model[..], flags].concat());
        program.given(input);
        program
    }

    /// Runs it: standard output and standard error.
    fn run(&self, command: &str, flags: &[&str], input: &str) -> (String, String) {
        self.program(command, flags, input).works()
    }

    fn fails(&self, code: i32, command: &str, flags: &[&str], input: &str, says: &[&str]) {
        self.program(command, flags, input).fails_with(code, says);
    }

    /// Scores lines: an object for each, the totals, and standard error.
    fn score(&self, flags: &[&str], input: &str) -> (Vec<Value>, Value, String) {
        let (out, errors) = self.run("score", &[&["--json"], flags].concat(), input);
        let mut lines = json_lines(&out);
        let total = lines.pop().unwrap();
        assert_eq!((&total["event"], &total["lines"]), (&"total".into(), &lines.len().into()));
        (lines, total, errors)
    }

    fn eval(&self, flags: &[&str]) -> (String, String) {
        self.run("eval", &[&["--data-path", &self.data()], flags].concat(), "")
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is a number"))
}

fn close(found: &Value, expected: f64) {
    let found = number(found);
    let difference = (found - expected).abs();
    assert!(difference < 1e-4 * expected.abs().max(1.0), "{found} instead of {expected}");
}

const LINES: [&str; 2] = ["the cat sat on the mat", "a dog lay on the mat"];

#[test]
fn an_unknown_word_costs_as_much_as_a_word_drawn_at_random() {
    let own = Own::lines(&LINES, &[]);
    let words = own.words().len() as f64;
    assert_eq!((words, own.words().iter().any(|word| word == UNK)), (9.0, false));
    let lines = [
        "the cat sat on the mat",
        "the xyzzy cat sat on the frobnitz mat",
        "the cat sat on the mat quux quux",
        "xyzzy the cat sat on the mat",
    ];
    let input = lines.join("\n");
    let (scored, total, errors) = own.score(&["--independent", "--per-word"], &input);
    let known = number(&scored[0]["log_probability"]);
    for (line, unknown) in scored.iter().zip([0, 2, 2, 1]) {
        close(&line["log_probability"], known - f64::from(unknown) * words.ln());
        close(&line["known_log_probability"], known);
        assert_eq!((&line["unknown"], &line["words"]), (&unknown.into(), &(7 + unknown).into()));
        assert_eq!(line["line_ends"], 1);
        close(
            &line["perplexity"],
            (-number(&line["log_probability"]) / f64::from(7 + unknown)).exp(),
        );
        close(&line["ppl"], (-known / 7.0).exp());
        close(&line["ppl1"], (-known / 6.0).exp());
    }
    close(&scored[1]["per_word"][1]["log_probability"], -words.ln());
    assert_eq!(scored[1]["per_word"][1]["unknown"], true);
    close(&scored[3]["per_word"][0]["surprise"], words.ln());
    close(&total["log_probability"], 4.0 * known - 5.0 * words.ln());
    close(&total["ppl"], (-known / 7.0).exp());
    assert_eq!((&total["unknown"], &total["line_ends"]), (&5.into(), &4.into()));
    assert!(errors.contains("vocabulary: 5") && errors.contains("-2.197"), "{errors}");

    // Another log-probability, in either base.
    for (flags, nats) in [
        (&["--unknown-logprob", "-20"][..], -20.0),
        (&["--unknown-logprob=0"], 0.0),
        (&["--unknown-logprob", "-5", "--log-base", "10"], -5.0 * 10f64.ln()),
    ] {
        let base = if flags.contains(&"10") { 10f64.ln() } else { 1.0 };
        let (scored, _, errors) = own.score(&[&["--independent"], flags].concat(), &input);
        for (line, unknown) in scored.iter().zip([0.0, 2.0, 2.0, 1.0]) {
            close(&line["log_probability"], (known + unknown * nats) / base);
        }
        assert!(errors.contains("each scored with the log-probability"), "{errors}");
    }
    for x in ["1", "nan", "inf", "-inf", "x"] {
        let flag = format!("--unknown-logprob={x}");
        own.fails(2, "score", &[&flag], "the", &["--unknown-logprob"]);
    }
    own.fails(2, "score", &["--log-base", "2"], "the", &["--log-base"]);

    // In one text the first known word is context only, an unknown one before it is not free.
    let one_text = |input: &str| own.score(&["--per-word"], input);
    let (plain, _, _) = one_text("the cat sat");
    let (lines, total, _) = one_text("xyzzy the cat sat");
    assert_eq!(lines[0]["per_word"][1]["log_probability"], Value::Null);
    close(&total["log_probability"], number(&plain[0]["log_probability"]) - words.ln());
    assert_eq!((&total["words"], &total["unknown"]), (&3.into(), &1.into()));
    let (_, total, _) = one_text("xyzzy\nplugh\n");
    assert_eq!((&total["words"], &total["unknown"]), (&3.into(), &2.into()));

    // For people.
    let (out, _) = own.run("score", &["--independent", "--log-base", "10"], &input);
    assert!(out.starts_with("  line log10-prob perplexity unknown  text\n"), "{out}");
    let rows = "\nLines: 4, words scored: 33, unknown: 5, line ends: 4\nWithout unknown words: \
                log-probability (base 10) ";
    assert!(out.contains(rows) && out.contains("\nLog-probability (base 10): "), "{out}");
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
}

#[test]
fn an_unknown_word_is_scored_as_unk_where_there_is_one() {
    let own = Own::lines(&["the cat sat on the <unk>", "a dog lay on the mat"], &[]);
    let lines = ["the <unk> sat", "the xyzzy sat", "<unk> sat", "xyzzy sat"];
    let input = lines.join("\n");
    for (flags, x) in [(&[][..], 0.0), (&["--unknown-logprob", "-7.5"], -7.5)] {
        let (scored, total, errors) =
            own.score(&[&["--independent", "--per-word"], flags].concat(), &input);
        for (written, unknown) in [(0, 1), (2, 3)] {
            let expected = number(&scored[written]["log_probability"]) + x;
            close(&scored[unknown]["log_probability"], expected);
            assert_eq!(
                (&scored[written]["unknown"], &scored[unknown]["unknown"]),
                (&0.into(), &1.into())
            );
        }
        assert_eq!((&total["words"], &total["unknown"]), (&14.into(), &2.into()));
        assert!(errors.contains("scored as <unk>"), "{errors}");

        // As the very first of a text: as after the end of a line. What comes next is read as
        // without it, so that it costs what it costs after a written <unk>.
        let alone = number(&scored[3]["per_word"][0]["log_probability"]);
        let (written, _, _) = own.score(&[&["--per-word"], flags].concat(), "<unk> sat on\n");
        let (unknown, total, _) = own.score(&[&["--per-word"], flags].concat(), "xyzzy sat on\n");
        close(&unknown[0]["per_word"][0]["log_probability"], alone);
        close(&unknown[0]["log_probability"], number(&written[0]["log_probability"]) + alone);
        assert_eq!((&total["words"], &total["unknown"]), (&4.into(), &1.into()));
    }
}

/// With a cache, dynamic evaluation and several models an unknown word costs the same.
#[test]
fn unknown_words_cost_with_every_way_of_scoring() {
    let own = Own::lines(&LINES, &[]);
    let save = own.save();
    let input = "the cat sat\nxyzzy the xyzzy cat sat\n";
    let ln = (own.words().len() as f64).ln();
    for flags in [
        &["--cache", "10"][..],
        &["--dynamic", "0.1", "--dynamic-steps", "2"],
        &["--checkpoint", &save],
    ] {
        let (lines, _, _) = own.score(&[&["--independent"], flags].concat(), input);
        close(&lines[1]["log_probability"], number(&lines[0]["log_probability"]) - 2.0 * ln);
        let (_, total, _) = own.score(flags, input);
        let (_, known, _) = own.score(flags, "the cat sat\nthe cat sat\n");
        close(&total["log_probability"], number(&known["log_probability"]) - 2.0 * ln);
    }
}

#[test]
fn ids_are_shown_and_not_scored() {
    let own = Own::lines(&LINES, &[]);
    let plain = ["the cat sat", "a dog", "", "the xyzzy"];
    let ids = ["utt1-1", "utt1-2", "the", "utt2"];
    let with_ids: Vec<String> =
        ids.iter().zip(plain).map(|(id, line)| format!("{id}\t {line}")).collect();
    for flags in [&["--independent"][..], &[]] {
        let (expected, total, _) = own.score(flags, &plain.join("\n"));
        let (lines, with_total, _) = own.score(&[flags, &["--ids"]].concat(), &with_ids.join("\n"));
        for ((line, mut expected), id) in lines.iter().zip(expected).zip(ids) {
            expected["id"] = id.into();
            assert_eq!(line, &expected);
        }
        assert_eq!(total, with_total);
    }
    // A line of an id alone is an empty text, a blank one has no id.
    let (lines, total, _) = own.score(&["--ids", "--independent"], "a\n\n  \nb\n c the\nd");
    let shown: Vec<&str> = lines.iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!(shown, ["a", "", "", "b", "c", "d"]);
    let words: Vec<u64> = lines.iter().map(|line| line["words"].as_u64().unwrap()).collect();
    assert_eq!((words, &total["line_ends"]), (vec![1, 1, 1, 1, 2, 1], &6.into()));
    // For people.
    let (out, _) = own.run("score", &["--ids", "--independent"], &with_ids.join("\n"));
    let rows: Vec<&str> = out.lines().collect();
    assert!(rows[0].ends_with("unknown  id and text"), "{out}");
    assert!(rows[1].ends_with("  utt1-1 the cat sat") && rows[3].ends_with("  the "), "{out}");
}

#[test]
fn the_base_of_the_logarithms_can_be_10() {
    let own = Own::lines(&LINES, &[]);
    let input = "the cat sat\na xyzzy";
    let flags = ["--per-word", "--independent"];
    let (natural, natural_total, _) = own.score(&flags, input);
    let (explicit, _, _) = own.score(&[&flags[..], &["--log-base", "e"]].concat(), input);
    assert_eq!(natural, explicit);
    let (lines, total, _) = own.score(&[&flags[..], &["--log-base", "10"]].concat(), input);
    let ln10 = 10f64.ln();
    let both = lines.iter().zip(&natural).chain([(&total, &natural_total)]);
    for (ten, natural) in both {
        for name in ["log_probability", "known_log_probability"] {
            close(&ten[name], number(&natural[name]) / ln10);
        }
        for name in ["perplexity", "ppl", "ppl1", "words"] {
            assert_eq!(ten[name], natural[name]);
        }
        if let Some(words) = ten["per_word"].as_array() {
            for (word, natural) in words.iter().zip(natural["per_word"].as_array().unwrap()) {
                close(&word["log_probability"], number(&natural["log_probability"]) / ln10);
                close(&word["surprise"], number(&natural["surprise"]) / ln10);
            }
        }
    }
}

#[test]
fn marks_of_other_toolkits_are_counted_and_mapped() {
    let plain = ["the cat sat on the <unk>", "a dog lay on the mat"];
    let marked = ["<s> the cat sat on the <UNK> </s>", "a dog lay on the mat <eos>"];
    let own = Own::lines(&plain, &[]);
    assert_eq!(own.notices.matches("markers").count(), 0, "{}", own.notices);
    let (expected, _, errors) = own.score(&["--independent"], &plain.join("\n"));
    assert!(errors.is_empty(), "{errors}");
    let input = marked.join("\n") + "\n";

    // As they are: words, most of them unknown, and two line ends in the second line.
    let (kept, total, errors) = own.score(&["--independent"], &input);
    for line in [
        "<s> or the like at a line's start: 1",
        "</s> or the like at a line's end: 1",
        "<eos> written before the newline that is one: 1",
        "<UNK> or the like: 1",
        "--markers map",
        "vocabulary: 3",
    ] {
        assert!(errors.contains(line), "{line}: {errors}");
    }
    assert_eq!((&total["unknown"], &total["line_ends"]), (&3.into(), &3.into()));
    assert!(number(&kept[1]["log_probability"]) < number(&expected[1]["log_probability"]));
    let (keep, _, _) = own.score(&["--independent", "--markers", "keep"], &input);
    assert_eq!(keep, kept);

    for flags in [&["--independent"][..], &[]] {
        let (expected, total, _) = own.score(flags, &(plain.join("\n") + "\n"));
        let map = [flags, &["--markers", "map"]].concat();
        for spelling in ["<UNK>", "<UNKNOWN>", "[UNK]", "<Unk>", "<unk>"] {
            let (lines, mapped, errors) = own.score(&map, &input.replace("<UNK>", spelling));
            assert_eq!((lines, mapped), (expected.clone(), total.clone()));
            assert!(errors.contains("read as what they mean"), "{errors}");
        }
        let with_ids = format!("u1 {}\nu2 {}\n", marked[0], marked[1]);
        let (_, mapped, _) = own.score(&[&map[..], &["--ids"]].concat(), &with_ids);
        assert_eq!(mapped, total);
    }
    // The last line's end, with and without a newline.
    for last in ["a dog </s>", "a dog <eos>", "a dog <eos>\n", "<s> a dog </s>\n"] {
        let (_, total, _) = own.score(&["--independent", "--markers", "map"], last);
        assert_eq!(total, own.score(&["--independent"], "a dog\n").1, "{last:?}");
    }
    own.fails(2, "score", &["--markers", "drop"], "the", &["--markers"]);

    // The same marks in the text that is trained on.
    let kept = Own::lines(&marked, &[]);
    for name in ["train", "valid", "test"] {
        let line = format!("{name}.txt: ");
        assert!(kept.notices.contains(&line), "{}", kept.notices);
    }
    assert!(kept.notices.contains("line's start: 200") && kept.notices.contains("is one: 200"));
    let words = kept.words();
    for word in ["<s>", "</s>", "<UNK>"] {
        assert!(words.iter().any(|w| w == word), "{words:?}");
    }
    // There they are the model's words, and no surprise.
    let (_, _, errors) = kept.score(&["--independent"], "<s> the <UNK> </s>\n");
    assert!(errors.is_empty(), "{errors}");
    let mapped = Own::lines(&marked, &["--markers", "map"]);
    assert_eq!(mapped.words(), own.words());
    // It is the same run as that of the plain text, and `eval` reads what it read.
    let (out, errors) = mapped.eval(&["--markers", "map"]);
    assert_eq!(out, own.eval(&[]).0);
    assert!(errors.contains("line's start: 200") && errors.contains("read as what they mean"));
    assert_eq!(mapped.eval(&[]), (out, errors));
    let data = mapped.data();
    let keep = ["--data-path", &data, "--markers", "keep"];
    mapped.fails(1, "eval", &keep, "", &["vocabulary", "; its text has marks", "--markers map"]);
    let map = ["--data-path", &data, "--markers", "map"];
    kept.fails(1, "eval", &map, "", &["vocabulary", "--markers keep reads them as words"]);
}

#[test]
fn predict_says_what_comes_next() {
    let own = Own::lines(&["the cat sat on the <unk>", "a dog lay on the mat"], &[]);
    let predict = |flags: &[&str], input: &str| own.run("predict", flags, input);
    // Against `score`: the probability of each word after the prompt.
    let (out, errors) = predict(&["--prompt", "the cat", "--top", "3"], "");
    let (json, _) = predict(&["--prompt", "the cat", "--top", "3", "--json"], "");
    assert_eq!((out.lines().count(), errors.as_str()), (3, ""));
    let objects = json_lines(&json);
    assert_eq!(objects.len(), 1);
    assert_eq!((&objects[0]["prompt"], &objects[0]["unknown"]), (&"the cat".into(), &0.into()));
    let next = objects[0]["next"].as_array().unwrap();
    assert_eq!(next.len(), 3);
    let mut before = 1.0;
    for (line, object) in out.lines().zip(next) {
        let (probability, word) = line.split_once(' ').unwrap();
        assert_eq!(object["word"], word);
        let p = number(&object["probability"]);
        assert!((probability.parse::<f64>().unwrap() - p).abs() < 1e-6 && p <= before);
        before = p;
        close(&object["log_probability"], p.ln());
        let input = format!("the cat {}", if word == EOS { "\n" } else { word });
        let (scored, _, _) = own.score(&["--per-word"], &input);
        close(&scored[0]["per_word"][2]["log_probability"], p.ln());
    }
    // All words, and those of an average with itself.
    let (all, _) = predict(&["--prompt", "the cat", "--top", "100", "--json"], "");
    let all = json_lines(&all);
    let sum: f64 =
        all[0]["next"].as_array().unwrap().iter().map(|w| number(&w["probability"])).sum();
    assert!(
        all[0]["next"].as_array().unwrap().len() == own.words().len() && (sum - 1.0).abs() < 1e-6
    );
    let save = own.save();
    let (twice, _) = predict(&["--checkpoint", &save, "--prompt", "the cat", "--top", "3"], "");
    assert_eq!(twice, out);

    // A prompt is no flag, whatever it looks like.
    let (json, _) = predict(&["--json", "--prompt", "--a_b the"], "");
    assert_eq!(json_lines(&json)[0]["prompt"], "--a_b the");

    // Line by line.
    let lines = ["the cat", "", "the xyzzy", "a dog lay"];
    for input in [lines.join("\n"), lines.join("\n") + "\n", lines.join("\r\n"), lines.join("\r")] {
        let (json, errors) = predict(&["--json", "--top", "2"], &input);
        let objects = json_lines(&json);
        assert_eq!(objects.len(), lines.len(), "{json}");
        for (object, line) in objects.iter().zip(lines) {
            let (alone, _) = predict(&["--json", "--top", "2", "--prompt", line], "");
            assert_eq!(object, &json_lines(&alone)[0]);
        }
        assert_eq!(objects[2]["unknown"], 1);
        assert!(errors.contains("read as <unk>: xyzzy"), "{errors}");
    }
    let (out, _) = predict(&["--top", "2"], "the cat\na dog\n");
    let rows: Vec<&str> = out.lines().collect();
    assert_eq!((rows.len(), rows[0], rows[3]), (6, "> the cat", "> a dog"), "{out}");
    own.fails(1, "predict", &[], "", &["standard input", "no prompt"]);
    own.fails(2, "predict", &["--top", "0"], "the\n", &["--top"]);
    own.fails(2, "predict", &["the cat"], "", &["the cat"]);
}

#[test]
fn generate_can_leave_unk_out() {
    let own = Own::lines(&["<unk> <unk> the <unk>", "the <unk> <unk> mat"], &[]);
    for flags in [&[][..], &["--temperature", "0"], &["--top-k", "2"], &["--top-p", "0.5"]] {
        let flags = [flags, &["--words", "200"]].concat();
        let (out, _) = own.run("generate", &flags, "");
        assert!(out.contains(UNK), "{flags:?}: {out}");
        let (out, errors) = own.run("generate", &[&flags[..], &["--no-unk"]].concat(), "");
        assert!(!out.contains(UNK) && errors.is_empty(), "{flags:?}: {out} {errors}");
        assert!(out.contains("the") || out.contains("mat") || out.contains('\n'), "{out}");
    }
    // It can still be in the prompt.
    let (out, _) = own.run("generate", &["--no-unk", "--prompt", "xyzzy", "--words", "30"], "");
    assert!(out.starts_with(UNK) && out.matches(UNK).count() == 1, "{out}");
    // A model without it has nothing to leave out.
    let own = Own::lines(&LINES, &[]);
    assert_eq!(own.run("generate", &["--no-unk"], ""), own.run("generate", &[], ""));
}

#[test]
fn a_text_in_a_single_line_can_be_used() {
    let line = "the cat sat on the mat a dog lay on the mat ".repeat(200);
    let other = "the cat sat\na dog lay on the xyzzy\n".repeat(50);
    for end in ["", "\n"] {
        let train = format!("{}{end}", line.trim_end());
        let limited = Own::of([&train, &other, &other], &["--max-vocab", "50"]);
        let words = limited.words();
        assert_eq!(words.len(), 10, "{words:?}");
        assert!(words.iter().any(|word| word == EOS) && words.iter().any(|word| word == UNK));
        for flags in [&["--independent"][..], &[]] {
            let (_, total, _) = limited.score(flags, "the cat sat\na dog\n");
            assert_eq!((&total["unknown"], &total["line_ends"]), (&0.into(), &2.into()));
        }
        let (out, errors) = limited.run("generate", &["--words", "5"], "");
        assert!(!out.is_empty() && errors.is_empty(), "{out} {errors}");
        limited.eval(&[]);
    }

    // Without limits the vocabulary is the text's, as in the original: there is no <eos>.
    let own = Own::of([line.trim_end(), &other, &other], &[]);
    assert_eq!(own.words().len(), 8);
    let (out, errors) = own.run("generate", &["--words", "5"], "");
    assert_eq!(out.split_whitespace().count(), 5);
    assert!(errors.contains("no <eos> to begin after") && errors.contains("the"), "{errors}");
    let (_, errors) = own.run("predict", &["--prompt", ""], "");
    assert!(errors.contains("no <eos>"), "{errors}");
    let input = "the cat sat\nxyzzy a dog\n\nthe cat sat\n";
    for (flags, words) in [(&["--independent"][..], 6), (&[], 8)] {
        let (lines, total, errors) = own.score(flags, input);
        assert_eq!((&total["unknown"], &total["line_ends"]), (&1.into(), &0.into()));
        assert_eq!(total["words"], words, "{total}");
        assert!(errors.contains("no <eos>: the ends of lines are not scored"), "{errors}");
        if words == 6 {
            assert_eq!(lines[0]["log_probability"], lines[3]["log_probability"]);
            assert_eq!((&lines[1]["words"], &lines[2]["words"]), (&2.into(), &0.into()));
        }
    }
    own.eval(&[]);
}

#[test]
fn eval_reads_a_text_of_two_words() {
    let train = (LINES.join("\n") + "\n").repeat(200);
    let own = Own::of([&train; 3], &["--batch-size", "20"]);
    let put = |name: &str, text: &str| {
        fs::write(own.folder.path().join(format!("{name}.txt")), text).unwrap();
    };
    let five = "the cat sat\na dog lay\nthe mat\n\na cat\n";
    for valid in [five, "the cat", "the\n"] {
        put("valid", valid);
        put("test", valid);
        let (out, errors) = own.eval(&[]);
        // Both are read as one row, so they are the same, and those of `score`.
        let figures: Vec<&str> = out.lines().map(|line| line.split_once(": ").unwrap().1).collect();
        assert_eq!((figures.len(), figures[0]), (2, figures[1]), "{out}");
        let (_, total, _) = own.score(&[], valid);
        assert!((number(&total["perplexity"]) - figures[0].parse::<f64>().unwrap()).abs() < 2e-3);
        assert!(errors.contains("valid.txt") && errors.contains("read as one row"), "{errors}");
        own.eval(&["--cache", "10"]);
    }
    let data = own.data();
    for name in ["valid", "test"] {
        put("valid", five);
        put("test", five);
        put(name, "the");
        own.fails(1, "eval", &["--data-path", &data], "", &[name, "no word to predict"]);
    }
    put("test", five);
    put("valid", &train);
    assert!(own.eval(&[]).1.is_empty());
}

#[test]
fn lines_may_end_with_a_carriage_return() {
    let lines = (LINES.join("\n") + "\n").repeat(200);
    let own = Own::of([&lines; 3], &[]);
    let returns = lines.replace('\n', "\r");
    let mac = Own::of([&returns, &returns, &lines.replace('\n', "\r\n")], &[]);
    assert_eq!(mac.words(), own.words());
    assert_eq!(mac.eval(&[]).0, own.eval(&[]).0);
    let input = "the cat\r\rsat on\rthe";
    for flags in [&["--independent"][..], &[], &["--ids"]] {
        assert_eq!(own.score(flags, input), own.score(flags, &input.replace('\r', "\n")));
    }
    assert_eq!(own.score(&[], input).0.len(), 4);
    // The text may come in parts, which end anywhere.
    let mut child = own.program("score", &["--independent", "--json"], "");
    let mut child = child.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for part in ["the cat\r\rsat", " on\r", "the"] {
        stdin.write_all(part.as_bytes()).unwrap();
        thread::sleep(Duration::from_millis(300));
    }
    drop(stdin);
    let (code, out, _) = ended(child.wait_with_output().unwrap());
    let mut lines = json_lines(&out);
    lines.pop();
    assert_eq!((code, lines), (Some(0), own.score(&["--independent"], input).0));
}
