//! `glmae doctor`: what this machine and this binary can do.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::Result;
use glmae::device::Device;
#[cfg(feature = "cuda")]
use glmae::device::KernelSet;
use glmae::device::fatbin::{self, Code};
use glmae::device::launch::{FATBINS, KERNELS, is_for_hopper};
use glmae::error::exit;
use glmae::limits::{self, Bound};

use super::term::{self, Table};

/// For `--version`: the version and what is compiled in.
pub const LONG_VERSION: &str = if cfg!(feature = "cuda") {
    concat!(env!("CARGO_PKG_VERSION"), " (features: cuda)")
} else {
    concat!(env!("CARGO_PKG_VERSION"), " (features: none; built without cuda)")
};

#[derive(clap::Args)]
#[command(after_help = "Starts nothing and changes nothing. Put its output into bug reports.")]
pub struct Args {}

/// One finding: what, how it is, and what to do when that is not good enough.
struct Finding {
    what: &'static str,
    state: String,
    advice: Option<String>,
}

impl Finding {
    fn new(what: &'static str, state: impl Into<String>) -> Self {
        Self { what, state: state.into(), advice: None }
    }

    fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

pub fn run(_: &Args) -> Result<u8> {
    let groups: [(&str, Vec<Finding>); 5] = [
        ("binary", binary()),
        ("machine", machine()),
        ("memory that a run may use", memory()),
        ("devices", devices()),
        ("toolchain (only to build glmae)", toolchain()),
    ];
    let mut text = String::new();
    for (title, findings) in groups {
        let mut table = Table::new(&["<", "<"]);
        for f in findings {
            table.row([f.what.to_owned(), f.state]);
            if let Some(advice) = f.advice {
                table.row([String::new(), format!("-> {advice}")]);
            }
        }
        text += &format!("{title}\n{}\n", table.render("  "));
    }
    term::print(text.trim_end_matches('\n'))?;
    term::print("\n")?;
    Ok(exit::OK)
}

fn binary() -> Vec<Finding> {
    let mut build = Finding::new("build", "release");
    if cfg!(debug_assertions) {
        build = Finding::new("build", "with debug assertions (fresh memory is filled with NaN)")
            .advise("`cargo build --release` for real runs");
    }
    let cuda = if cfg!(feature = "cuda") { "cuda" } else { "none" };
    let own = KERNELS.iter().filter(|k| !matches!(k.file, "faults" | "primitives"));
    let files: BTreeSet<&str> = own.clone().map(|k| k.file).collect();
    let kernels = format!("{} in {} files; on the host as well", own.count(), files.len());
    vec![
        Finding::new("version", env!("CARGO_PKG_VERSION")),
        Finding::new("features", cuda),
        build,
        Finding::new("target", format!("{} {}", std::env::consts::ARCH, std::env::consts::OS)),
        Finding::new("kernels", kernels),
        machine_code(),
    ]
}

/// What the fatbins hold. Files with less than others are named: their kernels would fail alone.
fn machine_code() -> Finding {
    let what = "GPU code";
    let mut by_codes: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    // Those for Hopper hold its code alone.
    for (file, fatbin) in FATBINS.iter().filter(|(file, _)| !is_for_hopper(file)) {
        let names: Vec<String> = fatbin::codes(fatbin).iter().map(Code::to_string).collect();
        by_codes.entry(names.join(" ")).or_default().push(file);
    }
    let bytes = FATBINS.iter().map(|f| f.1.len() as u64).sum();
    match by_codes.len() {
        0 => Finding::new(what, "none: built without the feature `cuda`"),
        1 => {
            let names = by_codes.into_keys().next().unwrap_or_default();
            Finding::new(what, format!("{names} (compute_: PTX), {}", term::bytes(bytes)))
        }
        _ => {
            let kinds =
                by_codes.iter().map(|(codes, files)| format!("{codes}: {}", files.join(" ")));
            Finding::new(what, kinds.collect::<Vec<_>>().join("; "))
                .advise("not every file holds the same: build again from a clean target folder")
        }
    }
}

fn machine() -> Vec<Finding> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut threads = Finding::new("threads", format!("{cores} usable"));
    if let Ok(n) = std::env::var("RAYON_NUM_THREADS") {
        threads.state += &format!(", RAYON_NUM_THREADS={n}");
    }
    vec![threads, Finding::new("vector units", vector_units())]
}

/// Every limit on the memory of a run, the one that binds first.
fn memory() -> Vec<Finding> {
    let bounds = limits::bounds();
    let Some(binding) = limits::tightest(&bounds) else {
        return vec![Finding::new(
            "unknown",
            "no /proc/meminfo: a run that needs too much is not refused",
        )];
    };
    let finding = |(i, bound): (usize, &Bound)| {
        let [free, total] = [bound.free, bound.total].map(term::bytes);
        let name = if i == 0 { "binds" } else { "beside it" };
        let name = if bounds.len() == 1 { "limit" } else { name };
        let found =
            Finding::new(name, format!("{}: {free} left of {total}", term::clean(&bound.name)));
        match i == 0 && binding.free < 2 << 30 {
            true => found.advise("lower data.cache_mib (default 4096) and train.batch"),
            false => found,
        }
    };
    bounds.iter().enumerate().map(finding).collect()
}

#[cfg(target_arch = "x86_64")]
fn vector_units() -> String {
    let found = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
    ];
    let names: Vec<&str> = found.iter().filter(|(_, yes)| *yes).map(|(name, _)| *name).collect();
    if names.is_empty() { "sse2 only: steps will be slow".into() } else { names.join(" ") }
}

#[cfg(not(target_arch = "x86_64"))]
fn vector_units() -> String {
    "the target's baseline".into()
}

fn devices() -> Vec<Finding> {
    let state = |name: &str| match Device::parse(name) {
        Ok(device) if device.name() == name => "ready".to_owned(),
        Ok(device) => device.name(),
        Err(e) => e.to_string(),
    };
    let gpu = std::fs::read_to_string("/proc/driver/nvidia/version").ok();
    let gpu = gpu.as_deref().and_then(|t| t.lines().next()).map(|line| term::clean(line.trim()));
    let mut cuda = Finding::new("cuda:0", state("cuda:0"));
    if cuda.state != "ready" {
        cuda = cuda.advise(match (cfg!(feature = "cuda"), &gpu) {
            (false, Some(_)) => {
                "this machine has a GPU: build with `cargo build --release --features cuda`"
            }
            (false, None) => "no NVIDIA driver either: --device cpu is the one to use here",
            (true, None) => "no NVIDIA driver is loaded (/proc/driver/nvidia/version is not there)",
            (true, Some(_)) => {
                "the driver is there; run `nvidia-smi` to see what keeps it from working"
            }
        });
    }
    let mut found = vec![
        Finding::new("auto", state("auto")),
        Finding::new("cpu", state("cpu")),
        Finding::new("emulated", state("emulated")),
        #[cfg(feature = "cuda")]
        Finding::new("ptx:80", state("ptx:80")),
        #[cfg(feature = "cuda")]
        Finding::new("ptx:90a", state("ptx:90a")),
        cuda,
        Finding::new("NVIDIA driver", gpu.unwrap_or_else(|| "none".into())),
    ];
    #[cfg(feature = "cuda")]
    found.extend(library());
    found.extend(gpus());
    found
}

/// The library that is loaded as the driver: a stub in LD_LIBRARY_PATH comes before the real one.
#[cfg(feature = "cuda")]
fn library() -> Option<Finding> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let mut paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    let is_driver = |path: &&str| {
        let name = path.rsplit('/').next().unwrap_or_default();
        name.starts_with("libcuda") && !name.starts_with("libcudart")
    };
    paths.find(is_driver).map(|path| Finding::new("driver library", term::clean(path)))
}

/// Every GPU that the driver lists, and which of the binary's code it would run.
#[cfg(feature = "cuda")]
fn gpus() -> Vec<Finding> {
    let gpus = match glmae::device::cuda::list() {
        Ok(gpus) => gpus,
        Err(e) => return vec![Finding::new("GPUs", e.to_string())],
    };
    let codes = FATBINS.first().map(|f| fatbin::codes(f.1)).unwrap_or_default();
    let describe = |(i, gpu): (usize, &glmae::device::cuda::Gpu)| {
        let [major, minor] = gpu.capability;
        let memory = term::bytes(gpu.memory as u64);
        let name = term::clean(&gpu.name);
        let runs =
            |is_ptx| codes.iter().rev().find(|c| c.is_ptx == is_ptx && c.runs_on(gpu.capability));
        let (code, advice) = match (runs(false), runs(true)) {
            (Some(code), _) => (format!("runs {code}"), None),
            (None, Some(code)) => (
                format!("compiles {code} at the first launch of each file"),
                Some(format!("GLMAE_CUDA_ARCHS={major}{minor} builds machine code for it")),
            ),
            (None, None) => (
                "this binary has no code for it".to_owned(),
                Some("compute capability 8.0 or newer is needed".to_owned()),
            ),
        };
        let processors = gpu.processors;
        let products = match KernelSet::of_capability(gpu.capability) {
            Ok((kernels, why)) => format!("bf16 products: {} kernels ({why})", kernels.describe()),
            Err(e) => e.to_string(),
        };
        let state = format!(
            "cuda:{i} {name}, {major}.{minor}, {processors} SMs, {memory}: {code}; {products}"
        );
        let finding = Finding::new("GPU", state);
        match advice {
            Some(advice) => finding.advise(advice),
            None => finding,
        }
    };
    gpus.iter().enumerate().map(describe).collect()
}

#[cfg(not(feature = "cuda"))]
fn gpus() -> Vec<Finding> {
    Vec::new()
}

fn toolchain() -> Vec<Finding> {
    let variable = |name: &str| std::env::var(name).ok();
    let home = variable("CUDA_HOME").or_else(|| variable("CUDA_PATH"));
    let nvcc = variable("NVCC")
        .or_else(|| home.map(|h| format!("{h}/bin/nvcc")))
        .unwrap_or_else(|| "nvcc".into());
    let local = ".cuda/nvidia/cu13/bin/nvcc";
    let found = version(&nvcc, "release").map(|v| (nvcc, v));
    let found = found.or_else(|| version(local, "release").map(|v| (local.to_owned(), v)));
    let nvcc = match found {
        Some((path, line)) => Finding::new("nvcc", format!("{path}: {line}")),
        None => Finding::new("nvcc", "not found (needed only for the feature `cuda`)").advise(
            "set NVCC or CUDA_HOME, or run scripts/cuda-toolchain.sh: no GPU, no root needed",
        ),
    };
    let cxx = variable("CXX").unwrap_or_else(|| "c++".into());
    let cxx = match version(&cxx, "") {
        Some(line) => Finding::new("C++ compiler", format!("{cxx}: {line}")),
        None => Finding::new(
            "C++ compiler",
            format!("'{cxx}' not found (it compiles the kernels for emulation)"),
        )
        .advise("install g++ or clang++, or set CXX"),
    };
    let rustc = version("rustc", "").unwrap_or_else(|| "not found".into());
    vec![nvcc, cxx, Finding::new("rustc", rustc)]
}

/// The first line of `program --version` that contains `word`.
fn version(program: &str, word: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().find(|l| l.contains(word) && !l.is_empty()).map(|l| term::clean(l.trim()))
}
