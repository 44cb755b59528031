//! `train --config FILE`: flags from a JSON file.
//!
//! The file is `{"model": "small", "seed": 1, ...}`, or the metrics of a run: their `start` event
//! has everything that the run was, so it repeats the run. What the file says becomes arguments
//! before those of the command line, where a later one takes the place of an earlier.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Map, Value, json};

use crate::cli::report::{notice, without_numbers};
use crate::kernels::libtorch;
use crate::reader::RawData;

/// Flags that are no part of what a run computes, since they say where its results go or where its
/// flags came from; and two that say by another name what the start event has as `precision`,
/// `device` and `workers`; and the vocabulary's size, which comes from the data.
const NOT_REPEATED: [&str; 6] =
    ["config", "save_path", "metrics", "use_fp16", "num_gpus", "vocab_size"];

/// How the flags of `train` were given.
#[derive(Default)]
pub struct Given {
    /// Every flag's value, given or default, as the `start` event records them.
    pub flags: Map<String, Value>,
    /// The `start` event that `--config` read, if it was one.
    pub start: Option<Value>,
    /// Names of the flags that are on the command line, and not only in the file of `--config`.
    typed: BTreeSet<String>,
}

impl Given {
    /// True if the flag is on the command line, so that it must not be ignored. A file of
    /// `--config` may have more than one run needs: a `start` event has all flags.
    pub fn is_typed(&self, flag: &str) -> bool {
        self.typed.contains(flag)
    }

    /// Records every flag's value, given or default.
    pub fn record(&mut self, matches: &ArgMatches, train: &Command) {
        let args = train.get_arguments();
        for arg in args.filter(|arg| arg.get_long().is_some_and(|long| long != "help")) {
            let id = arg.get_id().as_str();
            if !NOT_REPEATED.contains(&id)
                && let Some(value) = value(matches, arg)
            {
                self.flags.insert(id.into(), value);
            }
        }
    }
}

/// The arguments with those of their `--config` put in. `train` is that subcommand.
///
/// # Errors
/// A file that cannot be read, is not JSON, or has a key that is not a flag or a value that does
/// not fit it.
pub fn expand(
    mut args: Vec<OsString>,
    train: &Command,
) -> Result<(Vec<OsString>, Given), clap::Error> {
    let mut given = Given::default();
    if args.get(1).is_none_or(|command| command != "train") {
        return Ok((args, given));
    }
    // Other errors in the arguments are reported when they are all parsed.
    let glance = train.clone().ignore_errors(true).try_get_matches_from(&args[1..]);
    let Ok(glance) = glance else { return Ok((args, given)) };
    let is_typed = |id: &&str| glance.value_source(id) == Some(ValueSource::CommandLine);
    given.typed = glance.ids().map(|id| id.as_str()).filter(is_typed).map(str::to_owned).collect();
    if let Some(path) = glance.get_one::<PathBuf>("config") {
        let (flags, start) = read(path, train).map_err(|error| {
            let message = format!("--config {}: {error:#}\n", path.display());
            let message = without_numbers(&message);
            clap::Error::raw(ErrorKind::ValueValidation, message)
        })?;
        args.splice(2..2, flags);
        given.start = start;
    }
    Ok((args, given))
}

/// The arguments that a file gives, and its `start` event, if it is a run's metrics.
fn read(path: &Path, train: &Command) -> Result<(Vec<OsString>, Option<Value>)> {
    let file = if path.is_dir() { path.join("metrics.jsonl") } else { path.to_owned() };
    // A process that was killed may have left half a letter.
    let text = match fs::read(&file) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => {
            bail!("cannot be read ({error}); it is a JSON file of flags, or a run's metrics")
        }
    };
    // Some editors begin a file with a byte-order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let first = match values.next() {
        Some(Ok(Value::Object(first))) => first,
        Some(Err(error)) => bail!("it is not JSON: {error}"),
        _ => bail!("it is not a JSON object, such as {{\"model\": \"small\", \"seed\": 1}}"),
    };
    let Some(event) = first.get("event") else {
        ensure!(values.next().is_none(), "there is more in it than one JSON object");
        return Ok((arguments(first, train)?, None));
    };
    ensure!(
        event == "start",
        "its first line is the event {event}; a run's metrics begin with the event \"start\""
    );
    // A run that was resumed has a start event for each time; the last one counts. A line that was
    // cut off is passed over.
    let starts = text.lines().filter(|line| line.contains("\"start\""));
    let mut starts =
        starts.filter_map(|line| serde_json::from_str::<Map<String, Value>>(line).ok());
    let last = starts.rfind(|value| value.get("event") == Some(&json!("start")));
    let mut start = last.unwrap_or_else(|| first.clone());
    // The command that resumes a run may leave out what it started from.
    if start.get("init_from").is_none_or(Value::is_null)
        && let Some(init_from) = first.get("init_from")
    {
        start.insert("init_from".into(), init_from.clone());
    }
    let flags = flags_of_start(&start, train);
    Ok((arguments(flags, train)?, Some(Value::Object(start))))
}

/// The flags that repeat the run of a `start` event.
fn flags_of_start(start: &Map<String, Value>, train: &Command) -> Map<String, Value> {
    // What was asked for, and above it what came of it, such as the device that `auto` found.
    // Further figures are not flags.
    let mut flags = start.get("flags").and_then(Value::as_object).cloned().unwrap_or_default();
    let resolved =
        start.iter().filter(|(key, _)| key.as_str() == "config" || flag(train, key).is_some());
    flags.extend(resolved.map(|(key, value)| (key.clone(), value.clone())));
    if let Some(path) = start.get("data").and_then(|data| data.get("path")) {
        flags.insert("data_path".into(), path.clone());
    }
    // One worker is the default, and given as a flag it would contradict `--num-gpus` on the
    // command line.
    if flags.get("workers").is_some_and(|workers| workers == 1) {
        flags.remove("workers");
    }
    flags
}

/// The flag that a key names, in either spelling.
fn flag<'a>(train: &'a Command, key: &str) -> Option<&'a Arg> {
    let long = key.replace('_', "-");
    train.get_arguments().find(|arg| arg.get_long() == Some(&long) && arg.get_id() != "config")
}

/// The arguments that say the same as `keys`.
fn arguments(keys: Map<String, Value>, train: &Command) -> Result<Vec<OsString>> {
    let mut arguments = Vec::new();
    for (key, value) in keys {
        match value {
            // As a start event has them; the vocabulary's size comes from the data.
            Value::Object(mut nested) if key == "config" => {
                nested.remove("vocab_size");
                arguments.extend(self::arguments(nested, train)?);
            }
            Value::Null => {}
            value => {
                let Some(arg) = flag(train, &key) else {
                    bail!(
                        "key {key:?}: `train` has no such flag; `ptb-word-lm train --help` lists \
                         them"
                    )
                };
                match argument(arg, &value, train) {
                    Ok(argument) => arguments.extend(argument),
                    Err(why) => bail!("key {key:?}: {why}"),
                }
            }
        }
    }
    Ok(arguments)
}

/// One flag with its value; none for a switch that is off. The error says what would fit.
fn argument(arg: &Arg, value: &Value, train: &Command) -> Result<Option<OsString>, String> {
    let long = arg.get_long().unwrap_or_default();
    let not = |what: &str| Err(format!("it is {what}, not {value}"));
    let text = match (kind(arg), value) {
        (FlagKind::Switch, Value::Bool(on)) => return Ok(on.then(|| format!("--{long}").into())),
        (FlagKind::Bool, Value::Bool(on)) => on.to_string(),
        (FlagKind::Switch | FlagKind::Bool, _) => return not("true or false"),
        (FlagKind::Number | FlagKind::Word, Value::Number(number)) => number.to_string(),
        (FlagKind::Text | FlagKind::Word, Value::String(text)) => text.clone(),
        (FlagKind::Number, _) => return not("a number"),
        (FlagKind::Text | FlagKind::Word, _) => return not("text in quotes"),
    };
    let argument: OsString = format!("--{long}={text}").into();
    // Tried alone, so that an error is reported as this file's.
    let alone = train.clone().mut_args(|arg| arg.required(false));
    match alone.try_get_matches_from([OsString::from("train"), argument.clone()]) {
        Ok(_) => Ok(Some(argument)),
        Err(error) => {
            let message = error.to_string();
            let end =
                ["\n\nUsage", "\n\nFor more"].iter().filter_map(|end| message.find(end)).min();
            let message = &message[..end.unwrap_or(message.len())];
            Err(message.trim_start_matches("error: ").trim().to_owned())
        }
    }
}

/// What a flag takes.
enum FlagKind {
    /// Nothing: it is there or not.
    Switch,
    /// `=true` or `=false`.
    Bool,
    Number,
    /// A word, some of which are numbers: 2016, cuda:0.
    Word,
    /// A path or a name.
    Text,
}

fn kind(arg: &Arg) -> FlagKind {
    use std::any::TypeId;
    let is = |types: &[TypeId]| types.iter().any(|id| arg.get_value_parser().type_id() == *id);
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        FlagKind::Switch
    } else if is(&[TypeId::of::<bool>()]) {
        FlagKind::Bool
    } else if is(&[TypeId::of::<f64>(), TypeId::of::<i64>(), TypeId::of::<u64>()])
        || is(&[TypeId::of::<i32>(), TypeId::of::<u32>(), TypeId::of::<usize>()])
    {
        FlagKind::Number
    } else if is(&[TypeId::of::<String>(), TypeId::of::<PathBuf>()]) {
        FlagKind::Text
    } else {
        FlagKind::Word
    }
}

/// A flag's value, given or default, if it has one.
fn value(matches: &ArgMatches, arg: &Arg) -> Option<Value> {
    let id = arg.get_id().as_str();
    let kind = kind(arg);
    if matches!(kind, FlagKind::Switch | FlagKind::Bool) {
        return Some(json!(matches.get_flag(id)));
    }
    let text = matches.get_raw(id)?.next()?.to_string_lossy();
    let integer = || text.parse::<i64>().ok().map(|number| json!(number));
    let float = || text.parse::<f64>().ok().map(|number| json!(number));
    Some(match kind {
        FlagKind::Number => integer().or_else(float).unwrap_or_else(|| json!(text)),
        _ => json!(text),
    })
}

/// Whether a run can repeat the one of `start`: it must have its texts, and should have its
/// libtorch.
///
/// # Errors
/// Another text in the same place. (Where `--data-path` names another place, that is wanted, and
/// only reported.)
pub fn ensure_same_texts(start: &Value, data_path: &str, data: &RawData) -> Result<()> {
    for (split, ours) in [("train", &data.train), ("valid", &data.valid), ("test", &data.test)] {
        let theirs = start["data"][split]["md5"].as_str();
        let Some(theirs) = theirs.filter(|md5| *md5 != ours.md5) else { continue };
        let differs = format!(
            "{}: not the text that the run of --config was made with (MD5 {}, there {theirs}), so \
             it cannot be repeated",
            ours.name, ours.md5
        );
        ensure!(
            start["data"]["path"] != data_path,
            "{differs}; --data-path says where its text is"
        );
        notice(&differs);
    }
    for (library, ours) in versions().as_object().into_iter().flatten() {
        if let Some(theirs) = start["versions"][library].as_str().filter(|theirs| ours != theirs) {
            notice(&format!(
                "the run of --config was made with {library} {theirs}; this is {ours}, whose last \
                 bits may differ"
            ));
        }
    }
    Ok(())
}

/// The versions that the `start` event records.
pub fn versions() -> Value {
    json!({
        "ptb-word-lm": env!("CARGO_PKG_VERSION"),
        "tch": libtorch::TCH_VERSION,
        "libtorch": libtorch::version(),
    })
}
