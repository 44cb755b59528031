//! The LevelDB table, on which both formats of checkpoint stand: blocks of sorted entries, then a
//! block that says where they are, then a footer that says where that one is
//! (tensorflow/core/lib/io/{format,block,table}.cc).
//!
//! Written out here since the `sstable` crate, the usual choice, is for tables that one wrote
//! oneself: it asserts and unwraps on damaged blocks, allocates block sizes as read, continues with
//! the next block after a wrong checksum, and takes the empty key, under which both formats have
//! their header, for the end.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use prost::encoding::{decode_varint, encode_varint};

const MAGIC: u64 = 0xdb47_7524_8b80_fb57;
const FOOTER: usize = 48;
/// After every block: one byte for the compression, four for the checksum.
const TRAILER: usize = 5;

/// Offset and size of a block.
type Handle = (u64, u64);

/// LevelDB's masked CRC-32C: a checksum may itself be part of checksummed data.
pub(crate) fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Whether a file ends as a table does.
pub(super) fn is_table(path: &Path) -> bool {
    let mut end = [0; 8];
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::End(-8))?;
        file.read_exact(&mut end)
    });
    read.is_ok() && end == MAGIC.to_le_bytes()
}

/// A table that is read block by block, so that no more than one of them is in memory.
#[derive(Debug)]
pub(super) struct Table<R> {
    file: R,
    length: u64,
    blocks: Vec<Handle>,
}

impl<R: Read + Seek> Table<R> {
    /// Reads the footer and the index.
    ///
    /// # Errors
    /// It is not a table, it is truncated, or the index is damaged.
    pub(super) fn open(mut file: R) -> Result<Self> {
        let length = file.seek(SeekFrom::End(0))?;
        let start = length
            .checked_sub(FOOTER as u64)
            .with_context(|| format!("expected {FOOTER} bytes or more, found {length}"))?;
        file.seek(SeekFrom::Start(start))?;
        let mut footer = [0; FOOTER];
        file.read_exact(&mut footer)?;
        let (mut handles, magic) = footer.split_at(FOOTER - 8);
        ensure!(
            magic == MAGIC.to_le_bytes(),
            "expected the magic number {:02x?} at the end, found {magic:02x?}: \
             not a table of TensorFlow's, or truncated",
            MAGIC.to_le_bytes()
        );
        let mut table = Table { file, length, blocks: vec![] };
        let _metaindex = read_handle(&mut handles)?;
        let index = table.block(read_handle(&mut handles)?).context("block of the index")?;
        for_each_entry(&index, |_, mut handle| {
            table.blocks.push(read_handle(&mut handle)?);
            Ok(())
        })?;
        Ok(table)
    }

    /// Calls `each` with every key and value, in order.
    ///
    /// # Errors
    /// A damaged block, keys that are out of order, and the errors of `each`.
    pub(super) fn for_each(
        mut self,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut last: Option<Vec<u8>> = None;
        for handle in std::mem::take(&mut self.blocks) {
            let block = self.block(handle)?;
            let mut entries = 0;
            for_each_entry(&block, |key, value| {
                ensure!(last.as_deref().is_none_or(|last| last < key), "keys are out of order");
                let last = last.get_or_insert_default();
                last.clear();
                last.extend_from_slice(key);
                entries += 1;
                each(key, value)
            })?;
            // Otherwise a small file could name the same empty block again and again.
            ensure!(entries > 0, "block at {} is empty", handle.0);
        }
        Ok(())
    }

    /// The content of a block. Nothing is allocated before the file is known to be that long.
    fn block(&mut self, (offset, size): Handle) -> Result<Vec<u8>> {
        let end = || offset.checked_add(size)?.checked_add(TRAILER as u64);
        ensure!(
            end().is_some_and(|end| end <= self.length),
            "expected a block of {size} bytes at {offset}, found {} in all",
            self.length
        );
        let mut block = vec![0; size as usize + TRAILER];
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.read_exact(&mut block)?;
        let (checked, crc) = block.split_at(size as usize + 1);
        let found = masked_crc32c(checked).to_le_bytes();
        ensure!(
            crc == found || cfg!(fuzzing),
            "block at {offset}: expected checksum {crc:02x?}, found {found:02x?}"
        );
        let compression = checked[size as usize];
        block.truncate(size as usize);
        match compression {
            0 => Ok(block),
            1 => {
                // Snappy's longest copy makes 64 bytes of 3, so a stated length beyond that is
                // damage: nothing is allocated.
                let length = snap::raw::decompress_len(&block)?;
                ensure!(
                    length <= block.len().saturating_mul(22),
                    "block at {offset}: impossible length {length}"
                );
                Ok(snap::raw::Decoder::new().decompress_vec(&block)?)
            }
            other => bail!("block at {offset}: unknown compression {other}"),
        }
    }
}

fn read_handle(bytes: &mut &[u8]) -> Result<Handle> {
    Ok((decode_varint(bytes)?, decode_varint(bytes)?))
}

/// Calls `each` with the keys and values of a block. Each key says how many bytes it shares with
/// the one before.
fn for_each_entry(block: &[u8], mut each: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
    // At the end are the offsets of the keys that share nothing, for binary search, and their
    // number.
    let restarts = block.last_chunk::<4>().map(|n| u32::from_le_bytes(*n) as usize);
    let end = restarts.and_then(|n| block.len().checked_sub(4)?.checked_sub(n.checked_mul(4)?));
    let mut rest = &block[..end.context("a block ends within its restart points")?];
    let mut key: Vec<u8> = vec![];
    while !rest.is_empty() {
        let mut length = || -> Result<usize> { Ok(usize::try_from(decode_varint(&mut rest)?)?) };
        let (shared, unshared, value) = (length()?, length()?, length()?);
        ensure!(shared <= key.len(), "a key shares {shared} bytes with one of {}", key.len());
        let mut take = |n: usize| -> Result<&[u8]> {
            let (taken, left) =
                rest.split_at_checked(n).context("an entry ends outside its block")?;
            rest = left;
            Ok(taken)
        };
        key.truncate(shared);
        key.extend_from_slice(take(unshared)?);
        each(&key, take(value)?)?;
    }
    Ok(())
}

/// A table of `entries`, which are in order: one block of them, an empty one where LevelDB keeps
/// its filters, and the index.
pub(super) fn write_table(entries: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
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

/// Appends a block and returns its handle. No key shares bytes with the one before, so each is a
/// restart point.
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
pub(super) mod tests {
    //! Tables that are wrong and yet have the right checksums, which damage would not leave them
    //! with. The readers of both formats run on them too.

    use super::*;
    use std::io::Cursor;

    /// Every byte of every block of a table that [`write_table`] wrote, set to every value, with
    /// the checksum made right again.
    pub(in super::super) fn for_each_wrong_table(table: &[u8], mut check: impl FnMut(&[u8])) {
        let mut handles = &table[table.len() - FOOTER..];
        let metaindex = read_handle(&mut handles).unwrap();
        let index = read_handle(&mut handles).unwrap();
        let data = (0, metaindex.0 - TRAILER as u64);
        for (start, size) in [data, metaindex, index] {
            let (start, size) = (start as usize, size as usize);
            for at in start..=start + size {
                for value in 0..=255 {
                    let mut wrong = table.to_vec();
                    wrong[at] = value;
                    let crc = masked_crc32c(&wrong[start..=start + size]).to_le_bytes();
                    wrong[start + size + 1..start + size + TRAILER].copy_from_slice(&crc);
                    check(&wrong);
                }
            }
        }
    }

    /// A table of one block, compressed by `compress`.
    pub(in super::super) fn write_snappy(
        entries: &[(Vec<u8>, Vec<u8>)],
        compress: impl Fn(&[u8]) -> Vec<u8>,
    ) -> Vec<u8> {
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
        let data = block(entries);
        let mut footer = block(&[]);
        footer.extend(block(&[(b"z".to_vec(), data)]));
        footer.resize(FOOTER - 8, 0);
        file.extend(footer);
        file.extend(MAGIC.to_le_bytes());
        file
    }

    fn read(table: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut entries = vec![];
        Table::open(Cursor::new(table))?.for_each(|key, value| {
            entries.push((key.to_vec(), value.to_vec()));
            Ok(())
        })?;
        Ok(entries)
    }

    fn entries() -> Vec<(Vec<u8>, Vec<u8>)> {
        [("", "header"), ("a", ""), ("b", "value")]
            .map(|(key, value)| (key.into(), value.into()))
            .to_vec()
    }

    #[test]
    fn what_is_written_reads_back() {
        assert_eq!(read(&write_table(&entries())).unwrap(), entries());
        let packed = write_snappy(&entries(), |block| {
            snap::raw::Encoder::new().compress_vec(block).unwrap()
        });
        assert_eq!(read(&packed).unwrap(), entries());
    }

    #[test]
    fn wrong_tables_are_errors() {
        let mut swapped = entries();
        swapped.swap(1, 2);
        let mut twice = entries();
        twice[1].0 = b"b".to_vec();
        for (table, expected) in [
            (write_table(&swapped), "out of order"),
            (write_table(&twice), "out of order"),
            (write_table(&[]), "block at 0 is empty"),
            (vec![0; FOOTER - 1], "expected 48 bytes or more, found 47"),
            (vec![0; FOOTER], "magic number"),
            // A stated length of 4 GB allocates nothing.
            (
                write_snappy(&entries(), |_| vec![0xff, 0xff, 0xff, 0xff, 0x0f, 0]),
                "impossible length 4294967295",
            ),
            (write_snappy(&entries(), |_| vec![]), ""),
        ] {
            let error = format!("{:#}", read(&table).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn wrong_blocks_never_panic() {
        let mut good = 0;
        for_each_wrong_table(&write_table(&entries()), |wrong| {
            good += usize::from(read(wrong).is_ok());
        });
        assert!(good > 0, "a wrong value that is still a table is read");
    }
}
