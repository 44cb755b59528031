//! Reading and writing TensorFlow's files.
//!
//! Two containers hold a model's variables under TensorFlow's names: [`npz`], what numpy's `savez` writes, and
//! [`bundle`], the checkpoint V2 that `tf.train.Saver` writes.

pub mod bundle;
pub mod npz;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use tch::{Kind, Tensor};

pub use bundle::{latest_checkpoint, read_checkpoint, write_checkpoint};
pub use npz::{read_npz, write_npz};

/// Variables by their TensorFlow names, on the CPU. A file's own names are kept as they are: slashes, a trailing `:0`.
pub type Variables = BTreeMap<String, Tensor>;

/// What a file held.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The variables that could be read.
    pub variables: Variables,
    /// The others' names and, in words, why each was skipped.
    pub skipped: BTreeMap<String, String>,
}

/// The number of elements of `shape`, or `None` where a size is negative or the product does not fit.
fn num_elements(shape: &[i64]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?))
}

/// A CPU tensor of `kind` and `shape` from its little-endian bytes in C order, whose number must fit exactly.
fn tensor_from_bytes(bytes: &[u8], shape: &[i64], kind: Kind) -> Result<Tensor> {
    let expected = num_elements(shape).and_then(|n| n.checked_mul(kind.elt_size_in_bytes()));
    if expected != Some(bytes.len()) {
        let expected = expected.map_or("more bytes than fit in memory".into(), |n| format!("{n} bytes"));
        bail!("expected {expected} for {kind:?} {shape:?}, found {}", bytes.len());
    }
    // libtorch reads the native order; every machine that it runs on here is little-endian.
    Ok(Tensor::f_from_data_size(bytes, shape, kind)?)
}

/// The bytes of `tensor` in C order, little-endian.
fn tensor_to_bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let tensor = tensor.f_detach()?.f_to_device(tch::Device::Cpu)?.f_contiguous()?;
    let numel = tensor.numel();
    let mut bytes = vec![0; numel * tensor.f_kind()?.elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut bytes, numel)?;
    Ok(bytes)
}

/// Writes `path` so that a crash leaves either the old file or the whole new one: a temporary file beside it,
/// flushed to the disk, then renamed.
fn write_atomically(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let name = path.file_name().ok_or_else(|| anyhow!("{}: not a file name", path.display()))?;
    let mut temporary = name.to_owned();
    temporary.push(format!(".tmp{}", std::process::id()));
    let temporary = path.with_file_name(temporary);
    let result = (|| -> Result<()> {
        let mut writer = BufWriter::new(File::create(&temporary)?);
        write(&mut writer)?;
        writer.flush()?;
        writer.get_ref().sync_all()?;
        fs::rename(&temporary, path)?;
        // The rename itself is on the disk once its folder is.
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if let Ok(folder) = File::open(folder) {
            folder.sync_all().ok();
        }
        Ok(())
    })();
    if result.is_err() {
        fs::remove_file(&temporary).ok();
    }
    result.with_context(|| format!("cannot write {}", path.display()))
}
