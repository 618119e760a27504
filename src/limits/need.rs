//! What a run will hold in the memory of the host, compared with what there is.

use std::fmt;

use super::bytes;
use super::system::{Bound, bounds};
use crate::{Error, Result};

/// What makes a run smaller.
pub(super) const REMEDY: &str = "a smaller train.batch, model.recompute = true, smaller views or \
    windows, a smaller data.cache_mib or data.workers, fewer threads; --dry-run shows what a run \
    needs, `glmae doctor` the limits";

/// The program, its stacks and what it reads and writes by the way: measured 33 MiB.
const PROGRAM: u64 = 48 << 20;

/// Addresses that a thread takes without using them: its stack, and an arena of the C library.
const THREAD_ADDRESSES: u64 = (64 << 20) + (2 << 20);

/// Parts of what a run holds in the memory of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostNeed {
    /// Tensors of the device, when the device is the CPU: `MemoryPlan::reserved_bytes`, else 0.
    pub tensors: u64,
    /// Prepared cases that are kept: see [`HostNeed::of_run`].
    pub cache: u64,
    /// The largest case when it is prepared, in f32.
    pub largest_case: u64,
    /// Threads that prepare cases.
    pub loaders: u64,
    /// Threads that compute.
    pub threads: u64,
}

impl HostNeed {
    /// Of a run whose tensors take `tensors` bytes of the host, with a cache of at most `cache` bytes for
    /// cases of `data` bytes together and `largest` at most (see [`crate::data::footprint()`]), of which a
    /// step has `step_cases`. `loaders` and `threads` as in a configuration: 0 for as many as there are
    /// cores (8 loaders at most).
    pub fn of_run(
        tensors: u64,
        cache: u64,
        [data, largest]: [u64; 2],
        step_cases: usize,
        [loaders, threads]: [usize; 2],
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let or = |given: usize, else_: usize| if given == 0 { else_ } else { given } as u64;
        Self {
            tensors,
            cache: cache.min(data).max(largest.saturating_mul(step_cases as u64).min(data)),
            largest_case: largest,
            loaders: or(loaders, cores.min(8)),
            threads: or(threads, cores),
        }
    }

    /// Tensors with the pool they come from, which keeps what was freed for tensors of the same size
    /// alone. Measured with the presets on two threads: 0.8 to 1.35 of what a GPU would reserve.
    fn pooled(&self) -> u64 {
        self.tensors.saturating_add(self.tensors / 5 * 2)
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
        Bound { name: name.to_owned(), total: free.saturating_mul(2), free, of_addresses }
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
        assert_eq!(need.total(), (560 + 100 + 60 + 48) * MIB);
        assert!(need.check_with("the run", &[bound("m", 768 * MIB, false)]).is_ok());
        let error = need.check_with("the run", &[bound("m", 767 * MIB, false)]).unwrap_err();
        for word in ["tensors 560.0 MiB", "prepared cases 100.0 MiB", "needs 768.0 MiB", "m: "] {
            assert!(error.to_string().contains(word), "{word} is not in: {error}");
        }
        // Stacks and arenas are addresses, not memory.
        let addresses = bound("ulimit -v", 1000 * MIB, true);
        assert!(need.check_with("the run", &[addresses]).is_err());
        assert!(need.check_with("the run", &[bound("ulimit -v", 1164 * MIB, true)]).is_ok());
    }

    #[test]
    fn a_cache_is_no_larger_than_the_data_and_holds_a_step() {
        let need = |cache, step| HostNeed::of_run(0, cache, [70, 10], step, [2, 3]).cache;
        assert_eq!((need(1000, 2), need(40, 2), need(0, 2), need(0, 99)), (70, 40, 20, 70));
        let auto = HostNeed::of_run(0, 0, [1, 1], 1, [0, 0]);
        assert!((1..=8).contains(&auto.loaders) && auto.threads >= auto.loaders);
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
