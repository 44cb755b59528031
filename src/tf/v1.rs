//! TensorFlow's checkpoint V1, what `tf.train.Saver` wrote until TensorFlow 0.12, the end of 2016:
//! one file, `model.ckpt-7`, or several of a sharded Saver, `model.ckpt-7-0000k-of-0000N`.
//!
//! The file is a [table](super::table) of `SavedTensorSlices` messages
//! (tensorflow/core/util/saved_tensor_slice.proto). The one under the empty key lists the file's
//! variables and the slices of each; the others hold a slice each, its values in one of the
//! repeated fields of a `TensorProto`. A variable that is not partitioned is one slice.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use tch::{Kind, Tensor};

use super::slice::{
    Slice, TensorShapeProto, TensorSliceProto, VersionDef, assemble, check_slices, dtype, skipped,
};
use super::table::Table;
use super::{Loaded, num_elements};

// The messages, as far as they are used here; prost skips the other fields.

#[derive(Clone, PartialEq, Message)]
struct SavedTensorSlices {
    #[prost(message, optional, tag = "1")]
    meta: Option<SavedTensorSliceMeta>,
    #[prost(message, optional, tag = "2")]
    data: Option<SavedSlice>,
}

#[derive(Clone, PartialEq, Message)]
struct SavedTensorSliceMeta {
    #[prost(message, repeated, tag = "1")]
    tensor: Vec<SavedSliceMeta>,
    #[prost(message, optional, tag = "2")]
    versions: Option<VersionDef>,
}

#[derive(Clone, PartialEq, Message)]
struct SavedSliceMeta {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    shape: Option<TensorShapeProto>,
    #[prost(int32, tag = "3")]
    dtype: i32,
    #[prost(message, repeated, tag = "4")]
    slice: Vec<TensorSliceProto>,
}

#[derive(Clone, PartialEq, Message)]
struct SavedSlice {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    slice: Option<TensorSliceProto>,
    #[prost(message, optional, tag = "3")]
    data: Option<TensorProto>,
}

/// Of tensorflow/core/framework/tensor.proto, the fields that hold the dtypes read here. The Saver
/// sets nothing but one of them, neither dtype nor shape.
#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(float, repeated, tag = "5")]
    float_val: Vec<f32>,
    #[prost(double, repeated, tag = "6")]
    double_val: Vec<f64>,
    /// Of all integers but int64.
    #[prost(int32, repeated, tag = "7")]
    int_val: Vec<i32>,
    #[prost(int64, repeated, tag = "10")]
    int64_val: Vec<i64>,
    /// The 16 bits of each.
    #[prost(int32, repeated, tag = "13")]
    half_val: Vec<i32>,
}

/// The version of the format, of TensorFlow's TF_CHECKPOINT_VERSION.
const CHECKPOINT_VERSION: i32 = 1;

/// A variable that is being read.
struct Variable {
    dtype: i32,
    shape: Vec<i64>,
    /// The slices that it is made of, with their values once these are read.
    slices: BTreeMap<Slice, Option<Tensor>>,
}

type Variables = BTreeMap<String, Variable>;

/// Reads every variable of a checkpoint, which is one file, or all the files of a sharded one.
///
/// # Errors
/// As for [`super::read_checkpoint`].
pub(super) fn read_v1(files: &[PathBuf]) -> Result<Loaded> {
    let mut variables = Variables::new();
    for path in files {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        read_file(file, &mut variables).with_context(|| {
            format!("{} is damaged, or not a checkpoint of TensorFlow's", path.display())
        })?;
    }
    let mut loaded = Loaded::default();
    for (name, variable) in variables {
        let (dtype, kind) = dtype(variable.dtype)?;
        let Some(kind) = kind else {
            loaded.skipped.insert(name, skipped(dtype));
            continue;
        };
        let tensor = variable.assemble(kind).with_context(|| {
            let path = files.first().map(|path| path.display().to_string()).unwrap_or_default();
            format!("{path}: variable {name:?}")
        })?;
        loaded.variables.insert(name, tensor);
    }
    Ok(loaded)
}

/// Adds a file's slices to `variables`.
fn read_file(file: impl Read + Seek, variables: &mut Variables) -> Result<()> {
    let mut listed = false;
    Table::open(file)?.for_each(|key, value| {
        let message = || format!("entry {:?}", String::from_utf8_lossy(key));
        let entry = SavedTensorSlices::decode(value).with_context(message)?;
        if !listed {
            listed = true;
            let meta =
                entry.meta.filter(|_| key.is_empty()).context("it has no list of variables")?;
            return list(meta, variables);
        }
        let SavedSlice { name, slice, data } =
            entry.data.context("no values").with_context(message)?;
        let variable =
            variables.get_mut(&name).with_context(|| format!("variable {name:?} is not listed"))?;
        variable
            .put(&slice.unwrap_or_default(), data.unwrap_or_default())
            .with_context(|| format!("variable {name:?}"))
    })?;
    ensure!(listed, "it has no list of variables");
    Ok(())
}

/// Adds the slices that a file lists to `variables`, still without values.
fn list(meta: SavedTensorSliceMeta, variables: &mut Variables) -> Result<()> {
    let version = meta.versions.unwrap_or_default();
    ensure!(
        version.min_consumer <= CHECKPOINT_VERSION,
        "expected format version {CHECKPOINT_VERSION}, found one for readers of version {} on",
        version.min_consumer
    );
    for SavedSliceMeta { name, shape, dtype: number, slice } in meta.tensor {
        let context = || format!("variable {name:?}");
        dtype(number).with_context(context)?;
        let shape = shape.unwrap_or_default().sizes().with_context(context)?;
        let variable = variables.entry(name.clone()).or_insert_with(|| Variable {
            dtype: number,
            shape: shape.clone(),
            slices: BTreeMap::new(),
        });
        ensure!(
            (variable.dtype, &variable.shape) == (number, &shape),
            "variable {name:?}: its slices are of shapes {:?} and {shape:?}, \
             dtypes {} and {number}",
            variable.shape,
            variable.dtype
        );
        for proto in &slice {
            let slice = Slice::new(proto, &shape).with_context(context)?;
            ensure!(
                !variable.slices.contains_key(&slice),
                "variable {name:?}: its slice {slice} is listed twice"
            );
            variable.slices.insert(slice, None);
        }
    }
    Ok(())
}

impl Variable {
    /// Keeps the values of a slice.
    fn put(&mut self, slice: &TensorSliceProto, data: TensorProto) -> Result<()> {
        let (_, Some(kind)) = dtype(self.dtype)? else { return Ok(()) };
        let slice = Slice::new(slice, &self.shape)?;
        let place = self.slices.get_mut(&slice);
        let place = place.with_context(|| format!("its slice {slice} is not listed"))?;
        ensure!(place.is_none(), "its slice {slice} is there twice");
        *place =
            Some(tensor(data, &slice.shape(), kind).with_context(|| format!("slice {slice}"))?);
        Ok(())
    }

    fn assemble(self, kind: Kind) -> Result<Tensor> {
        check_slices(&self.shape, self.slices.keys())?;
        let values = |(slice, tensor): (Slice, Option<Tensor>)| {
            let tensor = tensor.with_context(|| format!("its slice {slice} is missing"))?;
            Ok((slice, tensor))
        };
        let parts: Vec<_> = self.slices.into_iter().map(values).collect::<Result<_>>()?;
        assemble(&self.shape, kind, &parts)
    }
}

/// The values of a slice of this shape.
fn tensor(data: TensorProto, shape: &[i64], kind: Kind) -> Result<Tensor> {
    let values = match kind {
        Kind::Float => Tensor::f_from_slice(&data.float_val)?,
        Kind::Double => Tensor::f_from_slice(&data.double_val)?,
        Kind::Int64 => Tensor::f_from_slice(&data.int64_val)?,
        Kind::Half | Kind::BFloat16 => {
            let bits: Vec<i16> = data.half_val.iter().map(|&bits| bits as i16).collect();
            Tensor::f_from_slice(&bits)?.f_view_dtype(kind)?
        }
        Kind::Int | Kind::Int16 | Kind::Int8 | Kind::Uint8 => {
            Tensor::f_from_slice(&data.int_val)?.f_to_kind(kind)?
        }
        kind => bail!("{kind:?} is not read here"),
    };
    ensure!(
        num_elements(shape) == Some(values.numel()),
        "expected the values of {kind:?} {shape:?}, found {}",
        values.numel()
    );
    Ok(values.f_reshape(shape)?)
}

#[cfg(test)]
mod tests {
    //! Files that are wrong and yet have the right checksums, which damage would not leave them
    //! with.

    use super::*;
    use crate::tf::slice::{Extent, slice_key};
    use crate::tf::table::tests::{for_each_wrong_table, write_snappy};
    use crate::tf::table::write_table;
    use std::io::Cursor;

    fn slice(extents: &[(i64, i64)]) -> TensorSliceProto {
        let extent = |&(start, length)| Extent { start, length: Some(length) };
        TensorSliceProto { extent: extents.iter().map(extent).collect() }
    }

    /// The list of one variable of floats.
    fn meta(name: &str, shape: &[i64], slices: &[TensorSliceProto]) -> SavedSliceMeta {
        let shape = Some(TensorShapeProto::new(shape.to_vec()));
        SavedSliceMeta { name: name.into(), shape, dtype: 1, slice: slices.to_vec() }
    }

    fn header(tensor: Vec<SavedSliceMeta>) -> (Vec<u8>, Vec<u8>) {
        let versions = Some(VersionDef { producer: 1, min_consumer: 0 });
        let meta = Some(SavedTensorSliceMeta { tensor, versions });
        (vec![], SavedTensorSlices { meta, data: None }.encode_to_vec())
    }

    fn values(name: &str, slice: &TensorSliceProto, values: &[f32]) -> (Vec<u8>, Vec<u8>) {
        let data = Some(TensorProto { float_val: values.to_vec(), ..Default::default() });
        let saved = SavedSlice { name: name.into(), slice: Some(slice.clone()), data };
        let message = SavedTensorSlices { meta: None, data: Some(saved) };
        (slice_key(name, slice), message.encode_to_vec())
    }

    fn read(test: &str, table: &[u8]) -> Result<Loaded> {
        let name = format!("ptb_word_lm-v1-{}-{test}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, table)?;
        let loaded = read_v1(std::slice::from_ref(&path));
        std::fs::remove_file(&path)?;
        loaded
    }

    #[test]
    fn wrong_entries_are_errors() {
        let (first, second) = (slice(&[(0, 2)]), slice(&[(2, 1)]));
        let whole = TensorSliceProto { extent: vec![Extent::default()] };
        let both = header(vec![meta("v", &[3], &[first.clone(), second.clone()])]);
        let (a, b) = (values("v", &first, &[1.0, 2.0]), values("v", &second, &[3.0]));
        let good = vec![both.clone(), a.clone(), b.clone()];
        let packed =
            write_snappy(&good, |block| snap::raw::Encoder::new().compress_vec(block).unwrap());
        for table in [write_table(&good), packed] {
            let loaded = read("good", &table).unwrap();
            assert!(loaded.variables["v"].equal(&Tensor::from_slice(&[1f32, 2.0, 3.0])));
        }

        let one = |shape: &[i64], slice: &TensorSliceProto| {
            header(vec![meta("v", shape, std::slice::from_ref(slice))])
        };
        let other_shape = header(vec![meta("v", &[3], &[]), meta("v", &[4], &[])]);
        let strange = header(vec![SavedSliceMeta { dtype: 99, ..meta("v", &[3], &[]) }]);
        let later = SavedTensorSliceMeta {
            versions: Some(VersionDef { producer: 2, min_consumer: 2 }),
            ..Default::default()
        };
        let later = SavedTensorSlices { meta: Some(later), data: None };
        for (table, expected) in [
            (vec![a.clone()], "no list of variables"),
            (vec![both.clone(), a.clone()], "\"v\": its slice [2:3] is missing"),
            (vec![one(&[3], &first), a.clone()], "\"v\": a part of it is missing"),
            (vec![one(&[3], &first), a.clone(), b.clone()], "\"v\": its slice [2:3] is not listed"),
            (vec![header(vec![meta("v", &[3], &[])])], "\"v\": a part of it is missing"),
            (vec![header(vec![]), a.clone()], "\"v\" is not listed"),
            (
                vec![header(vec![meta("v", &[3], &[first.clone(), slice(&[(1, 2)])])])],
                "\"v\": its slices [0:2] and [1:3] overlap",
            ),
            (
                vec![header(vec![meta("v", &[3], &[first.clone(), first.clone()])])],
                "\"v\": its slice [0:2] is listed twice",
            ),
            (vec![both.clone(), a.clone(), (b"\0w".to_vec(), a.1.clone())], "is there twice"),
            (
                vec![one(&[2], &whole), values("v", &whole, &[1.0])],
                "\"v\": slice [0:2]: expected the values of Float [2], found 1",
            ),
            (vec![one(&[1 << 40], &whole), values("v", &whole, &[1.0])], "found 1"),
            (vec![one(&[1 << 40], &whole)], "\"v\": its slice [0:1099511627776] is missing"),
            (vec![one(&[2], &slice(&[(1, 2)]))], "\"v\": slice [1:3] of 1 dimensions"),
            (vec![one(&[-2], &whole)], "\"v\": slice [0:-2]"),
            (vec![other_shape], "\"v\": its slices are of shapes [3] and [4]"),
            (vec![strange], "\"v\": expected a dtype of TensorFlow's, found number 99"),
            (vec![(vec![], later.encode_to_vec())], "for readers of version 2 on"),
            (vec![both.clone(), (b"\0v".to_vec(), vec![])], "no values"),
            (vec![both.clone(), (b"\0v".to_vec(), vec![0xff; 3])], "entry"),
        ] {
            let error = format!("{:#}", read("wrong", &write_table(&table)).unwrap_err());
            assert!(error.contains("ptb_word_lm-v1") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn wrong_blocks_never_panic() {
        let whole = TensorSliceProto { extent: vec![Extent::default()] };
        let entries = [
            header(vec![meta("v", &[1], std::slice::from_ref(&whole))]),
            values("v", &whole, &[1.0]),
        ];
        for_each_wrong_table(&write_table(&entries), |wrong| {
            let mut variables = Variables::new();
            if read_file(Cursor::new(wrong), &mut variables).is_ok() {
                variables.into_values().for_each(|v| drop(v.assemble(Kind::Float)));
            }
        });
    }
}
