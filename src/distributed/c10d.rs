//! The safe side of c10d.cpp: the store where workers meet, the group in which they compute, and
//! the watch that tells which worker is lost.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::IntoRawFd;
use std::ptr::NonNull;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tch::{Device, Tensor};
use torch_sys::C_tensor;

use super::{Pending, Place, Team};

/// How often a worker shows that it is alive, and for how long it may be silent before it is held
/// for lost.
const HEARTBEAT: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_millis(3500);

unsafe extern "C" {
    fn ptb_c10d_error() -> *const c_char;
    fn ptb_c10d_store(
        host: *const c_char,
        port: u16,
        server: bool,
        listening: c_int,
        timeout: i64,
        prefix: *const c_char,
    ) -> *mut c_void;
    fn ptb_c10d_add(store: *mut c_void, key: *const c_char, n: i64, value: *mut i64) -> bool;
    fn ptb_c10d_set(store: *mut c_void, key: *const c_char, value: *const c_char) -> bool;
    fn ptb_c10d_get(store: *mut c_void, key: *const c_char, value: *mut u8, room: i64) -> i64;
    fn ptb_c10d_gloo(
        store: *mut c_void,
        rank: c_int,
        size: c_int,
        timeout: i64,
        host: *const c_char,
        interface: *const c_char,
    ) -> *mut c_void;
    fn ptb_c10d_all_reduce(
        group: *mut c_void,
        tensor: *const C_tensor,
        largest: bool,
    ) -> *mut c_void;
    fn ptb_c10d_broadcast(group: *mut c_void, tensor: *const C_tensor, root: i64) -> *mut c_void;
    fn ptb_c10d_all_gather(
        group: *mut c_void,
        all: *const C_tensor,
        own: *const C_tensor,
    ) -> *mut c_void;
    fn ptb_c10d_barrier(group: *mut c_void) -> *mut c_void;
    fn ptb_c10d_wait(work: *mut c_void) -> bool;
    fn ptb_c10d_free_store(store: *mut c_void);
    fn ptb_c10d_free_group(group: *mut c_void);
}

/// The text of this thread's last failure in c10d.cpp, without the C++ stack trace.
fn last_error() -> anyhow::Error {
    // SAFETY: the text lives until the thread's next failure, and is copied here.
    let text = unsafe { CStr::from_ptr(ptb_c10d_error()) }.to_string_lossy();
    let text = text.split("\nException raised from").next().unwrap_or_default().trim();
    // Gloo begins with a place in its source: [/pytorch/third_party/...:78]
    anyhow!(
        "{}",
        text.strip_prefix("[/")
            .and_then(|rest| rest.split_once("] "))
            .map_or(text, |(_, rest)| rest)
    )
}

fn made(handle: *mut c_void) -> Result<NonNull<c_void>> {
    NonNull::new(handle).ok_or_else(last_error)
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// c10d's `TCPStore`: keys and values that all workers see, where they find each other.
pub struct Store(NonNull<c_void>);

// SAFETY: TCPStore takes a lock around each of its operations.
unsafe impl Send for Store {}
unsafe impl Sync for Store {}

impl Store {
    /// Keeps a store on a socket that listens already, as long as this value lives.
    ///
    /// # Errors
    /// The system's.
    pub fn serve(listener: TcpListener) -> Result<Self> {
        let port = listener.local_addr()?.port();
        let host = CString::new(listener.local_addr()?.ip().to_string())?;
        // SAFETY: the strings outlive the call; the store takes the socket over.
        let store = unsafe {
            ptb_c10d_store(host.as_ptr(), port, true, listener.into_raw_fd(), 30_000, c"".as_ptr())
        };
        Ok(Store(made(store)?))
    }

    /// A connection to the store at a place, which worker 0 keeps unless the launcher does.
    fn connect(place: &Place, serve: bool, timeout: Duration) -> Result<Self> {
        let host = CString::new(place.host.as_str())?;
        // A launcher keeps its store when it starts the workers again: the new ones must not read
        // the old ones' keys.
        let prefix = CString::new(format!("ptb-word-lm/{}", place.restart))?;
        // SAFETY: the strings outlive the call.
        let store = unsafe {
            ptb_c10d_store(
                host.as_ptr(),
                place.port,
                serve,
                -1,
                milliseconds(timeout),
                prefix.as_ptr(),
            )
        };
        Ok(Store(made(store)?))
    }

    /// Adds to a counter, which begins at 0, and returns its new value.
    fn add(&self, key: &str, n: i64) -> Result<i64> {
        let key = CString::new(key)?;
        let mut value = 0;
        // SAFETY: the pointers are valid during the call.
        let done = unsafe { ptb_c10d_add(self.0.as_ptr(), key.as_ptr(), n, &mut value) };
        if done { Ok(value) } else { Err(last_error()) }
    }

    fn set(&self, key: &str, value: &str) -> Result<()> {
        let (key, value) = (CString::new(key)?, CString::new(value.replace('\0', " "))?);
        // SAFETY: the strings outlive the call.
        let done = unsafe { ptb_c10d_set(self.0.as_ptr(), key.as_ptr(), value.as_ptr()) };
        if done { Ok(()) } else { Err(last_error()) }
    }

    /// Waits for the key as long as the store's time-out.
    fn get(&self, key: &str) -> Result<String> {
        let key = CString::new(key)?;
        let mut value = vec![0; 1 << 16];
        loop {
            // SAFETY: `value` has the room that is told.
            let len = unsafe {
                ptb_c10d_get(self.0.as_ptr(), key.as_ptr(), value.as_mut_ptr(), value.len() as i64)
            };
            let len = usize::try_from(len).map_err(|_| last_error())?;
            let whole = len <= value.len();
            value.resize(len, 0);
            if whole {
                return Ok(String::from_utf8_lossy(&value).into_owned());
            }
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: ours, and not used again.
        unsafe { ptb_c10d_free_store(self.0.as_ptr()) }
    }
}

/// What is known of the other workers, from a thread that looks every second.
struct Watch {
    rank: i64,
    size: i64,
    place: Place,
    known: Mutex<Known>,
}

struct Known {
    /// Every worker's counter, and when it was last seen to move.
    alive: Vec<(i64, Instant)>,
    /// What workers said of their own failures.
    failures: Vec<(i64, String)>,
    /// When the store last answered, and what it says if it does not.
    answered: Instant,
    store_error: Option<String>,
}

impl Watch {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// One look: shows that this worker is alive, and sees who else is.
    fn look(&self, store: &Store) -> Result<()> {
        store.add(&format!("alive/{}", self.rank), 1)?;
        let told = self.known().failures.len() as i64;
        let mut failures = Vec::new();
        for k in told + 1..=store.add("failures", 0)? {
            let text = store.get(&format!("failure/{k}"))?;
            let (rank, text) = text.split_once(' ').context("a failure names its rank")?;
            failures.push((rank.parse()?, text.to_owned()));
        }
        let mut counts = Vec::new();
        for rank in 0..self.size {
            counts.push(store.add(&format!("alive/{rank}"), 0)?);
        }
        let mut known = self.known();
        let now = Instant::now();
        known.answered = now;
        known.failures.extend(failures);
        for (alive, count) in known.alive.iter_mut().zip(counts) {
            if alive.0 != count {
                *alive = (count, now);
            }
        }
        Ok(())
    }

    /// Which worker is at fault, if it can be known by now.
    fn culprit(&self) -> Option<String> {
        let known = self.known();
        let others = || known.failures.iter().filter(|(rank, _)| *rank != self.rank);
        if let Some((rank, text)) = others().next() {
            return Some(format!("rank {rank} failed: {text}"));
        }
        let keeper = if self.place.agent_store { "the launcher" } else { "rank 0" };
        let at = format!("{}:{}", self.place.host, self.place.port);
        if let Some(error) = &known.store_error {
            return Some(format!("{keeper}, which keeps the store at {at}, is lost: {error}"));
        }
        if known.answered.elapsed() > SILENCE + HEARTBEAT {
            return Some(format!(
                "{keeper}, which keeps the store at {at}, has not answered for {:.0} s: it was \
                 stopped, or cannot be reached",
                known.answered.elapsed().as_secs_f64()
            ));
        }
        let silent: Vec<String> = (0..self.size)
            .zip(&known.alive)
            .filter(|(rank, (_, moved))| *rank != self.rank && moved.elapsed() > SILENCE)
            .map(|(rank, _)| format!("rank {rank}"))
            .collect();
        (!silent.is_empty()).then(|| {
            format!(
                "{} {} lost: killed, stopped or out of reach",
                silent.join(", "),
                if silent.len() == 1 { "is" } else { "are" }
            )
        })
    }

    /// Says why an operation failed. The silence of a worker that has just died shows after some
    /// seconds only.
    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let end = Instant::now() + SILENCE + 3 * HEARTBEAT;
        loop {
            let unknown = || {
                format!("a worker does not take part any more, though all {} are alive", self.size)
            };
            if let Some(culprit) = self.culprit().or_else(|| (Instant::now() > end).then(unknown)) {
                return WorkerLost(format!(
                    "{culprit}. The run ends here; its checkpoints are whole, and the same command \
                     resumes from the newest [{error:#}]"
                ))
                .into();
            }
            thread::sleep(HEARTBEAT / 10);
        }
    }
}

/// The run cannot go on for another worker's sake.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WorkerLost(String);

/// c10d's process group, one per worker: Gloo for what lies on the CPU, and where the model is on a
/// GPU NCCL for what lies there.
pub struct ProcessGroup {
    rank: i64,
    size: i64,
    gloo: NonNull<c_void>,
    nccl: Option<NonNull<c_void>>,
    store: Store,
    watch: Arc<Watch>,
    /// The watch's thread, and what ends it.
    thread: Option<(Sender<()>, JoinHandle<()>)>,
    failed: bool,
}

impl ProcessGroup {
    /// Joins the other workers; returns when all have come.
    ///
    /// # Errors
    /// A worker that has not come within `timeout`, by its rank; a store that cannot be reached; a
    /// GPU and no NCCL.
    pub fn join(place: &Place, device: Device, timeout: Duration) -> Result<Self> {
        let (rank, size) = (place.rank, place.size);
        let at = format!("{}:{}", place.host, place.port);
        let serves = rank == 0 && !place.agent_store;
        let who = if place.agent_store { "the launcher" } else { "rank 0" };
        let store = Store::connect(place, serves, timeout).with_context(|| match serves {
            true => format!(
                "the workers' meeting place at {at} (MASTER_ADDR:MASTER_PORT) cannot \
                             be opened"
            ),
            false => format!(
                "the workers' meeting place at {at} (MASTER_ADDR:MASTER_PORT), \
                              which {who} keeps, cannot be reached"
            ),
        })?;
        ensure!(
            store.add(&format!("here/{rank}"), 1)? == 1,
            "there are two workers of rank {rank} at {at}"
        );
        let now = Instant::now();
        let watch = Arc::new(Watch {
            rank,
            size,
            place: place.clone(),
            known: Mutex::new(Known {
                alive: vec![(0, now); size as usize],
                failures: Vec::new(),
                answered: now,
                store_error: None,
            }),
        });
        let thread = Some(watch_thread(watch.clone(), Store::connect(place, false, timeout)?)?);
        let (gloo, failed) = (NonNull::dangling(), true);
        // Made before the workers join, so that the others hear of any failure after this line;
        // `failed` keeps `gloo` from being freed.
        let mut group = ProcessGroup { rank, size, gloo, nccl: None, store, watch, thread, failed };
        let joined =
            group.wait_for_all(timeout).and_then(|()| group.make_groups(place, device, timeout));
        if let Err(error) = joined {
            group.tell_failure(&error);
            return Err(error);
        }
        group.failed = false;
        Ok(group)
    }

    fn wait_for_all(&self, timeout: Duration) -> Result<()> {
        let start = Instant::now();
        let mut missing: Vec<i64> = (0..self.size).collect();
        loop {
            let mut still = Vec::new();
            for &rank in &missing {
                if self
                    .store
                    .add(&format!("here/{rank}"), 0)
                    .map_err(|error| self.watch.explain(error))?
                    == 0
                {
                    still.push(rank);
                }
            }
            if still.is_empty() {
                return Ok(());
            }
            if let Some((rank, text)) = self.watch.known().failures.first() {
                bail!(WorkerLost(format!("rank {rank} failed: {text}")));
            }
            if start.elapsed() > timeout {
                let ranks: Vec<String> = still.iter().map(i64::to_string).collect();
                bail!(WorkerLost(format!(
                    "rank {} of {} did not come to {}:{} within {:.0} s",
                    ranks.join(", "),
                    self.size,
                    self.watch.place.host,
                    self.watch.place.port,
                    timeout.as_secs_f64()
                )));
            }
            missing = still;
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn make_groups(&mut self, place: &Place, device: Device, timeout: Duration) -> Result<()> {
        let interface = CString::new(std::env::var("GLOO_SOCKET_IFNAME").unwrap_or_default())?;
        let host = CString::new(own_address(place).unwrap_or_default())?;
        let (rank, size) = (self.rank as c_int, self.size as c_int);
        // SAFETY: the store and the strings outlive the call.
        let gloo = unsafe {
            let store = self.store.0.as_ptr();
            ptb_c10d_gloo(
                store,
                rank,
                size,
                milliseconds(timeout),
                host.as_ptr(),
                interface.as_ptr(),
            )
        };
        self.gloo = made(gloo).map_err(|error| {
            self.watch.explain(error.context("the workers cannot connect to each other"))
        })?;
        if let Device::Cuda(_) = device {
            self.nccl = Some(nccl::group(self.store.0, rank, size, milliseconds(timeout))?);
        }
        Ok(())
    }

    /// The group for what lies on a device.
    fn of(&self, tensor: &Tensor) -> Result<*mut c_void> {
        match tensor.device() {
            Device::Cpu => Ok(self.gloo.as_ptr()),
            device => Ok(self
                .nccl
                .with_context(|| format!("the workers' group is not made for {device:?}"))?
                .as_ptr()),
        }
    }

    fn pending(&self, work: *mut c_void) -> Result<Pending> {
        let work = made(work).map_err(|error| self.watch.explain(error))?;
        let watch = self.watch.clone();
        Ok(Pending::new(move || {
            // SAFETY: waited for once, which frees it.
            if unsafe { ptb_c10d_wait(work.as_ptr()) } {
                Ok(())
            } else {
                Err(watch.explain(last_error()))
            }
        }))
    }

    fn reduce(&self, tensor: &Tensor, largest: bool) -> Result<Pending> {
        ensure!(tensor.is_contiguous(), "a tensor to be reduced must be contiguous");
        // SAFETY: c10d's work holds the tensor until it is done.
        self.pending(unsafe { ptb_c10d_all_reduce(self.of(tensor)?, tensor.as_ptr(), largest) })
    }

    /// Waits until all workers have come here.
    ///
    /// # Errors
    /// A worker is lost.
    pub fn barrier(&self) -> Result<()> {
        // SAFETY: the group is alive.
        self.pending(unsafe { ptb_c10d_barrier(self.gloo.as_ptr()) })?.wait()
    }

    /// Tells the others why this worker ends, unless it ends for another's sake; and lets
    /// everything lie as it is, since work that will never be done cannot be cleared away.
    pub fn tell_failure(&mut self, error: &anyhow::Error) {
        self.failed = true;
        if error.is::<WorkerLost>() {
            return;
        }
        let tell = || -> Result<()> {
            let text = format!("{} {error:#}", self.rank);
            let k = self.store.add("failures-made", 1)?;
            self.store.set(&format!("failure/{k}"), &text)?;
            // Counted only now, so that who sees the count finds the text.
            self.store.add("failures", 1).map(drop)
        };
        // Who keeps the store stays until the others have had the time to look.
        if tell().is_ok() && self.rank == 0 && !self.watch.place.agent_store {
            thread::sleep(2 * HEARTBEAT);
        }
    }
}

impl Team for ProcessGroup {
    fn rank(&self) -> i64 {
        self.rank
    }

    fn size(&self) -> i64 {
        self.size
    }

    fn all_reduce(&self, tensor: &Tensor) -> Result<Pending> {
        self.reduce(tensor, false)
    }

    fn all_reduce_max(&self, tensor: &Tensor) -> Result<Pending> {
        self.reduce(tensor, true)
    }

    fn all_gather(&self, own: &Tensor) -> Result<(Tensor, Pending)> {
        let own = own.contiguous();
        let mut size = own.size();
        size[0] *= self.size;
        let all = own.f_empty_like()?.f_new_empty(&size, (own.kind(), own.device()))?;
        // SAFETY: c10d's work holds the tensors until it is done.
        let work = unsafe { ptb_c10d_all_gather(self.of(&own)?, all.as_ptr(), own.as_ptr()) };
        Ok((all, self.pending(work)?))
    }

    fn broadcast(&self, tensor: &Tensor) -> Result<()> {
        ensure!(tensor.is_contiguous(), "a tensor to be broadcast must be contiguous");
        // SAFETY: c10d's work holds the tensor until it is done.
        self.pending(unsafe { ptb_c10d_broadcast(self.of(tensor)?, tensor.as_ptr(), 0) })?.wait()
    }

    fn broadcast_text(&self, key: &str, text: &str) -> Result<String> {
        let key = format!("text/{key}");
        let done = match self.rank {
            0 => self.store.set(&key, text).map(|()| text.to_owned()),
            _ => self.store.get(&key),
        };
        done.map_err(|error| self.watch.explain(error))
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.thread.take() {
            drop(end);
            // A thread that waits for a store that does not answer is left behind.
            if !self.failed {
                let _ = thread.join();
            }
        }
        if !self.failed {
            // SAFETY: ours, and not used again.
            unsafe {
                if let Some(group) = self.nccl {
                    ptb_c10d_free_group(group.as_ptr());
                }
                ptb_c10d_free_group(self.gloo.as_ptr());
            }
        }
    }
}

fn watch_thread(watch: Arc<Watch>, store: Store) -> Result<(Sender<()>, JoinHandle<()>)> {
    let (end, ended) = channel::<()>();
    let thread = thread::Builder::new().name("watch".into()).spawn(move || {
        loop {
            if let Err(error) = watch.look(&store) {
                watch.known().store_error = Some(format!("{error:#}"));
                return;
            }
            if ended.recv_timeout(HEARTBEAT) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    })?;
    Ok((end, thread))
}

/// The address of this machine by which it reaches the meeting place: there the others reach it.
/// (Its own name often leads to 127.0.1.1.)
fn own_address(place: &Place) -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: the system only looks up the way.
    socket
        .connect((place.host.as_str(), place.port))
        .or_else(|_| {
            UdpSocket::bind("[::]:0").and_then(|v6| v6.connect((place.host.as_str(), place.port)))
        })
        .ok()?;
    Some(socket.local_addr().ok()?.ip().to_string())
}

/// NCCL's group, in a shared object of its own (nccl.cpp says why), which travels inside the
/// program.
mod nccl {
    use super::*;

    #[cfg(ptb_nccl)]
    pub fn group(
        store: NonNull<c_void>,
        rank: c_int,
        size: c_int,
        timeout: i64,
    ) -> Result<NonNull<c_void>> {
        use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
        use std::io::Write;
        use std::os::fd::FromRawFd;

        static DOOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libptb_nccl.so"));
        type Make =
            unsafe extern "C" fn(*mut c_void, c_int, c_int, i64, *mut c_char, usize) -> *mut c_void;
        // SAFETY: a new file in memory, which is this function's own.
        let mut file = unsafe {
            let fd = libc::memfd_create(c"ptb_nccl".as_ptr(), libc::MFD_CLOEXEC);
            ensure!(fd >= 0, "no file in memory: {}", std::io::Error::last_os_error());
            (std::fs::File::from_raw_fd(fd), fd)
        };
        file.0.write_all(DOOR)?;
        // SAFETY: it is what build.rs compiled from nccl.cpp, and stays loaded until the process
        // ends.
        let make: Make = unsafe {
            let door =
                Library::open(Some(format!("/proc/self/fd/{}", file.1)), RTLD_NOW | RTLD_LOCAL)
                    .context("NCCL's part of c10d cannot be loaded")?;
            let make = *door.get(b"ptb_c10d_nccl\0")?;
            std::mem::forget(door);
            make
        };
        let mut text = [0u8; 4096];
        // SAFETY: the store is alive, and `text` has the room that is told.
        let group = unsafe {
            make(store.as_ptr(), rank, size, timeout, text.as_mut_ptr().cast(), text.len())
        };
        NonNull::new(group).with_context(|| {
            let text = CStr::from_bytes_until_nul(&text)
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            format!("NCCL: {}", text.split("\nException raised from").next().unwrap_or_default())
        })
    }

    #[cfg(not(ptb_nccl))]
    pub fn group(_: NonNull<c_void>, _: c_int, _: c_int, _: i64) -> Result<NonNull<c_void>> {
        bail!(
            "this program was built without NCCL, whose headers were not found then: on the \
             machine \
             with the GPUs, `make train-cuda`, then `make distributed` (docs/distributed.md); or \
             train \
             on the CPU"
        )
    }
}
