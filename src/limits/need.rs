//! What a run will hold in the memory of the host, compared with what there is.

use std::fmt;

use super::bytes;
use super::system::{Bound, bounds};
use crate::{Error, Result};

/// What makes a run smaller.
pub(super) const REMEDY: &str = "a smaller train.batch, model.recompute = true, smaller views or \
    windows, a smaller data.cache_mib or data.workers, fewer threads; --dry-run shows what a run \
    needs, `glmae doctor` the limits";

/// The program, its stacks and what it reads and writes by the way: measured 10 to 30 MiB.
const PROGRAM: u64 = 48 << 20;

/// Addresses that a thread takes without using them: its stack, and an arena of the C library.
const THREAD_ADDRESSES: u64 = (64 << 20) + (2 << 20);

/// Parts of what a run holds in the memory of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostNeed {
    /// Tensors of the device, when the device is the CPU: `MemoryPlan::reserved_bytes`, else 0.
    pub tensors: u64,
    /// Prepared cases that are kept: `data.cache_mib`, or what all cases take if that is less.
    pub cache: u64,
    /// The largest case when it is prepared, in f32.
    pub largest_case: u64,
    /// Threads that prepare cases.
    pub loaders: u64,
    /// Threads that compute.
    pub threads: u64,
}

impl HostNeed {
    /// Tensors with the pool they come from, which keeps memory by size and hands a class of sizes out
    /// for that class alone: a quarter more at most.
    fn pooled(&self) -> u64 {
        self.tensors.saturating_add(self.tensors / 4)
    }

    /// A case while it is prepared: as it is read, turned to RAS, and cut out.
    fn preparing(&self) -> u64 {
        self.largest_case.saturating_mul(3).saturating_mul(self.loaders)
    }

    /// All of it, in bytes that are used.
    pub fn total(&self) -> u64 {
        [self.pooled(), self.cache, self.preparing(), PROGRAM]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// All of it, for a limit that counts addresses.
    fn addresses(&self) -> u64 {
        let threads = self.threads.saturating_add(self.loaders);
        self.total().saturating_add(threads.saturating_mul(THREAD_ADDRESSES))
    }

    /// Compares with the limits of this process.
    ///
    /// Errors: [`Error::OutOfMemory`] with the need, its parts, and the limit that binds.
    pub fn check(&self, what: &str) -> Result<()> {
        self.check_with(what, &bounds())
    }

    /// As [`HostNeed::check`], with these limits.
    pub fn check_with(&self, what: &str, bounds: &[Bound]) -> Result<()> {
        let of = |b: &Bound| if b.of_addresses { self.addresses() } else { self.total() };
        let missing = |b: &&Bound| of(b).saturating_sub(b.free);
        match bounds.iter().filter(|b| missing(b) > 0).max_by_key(missing) {
            None => Ok(()),
            Some(bound) => Err(refused(&format!("{what} ({self})"), of(bound), bound)),
        }
    }
}

impl fmt::Display for HostNeed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let parts = [
            ("tensors", self.pooled()),
            ("prepared cases", self.cache),
            ("cases being prepared", self.preparing()),
            ("program", PROGRAM),
        ];
        let parts = parts.iter().filter(|(_, n)| *n > 0);
        let parts: Vec<String> = parts.map(|(name, n)| format!("{name} {}", bytes(*n))).collect();
        f.write_str(&parts.join(", "))
    }
}

/// Whether `needed` bytes more are there for `what`, by the limits of this process.
///
/// Errors: [`Error::OutOfMemory`] with the need and the limit that binds.
pub fn check(needed: u64, what: &str) -> Result<()> {
    check_bounds(needed, what, &bounds())
}

/// As [`check`], with these limits.
pub fn check_bounds(needed: u64, what: &str, bounds: &[Bound]) -> Result<()> {
    match super::tightest(bounds) {
        Some(bound) if bound.free < needed => Err(refused(what, needed, bound)),
        _ => Ok(()),
    }
}

fn refused(what: &str, needed: u64, bound: &Bound) -> Error {
    let needed = bytes(needed);
    Error::OutOfMemory(format!("{what} needs {needed}, more than is left. {bound}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn bound(name: &str, free: u64, of_addresses: bool) -> Bound {
        Bound { name: name.to_owned(), total: 2 * free, free, of_addresses }
    }

    #[test]
    fn the_limit_that_binds_is_named() {
        let limits = [bound("small", 10 * MIB, false), bound("large", 99 * MIB, false)];
        assert!(check_bounds(10 * MIB, "a run", &limits).is_ok());
        assert!(check_bounds(u64::MAX, "a run", &[]).is_ok());
        let error = check_bounds(11 * MIB, "a run", &limits).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        for word in ["a run needs 11.0 MiB", "small: 10.0 MiB left of 20.0 MiB"] {
            assert!(error.to_string().contains(word), "{word} is not in: {error}");
        }
    }

    #[test]
    fn every_part_of_a_run_counts_and_is_told() {
        let need = HostNeed {
            tensors: 400 * MIB,
            cache: 100 * MIB,
            largest_case: 10 * MIB,
            loaders: 2,
            threads: 4,
        };
        assert_eq!(need.total(), (500 + 100 + 60 + 48) * MIB);
        assert!(need.check_with("the run", &[bound("m", 708 * MIB, false)]).is_ok());
        let error = need.check_with("the run", &[bound("m", 707 * MIB, false)]).unwrap_err();
        for word in ["tensors 500.0 MiB", "prepared cases 100.0 MiB", "needs 708.0 MiB", "m: "] {
            assert!(error.to_string().contains(word), "{word} is not in: {error}");
        }
        // Stacks and arenas are addresses, not memory.
        let addresses = bound("ulimit -v", 1000 * MIB, true);
        assert!(need.check_with("the run", &[addresses]).is_err());
        assert!(need.check_with("the run", &[bound("ulimit -v", 1104 * MIB, true)]).is_ok());
    }

    #[test]
    fn no_number_is_too_large_to_be_refused() {
        let need = HostNeed {
            tensors: u64::MAX / 4,
            cache: u64::MAX / 2,
            largest_case: u64::MAX / 2,
            loaders: 8,
            threads: u64::MAX,
        };
        assert_eq!(need.total(), u64::MAX);
        assert!(need.check_with("x", &[bound("m", u64::MAX - 1, true)]).is_err());
    }
}
