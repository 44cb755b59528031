//! Finding a checkpoint: which files a path stands for, and the state file `checkpoint`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::bundle::read_bundle;
use super::table::is_table;
use super::v1::read_v1;
use super::{Loaded, with_suffix};

/// The files of a checkpoint.
#[derive(Debug, PartialEq)]
enum Files {
    /// Format V2, by its prefix.
    V2(PathBuf),
    /// Format V1: the file, or all of a sharded one's.
    V1(Vec<PathBuf>),
}

/// Reads every variable of a checkpoint of either format. `path` is its prefix, which is what
/// `tf.train.Saver.save` was given or returned, or one of its files.
///
/// Checksums are compared throughout. A partitioned variable is put together from its slices.
/// Entries that are not of floats or integers (strings such as the `_CHECKPOINTABLE_OBJECT_GRAPH`
/// of TensorFlow 2) are listed in [`Loaded::skipped`].
///
/// # Errors
/// Name the file, and the variable where there is one, with expected and found: a missing or
/// truncated file, a wrong magic number or checksum, an unknown dtype, a size that does not fit the
/// shape, slices that overlap or do not make up their variable.
pub fn read_checkpoint(path: impl AsRef<Path>) -> Result<Loaded> {
    let path = path.as_ref();
    match find(path)? {
        Some(Files::V2(prefix)) => read_bundle(&prefix),
        Some(Files::V1(files)) => read_v1(&files),
        None => bail!(
            "{0}: not a checkpoint of TensorFlow's: there is neither {0}.index (format V2) \
             nor such a file (format V1)",
            path.display()
        ),
    }
}

/// Whether `path` stands for a checkpoint that is there. Of format V1 the last bytes are compared.
pub(super) fn is_there(path: &Path) -> bool {
    match find(path) {
        Ok(Some(Files::V2(prefix))) => with_suffix(&prefix, ".index").is_file(),
        Ok(Some(Files::V1(files))) => files.iter().any(|file| is_table(file)),
        _ => false,
    }
}

/// The files that `path` stands for, if they are there.
fn find(path: &Path) -> Result<Option<Files>> {
    if with_suffix(path, ".index").is_file() {
        return Ok(Some(Files::V2(path.into())));
    }
    // `model.ckpt-3.index`, and any of its shards, stand for `model.ckpt-3`; so does the graph, of
    // both formats.
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    if extension == "index" || extension.starts_with("data-") {
        return Ok(Some(Files::V2(path.with_extension(""))));
    }
    if extension == "meta" {
        return find(&path.with_extension(""));
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if let Some((base, count)) = shard_of(name) {
        // One that is missing is an error, all is another place.
        let files = shards(path, base, count);
        return Ok(files.iter().any(|file| file.is_file()).then_some(Files::V1(files)));
    }
    if path.is_file() {
        return Ok(Some(Files::V1(vec![path.into()])));
    }
    // The prefix of a sharded one. The folder may be missing, too.
    let mut counts = vec![];
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let found = entry.file_name();
        match found.to_str().and_then(shard_of) {
            Some((base, count)) if base == name && !counts.contains(&count) => counts.push(count),
            _ => {}
        }
    }
    match counts[..] {
        [] => Ok(None),
        [count] => Ok(Some(Files::V1(shards(path, name, count)))),
        _ => bail!("{}: there are several checkpoints of this prefix", path.display()),
    }
}

/// The name of a file in the folder from which a checkpoint of TensorFlow's can be seen: the state
/// file `checkpoint`, or an index.
pub fn trace_of_checkpoints(folder: impl AsRef<Path>) -> Option<String> {
    let names = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.file_name());
    let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    names.sort();
    names.into_iter().find(|name| name == "checkpoint" || name.ends_with(".index"))
}

/// The prefix of the checkpoint that `path` stands for: the path itself, or what one of its files
/// has before its ending.
pub fn prefix_of(path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    if ["index", "meta"].contains(&extension) || extension.starts_with("data-") {
        return path.with_extension("");
    }
    match path.file_name().and_then(|name| shard_of(name.to_str()?)) {
        Some((base, _)) => path.with_file_name(base),
        None => path.to_owned(),
    }
}

/// The prefix, and the number of shards, that the name of a shard of format V1 tells:
/// `model.ckpt-3-00001-of-00002`, or `model.ckpt-3-?????-of-00002` for all.
fn shard_of(name: &str) -> Option<(&str, u32)> {
    let (rest, count) = name.rsplit_once("-of-")?;
    let (base, shard) = rest.rsplit_once('-')?;
    let digits = |part: &str| part.len() == 5 && part.bytes().all(|b| b.is_ascii_digit());
    let count = count.parse().ok().filter(|&n| n > 0 && digits(count))?;
    (digits(shard) || shard == "?????").then_some((base, count))
}

fn shards(path: &Path, base: &str, count: u32) -> Vec<PathBuf> {
    (0..count).map(|k| path.with_file_name(format!("{base}-{k:05}-of-{count:05}"))).collect()
}

/// The prefix of the newest checkpoint in `dir`, as its file `checkpoint` says:
/// `tf.train.latest_checkpoint`. Where the folder was moved, or comes from Windows, the checkpoint
/// is looked for beside that file.
///
/// # Errors
/// There is no such file, it names no checkpoint, or the checkpoint is not there.
pub fn latest_checkpoint(dir: impl AsRef<Path>) -> Result<PathBuf> {
    let dir = dir.as_ref();
    let path = dir.join("checkpoint");
    let text = fs::read_to_string(&path).with_context(|| {
        format!("cannot read {}, in which TensorFlow names the newest checkpoint", path.display())
    })?;
    let quoted = text.trim_start_matches('\u{feff}').lines().find_map(|line| {
        let value = line.trim().strip_prefix("model_checkpoint_path:")?.trim();
        value.strip_prefix('"')?.strip_suffix('"')
    });
    let quoted =
        quoted.with_context(|| format!("{} names no model_checkpoint_path", path.display()))?;
    // Someone may have written the file by hand, without the escapes.
    let names = [unescape(quoted), quoted.to_owned()];
    let mut places = vec![];
    for name in &names {
        // As it is; below this folder; beside the file.
        places.push(dir.join(name));
        places.push(dir.join(name.replace('\\', "/")));
        let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
        places.push(dir.join(last));
    }
    for place in places {
        if find(&place)?.is_some() {
            return Ok(place);
        }
    }
    bail!("{} names {:?}, which is neither there nor beside it", path.display(), names[0])
}

/// A string of protobuf's text format, in which the Saver writes a backslash and a quote with a
/// backslash before it, and each byte that is not ASCII as three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = vec![];
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let octal = rest.iter().take(3).take_while(|b| (b'0'..=b'7').contains(b)).count();
        if octal > 0 {
            let value = rest[..octal].iter().fold(0u32, |value, b| value * 8 + u32::from(b - b'0'));
            bytes.push(value as u8);
            rest = &rest[octal..];
            continue;
        }
        match rest.split_first() {
            Some((&escaped, after)) => {
                match escaped {
                    b'n' => bytes.push(b'\n'),
                    b'r' => bytes.push(b'\r'),
                    b't' => bytes.push(b'\t'),
                    b'\\' | b'"' | b'\'' => bytes.push(escaped),
                    other => bytes.extend([b'\\', other]),
                }
                rest = after;
            }
            None => bytes.push(b'\\'),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
