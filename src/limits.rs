//! How much memory this process may use, which limit says so, and what happens when it is not enough:
//! an error with exit code 4, known before the work where it can be known, and never an abort.
//!
//! [`bounds`] reads the limits of the machine and of the process. [`HostNeed::check`] compares them with
//! what a run is about to ask for. [`zeroed`] is memory that may be refused. [`Checked`] is the allocator of
//! the program: what cannot be handled where it is asked for ends the process with code 4 and a
//! message, where the standard library would abort.

mod alloc;
mod need;
mod system;

pub use self::alloc::{Checked, zeroed};
pub use self::need::{HostNeed, REMEDY};
pub use self::system::{Bound, bounds, bounds_below, tightest};

/// Bytes with a binary unit: `831 B`, `12.3 MiB`.
pub fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// Notes the limit that binds, for the message of an allocation that fails later, when there is no
/// memory to look it up.
pub fn note() {
    let text = match tightest(&bounds()) {
        Some(bound) => bound.to_string(),
        None => return,
    };
    alloc::note(text);
}
