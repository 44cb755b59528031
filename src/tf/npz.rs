//! numpy's `.npz`: a zip archive with one `.npy` file per variable.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use npyz::npz::{NpzArchive, NpzWriter, array_name_from_file_name, file_name_from_array_name};
use npyz::zip::{CompressionMethod, DateTime, write::FileOptions};
use npyz::{DType, Endianness, NpyHeader, Order, TypeChar, WriteOptions, WriterBuilder};
use tch::{Kind, Tensor};

use super::{Loaded, Variables, num_elements, tensor_from_bytes, tensor_to_bytes};
use crate::files::write_atomically;

/// The member of a `.npz` with the words of a model's rows, one a line. It is not an array:
/// `numpy.load(file)["words.txt"]` are its bytes.
const WORDS: &str = "words.txt";

/// Reads the arrays of numbers of a `.npz` file, as written by `numpy.savez` or [`write_npz`].
///
/// Floats of 16, 32 and 64 bits and integers of 8 (signed or not), 16, 32 and 64 bits are read, in
/// either byte order and in C or Fortran order. Other arrays, such as ones of text or of Python's
/// objects, are skipped.
///
/// # Errors
/// Name the file and the array: not a zip archive, a damaged member (each has a checksum), data
/// shorter or longer than the shape says, no array of numbers.
pub fn read_npz(path: impl AsRef<Path>) -> Result<Variables> {
    let path = path.as_ref();
    let Loaded { variables, skipped } = load_npz(path)?;
    let skipped: Vec<_> = skipped.iter().map(|(name, why)| format!("{name:?} ({why})")).collect();
    ensure!(
        !variables.is_empty(),
        "{}: none of its arrays can be read: {}",
        path.display(),
        skipped.join(", ")
    );
    Ok(variables)
}

/// [`read_npz`] with a list of what was skipped.
pub(super) fn load_npz(path: &Path) -> Result<Loaded> {
    refuse_pickle(path)?;
    let mut archive = open(path)?;
    let zip = archive.zip_archive();
    let mut loaded = Loaded::default();
    for i in 0..zip.len() {
        let member = zip
            .by_index(i)
            .with_context(|| format!("{}: member {i} is damaged", path.display()))?;
        let Some(name) = array_name_from_file_name(member.name()).map(str::to_owned) else {
            continue;
        };
        let array =
            read_array(member).with_context(|| format!("{}: array {name:?}", path.display()))?;
        let is_new = match array {
            Array::Numbers(tensor) => loaded.variables.insert(name.clone(), tensor).is_none(),
            Array::Skipped(why) => loaded.skipped.insert(name.clone(), why).is_none(),
        };
        ensure!(is_new, "{}: array {name:?} is there twice", path.display());
    }
    ensure!(
        !(loaded.variables.is_empty() && loaded.skipped.is_empty()),
        "{} holds no .npy arrays",
        path.display()
    );
    Ok(loaded)
}

/// Refuses what `torch.save` writes: a zip archive of Python's objects.
///
/// # Errors
/// It is such a file.
pub(crate) fn refuse_pickle(path: &Path) -> Result<()> {
    let archive = File::open(path).ok().and_then(|file| NpzArchive::new(BufReader::new(file)).ok());
    let Some(mut archive) = archive else { return Ok(()) };
    let is_pickle = |name: &str| name.rsplit('/').next() == Some("data.pkl");
    ensure!(
        !archive.zip_archive().file_names().any(is_pickle),
        "{}: a file of torch.save's, which is not read. Save the model as .safetensors in Python: \
         safetensors.torch.save_file(model.state_dict(), FILE)",
        path.display()
    );
    Ok(())
}

/// Reads the list of words in a `.npz` file, if [`write_npz_with_words`] wrote one.
///
/// # Errors
/// A file that is damaged.
pub fn read_npz_words(path: impl AsRef<Path>) -> Result<Option<Vec<u8>>> {
    let path = path.as_ref();
    let mut archive = open(path)?;
    let zip = archive.zip_archive();
    if !zip.file_names().any(|name| name == WORDS) {
        return Ok(None);
    }
    let mut words = Vec::new();
    zip.by_name(WORDS)
        .map_err(anyhow::Error::from)
        .and_then(|mut member| Ok(member.read_to_end(&mut words)?))
        .with_context(|| format!("{}: {WORDS} is damaged", path.display()))?;
    Ok(Some(words))
}

fn open(path: &Path) -> Result<NpzArchive<BufReader<File>>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    NpzArchive::new(BufReader::new(file)).with_context(|| {
        format!("{} is not a .npz file (a zip archive of .npy arrays)", path.display())
    })
}

/// Writes variables as `numpy.savez` does: uncompressed, C order, little-endian. The same variables
/// give the same bytes.
///
/// numpy knows no bfloat16, so bfloat16 is written as float32, which loses nothing. The file is
/// replaced in one step.
///
/// # Errors
/// The file cannot be written; a tensor is of a kind that [`read_npz`] would not read (named).
pub fn write_npz(path: impl AsRef<Path>, variables: &Variables) -> Result<()> {
    write_npz_with_words(path, variables, None)
}

/// [`write_npz`] with a list of words, one a line, as the member `words.txt` of the archive.
///
/// # Errors
/// As [`write_npz`].
pub fn write_npz_with_words(
    path: impl AsRef<Path>,
    variables: &Variables,
    words: Option<&str>,
) -> Result<()> {
    write_atomically(path.as_ref(), |file| {
        // An archive is written with seeks, which a pipe does not have.
        let mut bytes = Cursor::new(Vec::new());
        let mut archive = NpzWriter::new(&mut bytes);
        for (name, tensor) in variables {
            write_array(&mut archive, name, tensor).with_context(|| format!("array {name:?}"))?;
        }
        if let Some(words) = words {
            let zip = archive.zip_writer();
            zip.start_file(WORDS, stored(words.len()))?;
            zip.write_all(words.as_bytes())?;
        }
        archive.zip_writer().finish()?;
        drop(archive);
        Ok(file.write_all(bytes.get_ref())?)
    })
}

/// How a member of so many bytes is written. The date is fixed, so that the file depends on its
/// content alone.
fn stored(bytes: usize) -> FileOptions {
    FileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(DateTime::default())
        .large_file(bytes >= u32::MAX as usize)
}

/// What a `.npy` file holds.
enum Array {
    Numbers(Tensor),
    /// Something else; why it is not read.
    Skipped(String),
}

/// One `.npy` file.
fn read_array(mut file: impl Read) -> Result<Array> {
    let mut start = Vec::new();
    file.by_ref().take(MAX_HEADER).read_to_end(&mut start)?;
    if !is_plain(&start)? {
        return skip(file, "it is not an array of plain numbers".into());
    }
    let mut file = start.as_slice().chain(file);
    let header = NpyHeader::from_reader(&mut file)?;

    let dtype = header.dtype();
    let Some((kind, big_endian)) = kind_of(&dtype) else {
        let why = format!("its dtype is {}, not a float or integer read here", dtype.descr());
        return skip(file, why);
    };
    let mut shape =
        header.shape().iter().map(|&d| Ok(i64::try_from(d)?)).collect::<Result<Vec<_>>>()?;
    let size = kind.elt_size_in_bytes();
    let expected = num_elements(&shape)
        .and_then(|n| n.checked_mul(size))
        .with_context(|| format!("shape {shape:?} does not fit in memory"))?;
    // The buffer grows with what is really there. One byte more than expected, so that too much is
    // noticed and the end of the member is reached, which is where its checksum is compared.
    let mut bytes = Vec::new();
    file.take(expected as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() != expected {
        let found = if bytes.len() < expected { bytes.len().to_string() } else { "more".into() };
        bail!("shape {shape:?} of {} expects {expected} bytes, found {found}", dtype.descr());
    }
    if big_endian {
        bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
    if header.order() == Order::C {
        return Ok(Array::Numbers(tensor_from_bytes(&bytes, &shape, kind)?));
    }
    // Fortran order is the C order of the transpose.
    shape.reverse();
    let axes: Vec<i64> = (0..shape.len() as i64).rev().collect();
    let transposed = tensor_from_bytes(&bytes, &shape, kind)?;
    Ok(Array::Numbers(transposed.f_permute(axes)?.f_contiguous()?))
}

/// Passes over the rest of a member, up to its end, where its checksum is compared.
fn skip(mut rest: impl Read, why: String) -> Result<Array> {
    io::copy(&mut rest, &mut io::sink())?;
    Ok(Array::Skipped(why))
}

/// No header of a plain array is longer (numpy's are 128 bytes).
const MAX_HEADER: u64 = 1024;

/// Whether a header is that of an array of plain numbers, or of something so like it that npyz is
/// safe with it: npyz allocates whatever length a header states, recurses as deep as its brackets
/// do, and multiplies the shape unchecked.
///
/// # Errors
/// This is no `.npy` file, or only a part of one.
fn is_plain(start: &[u8]) -> Result<bool> {
    ensure!(start.len() >= 12 && start.starts_with(b"\x93NUMPY"), "not a .npy array (wrong magic)");
    let (at, length) = match start[6] {
        1 => (10, u64::from(u16::from_le_bytes([start[8], start[9]]))),
        2 | 3 => (12, u64::from(u32::from_le_bytes([start[8], start[9], start[10], start[11]]))),
        v => bail!(".npy format version is {v}, expected 1 to 3"),
    };
    if at + length > MAX_HEADER {
        return Ok(false);
    }
    let text = start
        .get(at as usize..(at + length) as usize)
        .context("the file ends within its header")?;
    let brackets = text.iter().filter(|b| b"([{".contains(b)).count();
    let digits = text.iter().filter(|b| b.is_ascii_digit()).count();
    // One digit is the dtype's; a product of numbers with 18 digits in all is below 2^64.
    Ok(brackets <= 2 && digits <= 19)
}

/// libtorch's kind of a numpy dtype, and whether it is big-endian.
fn kind_of(dtype: &DType) -> Option<(Kind, bool)> {
    let DType::Plain(dtype) = dtype else { return None };
    let kind = match (dtype.type_char(), dtype.size_field()) {
        (TypeChar::Float, 2) => Kind::Half,
        (TypeChar::Float, 4) => Kind::Float,
        (TypeChar::Float, 8) => Kind::Double,
        (TypeChar::Int, 1) => Kind::Int8,
        (TypeChar::Uint, 1) => Kind::Uint8,
        (TypeChar::Int, 2) => Kind::Int16,
        (TypeChar::Int, 4) => Kind::Int,
        (TypeChar::Int, 8) => Kind::Int64,
        _ => return None,
    };
    Some((kind, dtype.endianness() == Endianness::Big))
}

fn write_array<W: Write + Seek>(
    archive: &mut NpzWriter<W>,
    name: &str,
    tensor: &Tensor,
) -> Result<()> {
    let tensor = match tensor.f_kind()? {
        Kind::BFloat16 => tensor.f_to_kind(Kind::Float)?,
        _ => tensor.shallow_clone(),
    };
    let dtype = match tensor.f_kind()? {
        Kind::Half => "<f2",
        Kind::Float => "<f4",
        Kind::Double => "<f8",
        Kind::Int8 => "|i1",
        Kind::Uint8 => "|u1",
        Kind::Int16 => "<i2",
        Kind::Int => "<i4",
        Kind::Int64 => "<i8",
        kind => bail!(
            "{kind:?} tensors cannot be written to a .npz file: convert to float or integer first"
        ),
    };
    let shape: Vec<u64> = tensor.size().iter().map(|&d| d as u64).collect();
    let bytes = tensor_to_bytes(&tensor)?;
    let zip = archive.zip_writer();
    zip.start_file(file_name_from_array_name(name), stored(bytes.len()))?;
    WriteOptions::new_header_only()
        .dtype(DType::Plain(dtype.parse()?))
        .shape(&shape)
        .writer(&mut *zip)
        .write_header_only()?;
    zip.write_all(&bytes)?;
    Ok(())
}
