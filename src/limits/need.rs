//! What a run will hold in the memory of the host, compared with what there is.

use std::fmt;

use super::bytes;
use super::system::{Bound, bounds};
use crate::{Error, Result};

/// What makes a run smaller.
pub const REMEDY: &str = "a smaller train.batch, model.recompute = true, smaller views or windows, a \
    smaller preset, a smaller data.cache_mib or data.workers; --dry-run shows what a run needs, `glmae \
    doctor` the limits";

/// What the program takes beside the rest, over what it holds when a run is planned.
const PROGRAM: u64 = 16 << 20;

/// Addresses that a thread takes for its stack without using them.
const STACK: u64 = 2 << 20;

/// What a run will hold in the memory of the host, beside what the program holds when it is asked. Each
/// part is the least that is to be expected, as a run that fits must not be refused; for one that misses by
/// little the allocator says so later ([`super::Checked`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct HostNeed {
    /// Tensors of the device, when the device is the CPU or emulated.
    pub tensors: u64,
    /// Prepared cases that are kept.
    pub cache: u64,
    /// The largest case when it is prepared, in f32.
    pub largest_case: u64,
    /// Threads that prepare cases.
    pub loaders: u64,
    /// Windows of a validation on their way to the device, and its labels.
    pub judging: u64,
}

impl HostNeed {
    /// Of a run whose tensors would take `tensors` bytes of a GPU, with a cache of at most `cache` bytes for
    /// cases of `data` bytes together and `largest` at most (see [`crate::data::footprint()`]), of which a
    /// step has `step_cases`.
    ///
    /// Measured on the CPU, tensors took 0.80 (`finetune --config demo`) to 1.15 (`demo`) of that; peaks of
    /// runs stand beside their needs in docs/formats.md.
    pub fn of_run(
        tensors: u64,
        cache: u64,
        [data, largest]: [u64; 2],
        step_cases: usize,
        loaders: usize,
    ) -> Self {
        let step = largest.saturating_mul(step_cases as u64);
        Self {
            tensors: tensors / 5 * 4,
            cache: cache.max(step).min(data),
            largest_case: largest,
            loaders: loaders as u64,
            judging: 0,
        }
    }

    /// A case while it is prepared, beside its place in the cache: as it is read, and turned to RAS.
    fn preparing(&self) -> u64 {
        self.largest_case.saturating_mul(2).saturating_mul(self.loaders)
    }

    /// What there is of what, in bytes that are used.
    pub fn parts(&self) -> [(&'static str, u64); 5] {
        [
            ("tensors", self.tensors),
            ("prepared cases", self.cache),
            ("cases being prepared", self.preparing()),
            ("a validation", self.judging),
            ("program", PROGRAM),
        ]
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.parts().iter().fold(0, |sum, (_, n)| sum.saturating_add(*n))
    }

    /// All of it, for a limit that counts addresses.
    fn addresses(&self) -> u64 {
        self.total().saturating_add(self.loaders.saturating_mul(STACK))
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
        let missing = |b: &&Bound| of(b).saturating_sub(b.free.saturating_add(b.reserved));
        match bounds.iter().filter(|b| missing(b) > 0).max_by_key(missing) {
            None => Ok(()),
            Some(bound) => Err(refused(&format!("{what} ({self})"), of(bound), bound)),
        }
    }
}

impl fmt::Display for HostNeed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let parts = self.parts().into_iter().filter(|(_, n)| *n > 0);
        let parts: Vec<String> = parts.map(|(name, n)| format!("{name} {}", bytes(n))).collect();
        f.write_str(&parts.join(", "))
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
        let total = free.saturating_mul(2);
        Bound { name: name.to_owned(), total, free, reserved: 0, of_addresses }
    }

    const NEED: HostNeed = HostNeed {
        tensors: 390 * MIB,
        cache: 100 * MIB,
        largest_case: 10 * MIB,
        loaders: 2,
        judging: 10 * MIB,
    };

    #[test]
    fn every_part_of_a_run_counts_and_is_told() {
        assert_eq!(NEED.total(), (390 + 100 + 40 + 10 + 16) * MIB);
        assert!(NEED.check_with("the run", &[bound("m", 556 * MIB, false)]).is_ok());
        let error = NEED.check_with("the run", &[bound("m", 555 * MIB, false)]).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        for word in [
            "the run (tensors 390.0 MiB, prepared cases 100.0 MiB, cases being prepared 40.0 MiB, a validation \
             10.0 MiB",
            "needs 556.0 MiB",
            "m: 555.0 MiB left of 1.1 GiB",
        ] {
            assert!(error.to_string().contains(word), "{word} is not in: {error}");
        }
        // Stacks are addresses, not memory.
        assert!(NEED.check_with("the run", &[bound("ulimit -v", 559 * MIB, true)]).is_err());
        assert!(NEED.check_with("the run", &[bound("ulimit -v", 560 * MIB, true)]).is_ok());
        // What is reserved and empty can be used.
        let reserved = Bound { reserved: 460 * MIB, ..bound("ulimit -v", 100 * MIB, true) };
        assert!(NEED.check_with("the run", &[reserved]).is_ok());
    }

    #[test]
    fn the_limit_that_lacks_the_most_is_named() {
        assert!(NEED.check_with("the run", &[]).is_ok());
        let limits = [bound("small", 10 * MIB, false), bound("large", 99 * MIB, false)];
        let error = NEED.check_with("the run", &limits).unwrap_err().to_string();
        assert!(error.contains("small: 10.0 MiB left of 20.0 MiB"), "{error}");
    }

    #[test]
    fn a_cache_is_no_larger_than_the_data_and_holds_a_step() {
        let need = |cache, step| HostNeed::of_run(0, cache, [70, 10], step, 2).cache;
        assert_eq!((need(1000, 2), need(40, 2), need(0, 2), need(0, 99)), (70, 40, 20, 70));
        assert_eq!(HostNeed::of_run(1000, 0, [1, 1], 1, 1).tensors, 800);
    }

    #[test]
    fn no_number_is_too_large_to_be_refused() {
        let need = HostNeed {
            tensors: u64::MAX / 4,
            cache: u64::MAX / 2,
            largest_case: u64::MAX / 2,
            loaders: 8,
            judging: 1,
        };
        assert_eq!(need.total(), u64::MAX);
        assert!(need.check_with("x", &[bound("m", u64::MAX - 1, true)]).is_err());
    }
}
