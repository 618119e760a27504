//! What the emulator reads from the executable, or the shared library, that holds its kernels: the
//! source line of a code address, and where the `__shared__` variables of the checked kernels lie
//! within a thread's TLS block.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::OnceLock;

use object::{Object as _, ObjectSymbol as _, SymbolKind};

use super::ffi;

/// A `__shared__` variable: offset from this thread's anchor, bytes, own name, and the namespace and
/// function it was declared in.
#[derive(Clone, Debug)]
pub struct SharedVariable {
    pub offset: i64,
    pub len: usize,
    pub name: String,
    pub namespace: String,
    pub function: String,
}

pub struct Symbols {
    binary: PathBuf,
    /// Load address minus link address.
    bias: u64,
    /// Sorted by offset.
    pub shared: Vec<SharedVariable>,
}

impl Symbols {
    /// Those of this binary; `None` when it was stripped of its symbol table.
    pub fn get() -> Option<&'static Self> {
        static SYMBOLS: OnceLock<Option<Symbols>> = OnceLock::new();
        SYMBOLS.get_or_init(Self::read).as_ref()
    }

    fn read() -> Option<Self> {
        let install = ffi::glmae_emu_install as *const () as u64;
        let binary = mapped_file(install).or_else(|| std::env::current_exe().ok())?;
        let file = std::fs::File::open(&binary).ok()?;
        // SAFETY: the file is not rewritten in place while it runs (the system refuses that for executables).
        let bytes = unsafe { memmap2::Mmap::map(&file).ok()? };
        let object = object::File::parse(&*bytes).ok()?;
        let (mut function, mut anchor) = (None, None);
        let mut found = Vec::new();
        for symbol in object.symbols() {
            let Ok(name) = symbol.name() else { continue };
            if name == "glmae_emu_install" {
                function = Some(symbol.address());
            } else if name == "glmae_emu_self" {
                anchor = Some(symbol.address() as i64);
            } else if symbol.kind() == SymbolKind::Tls && name.contains("glmae_checked") {
                found.push((symbol.address() as i64, symbol.size() as usize, identifiers(name)));
            }
        }
        let anchor = anchor?;
        // Identical local statics of inlined copies appear once per symbol table entry.
        let mut seen = HashSet::new();
        found.retain(|&(at, ..)| seen.insert(at));
        found.sort();
        let shared = found.into_iter().map(|(at, len, names)| SharedVariable {
            offset: at - anchor,
            len,
            name: names.last().cloned().unwrap_or_default(),
            namespace: names.first().cloned().unwrap_or_default(),
            function: names.get(1).cloned().unwrap_or_default(),
        });
        let bias = install.wrapping_sub(function?);
        Some(Self { binary, bias, shared: shared.collect() })
    }

    /// `file:line` of a return address, with the caller's when the code was inlined.
    pub fn locate(&self, pc: u64) -> Option<String> {
        let loader = addr2line::Loader::new(&self.binary).ok()?;
        // A return address points behind the call.
        let mut frames = loader.find_frames(pc.wrapping_sub(self.bias) - 1).ok()?;
        let mut lines = Vec::new();
        while let Ok(Some(frame)) = frames.next() {
            let location = frame.location?;
            let line = format!("{}:{}", location.file?.trim_start_matches("./"), location.line?);
            // The shim's own lines say nothing to the author of a kernel.
            if !line.contains("emulate/") || line.contains("faults.cu") {
                lines.push(line);
            }
        }
        lines.dedup();
        match lines.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            [first, rest @ ..] => Some(format!("{first} (inlined from {})", rest.join(", from "))),
        }
    }
}

/// The file that is mapped at an address of this process (Linux).
fn mapped_file(address: u64) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (low, high) = range.split_once('-')?;
        let at = |text| u64::from_str_radix(text, 16).ok();
        let inside = (at(low)?..at(high)?).contains(&address);
        let path = rest.find('/').and_then(|i| rest.get(i..))?;
        inside.then(|| PathBuf::from(path))
    })
}

/// The identifiers within a mangled name: of `_ZZN13glmae_checked1fEvE4tile`, `glmae_checked`, `f`
/// and `tile`. (Numbers in template arguments may add others, between the second and the last.)
fn identifiers(mangled: &str) -> Vec<String> {
    let bytes = if mangled.is_ascii() { mangled.as_bytes() } else { &[] };
    let mut names = Vec::new();
    let mut i = 0;
    while i < bytes.len() {
        let digits = bytes[i..].iter().take_while(|b| b.is_ascii_digit()).count();
        let len = mangled[i..i + digits].parse::<usize>().unwrap_or(0);
        i += digits.max(1);
        if digits > 0 && len > 0 && i + len <= bytes.len() {
            names.push(mangled[i..i + len].to_owned());
            i += len;
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::identifiers;

    #[test]
    fn mangled_names_are_taken_apart() {
        assert_eq!(identifiers("_ZZN13glmae_checked1fEvE4tile"), ["glmae_checked", "f", "tile"]);
        assert_eq!(
            identifiers("_ZZN22glmae_checked_layer_no6kernelEPfE5sums2"),
            ["glmae_checked_layer_no", "kernel", "sums2"]
        );
    }
}
