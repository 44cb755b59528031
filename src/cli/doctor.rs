//! `doctor`: what was found, what is missing, and the command that fixes it.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Result, ensure};
use clap::Args;
use tch::{Device, Kind};

use super::data::{PREPARE, report_folder_of_that_name};
use super::report::{for_stdout, line, plural};
use crate::config::{Config, RnnMode};
use crate::device;
use crate::kernels::libtorch;
use crate::model::{PtbModel, PtbVariables};
use crate::reader::{Producer, RawData, SAMPLE};
use crate::rnn::CellType;

#[derive(Args)]
pub struct DoctorArgs {
    /// Folder of the texts to check [default: DATA in the environment, else data/ptb]
    #[arg(long, value_name = "DIR")]
    data_path: Option<String>,
}

/// Something that is missing, and what to do about it.
struct Missing {
    what: String,
    remedy: String,
    /// True if `doctor` fails without it.
    fatal: bool,
}

#[derive(Default)]
struct Findings {
    missing: Vec<Missing>,
    /// True if only the texts that were asked for cannot be used.
    without_data: bool,
}

impl Findings {
    /// Prints a finding; further lines of `text` are set below its first.
    fn found(&self, name: &str, text: &str) {
        for (k, text) in text.split('\n').enumerate() {
            let name = if k == 0 { name } else { "" };
            let indent = if name.is_empty() { 0 } else { 12 };
            line(&for_stdout(&format!("{name:<12}{text}"), indent));
        }
    }

    fn missing(&mut self, fatal: bool, what: impl Into<String>, remedy: impl Into<String>) {
        self.missing.push(Missing { what: what.into(), remedy: remedy.into(), fatal });
    }
}

impl DoctorArgs {
    pub fn run(self) -> Result<ExitCode> {
        let cuda = device::load_cuda(); // before any other libtorch call
        let mut findings = Findings::default();
        line(&format!(
            "{:<12}{}, tch {}",
            "ptb-word-lm",
            env!("CARGO_PKG_VERSION"),
            libtorch::TCH_VERSION
        ));
        look_at_libtorch(&mut findings);
        look_at_processor(&findings);
        look_at_memory(&mut findings);
        look_at_cuda(&mut findings, cuda);
        look_at_data(&mut findings, self.data_path);

        for Missing { what, remedy, .. } in &findings.missing {
            let what = for_stdout(&format!("Missing: {what}"), 0);
            line(&format!("\n{what}\n{}", for_stdout(&format!("  -> {remedy}"), 3)));
        }
        let fatal = findings.missing.iter().filter(|missing| missing.fatal).count();
        let works = fatal == 0;
        let verdict = match works {
            false if findings.without_data && fatal == 1 => {
                "\nTraining on the CPU works, but not with these texts: see above."
            }
            true => {
                "\nTraining on the CPU works. To try it on the corpus inside this program:\n  \
                     ptb-word-lm train --data-path sample --device cpu"
            }
            false => "\nTraining on the CPU does not work yet: see above.",
        };
        line(&for_stdout(verdict, 0));
        Ok(if works { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn look_at_libtorch(findings: &mut Findings) {
    let (version, built_against) = (libtorch::version(), libtorch::built_against());
    let folder =
        libtorch::folder().map_or("an unknown place".into(), |folder| folder.display().to_string());
    let made_for =
        libtorch::made_for_cuda().map_or("CPU-only".into(), |cuda| format!("made for CUDA {cuda}"));
    findings.found(
        "libtorch",
        &format!("{version}, {made_for}; this program was built against {built_against}\n{folder}"),
    );
    if version != built_against {
        findings.missing(
            true,
            format!(
                "the libtorch {built_against} that this program was built against; {folder} has \
                 {version}"
            ),
            "build again with this one: LIBTORCH=FOLDER make build; or fetch the right one: make \
             libtorch build",
        );
    }
    try_training_step(
        findings,
        Device::Cpu,
        "libtorch",
        "fetch libtorch again, and build: rm -r .libtorch && make build",
    );
}

/// Whether training works on a device; only on the CPU it must.
fn try_training_step(findings: &mut Findings, device: Device, what: &str, remedy: &str) {
    let place = if device == Device::Cpu { "the CPU".into() } else { device::name(device) };
    match training_step(device) {
        Ok(cost) => findings.found(
            "",
            &format!("a training step on {place} gives what it should (cost {cost:.2})"),
        ),
        Err(error) => findings.missing(
            device == Device::Cpu,
            format!("a {what} that computes: {error:#}"),
            remedy,
        ),
    }
}

/// Trains the test model for one step on the sample corpus, which shows that everything a run
/// needs is there. Returns the cost.
fn training_step(device: Device) -> Result<f64> {
    let data = RawData::read(SAMPLE)?;
    let config = Config { vocab_size: data.vocabulary.len() as i64, ..Config::TEST };
    let variables = PtbVariables::new(&config, CellType::BasicLstm, device, Kind::Float, 0)?;
    let model = PtbModel::new(&variables, true, RnnMode::Cudnn);
    let (x, y) = Producer::new(&data.valid, config.batch_size, config.num_steps, device)?.batch(0);
    let step =
        model.train_step(&x, &y, &model.zero_state(config.batch_size), config.learning_rate)?;
    let cost = step.cost.f_double_value(&[])?;
    // An untrained model finds all words about equally likely.
    let expected = config.num_steps as f64 * (config.vocab_size as f64).ln();
    ensure!(
        (cost / expected - 1.0).abs() < 0.1,
        "the cost of a first step is {cost}, not about {expected:.2}"
    );
    Ok(cost)
}

fn look_at_processor(findings: &Findings) {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |key: &str| {
        Some(info.lines().find(|l| l.starts_with(key))?.split_once(':')?.1.trim().to_owned())
    };
    let name = value("model name").unwrap_or_else(|| std::env::consts::ARCH.into());
    let flags = value("flags").unwrap_or_default();
    let sets = [
        ("avx2", "AVX2"),
        ("avx512f", "AVX-512"),
        ("avx512_bf16", "AVX-512 bf16"),
        ("amx_bf16", "AMX bf16"),
    ];
    let sets: Vec<&str> = sets
        .iter()
        .filter(|(flag, _)| flags.split(' ').any(|f| f == *flag))
        .map(|(_, name)| *name)
        .collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let limit = std::env::var("OMP_NUM_THREADS")
        .map_or(String::new(), |n| format!(" (OMP_NUM_THREADS={n})"));
    findings.found(
        "CPU",
        &format!(
            "{name}, {}; libtorch uses {}{limit}\n\
             instruction sets: {}; libtorch's kernels: {}\n\
             fast precisions: fp32{}",
            plural(cores as u64, "core"),
            plural(tch::get_num_threads(), "thread"),
            if sets.is_empty() { "no AVX2".into() } else { sets.join(", ") },
            libtorch::cpu_capability(),
            if device::has_fast_bfloat16() {
                ", bf16"
            } else {
                "; bf16 would be many times slower"
            }
        ),
    );
}

fn look_at_memory(findings: &mut Findings) {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let gigabytes = |key: &str| -> Option<f64> {
        let line = info.lines().find(|line| line.starts_with(key))?;
        Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1e6)
    };
    let (Some(total), Some(available)) = (gigabytes("MemTotal:"), gigabytes("MemAvailable:"))
    else {
        return findings.found("memory", "unknown: there is no /proc/meminfo");
    };
    // In a container there may be less.
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|text| text.trim().parse::<f64>().ok());
    let limit = limit.map(|bytes| bytes / 1e9).filter(|&limit| limit < total);
    let note =
        limit.map_or(String::new(), |limit| format!("; this container's limit is {limit:.1} GB"));
    findings.found("memory", &format!("{total:.1} GB, {available:.1} GB of it available{note}"));
    if limit.map_or(available, |limit| limit.min(available)) < 0.5 {
        findings.missing(
            false,
            "memory: `small` wants some 0.3 GB, `medium` 0.5, `large` 1.1",
            "close other programs, or train a smaller model: --hidden-size 100",
        );
    }
}

fn look_at_cuda(findings: &mut Findings, cuda: Result<(), String>) {
    let smi = Command::new("nvidia-smi")
        .args(["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"])
        .output();
    let listed = smi
        .ok()
        .filter(|smi| smi.status.success())
        .map(|smi| String::from_utf8_lossy(&smi.stdout).into_owned());
    let gpus: Vec<&str> = listed.iter().flat_map(|text| text.lines()).collect();
    let kernel = fs::read_to_string("/proc/driver/nvidia/version").ok();
    let driver = gpus
        .first()
        .and_then(|gpu| Some(gpu.rsplit_once(',')?.1.trim().to_owned()))
        .or_else(|| {
            kernel
                .as_ref()?
                .split_whitespace()
                .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
                .map(str::to_owned)
        });
    findings.found(
        "driver",
        &driver.as_ref().map_or("no NVIDIA driver".into(), |driver| format!("NVIDIA {driver}")),
    );

    if gpus.is_empty() {
        let found = if on_the_bus() {
            "an NVIDIA GPU, but no driver that shows it"
        } else {
            "no NVIDIA GPU on this machine's bus"
        };
        findings.found("GPU", found);
    } else {
        let lines: Vec<String> = gpus
            .iter()
            .enumerate()
            .map(|(k, gpu)| {
                format!("cuda:{k} {}", gpu.rsplit_once(',').map_or(*gpu, |(name, _)| name))
            })
            .collect();
        findings.found("GPU", &lines.join("\n"));
    }

    if cuda.is_err() && driver.is_none() && gpus.is_empty() && !on_the_bus() {
        findings.found("CUDA", "not needed: without a GPU, training runs on the CPU");
        return findings.found("cuDNN", "not needed");
    }
    if let Err(why) = cuda {
        findings.found("CUDA", "not loaded");
        findings.found("cuDNN", "not loaded");
        let remedy = match driver.is_some() || !gpus.is_empty() {
            true => "make train-cuda (it fetches NVIDIA's libraries into .libtorch)",
            false => {
                "install NVIDIA's driver (Debian: apt-get install nvidia-driver) and reboot; then \
                 make train-cuda"
            }
        };
        return findings.missing(false, format!("what training on a GPU needs: {why}"), remedy);
    }
    let count = if tch::Cuda::is_available() { tch::Cuda::device_count() } else { 0 };
    let version = libtorch::cuda_version(tch::utils::version_cudart());
    findings.found("CUDA", &format!("{version}, {}", plural(count, "usable GPU")));
    if count == 0 {
        findings.found("cuDNN", "not used");
        return findings.missing(
            false,
            "a GPU that CUDA can use: the driver is too old for this CUDA, or CUDA_VISIBLE_DEVICES \
             hides it",
            "nvidia-smi (it shows the driver's CUDA, which must not be older); unset \
             CUDA_VISIBLE_DEVICES",
        );
    }
    findings.found("cuDNN", &libtorch::cudnn_version(tch::utils::version_cudnn()));
    try_training_step(
        findings,
        Device::Cuda(0),
        "GPU",
        "nvidia-smi (is it busy, out of memory, or older than this libtorch supports?)",
    );
}

/// Whether the PCI bus has an NVIDIA display or compute device, driver or not.
fn on_the_bus() -> bool {
    let devices = fs::read_dir("/sys/bus/pci/devices").into_iter().flatten().flatten();
    let read = |path: &Path, file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
    devices.map(|device| device.path()).any(|path| {
        read(&path, "vendor").starts_with("0x10de") && read(&path, "class").starts_with("0x03")
    })
}

fn look_at_data(findings: &mut Findings, asked: Option<String>) {
    // A DATA in the environment may be meant for another program: training works without it.
    let fatal = asked.is_some();
    let named = asked.or_else(|| std::env::var("DATA").ok().filter(|path| !path.is_empty()));
    let path = named.clone().unwrap_or_else(|| "data/ptb".into());
    let describe = |data: &RawData| {
        let [train, valid, test] =
            [&data.train, &data.valid, &data.test].map(|split| split.tokens.len());
        format!(
            "{train}, {valid} and {test} words to train, validate and test; {} different ones",
            data.vocabulary.len()
        )
    };
    report_folder_of_that_name(&path);
    match RawData::read(&path) {
        Ok(data) => findings.found("data", &format!("{path}\n{}", describe(&data))),
        Err(error) if named.is_some() || Path::new(&path).exists() => {
            findings.found("data", &format!("{path}: cannot be used"));
            findings.without_data = fatal;
            let remedy = match Path::new(&path).is_file() {
                true => PREPARE,
                false => {
                    "put ptb.train.txt, ptb.valid.txt and ptb.test.txt there, or name their \
                     folder: `ptb-word-lm doctor --data-path DIR`"
                }
            };
            findings.missing(fatal, format!("texts in {path}: {error:#}"), remedy);
        }
        Err(_) => {
            findings.found("data", "no PTB in data/ptb");
            let remedy = "make data (it fetches PTB into data/ptb); if you have it: `ptb-word-lm \
                          doctor --data-path DIR`";
            findings.missing(
                false,
                "the Penn Treebank, which the published results are about",
                remedy,
            );
        }
    }
    match RawData::read(SAMPLE) {
        Ok(data) => findings
            .found("", &format!("sample, the corpus inside this program\n{}", describe(&data))),
        Err(error) => {
            findings.missing(true, format!("the sample corpus: {error:#}"), "cargo build --release")
        }
    }
}
