//! numpy's `.npz`: a zip archive with one `.npy` file per variable.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use npyz::npz::{NpzArchive, NpzWriter, array_name_from_file_name, file_name_from_array_name};
use npyz::zip::{CompressionMethod, DateTime, write::FileOptions};
use npyz::{DType, Endianness, NpyHeader, Order, TypeChar, WriteOptions, WriterBuilder};
use tch::{Kind, Tensor};

use super::{Variables, num_elements, tensor_from_bytes, tensor_to_bytes};
use crate::files::write_atomically;

/// Reads every array of a `.npz` file, as written by `numpy.savez` or [`write_npz`].
///
/// Floats of 16, 32 and 64 bits and integers of 8 (signed or not), 16, 32 and 64 bits are read, in
/// either byte order and in C or Fortran order.
///
/// # Errors
/// Name the file and the array: not a zip archive, a damaged member (each has a checksum), a dtype
/// other than these, data shorter or longer than the shape says.
pub fn read_npz(path: impl AsRef<Path>) -> Result<Variables> {
    let path = path.as_ref();
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut archive = NpzArchive::new(BufReader::new(file)).with_context(|| {
        format!("{} is not a .npz file (a zip archive of .npy arrays)", path.display())
    })?;
    let zip = archive.zip_archive();
    let mut variables = Variables::new();
    for i in 0..zip.len() {
        let member = zip
            .by_index(i)
            .with_context(|| format!("{}: member {i} is damaged", path.display()))?;
        let Some(name) = array_name_from_file_name(member.name()).map(str::to_owned) else {
            continue;
        };
        let tensor =
            read_array(member).with_context(|| format!("{}: array {name:?}", path.display()))?;
        ensure!(
            variables.insert(name.clone(), tensor).is_none(),
            "{}: array {name:?} is there twice",
            path.display()
        );
    }
    ensure!(!variables.is_empty(), "{} holds no .npy arrays", path.display());
    Ok(variables)
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
    write_atomically(path.as_ref(), |file| {
        let mut archive = NpzWriter::new(file);
        for (name, tensor) in variables {
            write_array(&mut archive, name, tensor).with_context(|| format!("array {name:?}"))?;
        }
        archive.zip_writer().finish()?;
        Ok(())
    })
}

/// One `.npy` file.
fn read_array(mut file: impl Read) -> Result<Tensor> {
    let mut start = Vec::new();
    file.by_ref().take(MAX_HEADER).read_to_end(&mut start)?;
    check_header(&start)?;
    let mut file = start.as_slice().chain(file);
    let header = NpyHeader::from_reader(&mut file)?;

    let dtype = header.dtype();
    let Some((kind, big_endian)) = kind_of(&dtype) else {
        bail!(
            "dtype is {}, expected a float of 2, 4 or 8 bytes \
             or an integer ('i1', 'u1', 'i2', 'i4', 'i8')",
            dtype.descr()
        );
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
        return tensor_from_bytes(&bytes, &shape, kind);
    }
    // Fortran order is the C order of the transpose.
    shape.reverse();
    let axes: Vec<i64> = (0..shape.len() as i64).rev().collect();
    Ok(tensor_from_bytes(&bytes, &shape, kind)?.f_permute(axes)?.f_contiguous()?)
}

/// No header of a plain array is longer (numpy's are 128 bytes).
const MAX_HEADER: u64 = 1024;

/// Refuses headers that npyz is not safe with: it allocates whatever length the file states,
/// recurses as deep as the brackets do, and multiplies the shape unchecked. None of these occurs in
/// an array of numbers.
fn check_header(start: &[u8]) -> Result<()> {
    ensure!(start.len() >= 12 && start.starts_with(b"\x93NUMPY"), "not a .npy array (wrong magic)");
    let (at, length) = match start[6] {
        1 => (10, u64::from(u16::from_le_bytes([start[8], start[9]]))),
        2 | 3 => (12, u64::from(u32::from_le_bytes([start[8], start[9], start[10], start[11]]))),
        v => bail!(".npy format version is {v}, expected 1 to 3"),
    };
    ensure!(at + length <= MAX_HEADER, "header of {length} bytes: not an array of plain numbers");
    let text = start
        .get(at as usize..(at + length) as usize)
        .context("the file ends within its header")?;
    let brackets = text.iter().filter(|b| b"([{".contains(b)).count();
    let digits = text.iter().filter(|b| b.is_ascii_digit()).count();
    // One digit is the dtype's; a product of numbers with 18 digits in all is below 2^64.
    ensure!(
        brackets <= 2 && digits <= 19,
        "header {:?}: not an array of plain numbers",
        String::from_utf8_lossy(text)
    );
    Ok(())
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

fn write_array<W: Write + std::io::Seek>(
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
    // A fixed date, so that the file depends on the variables alone.
    let options = FileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(DateTime::default())
        .large_file(bytes.len() >= u32::MAX as usize);
    let zip = archive.zip_writer();
    zip.start_file(file_name_from_array_name(name), options)?;
    WriteOptions::new_header_only()
        .dtype(DType::Plain(dtype.parse()?))
        .shape(&shape)
        .writer(&mut *zip)
        .write_header_only()?;
    zip.write_all(&bytes)?;
    Ok(())
}
