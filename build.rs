//! Compiles `kernels/*.cu`: always with the host C++ compiler for the emulated device, and with the
//! feature `cuda` with nvcc. Downloads nothing and looks at no hardware.
//!
//! Environment: `NVCC`, `CUDA_HOME`, `CUDA_PATH` say where nvcc is; `GLMAE_CUDA_ARCHS` (such as
//! `80,90a`) replaces the list of architectures.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Machine code for these; PTX, for GPUs to come, of the first.
const ARCHS: &str = "80,86,89,90a";

fn main() {
    println!("cargo:rerun-if-changed=kernels");
    println!("cargo:rerun-if-changed=build.rs");
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "GLMAE_CUDA_ARCHS"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let kernels = sources("kernels");
    let faults = sources("kernels/emulate");
    let mut emulated = kernels.clone();
    emulated.extend(faults);

    emulate(
        "checked",
        &emulated,
        1,
        &[
            "-fsanitize=thread,alignment,bounds,shift,signed-integer-overflow,integer-divide-by-zero",
            "-fno-tree-loop-distribute-patterns",
            // The emulator tells a call site by its return address.
            "-fno-optimize-sibling-calls",
        ],
    );
    emulate("plain", &emulated, 3, &[]);
    host("glmae_emu_runtime", 2)
        .file("kernels/emulate/runtime.cpp")
        .file("kernels/emulate/layout.cpp")
        .compile("glmae_emu_runtime");
    println!("cargo:rustc-link-lib=m");

    let fatbins =
        if env::var_os("CARGO_FEATURE_CUDA").is_some() { cuda(&kernels, &out) } else { vec![] };
    fs::write(out.join("kernels.rs"), table(&emulated, &fatbins)).expect("cannot write kernels.rs");
}

/// The `.cu` files of one directory, sorted.
fn sources(directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("the crate has a directory kernels/");
    let mut files: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "cu"));
    files.sort();
    files
}

/// Settings shared by all host compilations. Results must not depend on the host's instruction set
/// or on contraction, messages and binaries not on where the sources lie.
fn host(directory: &str, opt_level: u32) -> cc::Build {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").cpp_link_stdlib(None).opt_level(opt_level).debug(true);
    build.flag(format!("-ffile-prefix-map={root}=.")).flag("-ffp-contract=off");
    build.flag("-fno-strict-aliasing").flag("-fno-exceptions").flag("-fno-rtti");
    build.flag_if_supported("-Wno-unknown-pragmas").include("kernels/include");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    build.out_dir(out.join(directory));
    build
}

fn emulate(name: &str, files: &[PathBuf], opt_level: u32, flags: &[&str]) {
    let library = format!("glmae_{name}");
    let mut build = host(&library, opt_level);
    build.define("GLMAE_NS", library.as_str()).flag("-x").flag("c++").files(files);
    flags.iter().for_each(|flag| _ = build.flag(flag));
    build.compile(&library);
}

/// One fatbin per file; returns their paths in the order of `files`.
fn cuda(files: &[PathBuf], out: &Path) -> Vec<PathBuf> {
    let nvcc = find_nvcc();
    let archs = env::var("GLMAE_CUDA_ARCHS").unwrap_or_else(|_| ARCHS.into());
    let archs: Vec<_> = archs.split([',', ' ']).filter(|a| !a.is_empty()).collect();
    let compile = |file: &PathBuf| {
        let target = out.join(file.file_stem().expect("a file")).with_extension("fatbin");
        let mut command = Command::new(&nvcc);
        command.args(["-fatbin", "-O3", "-std=c++17", "-lineinfo", "-Ikernels/include"]);
        command.args(["-Xptxas", "--warn-on-spills,--warn-on-local-memory-usage,-Werror"]);
        for arch in &archs {
            command.arg("-gencode").arg(format!("arch=compute_{arch},code=sm_{arch}"));
        }
        if let Some(lowest) = archs.first() {
            command.arg("-gencode").arg(format!("arch=compute_{lowest},code=compute_{lowest}"));
        }
        let status = command.arg("-o").arg(&target).arg(file).status();
        assert!(
            status.is_ok_and(|s| s.success()),
            "{} could not compile {} (command: {command:?})",
            nvcc.display(),
            file.display()
        );
        target
    };
    files.iter().map(compile).collect()
}

fn find_nvcc() -> PathBuf {
    let home = |name| env::var_os(name).map(|d| PathBuf::from(d).join("bin/nvcc"));
    let path = env::var_os("PATH").unwrap_or_default();
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let mut candidates =
        vec![env::var_os("NVCC").map(PathBuf::from), home("CUDA_HOME"), home("CUDA_PATH")];
    candidates.extend(env::split_paths(&path).map(|d| Some(d.join("nvcc"))));
    candidates.push(Some(root.join(".cuda/nvidia/cu13/bin/nvcc")));
    candidates.into_iter().flatten().find(|p| p.is_file()).unwrap_or_else(|| {
        panic!(
            "the feature `cuda` needs nvcc and there is none. Set NVCC or CUDA_HOME, put nvcc on PATH, \
             run scripts/cuda-toolchain.sh (unpacks one into .cuda/, no GPU needed), or build without \
             the feature."
        )
    })
}

/// The table of kernels that `src/device/emulated/kernels.rs` includes.
fn table(files: &[PathBuf], fatbins: &[PathBuf]) -> String {
    let (mut externs, mut rows) = (String::new(), String::new());
    for file in files {
        let text = fs::read_to_string(file).expect("read a moment ago");
        let stem = file.file_stem().expect("a file").to_string_lossy().into_owned();
        for line in text.lines().filter_map(|l| l.strip_prefix("GLMAE_KERNEL(")) {
            let name = line.split([',', ')']).next().unwrap_or_default().trim();
            for build in ["checked", "plain"] {
                _ = writeln!(externs, "    static glmae_{build}_info_{name}: KernelInfo;");
            }
            _ = writeln!(
                rows,
                "    Kernel {{ name: {name:?}, file: {stem:?}, \
                 checked: &raw const glmae_checked_info_{name}, \
                 plain: &raw const glmae_plain_info_{name} }},"
            );
        }
    }
    let mut binaries = String::new();
    for path in fatbins {
        let stem = path.file_stem().expect("a file").to_string_lossy().into_owned();
        _ = writeln!(binaries, "    ({stem:?}, include_bytes!({:?})),", path.display().to_string());
    }
    format!(
        "unsafe extern \"C\" {{\n{externs}}}\n\
         /// Every exported kernel, by file.\npub static KERNELS: &[Kernel] = &[\n{rows}];\n\
         /// Fatbins by the stem of their file; empty without the feature `cuda`.\n\
         pub static FATBINS: &[(&str, &[u8])] = &[\n{binaries}];\n"
    )
}
