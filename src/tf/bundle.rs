//! TensorFlow's checkpoint V2 (a "tensor bundle"), what `tf.train.Saver` writes: `PREFIX.index` says where each
//! variable lies in the shards `PREFIX.data-0000k-of-0000N`.
//!
//! The index is a LevelDB table of protobuf messages: a `BundleHeaderProto` under the empty key, then one
//! `BundleEntryProto` per variable (tensorflow/core/protobuf/tensor_bundle.proto and util/tensor_bundle). A shard is
//! the variables' bytes, one after the other.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use prost::Message;
use prost::encoding::{decode_varint, encode_varint};
use tch::{Kind, Tensor};

use super::{Loaded, Variables, num_elements, tensor_from_bytes, tensor_to_bytes};
use crate::files::write_atomically;

// The messages, as far as they are used here; prost skips what else there is.

#[derive(Clone, PartialEq, Message)]
struct BundleHeaderProto {
    #[prost(int32, tag = "1")]
    num_shards: i32,
    /// 0 is little, 1 is big.
    #[prost(int32, tag = "2")]
    endianness: i32,
    #[prost(message, optional, tag = "3")]
    version: Option<VersionDef>,
}

#[derive(Clone, PartialEq, Message)]
struct VersionDef {
    #[prost(int32, tag = "1")]
    producer: i32,
    #[prost(int32, tag = "2")]
    min_consumer: i32,
}

#[derive(Clone, PartialEq, Message)]
struct BundleEntryProto {
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<TensorShapeProto>,
    #[prost(int32, tag = "3")]
    shard_id: i32,
    #[prost(int64, tag = "4")]
    offset: i64,
    #[prost(int64, tag = "5")]
    size: i64,
    /// Of the variable's bytes, masked.
    #[prost(fixed32, tag = "6")]
    crc32c: u32,
    /// Of a partitioned variable; their messages are not looked into.
    #[prost(bytes = "vec", repeated, tag = "7")]
    slices: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorShapeProto {
    #[prost(message, repeated, tag = "2")]
    dim: Vec<Dim>,
    #[prost(bool, tag = "3")]
    unknown_rank: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Dim {
    #[prost(int64, tag = "1")]
    size: i64,
}

/// The version of the format, of TensorFlow's kTensorBundleVersion.
const BUNDLE_VERSION: i32 = 1;

/// TensorFlow's dtypes (framework/types.proto) that libtorch has too.
const DTYPES: [(i32, &str, Kind); 9] = [
    (1, "DT_FLOAT", Kind::Float),
    (2, "DT_DOUBLE", Kind::Double),
    (3, "DT_INT32", Kind::Int),
    (4, "DT_UINT8", Kind::Uint8),
    (5, "DT_INT16", Kind::Int16),
    (6, "DT_INT8", Kind::Int8),
    (9, "DT_INT64", Kind::Int64),
    (14, "DT_BFLOAT16", Kind::BFloat16),
    (19, "DT_HALF", Kind::Half),
];

/// Those that no model variable here has: skipped with a note.
const OTHER_DTYPES: [(i32, &str); 14] = [
    (7, "DT_STRING"),
    (8, "DT_COMPLEX64"),
    (10, "DT_BOOL"),
    (11, "DT_QINT8"),
    (12, "DT_QUINT8"),
    (13, "DT_QINT32"),
    (15, "DT_QINT16"),
    (16, "DT_QUINT16"),
    (17, "DT_UINT16"),
    (18, "DT_COMPLEX128"),
    (20, "DT_RESOURCE"),
    (21, "DT_VARIANT"),
    (22, "DT_UINT32"),
    (23, "DT_UINT64"),
];

/// Reads every variable of the checkpoint `prefix`, the path that `tf.train.Saver.save` was given or returned,
/// without `.index`.
///
/// Checksums of the index and of every variable are compared. Entries that are no plain tensors (strings such as the
/// `_CHECKPOINTABLE_OBJECT_GRAPH` of TensorFlow 2, partitioned variables) are listed in [`Loaded::skipped`].
///
/// # Errors
/// Name the file, and the variable where there is one, with expected and found: a missing or truncated file, a wrong
/// magic number or checksum, an unknown dtype, a size that does not fit the shape.
pub fn read_checkpoint(prefix: impl AsRef<Path>) -> Result<Loaded> {
    let prefix = prefix.as_ref();
    let index = with_suffix(prefix, ".index");
    let file = fs::read(&index).with_context(|| {
        format!("cannot read {}: not the prefix of a TensorFlow checkpoint (format V2)", index.display())
    })?;
    let (header, entries) = read_index(&file).with_context(|| format!("{} is damaged", index.display()))?;
    let mut shards = Shards { prefix, count: header.num_shards, open: BTreeMap::new() };
    let mut loaded = Loaded::default();
    for (name, entry) in entries {
        match read_entry(&entry, &mut shards)
            .with_context(|| format!("{}: variable {name:?}", index.display()))?
        {
            Entry::Tensor(tensor) => loaded.variables.insert(name, tensor).map(drop),
            Entry::Skipped(why) => loaded.skipped.insert(name, why).map(drop),
        };
    }
    Ok(loaded)
}

/// Writes `variables` as the checkpoint `prefix` (`PREFIX.index` and one shard), to be restored by `tf.train.Saver`
/// or `tf.train.load_checkpoint`. With `latest`, also the file `checkpoint` beside it, in which
/// `tf.train.latest_checkpoint` finds it.
///
/// Each file is replaced in one step, in the order shard, index, `checkpoint`. To keep an earlier checkpoint whole
/// until the new one is, give each a prefix of its own, as TensorFlow does with the global step.
///
/// # Errors
/// A file cannot be written; a variable's kind is none of TensorFlow's (named).
pub fn write_checkpoint(prefix: impl AsRef<Path>, variables: &Variables, latest: bool) -> Result<()> {
    let prefix = prefix.as_ref();
    let base = prefix.file_name().ok_or_else(|| anyhow!("{}: not a file name", prefix.display()))?;
    let version = VersionDef { producer: BUNDLE_VERSION, min_consumer: 0 };
    let header = BundleHeaderProto { num_shards: 1, endianness: 0, version: Some(version) };
    let mut table = vec![(Vec::new(), header.encode_to_vec())];
    let mut offset = 0;
    write_atomically(&shard_path(prefix, 0, 1), |file| {
        for (name, tensor) in variables {
            ensure!(!name.is_empty() && !name.starts_with('\0'), "{name:?} is not a variable's name");
            let kind = tensor.f_kind()?;
            let (dtype, _, _) = DTYPES.into_iter().find(|d| d.2 == kind).with_context(|| {
                format!(
                    "variable {name:?}: {kind:?} tensors cannot be written: convert to float or integer first"
                )
            })?;
            let bytes = tensor_to_bytes(tensor)?;
            file.write_all(&bytes)?;
            let dim = tensor.size().into_iter().map(|size| Dim { size }).collect();
            let entry = BundleEntryProto {
                dtype,
                shape: Some(TensorShapeProto { dim, unknown_rank: false }),
                shard_id: 0,
                offset,
                size: bytes.len() as i64,
                crc32c: masked_crc32c(&bytes),
                slices: vec![],
            };
            offset += entry.size;
            table.push((name.clone().into_bytes(), entry.encode_to_vec()));
        }
        Ok(())
    })?;
    write_atomically(&with_suffix(prefix, ".index"), |file| Ok(file.write_all(&write_table(&table))?))?;
    if latest {
        // CheckpointState (python/training/checkpoint_state.proto) as text; a relative path is relative to this file.
        let base = base.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"");
        let text = format!("model_checkpoint_path: \"{base}\"\nall_model_checkpoint_paths: \"{base}\"\n");
        write_atomically(&prefix.with_file_name("checkpoint"), |file| Ok(file.write_all(text.as_bytes())?))?;
    }
    Ok(())
}

/// The prefix of the newest checkpoint in `dir`, as its file `checkpoint` says: `tf.train.latest_checkpoint`.
///
/// # Errors
/// There is no such file, or it names none.
pub fn latest_checkpoint(dir: impl AsRef<Path>) -> Result<PathBuf> {
    let dir = dir.as_ref();
    let path = dir.join("checkpoint");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let name = text.lines().find_map(|line| {
        let value = line.trim().strip_prefix("model_checkpoint_path:")?.trim();
        Some(value.strip_prefix('"')?.strip_suffix('"')?.replace("\\\"", "\"").replace("\\\\", "\\"))
    });
    let name = name.with_context(|| format!("{} names no model_checkpoint_path", path.display()))?;
    let prefix = dir.join(&name);
    // An absolute path goes stale when the folder moves; the checkpoint is beside this file all the same.
    let beside = Path::new(&name).file_name().map(|name| dir.join(name));
    Ok(beside
        .filter(|p| !with_suffix(&prefix, ".index").exists() && with_suffix(p, ".index").exists())
        .unwrap_or(prefix))
}

enum Entry {
    Tensor(Tensor),
    Skipped(String),
}

/// The data files, opened when first asked for.
struct Shards<'a> {
    prefix: &'a Path,
    count: i32,
    open: BTreeMap<i32, (File, u64)>,
}

impl Shards<'_> {
    /// `size` bytes from `offset` on. Nothing is allocated before the file is known to be that long.
    fn read(&mut self, shard: i32, offset: u64, size: u64) -> Result<Vec<u8>> {
        ensure!((0..self.count).contains(&shard), "expected a shard below {}, found {shard}", self.count);
        let path = shard_path(self.prefix, shard, self.count);
        if !self.open.contains_key(&shard) {
            let file = File::open(&path)
                .with_context(|| format!("shard {shard} of {} is missing: {}", self.count, path.display()))?;
            let length = file.metadata()?.len();
            self.open.insert(shard, (file, length));
        }
        let (file, length) = self.open.get_mut(&shard).context("shard")?;
        let end = offset.checked_add(size).filter(|end| end <= length).with_context(|| {
            format!(
                "{} is truncated: expected {size} bytes from {offset} on, found a file of {length}",
                path.display()
            )
        })?;
        let mut bytes = vec![0; (end - offset) as usize];
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(&mut bytes).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(bytes)
    }
}

fn read_entry(entry: &BundleEntryProto, shards: &mut Shards) -> Result<Entry> {
    if let Some((_, name)) = OTHER_DTYPES.into_iter().find(|d| d.0 == entry.dtype) {
        return Ok(Entry::Skipped(format!("its dtype is {name}, not a float or integer read here")));
    }
    let Some((_, dtype, kind)) = DTYPES.into_iter().find(|d| d.0 == entry.dtype) else {
        bail!("expected a dtype of TensorFlow's, found number {}", entry.dtype);
    };
    if !entry.slices.is_empty() {
        let n = entry.slices.len();
        return Ok(Entry::Skipped(format!(
            "it is partitioned, in {n} slices: save it without a partitioner"
        )));
    }
    let shape = entry.shape.clone().unwrap_or_default();
    ensure!(!shape.unknown_rank, "expected a shape, found unknown rank");
    let shape: Vec<i64> = shape.dim.iter().map(|d| d.size).collect();
    let expected = num_elements(&shape).and_then(|n| n.checked_mul(kind.elt_size_in_bytes()));
    ensure!(
        expected.is_some_and(|n| n as i64 == entry.size),
        "{dtype} {shape:?} does not fit its size of {} bytes",
        entry.size
    );
    let offset = u64::try_from(entry.offset).map_err(|_| anyhow!("offset {} is negative", entry.offset))?;
    let bytes = shards.read(entry.shard_id, offset, entry.size as u64)?;
    let found = masked_crc32c(&bytes);
    ensure!(
        found == entry.crc32c || cfg!(fuzzing),
        "{} is damaged: expected checksum {:08x}, found {found:08x}",
        shard_path(shards.prefix, entry.shard_id, shards.count).display(),
        entry.crc32c
    );
    Ok(Entry::Tensor(tensor_from_bytes(&bytes, &shape, kind)?))
}

fn read_index(file: &[u8]) -> Result<(BundleHeaderProto, Vec<(String, BundleEntryProto)>)> {
    let mut table = read_table(file)?.into_iter();
    let (_, header) = table.next().filter(|(key, _)| key.is_empty()).context("it has no header entry")?;
    let header = BundleHeaderProto::decode(header.as_slice()).context("header")?;
    ensure!(header.num_shards >= 1, "expected 1 shard or more, found {}", header.num_shards);
    ensure!(header.endianness == 0, "expected little-endian data, found big-endian (of another machine)");
    let version = header.version.clone().unwrap_or_default();
    ensure!(
        version.min_consumer <= BUNDLE_VERSION,
        "expected format version {BUNDLE_VERSION}, found one for readers of version {} on",
        version.min_consumer
    );
    let mut entries = vec![];
    for (key, value) in table {
        // The slices of partitioned variables, whose own entries are found under their names.
        if key.starts_with(b"\0") {
            continue;
        }
        let name = String::from_utf8(key).map_err(|e| anyhow!("a variable's name is not UTF-8: {e}"))?;
        let entry =
            BundleEntryProto::decode(value.as_slice()).with_context(|| format!("entry of {name:?}"))?;
        entries.push((name, entry));
    }
    Ok((header, entries))
}

fn with_suffix(prefix: &Path, suffix: &str) -> PathBuf {
    let mut path = prefix.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn shard_path(prefix: &Path, shard: i32, count: i32) -> PathBuf {
    with_suffix(prefix, &format!(".data-{shard:05}-of-{count:05}"))
}

/// LevelDB's masked CRC-32C: a checksum may itself be part of checksummed data.
pub(crate) fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

// The LevelDB table (tensorflow/core/lib/io/{format,block,table}.cc): blocks of sorted entries, then a block that says
// where they are, then a footer that says where that one is.
//
// Written out here since the `sstable` crate, the usual choice, is for tables that one wrote oneself: it asserts and
// unwraps on damaged blocks, allocates block sizes as read, goes on to the next block past a wrong checksum, and takes
// the empty key, under which the bundle's header lies, for the end.

const MAGIC: u64 = 0xdb47_7524_8b80_fb57;
const FOOTER: usize = 48;
/// After every block: one byte for the compression, four for the checksum.
const TRAILER: usize = 5;

/// All entries of a table, in order.
fn read_table(file: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let start = file.len().checked_sub(FOOTER);
    let start = start.with_context(|| format!("expected {FOOTER} bytes or more, found {}", file.len()))?;
    let (mut handles, magic) = file[start..].split_at(FOOTER - 8);
    ensure!(
        magic == MAGIC.to_le_bytes(),
        "expected the magic number {:02x?} at the end, found {magic:02x?}: not a checkpoint's index, or truncated",
        MAGIC.to_le_bytes()
    );
    let _metaindex = read_handle(&mut handles)?;
    let index = read_block(file, read_handle(&mut handles)?).context("block of the index")?;
    let mut entries: Vec<(Vec<u8>, Vec<u8>)> = vec![];
    for (_, mut handle) in block_entries(&index)? {
        let block = read_block(file, read_handle(&mut handle)?)?;
        for (key, value) in block_entries(&block)? {
            ensure!(entries.last().is_none_or(|(last, _)| *last < key), "keys are out of order");
            entries.push((key, value.to_vec()));
        }
    }
    Ok(entries)
}

/// Offset and size of a block.
fn read_handle(bytes: &mut &[u8]) -> Result<(u64, u64)> {
    Ok((decode_varint(bytes)?, decode_varint(bytes)?))
}

fn read_block(file: &[u8], (offset, size): (u64, u64)) -> Result<Cow<'_, [u8]>> {
    let range = || {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(size).ok()?)?.checked_add(TRAILER)?;
        file.get(start..end)
    };
    let block = range().with_context(|| {
        format!("expected a block of {size} bytes at {offset}, found {} in all", file.len())
    })?;
    let (checked, crc) = block.split_at(block.len() - 4);
    let found = masked_crc32c(checked).to_le_bytes();
    ensure!(
        crc == found || cfg!(fuzzing),
        "block at {offset}: expected checksum {crc:02x?}, found {found:02x?}"
    );
    match checked.split_last() {
        Some((0, data)) => Ok(Cow::Borrowed(data)),
        Some((1, data)) => {
            // Snappy's longest copy makes 64 bytes of 3, so a stated length beyond that is damage: nothing is allocated.
            let length = snap::raw::decompress_len(data)?;
            ensure!(length <= data.len().saturating_mul(22), "block at {offset}: impossible length {length}");
            Ok(Cow::Owned(snap::raw::Decoder::new().decompress_vec(data)?))
        }
        compression => bail!("block at {offset}: unknown compression {:?}", compression.map(|c| c.0)),
    }
}

/// The entries of a block. Each key says how many bytes it shares with the one before.
fn block_entries(block: &[u8]) -> Result<Vec<(Vec<u8>, &[u8])>> {
    // At the end are the offsets of the keys that share nothing, for binary search, and their number.
    let restarts = block.last_chunk::<4>().map(|n| u32::from_le_bytes(*n) as usize);
    let end = restarts.and_then(|n| block.len().checked_sub(4)?.checked_sub(n.checked_mul(4)?));
    let mut rest = &block[..end.context("a block ends within its restart points")?];
    let mut entries = vec![];
    let mut key: Vec<u8> = vec![];
    while !rest.is_empty() {
        let mut length = || -> Result<usize> { Ok(usize::try_from(decode_varint(&mut rest)?)?) };
        let (shared, unshared, value) = (length()?, length()?, length()?);
        ensure!(shared <= key.len(), "a key shares {shared} bytes with one of {}", key.len());
        let mut take = |n: usize| -> Result<&[u8]> {
            let (taken, left) = rest.split_at_checked(n).context("an entry ends outside its block")?;
            rest = left;
            Ok(taken)
        };
        key.truncate(shared);
        key.extend_from_slice(take(unshared)?);
        entries.push((key.clone(), take(value)?));
    }
    Ok(entries)
}

/// A table of `entries`, which are in order: one block of them, an empty one where LevelDB keeps its filters, and the
/// index.
fn write_table(entries: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut file = vec![];
    let data = write_block(&mut file, entries);
    let metaindex = write_block(&mut file, &[]);
    let last = entries.last().map(|(key, _)| key.clone()).unwrap_or_default();
    let index = write_block(&mut file, &[(last, data)]);
    let end = file.len() + FOOTER - 8;
    file.extend(metaindex);
    file.extend(index);
    file.resize(end, 0);
    file.extend(MAGIC.to_le_bytes());
    file
}

/// Appends a block and returns its handle. No key shares bytes with the one before, so each is a restart point.
fn write_block(file: &mut Vec<u8>, entries: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut block = vec![];
    let mut restarts = vec![];
    for (key, value) in entries {
        restarts.push(block.len() as u32);
        encode_varint(0, &mut block);
        encode_varint(key.len() as u64, &mut block);
        encode_varint(value.len() as u64, &mut block);
        block.extend(key);
        block.extend(value);
    }
    if restarts.is_empty() {
        restarts.push(0);
    }
    restarts.push(restarts.len() as u32);
    block.extend(restarts.into_iter().flat_map(u32::to_le_bytes));

    let mut handle = vec![];
    encode_varint(file.len() as u64, &mut handle);
    encode_varint(block.len() as u64, &mut handle);
    block.push(0); // not compressed
    let crc = masked_crc32c(&block);
    file.extend(block);
    file.extend(crc.to_le_bytes());
    handle
}

#[cfg(test)]
mod tests {
    //! Indexes that are wrong and yet have the right checksums, which damage would not leave them with.

    use super::*;

    fn header() -> (Vec<u8>, Vec<u8>) {
        let version = Some(VersionDef { producer: 1, min_consumer: 0 });
        (vec![], BundleHeaderProto { num_shards: 1, endianness: 0, version }.encode_to_vec())
    }

    /// A float vector of two elements in a shard of 16 bytes.
    fn entry() -> BundleEntryProto {
        let shape = Some(TensorShapeProto { dim: vec![Dim { size: 2 }], unknown_rank: false });
        let crc32c = masked_crc32c(&[7; 8]);
        BundleEntryProto { dtype: 1, shape, shard_id: 0, offset: 8, size: 8, crc32c, slices: vec![] }
    }

    /// Reads a checkpoint of this index.
    fn read(test: &str, index: &[u8]) -> Result<Loaded> {
        let dir = std::env::temp_dir().join(format!("ptb_word_lm-bundle-{}-{test}", std::process::id()));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("x.index"), index)?;
        fs::write(dir.join("x.data-00000-of-00001"), [7; 16])?;
        let loaded = read_checkpoint(dir.join("x"));
        fs::remove_dir_all(&dir)?;
        loaded
    }

    fn read_entries(test: &str, entry: BundleEntryProto) -> Result<Loaded> {
        read(test, &write_table(&[header(), (b"v".to_vec(), entry.encode_to_vec())]))
    }

    #[test]
    fn wrong_entries_are_errors() {
        let shape = |dims: &[i64]| {
            let dim = dims.iter().map(|&size| Dim { size }).collect();
            Some(TensorShapeProto { dim, unknown_rank: false })
        };
        let good = read_entries("entries", entry()).unwrap();
        assert_eq!(good.variables["v"].size(), [2]);
        for (wrong, expected) in [
            (BundleEntryProto { dtype: 99, ..entry() }, "expected a dtype of TensorFlow's, found number 99"),
            (BundleEntryProto { dtype: 0, ..entry() }, "found number 0"),
            (BundleEntryProto { dtype: 2, ..entry() }, "DT_DOUBLE [2] does not fit its size of 8 bytes"),
            (BundleEntryProto { shape: shape(&[3]), ..entry() }, "DT_FLOAT [3] does not fit its size of 8"),
            (BundleEntryProto { shape: shape(&[-2]), ..entry() }, "[-2] does not fit"),
            (BundleEntryProto { shape: shape(&[1 << 62, 1 << 62]), ..entry() }, "does not fit"),
            (BundleEntryProto { shape: shape(&[1 << 40]), size: 4 << 40, ..entry() }, "is truncated"),
            (BundleEntryProto { offset: 9, ..entry() }, "expected 8 bytes from 9 on, found a file of 16"),
            (BundleEntryProto { offset: i64::MAX, ..entry() }, "is truncated"),
            (BundleEntryProto { offset: -1, ..entry() }, "offset -1 is negative"),
            (BundleEntryProto { size: -8, ..entry() }, "does not fit its size of -8"),
            (BundleEntryProto { shard_id: 1, ..entry() }, "expected a shard below 1, found 1"),
            (BundleEntryProto { shard_id: -1, ..entry() }, "expected a shard below 1, found -1"),
            (BundleEntryProto { crc32c: 1, ..entry() }, "expected checksum 00000001"),
        ] {
            let error = format!("{:#}", read_entries("entries", wrong).unwrap_err());
            assert!(error.contains("variable \"v\"") && error.contains(expected), "{error}");
        }
        let unknown = TensorShapeProto { dim: vec![], unknown_rank: true };
        assert!(read_entries("entries", BundleEntryProto { shape: Some(unknown), ..entry() }).is_err());
        let skipped = read_entries("entries", BundleEntryProto { dtype: 7, ..entry() }).unwrap().skipped;
        assert!(skipped["v"].contains("DT_STRING"), "{skipped:?}");
    }

    #[test]
    fn wrong_headers_and_orders_are_errors() {
        let header_of = |num_shards, endianness, min_consumer| {
            let version = Some(VersionDef { producer: 1, min_consumer });
            (vec![], BundleHeaderProto { num_shards, endianness, version }.encode_to_vec())
        };
        let v = |name: &str| (name.as_bytes().to_vec(), entry().encode_to_vec());
        for (table, expected) in [
            (vec![], "no header"),
            (vec![v("a")], "no header"),
            (vec![header_of(0, 0, 0), v("a")], "expected 1 shard or more, found 0"),
            (vec![header_of(-1, 0, 0), v("a")], "found -1"),
            (vec![header_of(1, 1, 0), v("a")], "big-endian"),
            (vec![header_of(1, 0, 2), v("a")], "for readers of version 2 on"),
            (vec![header_of(i32::MAX, 0, 0), v("a")], "is missing"),
            (vec![header(), v("b"), v("a")], "out of order"),
            (vec![header(), v("a"), v("a")], "out of order"),
            (vec![header(), (b"a".to_vec(), vec![0xff; 3])], "entry of \"a\""),
            (vec![header(), (b"a\xff".to_vec(), entry().encode_to_vec())], "not UTF-8"),
        ] {
            let error = format!("{:#}", read("headers", &write_table(&table)).unwrap_err());
            assert!(error.contains("x.index") && error.contains(expected), "{error}");
        }
    }

    /// Every byte of every block set to every value, with the checksum set right again.
    #[test]
    fn wrong_blocks_never_panic() {
        let entries = [header(), (b"Model/a".to_vec(), entry().encode_to_vec())];
        let index = write_table(&entries);
        let mut handles = &index[index.len() - FOOTER..];
        let blocks = [
            read_handle(&mut handles).unwrap(),
            read_handle(&mut handles).unwrap(),
            (0, {
                let (metaindex, _) = read_handle(&mut &index[index.len() - FOOTER..]).unwrap();
                metaindex - TRAILER as u64
            }),
        ];
        let mut read = 0;
        for (start, size) in blocks.map(|(start, size)| (start as usize, size as usize)) {
            for at in start..=start + size {
                for value in 0..=255 {
                    let mut wrong = index.clone();
                    wrong[at] = value;
                    let crc = masked_crc32c(&wrong[start..=start + size]);
                    wrong[start + size + 1..start + size + TRAILER].copy_from_slice(&crc.to_le_bytes());
                    read += usize::from(read_index(&wrong).is_ok());
                }
            }
        }
        assert!(read > 0, "a wrong value that is still a table is read");
    }

    /// Early versions of TensorFlow compressed its blocks.
    #[test]
    fn snappy_blocks() {
        let table = |compress: &dyn Fn(&[u8]) -> Vec<u8>| {
            let mut file = vec![];
            let mut block = |entries: &[(Vec<u8>, Vec<u8>)]| {
                let (mut plain, mut handle) = (vec![], vec![]);
                write_block(&mut plain, entries);
                let mut compressed = compress(&plain[..plain.len() - TRAILER]);
                encode_varint(file.len() as u64, &mut handle);
                encode_varint(compressed.len() as u64, &mut handle);
                compressed.push(1);
                let crc = masked_crc32c(&compressed);
                file.extend(compressed);
                file.extend(crc.to_le_bytes());
                handle
            };
            let data = block(&[header(), (b"v".to_vec(), entry().encode_to_vec())]);
            let mut footer = block(&[]);
            footer.extend(block(&[(b"v".to_vec(), data)]));
            footer.resize(FOOTER - 8, 0);
            file.extend(footer);
            file.extend(MAGIC.to_le_bytes());
            file
        };
        let compressed = table(&|block| snap::raw::Encoder::new().compress_vec(block).unwrap());
        assert_eq!(read("snappy", &compressed).unwrap().variables["v"].size(), [2]);
        // A stated length of 4 GB allocates nothing.
        let lying = table(&|_| vec![0xff, 0xff, 0xff, 0xff, 0x0f, 0]);
        let error = format!("{:#}", read("snappy", &lying).unwrap_err());
        assert!(error.contains("impossible length 4294967295"), "{error}");
        assert!(read("snappy", &table(&|_| vec![])).is_err());
    }
}
