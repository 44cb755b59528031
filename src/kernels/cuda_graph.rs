//! CUDA graphs, the stream to record them on, and TF32 (cuda_graph.cpp).

use std::ffi::{CStr, c_char, c_int, c_void};

use anyhow::{Context, Result, bail};

/// A recording that has begun: the current stream's work goes into it instead of to the GPU.
pub(crate) struct Begun(*mut c_void);

/// A finished recording.
pub(crate) struct CudaGraph(*mut c_void);

impl CudaGraph {
    /// Begins to record what the current stream is given.
    pub(crate) fn begin() -> Result<Begun> {
        let mut graph = std::ptr::null_mut();
        // SAFETY: `error` and its size describe a buffer that outlives the call, as `check` makes
        // it.
        check(|error, size| unsafe {
            graph = ptb_graph_begin(error, size);
            !graph.is_null()
        })
        .context("recording does not begin")?;
        Ok(Begun(graph))
    }

    /// Runs everything that was recorded, in one launch.
    pub(crate) fn replay(&self) -> Result<()> {
        // SAFETY: the pointer is a finished graph's, which lives as long as `self`.
        check(|error, size| unsafe { ptb_graph_replay(self.0, error, size) })
            .context("replaying a CUDA graph")
    }
}

impl Begun {
    /// Ends the recording. One that failed is leaked: libtorch's allocator may still ask it whether
    /// it is under way.
    pub(crate) fn end(self) -> Result<CudaGraph> {
        // SAFETY: the pointer is that of a graph that was begun and not ended.
        check(|error, size| unsafe { ptb_graph_end(self.0, error, size) })
            .context("the recording does not end")?;
        Ok(CudaGraph(self.0))
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        // SAFETY: a finished graph, deleted once.
        unsafe { ptb_graph_delete(self.0) }
    }
}

/// Gives the calling thread a stream of its own on this GPU: nothing can be recorded on the default
/// one.
pub(crate) fn use_own_stream(index: usize) -> Result<()> {
    // SAFETY: as above.
    check(|error, size| unsafe { ptb_cuda_own_stream(index as c_int, error, size) })
        .with_context(|| format!("a stream on cuda:{index}"))
}

/// While `forbidden`, whatever makes the host wait for the GPU is an error:
/// `torch.cuda.set_sync_debug_mode("error")`.
///
/// # Errors
/// libtorch's CUDA part is not loaded.
#[cfg(test)]
pub(crate) fn forbid_synchronization(forbidden: bool) -> Result<()> {
    // SAFETY: as above.
    check(|error, size| unsafe { ptb_cuda_forbid_sync(forbidden, error, size) })
}

/// Operators of libtorch that were called.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Operators {
    /// All that do something: views, which only look at a tensor otherwise, do not count.
    pub all: i64,
    /// Those that read a number from a tensor into the program, for which a GPU makes the host
    /// wait.
    pub reads: i64,
}

/// Counts the operators within `work`, in this thread.
#[cfg(test)]
pub(crate) fn count_operators(work: impl FnOnce()) -> Operators {
    // SAFETY: no arguments that could be wrong; the counting ends as it began, in this thread.
    unsafe { ptb_count_begin() };
    work();
    let mut reads = 0;
    // SAFETY: as above, and `reads` outlives the call.
    let all = unsafe { ptb_count_end(&mut reads) };
    Operators { all, reads }
}

/// Products of float32 numbers in TF32, by cuBLAS and by cuDNN, or in full.
pub(crate) fn allow_tf32(cublas: bool, cudnn: bool) {
    // SAFETY: it sets two flags of libtorch's; no thread is computing yet.
    unsafe { ptb_allow_tf32(cublas, cudnn) }
}

/// Whether cuBLAS and cuDNN's LSTM may use TF32.
#[cfg(test)]
pub(crate) fn allows_tf32() -> [bool; 2] {
    // SAFETY: it reads two flags of libtorch's.
    [0, 1].map(|cudnn| unsafe { ptb_allows_tf32(cudnn == 1) })
}

/// Calls a function of cuda_graph.cpp, which writes why it failed into the buffer that it is given.
fn check(call: impl FnOnce(*mut c_char, usize) -> bool) -> Result<()> {
    let mut error: [c_char; 1024] = [0; 1024];
    if call(error.as_mut_ptr(), error.len()) {
        return Ok(());
    }
    // SAFETY: the buffer began as zeros, and snprintf ends what it writes with one.
    let text = unsafe { CStr::from_ptr(error.as_ptr()) }.to_string_lossy();
    bail!("{}", text.lines().next().unwrap_or_default());
}

unsafe extern "C" {
    fn ptb_cuda_own_stream(device: c_int, error: *mut c_char, size: usize) -> bool;
    fn ptb_graph_begin(error: *mut c_char, size: usize) -> *mut c_void;
    fn ptb_graph_end(graph: *mut c_void, error: *mut c_char, size: usize) -> bool;
    fn ptb_graph_replay(graph: *mut c_void, error: *mut c_char, size: usize) -> bool;
    fn ptb_graph_delete(graph: *mut c_void);
    fn ptb_allow_tf32(cublas: bool, cudnn: bool);
    #[cfg(test)]
    fn ptb_allows_tf32(cudnn: bool) -> bool;
    #[cfg(test)]
    fn ptb_count_begin();
    #[cfg(test)]
    fn ptb_count_end(reads: *mut i64) -> i64;
    #[cfg(test)]
    fn ptb_cuda_forbid_sync(forbid: bool, error: *mut c_char, size: usize) -> bool;
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use crate::kernels::libtorch::folder;

    /// A file of the libtorch in use, which `make libtorch` fetches. A libtorch of one's own may be
    /// without CUDA's files; then there is nothing to compare with.
    fn fetched(file: &str) -> Option<PathBuf> {
        let path = folder().unwrap().join(file);
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join(".libtorch");
        let must = path.starts_with(ours.canonicalize().unwrap_or(ours));
        assert!(path.exists() || !must, "{} is missing", path.display());
        path.exists().then_some(path)
    }

    /// The names that cuda_graph.cpp looks up are in the libtorch that the program is made for.
    #[test]
    fn what_is_looked_up_is_there() {
        let Some(library) = fetched("libtorch_cuda.so") else { return };
        let nm = Command::new("nm").args(["-D", "--defined-only"]).arg(library).output().unwrap();
        assert!(nm.status.success());
        let text = String::from_utf8_lossy(&nm.stdout);
        let there: HashSet<&str> =
            text.lines().filter_map(|line| line.split_whitespace().last()).collect();
        let source = include_str!("cuda_graph.cpp");
        let names: HashSet<&str> = source.split('"').filter(|s| s.starts_with("_Z")).collect();
        assert_eq!(names.len(), 6);
        for name in names {
            assert!(there.contains(name), "{name}");
        }
    }

    /// They have the types and sizes that cuda_graph.cpp takes for granted.
    #[test]
    fn what_is_looked_up_is_what_it_is_taken_for() {
        let Some(cuda) = fetched("../../nvidia/cu13/include") else { return };
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda_headers");
        let compiled = Command::new(std::env::var("CXX").unwrap_or("c++".into()))
            .args(["-std=c++17", "-fsyntax-only", "-w"])
            .arg("-I")
            .arg(&tests)
            .arg("-I")
            .arg(cuda)
            .arg("-I")
            .arg(folder().unwrap().join("../include"))
            .arg(tests.join("layout.cpp"))
            .output()
            .unwrap();
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    }
}
