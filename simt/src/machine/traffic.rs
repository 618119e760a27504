//! What a request of a warp costs in sectors of global memory and in passes through the banks of shared memory.

use crate::count::Traffic;
use crate::program::lanes::Lanes64;
use crate::ptx::ast::Space;

/// Counts a request of these lanes for `bytes` each.
pub fn count(traffic: &mut Traffic, space: Space, at: &Lanes64, bytes: u32, lanes: u32) {
    traffic.requests += 1;
    traffic.bytes += u64::from(lanes.count_ones() * bytes);
    match space {
        Space::Global | Space::Local | Space::Const | Space::Generic => {
            let (sectors, different) = distinct(at, bytes, lanes, 32);
            traffic.sectors += sectors;
            traffic.least_sectors += different.div_ceil(32);
        }
        Space::Shared => passes(traffic, at, bytes, lanes),
        Space::Param => {}
    }
}

/// Units of `unit` bytes that the lanes touch, and different bytes they ask for. Lanes ask for aligned pieces of
/// equal size, so that two either are one piece or do not overlap.
fn distinct(at: &Lanes64, bytes: u32, lanes: u32, unit: u64) -> (u64, u64) {
    let (mut units, mut pieces) = (List::default(), List::default());
    for lane in (0..32).filter(|l| lanes >> l & 1 == 1) {
        pieces.add(at[lane]);
        let last = (at[lane] + u64::from(bytes) - 1) / unit;
        for i in at[lane] / unit..=last {
            units.add(i);
        }
    }
    (units.len as u64, pieces.len as u64 * u64::from(bytes))
}

/// Different numbers, few of them.
struct List {
    all: [u64; 64],
    len: usize,
}

impl Default for List {
    fn default() -> Self {
        Self { all: [0; 64], len: 0 }
    }
}

impl List {
    fn add(&mut self, value: u64) {
        // Lanes mostly ascend: the last one is the likely one.
        if self.len > 0 && self.all[self.len - 1] == value {
            return;
        }
        if !self.all[..self.len].contains(&value) && self.len < self.all.len() {
            self.all[self.len] = value;
            self.len += 1;
        }
    }
}

/// Shared memory has 32 banks of 4 bytes. A request of up to 4 bytes a lane goes through in one pass if no bank has
/// to give two different words; one of 8 bytes is two such requests of half a warp, one of 16 bytes four of a
/// quarter.
fn passes(traffic: &mut Traffic, at: &Lanes64, bytes: u32, lanes: u32) {
    let group = match bytes {
        16 => 8,
        8 => 16,
        _ => 32,
    };
    for first in (0..32).step_by(group) {
        let mask = (if group == 32 { u32::MAX } else { (1u32 << group) - 1 }) << first;
        if lanes & mask != 0 {
            let (passes, least) = group_passes(at, bytes, lanes & mask);
            traffic.passes += passes;
            traffic.least_passes += least;
        }
    }
}

fn group_passes(at: &Lanes64, bytes: u32, lanes: u32) -> (u64, u64) {
    let mut words = [[0u64; 32]; 32];
    let mut counts = [0usize; 32];
    for lane in (0..32).filter(|l| lanes >> l & 1 == 1) {
        let (first, last) = (at[lane] / 4, (at[lane] + u64::from(bytes) - 1) / 4);
        for word in first..=last {
            let bank = (word % 32) as usize;
            let there = &mut words[bank];
            if !there[..counts[bank]].contains(&word) && counts[bank] < 32 {
                there[counts[bank]] = word;
                counts[bank] += 1;
            }
        }
    }
    let total: usize = counts.iter().sum();
    let most = counts.iter().copied().max().unwrap_or(0);
    (most as u64, total.div_ceil(32) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(f: impl Fn(u64) -> u64) -> Lanes64 {
        std::array::from_fn(|lane| f(lane as u64))
    }

    fn of(space: Space, at: Lanes64, bytes: u32, on: u32) -> Traffic {
        let mut traffic = Traffic::default();
        count(&mut traffic, space, &at, bytes, on);
        traffic
    }

    #[test]
    fn sectors_of_a_coalesced_and_of_a_scattered_load() {
        let whole = of(Space::Global, lanes(|l| 4096 + 4 * l), 4, u32::MAX);
        assert_eq!((whole.sectors, whole.least_sectors, whole.bytes), (4, 4, 128));
        let shifted = of(Space::Global, lanes(|l| 4100 + 4 * l), 4, u32::MAX);
        assert_eq!((shifted.sectors, shifted.least_sectors), (5, 4));
        let scattered = of(Space::Global, lanes(|l| 512 * l), 4, u32::MAX);
        assert_eq!((scattered.sectors, scattered.least_sectors), (32, 4));
        let same = of(Space::Global, lanes(|_| 64), 4, u32::MAX);
        assert_eq!((same.sectors, same.least_sectors), (1, 1));
        let wide = of(Space::Global, lanes(|l| 16 * l), 16, u32::MAX);
        assert_eq!((wide.sectors, wide.least_sectors, wide.bytes), (16, 16, 512));
        let few = of(Space::Global, lanes(|l| 128 * l), 4, 0b111);
        assert_eq!((few.sectors, few.least_sectors, few.bytes), (3, 1, 12));
    }

    #[test]
    fn bank_conflicts() {
        let row = of(Space::Shared, lanes(|l| 4 * l), 4, u32::MAX);
        assert_eq!((row.passes, row.least_passes), (1, 1));
        let column = of(Space::Shared, lanes(|l| 128 * l), 4, u32::MAX);
        assert_eq!((column.passes, column.least_passes), (32, 1));
        let padded = of(Space::Shared, lanes(|l| 132 * l), 4, u32::MAX);
        assert_eq!(padded.passes, 1);
        let two_way = of(Space::Shared, lanes(|l| 8 * l), 4, u32::MAX);
        assert_eq!(two_way.passes, 2);
        let broadcast = of(Space::Shared, lanes(|_| 40), 4, u32::MAX);
        assert_eq!(broadcast.passes, 1);
        let halves = of(Space::Shared, lanes(|l| 2 * l), 2, u32::MAX);
        assert_eq!(halves.passes, 1);
        let wide = of(Space::Shared, lanes(|l| 16 * l), 16, u32::MAX);
        assert_eq!((wide.passes, wide.least_passes), (4, 4));
        let wide_column = of(Space::Shared, lanes(|l| 128 * l), 16, u32::MAX);
        assert_eq!((wide_column.passes, wide_column.least_passes), (32, 4));
    }
}
