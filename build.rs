//! Compiles `kernels/*.cu`: always with the host C++ compiler for the emulated device, and with the
//! feature `cuda` with nvcc, whose PTX is kept as well. Downloads nothing and looks at no hardware.
//!
//! Environment: `NVCC`, `CUDA_HOME`, `CUDA_PATH` say where nvcc is; `GLMAE_CUDA_ARCHS` (such as
//! `80,90a`) replaces the list of architectures. `GLMAE_KERNELS_SHARED=1` links the emulated kernels
//! as a shared library, for `scripts/mutate-kernels.py`, which exchanges single objects in it.
//! `GLMAE_NO_KERNELS=1` compiles no kernel at all, for lints: what is built so cannot be linked.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{env, fs};

use flate2::Compression;
use flate2::write::ZlibEncoder;

/// Machine code for these; PTX, for GPUs to come, of the first.
const ARCHS: &str = "80,86,89,90a";

/// The PTX of these is kept as well, if they are asked for: it can be executed without a GPU.
const EXECUTED: [&str; 2] = ["80", "90a"];

/// Kernels with instructions that only this architecture has. The host's compiler sees no bodies of them.
const HOPPER: (&str, &str) = ("kernels/hopper", "90a");
const HOPPER_FLAGS: &[&str] = &["-Wno-unused-parameter", "-Wno-psabi"];

/// The checked build: the compiler calls the emulator before every load and store, and on undefined
/// arithmetic; no sanitizer runtime is linked.
const CHECKED: &[&str] = &[
    "-DGLMAE_CHECKED",
    "-fsanitize=thread,alignment,bounds,shift,signed-integer-overflow,integer-divide-by-zero",
    // The emulator tells a call site by its return address.
    "-fno-optimize-sibling-calls",
];

/// The plain build under the feature `sanitize`: AddressSanitizer with its runtime; undefined
/// behaviour is reported through the emulator.
const SANITIZED: &[&str] = &[
    "-fsanitize=address,undefined",
    // No type information; the other two are what AddressSanitizer sees.
    "-fno-sanitize=vptr,null,object-size",
    "-fno-omit-frame-pointer",
    "-fno-optimize-sibling-calls",
];

fn is_sanitized() -> bool {
    env::var_os("CARGO_FEATURE_SANITIZE").is_some()
}

/// Whether the kernels are there with every access checked by the emulator. Under sanitizers these check in
/// its place.
fn is_checked() -> bool {
    !is_sanitized()
}

/// Whether nothing will be linked, as for lints: the table of kernels is written, and none is compiled.
fn is_for_lints() -> bool {
    env::var_os("GLMAE_NO_KERNELS").is_some()
}

fn main() {
    println!("cargo:rerun-if-changed=kernels");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=GLMAE_KERNELS_SHARED");
    println!("cargo:rerun-if-env-changed=GLMAE_NO_KERNELS");
    // Without these features nothing reads them, and a change would compile everything once more.
    if ["CUDA", "NVTX"].iter().any(|f| env::var_os(format!("CARGO_FEATURE_{f}")).is_some()) {
        for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "GLMAE_CUDA_ARCHS"] {
            println!("cargo:rerun-if-env-changed={name}");
        }
    }
    let kernels = sources("kernels", "cu");
    let mut emulated = kernels.clone();
    emulated.extend(sources("kernels/emulate", "cu"));
    let hopper = sources(HOPPER.0, "cu");
    let all: Vec<PathBuf> = emulated.iter().chain(&hopper).cloned().collect();
    if is_for_lints() {
        fs::write(out().join("kernels.rs"), table(&all, &[])).expect("OUT_DIR is writable");
        return;
    }
    let mut jobs: Vec<Job<PathBuf>> = Vec::new();
    for file in &emulated {
        if is_sanitized() {
            jobs.push(Box::new(|| emulate("plain", file, 1, SANITIZED)));
        } else {
            jobs.push(Box::new(|| emulate("plain", file, 3, &[])));
        }
        if is_checked() {
            jobs.push(Box::new(|| emulate("checked", file, 1, CHECKED)));
        }
    }
    for file in &hopper {
        jobs.push(Box::new(|| emulate("plain", file, 1, HOPPER_FLAGS)));
    }
    if is_sanitized() {
        link_sanitizer();
    }
    for file in sources("kernels/emulate", "cpp") {
        jobs.push(Box::new(move || {
            let mut build = host(2);
            if is_sanitized() {
                build.define("GLMAE_SANITIZE", None);
            }
            object("runtime", &file, &mut build)
        }));
    }
    let objects = in_parallel(jobs);
    if env::var_os("GLMAE_KERNELS_SHARED").is_some() {
        link_shared(&objects);
    } else {
        let mut library = cc::Build::new();
        library.cpp(true).cpp_link_stdlib(None).objects(objects).compile("glmae_kernels");
    }
    println!("cargo:rustc-link-lib=m");

    if env::var_os("CARGO_FEATURE_NVTX").is_some() {
        nvtx();
    }
    let compiled = match env::var_os("CARGO_FEATURE_CUDA") {
        // The primitives too: a GPU is asked about them first. Kernels with faults are for the emulator.
        Some(_) => cuda(all.iter().filter(|file| label(file) != "faults")),
        None => Vec::new(),
    };
    fs::write(out().join("kernels.rs"), table(&all, &compiled)).expect("OUT_DIR is writable");
}

/// Links AddressSanitizer's runtime, as a whole and statically: its allocator must be the first.
fn link_sanitizer() {
    let compiler = host(2).get_compiler();
    let found = |name: &str| {
        let output = compiler.to_command().arg(format!("-print-file-name={name}")).output();
        let path = output.ok().and_then(|o| String::from_utf8(o.stdout).ok()).unwrap_or_default();
        let path = PathBuf::from(path.trim());
        assert!(
            path.is_absolute(),
            "the feature `sanitize` needs GCC with {name}, and {} has none",
            compiler.path().display()
        );
        path
    };
    for name in ["libasan_preinit.o", "libasan.a"] {
        let path = found(name);
        println!("cargo:rustc-link-arg=-Wl,--whole-archive,{},--no-whole-archive", path.display());
    }
    for library in ["stdc++", "pthread", "dl", "rt", "m"] {
        println!("cargo:rustc-link-arg=-l{library}");
    }
}

/// Links a shared library instead of an archive, and writes down how to make another one: lines of
/// `compile KIND STEM COMMAND` (to which `-o OBJECT SOURCE` is added) and of `object PATH`.
fn link_shared(objects: &[PathBuf]) {
    let compiler = host(2).get_compiler();
    let library = out().join("libglmae_kernels.so");
    let mut link = compiler.to_command();
    link.arg("-shared").arg("-o").arg(&library).args(objects);
    let ok = link.status().is_ok_and(|s| s.success());
    assert!(ok, "could not link {} ({link:?})", library.display());
    let mut recipe = format!("link {}\n", compiler.path().display());
    for file in sources("kernels", "cu") {
        for (kind, opt_level, flags) in [("checked", 1, CHECKED), ("plain", 3, &[])] {
            let command = emulated(&file, kind, opt_level, flags).get_compiler().to_command();
            let words: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
            _ = writeln!(recipe, "compile {kind} {} {}", stem(&file), words.join("\t"));
        }
    }
    objects.iter().for_each(|path| _ = writeln!(recipe, "object {}", path.display()));
    fs::write(out().join("recipe"), recipe).expect("OUT_DIR is writable");
    println!("cargo:rustc-link-search=native={}", out().display());
    println!("cargo:rustc-link-lib=dylib=glmae_kernels");
}

fn out() -> PathBuf {
    env::var_os("OUT_DIR").expect("cargo sets OUT_DIR").into()
}

type Job<'a, T> = Box<dyn FnOnce() -> T + Send + 'a>;

/// Runs the jobs on as many threads as cargo allows; results in the order of the jobs.
fn in_parallel<T: Send>(jobs: Vec<Job<T>>) -> Vec<T> {
    let threads = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let (jobs, done) = (Mutex::new(jobs.into_iter().enumerate()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = jobs.lock().expect("no job panics while it holds this").next();
                    let Some((i, job)) = next else { break };
                    let result = job();
                    done.lock().expect("as above").push((i, result));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("as above");
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Whether `target` is newer than its inputs, every header that they may include, and this script.
fn is_fresh(target: &Path, inputs: &[&Path]) -> bool {
    let time = |p: &Path| fs::metadata(p).and_then(|m| m.modified()).ok();
    let mut needs: Vec<PathBuf> = inputs.iter().map(|p| p.to_path_buf()).collect();
    needs.extend(env::current_exe());
    needs.extend(sources("kernels/include", "h"));
    needs.extend(sources("kernels/include", "cuh"));
    if inputs.iter().any(|input| input.starts_with(HOPPER.0)) {
        needs.extend(sources("kernels/include/hopper", "cuh"));
    }
    needs.extend(sources("kernels/emulate", "h"));
    time(target).is_some_and(|t| needs.iter().all(|p| time(p).is_some_and(|n| n < t)))
}

/// The files of one directory with this extension, sorted.
fn sources(directory: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("the crate has its kernels/ directories");
    let mut files: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == extension));
    files.sort();
    files
}

/// Settings shared by all host compilations. Results must not depend on the host's instruction set or on
/// contraction, messages and binaries not on where the sources lie.
fn host(opt_level: u32) -> cc::Build {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").cpp_link_stdlib(None).opt_level(opt_level).debug(true);
    build.flag(format!("-ffile-prefix-map={root}=."));
    build.flag("-ffp-contract=off");
    build.flag("-fno-strict-aliasing").flag("-fno-exceptions").flag("-fno-rtti");
    // Where variables live at each instruction is of use to nobody here and takes half the time of a compilation.
    build.flag_if_supported("-fno-var-tracking");
    build.flag_if_supported("-Wno-unknown-pragmas").include("kernels/include");
    build
}

/// Compiles one file with the settings of `build`, if anything has changed; its object.
fn object(kind: &str, file: &Path, build: &mut cc::Build) -> PathBuf {
    let directory = out().join(kind).join(flat_label(file));
    fs::create_dir_all(&directory).expect("OUT_DIR is writable");
    let is_object = |p: &PathBuf| p.extension().is_some_and(|e| e == "o");
    let old = fs::read_dir(&directory).into_iter().flatten().filter_map(|e| Some(e.ok()?.path()));
    if let Some(old) = old.filter(is_object).find(|p| is_fresh(p, &[file])) {
        return old;
    }
    build.out_dir(&directory).file(file).compile_intermediates().remove(0)
}

fn emulate(kind: &str, file: &Path, opt_level: u32, flags: &[&str]) -> PathBuf {
    object(kind, file, &mut emulated(file, kind, opt_level, flags))
}

/// A namespace per build and file: equal names in two files must stay two things, as under nvcc.
fn emulated(file: &Path, kind: &str, opt_level: u32, flags: &[&str]) -> cc::Build {
    let mut build = host(opt_level);
    build.define("GLMAE_BUILD", format!("glmae_{kind}").as_str());
    build.define("GLMAE_NS", format!("glmae_{kind}_{}", flat_label(file)).as_str());
    build.flag("-x").flag("c++");
    flags.iter().for_each(|flag| _ = build.flag(flag));
    // GCC would turn loops into calls of memset, which nobody sees.
    build.flag_if_supported("-fno-tree-loop-distribute-patterns");
    build
}

fn stem(file: &Path) -> String {
    file.file_stem().expect("a file has a name").to_string_lossy().into_owned()
}

/// What a file of kernels is called: its stem, behind its folder where that says what it needs.
fn label(file: &Path) -> String {
    match file.starts_with(HOPPER.0) {
        true => format!("hopper/{}", stem(file)),
        false => stem(file),
    }
}

/// [`label`] as a name of files and of C++.
fn flat_label(file: &Path) -> String {
    label(file).replace('/', "_")
}

/// What nvcc made of one file.
struct Compiled {
    label: String,
    fatbin: PathBuf,
    /// Architecture and compressed PTX, from the compilation that the fatbin is of.
    ptx: Vec<(&'static str, PathBuf)>,
    /// What ptxas said in that compilation.
    said: PathBuf,
}

/// The architectures of a file, of those that are asked for.
fn archs_of<'a>(file: &Path, asked: &[&'a str]) -> Vec<&'a str> {
    let is_wanted = |arch: &&&str| !file.starts_with(HOPPER.0) || **arch == HOPPER.1;
    asked.iter().filter(is_wanted).copied().collect()
}

/// Compiles every file with nvcc, but those that are for none of the architectures.
fn cuda<'a>(files: impl Iterator<Item = &'a PathBuf>) -> Vec<Compiled> {
    let nvcc = find_nvcc();
    let archs = env::var("GLMAE_CUDA_ARCHS").unwrap_or_else(|_| ARCHS.into());
    let archs: Vec<_> = archs.split([',', ' ']).filter(|a| !a.is_empty()).collect();
    let files: Vec<&PathBuf> = files.filter(|file| !archs_of(file, &archs).is_empty()).collect();
    // A sixth of the size; drivers since CUDA 12.4 unpack it, compilers since 12.8 make it.
    let help = Command::new(&nvcc).arg("--help").output().map(|o| o.stdout).unwrap_or_default();
    let compresses = String::from_utf8_lossy(&help).contains("--compress-mode");
    let target = |file: &Path, end: &str| {
        let archs = archs_of(file, &archs).join("-");
        out().join(format!("{}.{archs}.{end}", flat_label(file)))
    };
    let kept = |file: &Path| -> Vec<(&'static str, PathBuf)> {
        let archs = archs_of(file, &archs);
        let asked = EXECUTED.into_iter().filter(|arch| archs.contains(arch));
        asked.map(|arch| (arch, target(file, &format!("{arch}.ptx.zlib")))).collect()
    };
    let compile = |file: &Path| {
        let archs = archs_of(file, &archs);
        let (fatbin, ptx, said) = (target(file, "fatbin"), kept(file), target(file, "ptxas"));
        let is_current = |target: &PathBuf| is_fresh(target, &[file, &nvcc]);
        let compiled = Compiled { label: label(file), fatbin: fatbin.clone(), ptx, said };
        if [&fatbin, &compiled.said].into_iter().all(is_current)
            && compiled.ptx.iter().all(|(_, path)| is_current(path))
        {
            return compiled;
        }
        let mut command = Command::new(&nvcc);
        command.args(["-fatbin", "-O3", "-std=c++17", "-lineinfo", "-Ikernels/include"]);
        // Spills and local arrays fail the build: they are always a mistake in these kernels.
        command.args(["-Xptxas", "-v,--warn-on-spills,--warn-on-local-memory-usage,-Werror"]);
        if compresses {
            command.arg("--compress-mode=size");
        }
        for arch in &archs {
            command.arg("-gencode").arg(format!("arch=compute_{arch},code=sm_{arch}"));
        }
        // Code for 90a runs on nothing else.
        if let Some(lowest) = archs.first().filter(|_| !file.starts_with(HOPPER.0)) {
            command.arg("-gencode").arg(format!("arch=compute_{lowest},code=compute_{lowest}"));
        }
        let intermediates = out().join("nvcc").join(flat_label(file));
        // What a build that was stopped has left; it may be nothing.
        let _ = fs::remove_dir_all(&intermediates);
        fs::create_dir_all(&intermediates).expect("OUT_DIR is writable");
        command.arg("--keep").arg("--keep-dir").arg(&intermediates);
        let output = command.arg("-o").arg(&fatbin).arg(file).output().expect("nvcc is there");
        let said =
            String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        let ok = output.status.success();
        assert!(ok, "nvcc could not compile {} ({command:?}):\n{said}", file.display());
        // To ptxas these are remarks: products that wait for each other, registers that were not handed over.
        let is_slow = |line: &&str| line.contains("(C75") || line.contains("(C76");
        let slow: Vec<&str> = said.lines().filter(is_slow).collect();
        assert!(slow.is_empty(), "{}: {}", file.display(), slow.join("\n"));
        fs::write(&compiled.said, &*said).expect("OUT_DIR is writable");
        for (arch, target) in &compiled.ptx {
            // For one architecture nvcc leaves its name out.
            let name = match archs.as_slice() {
                [_] => format!("{}.ptx", stem(file)),
                _ => format!("{}.compute_{arch}.ptx", stem(file)),
            };
            keep_ptx(&intermediates.join(name), target);
        }
        fs::remove_dir_all(&intermediates).expect("OUT_DIR is writable");
        compiled
    };
    let compile = &compile;
    let jobs = files.iter().map(|&file| Box::new(move || compile(file)) as Job<_>).collect();
    in_parallel(jobs)
}

/// Kernel, architecture and registers a thread, from what ptxas says with `-v`.
fn registers(said: &str) -> Vec<(&str, &str, u32)> {
    let (mut found, mut entry) = (Vec::new(), None);
    for line in said.lines() {
        let between = |start: &str, end: &str| Some(line.split_once(start)?.1.split_once(end)?.0);
        if let Some(name) = between("Compiling entry function '", "'") {
            entry = Some((name, between("for 'sm_", "'").expect("an architecture stands there")));
        } else if let Some(n) = between("Used ", " registers") {
            let (name, arch) = entry.take().expect("the kernel stands before its registers");
            found.push((name, arch, n.parse().expect("a number")));
        }
    }
    found
}

/// Compresses PTX, to about a seventh. The paths of its sources are made independent of where they lie.
fn keep_ptx(from: &Path, to: &Path) {
    let text = fs::read_to_string(from)
        .unwrap_or_else(|e| panic!("nvcc did not leave its PTX at {}: {e}", from.display()));
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
    for line in text.lines() {
        writeln!(packed, "{}", without_folders(line)).expect("memory takes it");
    }
    // Whole or absent: a build that is stopped here must not leave a part.
    let whole = from.with_extension("zlib");
    fs::write(&whole, packed.finish().expect("memory takes it")).expect("OUT_DIR is writable");
    fs::rename(whole, to).expect("OUT_DIR is writable");
}

/// A line of PTX; of a `.file` line, kernels with their path from here, and headers of CUDA by their names.
fn without_folders(line: &str) -> String {
    let Some((head, path)) = line.trim_start().strip_prefix(".file").and_then(|rest| {
        let (number, path) = rest.split_once('"')?;
        Some((number, path.strip_suffix('"')?))
    }) else {
        return line.to_owned();
    };
    let path = Path::new(path);
    // Build scripts run in the folder of their package.
    let ours = env::current_dir().ok().and_then(|root| path.strip_prefix(root).ok());
    let name = path.file_name().map_or(path, Path::new);
    let shown = ours.filter(|path| path.starts_with("kernels")).unwrap_or(name);
    format!("\t.file{head}\"{}\"", shown.display())
}

/// The ranges of profilers, for the feature `nvtx`.
fn nvtx() {
    let root = |name| env::var_os(name).map(PathBuf::from);
    let mut places: Vec<PathBuf> = [root("CUDA_HOME"), root("CUDA_PATH")]
        .into_iter()
        .flatten()
        .map(|d| d.join("include"))
        .collect();
    places.extend(
        [".cuda/nvtx/nvidia/cu13/include", "/usr/local/cuda/include", "/usr/include"]
            .map(PathBuf::from),
    );
    let found = places.into_iter().find(|d| d.join("nvtx3/nvToolsExt.h").is_file());
    let include = found.unwrap_or_else(|| {
        panic!(
            "the feature `nvtx` needs the header nvtx3/nvToolsExt.h and there is none. Set CUDA_HOME, run \
             scripts/cuda-toolchain.sh --nvtx (unpacks it into .cuda/), or build without the feature."
        )
    });
    cc::Build::new().file("kernels/nvtx/shim.c").include(include).compile("glmae_nvtx");
    println!("cargo:rustc-link-lib=dl");
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

/// The names that a line of a kernel file exports (`kernels/include/export.cuh`).
fn exported(line: &str) -> Vec<&str> {
    let macros =
        [("GLMAE_KERNEL(", 1), ("GLMAE_INSTANCE(", 1), ("GLMAE_HOPPER(", 1), ("GLMAE_TWINS(", 2)];
    let found = macros.iter().find_map(|(start, names)| Some((line.strip_prefix(start)?, *names)));
    let Some((rest, names)) = found else { return Vec::new() };
    rest.split([',', ')']).take(names).map(str::trim).collect()
}

/// The table of kernels that `src/device/launch.rs` includes.
fn table(files: &[PathBuf], compiled: &[Compiled]) -> String {
    let (mut externs, mut rows) = (String::new(), String::new());
    for file in files {
        let text = fs::read_to_string(file).expect("read a moment ago");
        let (label, is_hopper) = (label(file), file.starts_with(HOPPER.0));
        for name in text.lines().flat_map(exported) {
            let mut info = |build| {
                _ = writeln!(externs, "    static glmae_{build}_info_{name}: KernelInfo;");
                format!("&raw const glmae_{build}_info_{name}")
            };
            let plain = info("plain");
            let checked = match is_checked() && !is_hopper {
                true => info("checked"),
                false => "std::ptr::null()".into(),
            };
            _ = writeln!(
                rows,
                "    Kernel {{ name: {name:?}, file: {label:?}, checked: {checked}, \
                 plain: {plain} }},"
            );
        }
    }
    let (mut fatbins, mut ptx, mut uses) = (String::new(), String::new(), String::new());
    let bytes = |path: &Path| format!("include_bytes!({:?})", path.display().to_string());
    for file in compiled {
        let label = &file.label;
        _ = writeln!(fatbins, "    ({label:?}, {}),", bytes(&file.fatbin));
        for (arch, path) in &file.ptx {
            _ = writeln!(ptx, "    ({label:?}, {arch:?}, {}),", bytes(path));
        }
        let said = fs::read_to_string(&file.said).expect("written with the fatbin");
        for (kernel, arch, n) in registers(&said) {
            _ = writeln!(uses, "    ({kernel:?}, {arch:?}, {n}),");
        }
    }
    format!(
        "/// Whether the emulated kernels of this binary run under sanitizers.\n\
         pub const SANITIZED: bool = {};\n\
         unsafe extern \"C\" {{\n{externs}}}\n\
         /// Every exported kernel, by file.\npub static KERNELS: &[Kernel] = &[\n{rows}];\n\
         /// Fatbins by the stem of their file; empty without the feature `cuda`.\n\
         pub static FATBINS: &[(&str, &[u8])] = &[\n{fatbins}];\n\
         /// Stem of the file, architecture, and the PTX, compressed as by zlib; likewise.\n\
         pub static PTX: &[(&str, &str, &[u8])] = &[\n{ptx}];\n\
         /// Kernel, architecture, and the registers of a thread of its machine code; likewise.\n\
         pub static REGISTERS: &[(&str, &str, u32)] = &[\n{uses}];\n",
        is_sanitized()
    )
}
