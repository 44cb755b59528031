//! TensorFlow's checkpoint V2 (a "tensor bundle"), what `tf.train.Saver` has written since the end
//! of 2016: `PREFIX.index` says where each variable lies in the shards
//! `PREFIX.data-0000k-of-0000N`.
//!
//! The index is a [table](super::table) of protobuf messages: a `BundleHeaderProto` under the empty
//! key, then one `BundleEntryProto` per variable (tensorflow/core/protobuf/tensor_bundle.proto and
//! util/tensor_bundle). A partitioned variable has an entry that lists its slices, and an entry for
//! each of them. A shard is the variables' bytes, one after the other.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use prost::Message;
use tch::{Kind, Tensor};

use super::slice::{
    Slice, TensorShapeProto, TensorSliceProto, VersionDef, assemble, check_slices, dtype, dtype_of,
    skipped, slice_key,
};
use super::table::{Table, masked_crc32c, write_table};
use super::{Loaded, Variables, num_elements, tensor_from_bytes, tensor_to_bytes, with_suffix};
use crate::files::write_atomically;

// The messages, as far as they are used here; prost skips the other fields.

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
    /// Of a partitioned variable; its entry then says nothing of a shard.
    #[prost(message, repeated, tag = "7")]
    slices: Vec<TensorSliceProto>,
}

/// The version of the format, of TensorFlow's kTensorBundleVersion.
const BUNDLE_VERSION: i32 = 1;

/// Reads every variable of the checkpoint `prefix`, the path that `tf.train.Saver.save` was given
/// or returned, without `.index`.
///
/// # Errors
/// As for [`super::read_checkpoint`].
pub(super) fn read_bundle(prefix: &Path) -> Result<Loaded> {
    let path = with_suffix(prefix, ".index");
    let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let index = read_index(file).with_context(|| format!("{} is damaged", path.display()))?;
    let mut shards = Shards {
        prefix,
        count: index.header.num_shards,
        slices: index.slices,
        open: BTreeMap::new(),
    };
    let mut loaded = Loaded::default();
    for (name, entry) in index.variables {
        match shards
            .variable(&name, &entry)
            .with_context(|| format!("{}: variable {name:?}", path.display()))?
        {
            Entry::Tensor(tensor) => loaded.variables.insert(name, tensor).map(drop),
            Entry::Skipped(why) => loaded.skipped.insert(name, why).map(drop),
        };
    }
    Ok(loaded)
}

/// Writes `variables` as the checkpoint `prefix` (`PREFIX.index` and one shard), to be restored by
/// `tf.train.Saver` or `tf.train.load_checkpoint`. With `latest`, also the file `checkpoint` beside
/// it, in which `tf.train.latest_checkpoint` finds it.
///
/// Each file is replaced in one step, in the order shard, index, `checkpoint`. To keep an earlier
/// checkpoint whole until the new one is, give each a prefix of its own, as TensorFlow does with
/// the global step.
///
/// # Errors
/// A file cannot be written; a variable's kind is none of TensorFlow's (named).
pub fn write_checkpoint(
    prefix: impl AsRef<Path>,
    variables: &Variables,
    latest: bool,
) -> Result<()> {
    let prefix = prefix.as_ref();
    let base =
        prefix.file_name().ok_or_else(|| anyhow!("{}: not a file name", prefix.display()))?;
    let version = VersionDef { producer: BUNDLE_VERSION, min_consumer: 0 };
    let header = BundleHeaderProto { num_shards: 1, endianness: 0, version: Some(version) };
    let mut table = vec![(Vec::new(), header.encode_to_vec())];
    let mut offset = 0;
    write_atomically(&shard_path(prefix, 0, 1), |file| {
        for (name, tensor) in variables {
            ensure!(
                !name.is_empty() && !name.starts_with('\0'),
                "{name:?} is not a variable's name"
            );
            let kind = tensor.f_kind()?;
            let dtype = dtype_of(kind).with_context(|| {
                format!(
                    "variable {name:?}: {kind:?} tensors cannot be written: \
                     convert to float or integer first"
                )
            })?;
            let bytes = tensor_to_bytes(tensor)?;
            file.write_all(&bytes)?;
            let entry = BundleEntryProto {
                dtype,
                shape: Some(TensorShapeProto::new(tensor.size())),
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
    write_atomically(&with_suffix(prefix, ".index"), |file| {
        Ok(file.write_all(&write_table(&table))?)
    })?;
    if latest {
        // CheckpointState (python/training/checkpoint_state.proto) as text; a relative path is
        // relative to this file.
        let base = base.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"");
        let text =
            format!("model_checkpoint_path: \"{base}\"\nall_model_checkpoint_paths: \"{base}\"\n");
        write_atomically(&prefix.with_file_name("checkpoint"), |file| {
            Ok(file.write_all(text.as_bytes())?)
        })?;
    }
    Ok(())
}

/// What an index says.
#[derive(Debug)]
struct Index {
    header: BundleHeaderProto,
    variables: Vec<(String, BundleEntryProto)>,
    /// The entries of partitioned variables' slices by their [`slice_key`].
    slices: BTreeMap<Vec<u8>, BundleEntryProto>,
}

fn read_index(file: impl Read + Seek) -> Result<Index> {
    let (mut header, mut variables, mut slices) = (None, vec![], BTreeMap::new());
    Table::open(file)?.for_each(|key, value| {
        if header.is_none() {
            ensure!(key.is_empty(), "it has no header entry");
            header = Some(BundleHeaderProto::decode(value).context("header")?);
            return Ok(());
        }
        if key.starts_with(b"\0") {
            let entry = BundleEntryProto::decode(value).context("entry of a slice")?;
            slices.insert(key.to_vec(), entry);
            return Ok(());
        }
        let name = std::str::from_utf8(key).context("a variable's name is not UTF-8")?.to_owned();
        let entry =
            BundleEntryProto::decode(value).with_context(|| format!("entry of {name:?}"))?;
        variables.push((name, entry));
        Ok(())
    })?;
    let header = header.context("it has no header entry")?;
    ensure!(header.num_shards >= 1, "expected 1 shard or more, found {}", header.num_shards);
    ensure!(
        header.endianness == 0,
        "expected little-endian data, found big-endian (of another machine)"
    );
    let version = header.version.clone().unwrap_or_default();
    ensure!(
        version.min_consumer <= BUNDLE_VERSION,
        "expected format version {BUNDLE_VERSION}, found one for readers of version {} on",
        version.min_consumer
    );
    Ok(Index { header, variables, slices })
}

enum Entry {
    Tensor(Tensor),
    Skipped(String),
}

/// The data files, opened when first asked for.
struct Shards<'a> {
    prefix: &'a Path,
    count: i32,
    slices: BTreeMap<Vec<u8>, BundleEntryProto>,
    open: BTreeMap<i32, Shard>,
}

struct Shard {
    file: File,
    length: u64,
    /// Bytes that are in no variable read so far.
    left: u64,
}

impl Shards<'_> {
    fn variable(&mut self, name: &str, entry: &BundleEntryProto) -> Result<Entry> {
        let (dtype, kind) = dtype(entry.dtype)?;
        let Some(kind) = kind else { return Ok(Entry::Skipped(skipped(dtype))) };
        if entry.slices.is_empty() {
            return Ok(Entry::Tensor(self.tensor(entry, dtype, kind)?));
        }
        let shape = entry.shape.clone().unwrap_or_default().sizes()?;
        let slices: Vec<Slice> =
            entry.slices.iter().map(|proto| Slice::new(proto, &shape)).collect::<Result<_>>()?;
        check_slices(&shape, &slices)?;
        let mut parts = vec![];
        for (proto, slice) in entry.slices.iter().zip(slices) {
            let context = || format!("slice {slice}");
            let part = self.slices.remove(&slice_key(name, proto));
            let part = part.context("it has no entry").with_context(context)?;
            let found = part.shape.clone().unwrap_or_default().sizes().with_context(context)?;
            ensure!(
                part.dtype == entry.dtype && found == slice.shape() && part.slices.is_empty(),
                "slice {slice} of {dtype}: expected shape {:?}, found {found:?} of dtype {}",
                slice.shape(),
                part.dtype
            );
            let tensor = self.tensor(&part, dtype, kind).with_context(context)?;
            parts.push((slice, tensor));
        }
        Ok(Entry::Tensor(assemble(&shape, kind, &parts)?))
    }

    /// The tensor of an entry without slices.
    fn tensor(&mut self, entry: &BundleEntryProto, dtype: &str, kind: Kind) -> Result<Tensor> {
        let shape = entry.shape.clone().unwrap_or_default().sizes()?;
        let expected = num_elements(&shape).and_then(|n| n.checked_mul(kind.elt_size_in_bytes()));
        ensure!(
            expected.is_some_and(|n| n as i64 == entry.size),
            "{dtype} {shape:?} does not fit its size of {} bytes",
            entry.size
        );
        let offset = u64::try_from(entry.offset)
            .map_err(|_| anyhow!("offset {} is negative", entry.offset))?;
        let bytes = self.read(entry.shard_id, offset, entry.size as u64)?;
        let found = masked_crc32c(&bytes);
        ensure!(
            found == entry.crc32c || cfg!(fuzzing),
            "{} is damaged: expected checksum {:08x}, found {found:08x}",
            shard_path(self.prefix, entry.shard_id, self.count).display(),
            entry.crc32c
        );
        tensor_from_bytes(&bytes, &shape, kind)
    }

    /// `size` bytes from `offset` on. Nothing is allocated before the file is known to be that
    /// long.
    fn read(&mut self, shard: i32, offset: u64, size: u64) -> Result<Vec<u8>> {
        ensure!(
            (0..self.count).contains(&shard),
            "expected a shard below {}, found {shard}",
            self.count
        );
        let path = shard_path(self.prefix, shard, self.count);
        if !self.open.contains_key(&shard) {
            let file = File::open(&path).with_context(|| {
                format!("shard {shard} of {} is missing: {}", self.count, path.display())
            })?;
            let length = file.metadata()?.len();
            self.open.insert(shard, Shard { file, length, left: length });
        }
        let Shard { file, length, left } = self.open.get_mut(&shard).context("shard")?;
        ensure!(
            offset.checked_add(size).is_some_and(|end| end <= *length),
            "{} is truncated: expected {size} bytes from {offset} on, found a file of {length}",
            path.display()
        );
        // A small file cannot fill the memory by being named again and again.
        *left = left
            .checked_sub(size)
            .with_context(|| format!("{}: its variables overlap", path.display()))?;
        let mut bytes = vec![0; size as usize];
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(&mut bytes).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(bytes)
    }
}

fn shard_path(prefix: &Path, shard: i32, count: i32) -> PathBuf {
    with_suffix(prefix, &format!(".data-{shard:05}-of-{count:05}"))
}

#[cfg(test)]
mod tests {
    //! Indexes that are wrong and yet have the right checksums, which damage would not leave them
    //! with.

    use super::*;
    use crate::tf::slice::Extent;
    use crate::tf::table::tests::{for_each_wrong_table, write_snappy};
    use std::fs;
    use std::io::Cursor;

    fn header() -> (Vec<u8>, Vec<u8>) {
        let version = Some(VersionDef { producer: 1, min_consumer: 0 });
        (vec![], BundleHeaderProto { num_shards: 1, endianness: 0, version }.encode_to_vec())
    }

    /// A float vector of two elements in a shard of 16 bytes.
    fn entry() -> BundleEntryProto {
        let shape = Some(TensorShapeProto::new(vec![2]));
        let crc32c = masked_crc32c(&[7; 8]);
        BundleEntryProto {
            dtype: 1,
            shape,
            shard_id: 0,
            offset: 8,
            size: 8,
            crc32c,
            slices: vec![],
        }
    }

    /// Reads a checkpoint of this index.
    fn read(test: &str, index: &[u8]) -> Result<Loaded> {
        let dir =
            std::env::temp_dir().join(format!("ptb_word_lm-bundle-{}-{test}", std::process::id()));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("x.index"), index)?;
        fs::write(dir.join("x.data-00000-of-00001"), [7; 16])?;
        let loaded = read_bundle(&dir.join("x"));
        fs::remove_dir_all(&dir)?;
        loaded
    }

    fn read_entries(test: &str, entry: BundleEntryProto) -> Result<Loaded> {
        read(test, &write_table(&[header(), (b"v".to_vec(), entry.encode_to_vec())]))
    }

    #[test]
    fn wrong_entries_are_errors() {
        let shape = |sizes: &[i64]| Some(TensorShapeProto::new(sizes.to_vec()));
        let good = read_entries("entries", entry()).unwrap();
        assert_eq!(good.variables["v"].size(), [2]);
        for (wrong, expected) in [
            (
                BundleEntryProto { dtype: 99, ..entry() },
                "expected a dtype of TensorFlow's, found number 99",
            ),
            (BundleEntryProto { dtype: 0, ..entry() }, "found number 0"),
            (
                BundleEntryProto { dtype: 2, ..entry() },
                "DT_DOUBLE [2] does not fit its size of 8 bytes",
            ),
            (
                BundleEntryProto { shape: shape(&[3]), ..entry() },
                "DT_FLOAT [3] does not fit its size of 8",
            ),
            (BundleEntryProto { shape: shape(&[-2]), ..entry() }, "[-2] does not fit"),
            (BundleEntryProto { shape: shape(&[1 << 62, 1 << 62]), ..entry() }, "does not fit"),
            (
                BundleEntryProto { shape: shape(&[1 << 40]), size: 4 << 40, ..entry() },
                "is truncated",
            ),
            (
                BundleEntryProto { offset: 9, ..entry() },
                "expected 8 bytes from 9 on, found a file of 16",
            ),
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
        assert!(
            read_entries("entries", BundleEntryProto { shape: Some(unknown), ..entry() }).is_err()
        );
        let skipped =
            read_entries("entries", BundleEntryProto { dtype: 7, ..entry() }).unwrap().skipped;
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
            (vec![], "block at 0 is empty"),
            (vec![v("a")], "no header"),
            (vec![header_of(0, 0, 0), v("a")], "expected 1 shard or more, found 0"),
            (vec![header_of(-1, 0, 0), v("a")], "found -1"),
            (vec![header_of(1, 1, 0), v("a")], "big-endian"),
            (vec![header_of(1, 0, 2), v("a")], "for readers of version 2 on"),
            (vec![header_of(i32::MAX, 0, 0), v("a")], "is missing"),
            (vec![header(), v("a"), v("b"), v("c")], "its variables overlap"),
            (vec![header(), (b"a".to_vec(), vec![0xff; 3])], "entry of \"a\""),
            (vec![header(), (b"a\xff".to_vec(), entry().encode_to_vec())], "not UTF-8"),
        ] {
            let error = format!("{:#}", read("headers", &write_table(&table)).unwrap_err());
            assert!(error.contains("x.index") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn wrong_slices_are_errors() {
        let slice = |extents: &[(i64, i64)]| TensorSliceProto {
            extent: extents.iter().map(|&(start, l)| Extent { start, length: Some(l) }).collect(),
        };
        let whole = |shape: &[i64], slices: &[TensorSliceProto]| BundleEntryProto {
            shape: Some(TensorShapeProto::new(shape.to_vec())),
            slices: slices.to_vec(),
            ..BundleEntryProto { dtype: 1, ..Default::default() }
        };
        let table = |variable: &BundleEntryProto,
                     slices: &[(TensorSliceProto, BundleEntryProto)]| {
            let mut entries = vec![header(), (b"v".to_vec(), variable.encode_to_vec())];
            let of_slice = |(s, entry): &(TensorSliceProto, BundleEntryProto)| {
                (slice_key("v", s), entry.encode_to_vec())
            };
            entries.extend(slices.iter().map(of_slice));
            entries.sort();
            write_table(&entries)
        };
        // The bytes of the first half are those of the second.
        let (first, second) = (slice(&[(0, 2)]), slice(&[(2, 2)]));
        let parts =
            [(first.clone(), BundleEntryProto { offset: 0, ..entry() }), (second.clone(), entry())];
        let both = whole(&[4], &[first.clone(), second.clone()]);
        let good = read("slices", &table(&both, &parts)).unwrap();
        assert_eq!(good.variables["v"].size(), [4]);

        let slices = |slices: &[TensorSliceProto]| table(&whole(&[4], slices), &parts);
        let double = BundleEntryProto { dtype: 2, ..entry() };
        let longer = BundleEntryProto { shape: Some(TensorShapeProto::new(vec![3])), ..entry() };
        for (table, expected) in [
            (slices(std::slice::from_ref(&first)), "slices [0:2] hold 2 of the 4 values of [4]"),
            (slices(&[second.clone(), second.clone()]), "slices [2:4] and [2:4] overlap"),
            (slices(&[first.clone(), slice(&[(1, 3)])]), "slices [0:2] and [1:4] overlap"),
            (
                slices(&[first.clone(), slice(&[(2, 3)])]),
                "slice [2:5] of 1 dimensions is not inside",
            ),
            (slices(&[slice(&[(-1, 2)])]), "slice [-1:1]"),
            (slices(&[slice(&[(0, i64::MAX)])]), "is not inside its shape [4]"),
            (slices(&[slice(&[])]), "slice [] of 0 dimensions"),
            (slices(&[slice(&[(0, 4)])]), "slice [0:4]: it has no entry"),
            (table(&both, &parts[..1]), "slice [2:4]: it has no entry"),
            (
                table(&both, &[parts[0].clone(), (second.clone(), double)]),
                "slice [2:4] of DT_FLOAT",
            ),
            (table(&both, &[parts[0].clone(), (second.clone(), longer)]), "found [3] of dtype 1"),
            (table(&both, &[parts[0].clone(), (second.clone(), both.clone())]), "slice [2:4]"),
            (table(&whole(&[1 << 40], &[slice(&[(0, 1 << 40)])]), &[]), "it has no entry"),
            (table(&whole(&[-4], &[slice(&[(0, 0)])]), &[]), "is not inside its shape [-4]"),
            (table(&whole(&[1 << 62, 1 << 62], &[TensorSliceProto::default()]), &[]), "not inside"),
        ] {
            let error = format!("{:#}", read("slices", &table).unwrap_err());
            assert!(error.contains("variable \"v\"") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn wrong_blocks_never_panic() {
        let entries = [header(), (b"Model/a".to_vec(), entry().encode_to_vec())];
        for_each_wrong_table(&write_table(&entries), |wrong| drop(read_index(Cursor::new(wrong))));
    }

    /// Early versions of TensorFlow compressed its blocks.
    #[test]
    fn snappy_blocks() {
        let entries = [header(), (b"v".to_vec(), entry().encode_to_vec())];
        let table =
            write_snappy(&entries, |block| snap::raw::Encoder::new().compress_vec(block).unwrap());
        assert_eq!(read("snappy", &table).unwrap().variables["v"].size(), [2]);
    }
}
