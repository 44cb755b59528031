//! What both formats of checkpoint say about a variable: its dtype, its shape, and the slices that
//! a partitioned variable is saved in.

use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use tch::{Kind, Tensor};

use super::num_elements;

// The messages, as far as they are used here; prost skips the other fields.

/// tensorflow/core/framework/versions.proto
#[derive(Clone, PartialEq, Message)]
pub(super) struct VersionDef {
    #[prost(int32, tag = "1")]
    pub producer: i32,
    #[prost(int32, tag = "2")]
    pub min_consumer: i32,
}

/// tensorflow/core/framework/tensor_shape.proto
#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorShapeProto {
    #[prost(message, repeated, tag = "2")]
    pub dim: Vec<Dim>,
    #[prost(bool, tag = "3")]
    pub unknown_rank: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Dim {
    #[prost(int64, tag = "1")]
    pub size: i64,
}

impl TensorShapeProto {
    pub(super) fn new(sizes: Vec<i64>) -> Self {
        let dim = sizes.into_iter().map(|size| Dim { size }).collect();
        TensorShapeProto { dim, unknown_rank: false }
    }

    /// The size of each dimension; they may still be negative or too large.
    pub(super) fn sizes(&self) -> Result<Vec<i64>> {
        ensure!(!self.unknown_rank, "expected a shape, found unknown rank");
        Ok(self.dim.iter().map(|d| d.size).collect())
    }
}

/// tensorflow/core/framework/tensor_slice.proto
#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorSliceProto {
    #[prost(message, repeated, tag = "1")]
    pub extent: Vec<Extent>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Extent {
    #[prost(int64, tag = "1")]
    pub start: i64,
    /// None: the whole dimension.
    #[prost(int64, optional, tag = "2")]
    pub length: Option<i64>,
}

/// TensorFlow's dtypes (framework/types.proto), with libtorch's kind where a model's variable may
/// be of that kind. Variables of the others are skipped with a note.
const DTYPES: [(i32, &str, Option<Kind>); 23] = [
    (1, "DT_FLOAT", Some(Kind::Float)),
    (2, "DT_DOUBLE", Some(Kind::Double)),
    (3, "DT_INT32", Some(Kind::Int)),
    (4, "DT_UINT8", Some(Kind::Uint8)),
    (5, "DT_INT16", Some(Kind::Int16)),
    (6, "DT_INT8", Some(Kind::Int8)),
    (7, "DT_STRING", None),
    (8, "DT_COMPLEX64", None),
    (9, "DT_INT64", Some(Kind::Int64)),
    (10, "DT_BOOL", None),
    (11, "DT_QINT8", None),
    (12, "DT_QUINT8", None),
    (13, "DT_QINT32", None),
    (14, "DT_BFLOAT16", Some(Kind::BFloat16)),
    (15, "DT_QINT16", None),
    (16, "DT_QUINT16", None),
    (17, "DT_UINT16", None),
    (18, "DT_COMPLEX128", None),
    (19, "DT_HALF", Some(Kind::Half)),
    (20, "DT_RESOURCE", None),
    (21, "DT_VARIANT", None),
    (22, "DT_UINT32", None),
    (23, "DT_UINT64", None),
];

/// A dtype's name and libtorch's kind of it, if it is read here.
pub(super) fn dtype(number: i32) -> Result<(&'static str, Option<Kind>)> {
    match DTYPES.into_iter().find(|d| d.0 == number) {
        Some((_, name, kind)) => Ok((name, kind)),
        None => bail!("expected a dtype of TensorFlow's, found number {number}"),
    }
}

/// TensorFlow's number of a dtype.
pub(super) fn dtype_of(kind: Kind) -> Option<i32> {
    DTYPES.into_iter().find(|d| d.2 == Some(kind)).map(|d| d.0)
}

/// Why a variable of this dtype is skipped.
pub(super) fn skipped(dtype: &str) -> String {
    format!("its dtype is {dtype}, not a float or integer read here")
}

/// A part of a variable: start and length along each dimension.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slice(Vec<(i64, i64)>);

impl Slice {
    /// The slice that `proto` names of a variable of this shape.
    ///
    /// # Errors
    /// It is not inside the variable.
    pub(super) fn new(proto: &TensorSliceProto, shape: &[i64]) -> Result<Slice> {
        let whole = |extent: &Extent, &size: &i64| match extent.length {
            Some(length) => (extent.start, length),
            None => (0, size),
        };
        let slice = Slice(proto.extent.iter().zip(shape).map(|(e, d)| whole(e, d)).collect());
        let inside = |(&(start, length), &size): (&(i64, i64), &i64)| {
            start >= 0 && length >= 0 && start.checked_add(length).is_some_and(|end| end <= size)
        };
        ensure!(
            proto.extent.len() == shape.len() && slice.0.iter().zip(shape).all(inside),
            "slice {slice} of {} dimensions is not inside its shape {shape:?}",
            proto.extent.len()
        );
        Ok(slice)
    }

    pub(super) fn shape(&self) -> Vec<i64> {
        self.0.iter().map(|&(_, length)| length).collect()
    }

    fn overlaps(&self, other: &Slice) -> bool {
        let both = |(a, b): (&(i64, i64), &(i64, i64))| a.0.max(b.0) < (a.0 + a.1).min(b.0 + b.1);
        self.0.iter().zip(&other.0).all(both)
    }
}

/// As Python writes it: `[0:3, 2:4]`.
impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let parts = self.0.iter().map(|(start, length)| {
            // Damage may have left any numbers.
            format!("{start}:{}", start.saturating_add(*length))
        });
        write!(f, "[{}]", parts.collect::<Vec<_>>().join(", "))
    }
}

/// Checks that `slices`, which are inside `shape`, cover each of its elements once.
///
/// # Errors
/// Two slices that overlap; or elements that no slice has.
pub(super) fn check_slices<'a>(
    shape: &[i64],
    slices: impl IntoIterator<Item = &'a Slice>,
) -> Result<()> {
    let mut slices: Vec<&Slice> = slices.into_iter().collect();
    slices.sort();
    // In this order, slices that overlap along the first dimension are near each other.
    for (k, slice) in slices.iter().enumerate() {
        let end = slice.0.first().map(|(start, length)| start + length);
        let near =
            |other: &&&Slice| other.0.first().map(|(start, _)| *start) < end || end.is_none();
        if let Some(other) = slices[k + 1..].iter().take_while(near).find(|o| slice.overlaps(o)) {
            bail!("its slices {slice} and {other} overlap");
        }
    }
    let total = num_elements(shape).with_context(|| format!("shape {shape:?} is impossible"))?;
    // They do not overlap, so that the sum is below the total.
    let found: usize = slices.iter().filter_map(|slice| num_elements(&slice.shape())).sum();
    if found != total {
        let slices: Vec<_> = slices.iter().map(|slice| slice.to_string()).collect();
        bail!(
            "a part of it is missing: its slices {} hold {found} of the {total} values \
             of {shape:?}",
            slices.join(" and ")
        );
    }
    Ok(())
}

/// Puts a variable together from its slices, which have passed [`check_slices`].
pub(super) fn assemble(shape: &[i64], kind: Kind, parts: &[(Slice, Tensor)]) -> Result<Tensor> {
    if let [(_, whole)] = parts {
        return Ok(whole.shallow_clone());
    }
    let variable = Tensor::f_zeros(shape, (kind, tch::Device::Cpu))?;
    for (slice, part) in parts {
        let mut place = variable.shallow_clone();
        for (dim, &(start, length)) in (0..).zip(&slice.0) {
            place = place.f_narrow(dim, start, length)?;
        }
        place.f_copy_(part)?;
    }
    Ok(variable)
}

/// The key of a slice's entry (tensorflow/core/util/saved_tensor_slice_util.cc): the number 0, so
/// that it is no variable's name, then the name, the number of dimensions, and the extents, in the
/// order-preserving encoding of core/lib/strings/ordered_code.cc.
pub(super) fn slice_key(name: &str, slice: &TensorSliceProto) -> Vec<u8> {
    let mut key = vec![];
    write_number(&mut key, 0);
    write_string(&mut key, name.as_bytes());
    write_number(&mut key, slice.extent.len() as u64);
    for Extent { start, length } in &slice.extent {
        write_signed(&mut key, *start);
        write_signed(&mut key, length.unwrap_or(-1));
    }
    key
}

/// The number of bytes, then the bytes, the highest first and without leading zeros.
fn write_number(key: &mut Vec<u8>, number: u64) {
    let bytes = number.to_be_bytes();
    let zeros = number.leading_zeros() as usize / 8;
    key.push((8 - zeros) as u8);
    key.extend(&bytes[zeros..]);
}

/// The bytes, with 00 as 00 ff and ff as ff 00; then 00 01.
fn write_string(key: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in bytes {
        key.push(byte);
        match byte {
            0 => key.push(0xff),
            0xff => key.push(0),
            _ => {}
        }
    }
    key.extend([0, 1]);
}

/// As many bytes as hold 7 bits each. The first bits tell their number and the sign: for a number
/// from 0 on they are as many ones and then a zero, for a negative one the opposite.
fn write_signed(key: &mut Vec<u8>, number: i64) {
    let magnitude = if number < 0 { !number } else { number };
    let bits = 64 - magnitude.leading_zeros() as usize;
    let length = bits / 7 + 1;
    // Sign-extended to 10 bytes, which is the longest.
    let bytes = i128::from(number).to_be_bytes();
    let header = !((1u128 << (128 - length)) - 1);
    let mask = (header >> (8 * (16 - length))).to_be_bytes();
    let at = 16 - length;
    key.extend(bytes[at..].iter().zip(&mask[at..]).map(|(byte, mask)| byte ^ mask));
}
