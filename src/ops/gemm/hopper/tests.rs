//! The model against schedules that are played through, and the choice against all there is to choose from.

use super::*;
use crate::rng::{Purpose, Rng};

/// A device that executes the PTX of Hopper's kernels, or nothing, said so, where this binary has none.
#[cfg(feature = "cuda")]
pub(in crate::ops) fn hopper_device(
    schedule: crate::device::ptx::Schedule,
) -> Option<crate::device::Device> {
    use crate::device::ptx::{Arch, Options, Ptx};
    let options = Options { schedule, kernels: KernelSet::Hopper, ..Options::default() };
    match Ptx::new(Arch::Sm90a, options) {
        Ok(ptx) => Some(crate::device::Device::Ptx(std::sync::Arc::new(ptx))),
        Err(e) => {
            println!("skipped: {e}");
            None
        }
    }
}

/// Plays the turns of one block: products need the tensor cores, the way out does not.
fn played(is_ping_pong: bool, turns: &[(f64, f64)]) -> f64 {
    let (mut tensor_free, mut group_free, mut end) = (0.0f64, [0.0f64; 2], 0.0f64);
    for (i, &(products, way_out)) in turns.iter().enumerate() {
        let group = if is_ping_pong { i % 2 } else { 0 };
        let start = tensor_free.max(group_free[group]);
        tensor_free = start + products;
        group_free[group] = tensor_free + way_out;
        end = end.max(group_free[group]);
    }
    end
}

#[test]
fn the_formula_is_the_schedule() {
    let mut rng = Rng::new(3, Purpose::Test, 0, 0, 0);
    for _ in 0..2000 {
        let turns = 1 + (rng.range(0.0, 9.0) as usize);
        let (products, way_out) = (rng.range(1.0, 100.0), rng.range(1.0, 100.0));
        for is_ping_pong in [false, true] {
            let expected = played(is_ping_pong, &vec![(products, way_out); turns]);
            let ours = cycles(is_ping_pong, turns, products, way_out);
            assert!((ours - expected).abs() < 1e-9 * expected, "{turns} {products} {way_out}");
        }
    }
}

/// Every tile of every cluster played through, parts that end early included; from the sizes alone.
fn brute_force(plan: &Plan, [m, n, k]: [usize; 3], follows: Follows) -> f64 {
    let tile = plan.tile;
    let blocks = k.div_ceil(K);
    let whole = plan.k_part / K;
    let mut items = Vec::new();
    for part in 0..plan.parts {
        let depth = whole.min(blocks - part * whole);
        for _ in 0..m.div_ceil(tile.m() * tile.cluster) * n.div_ceil(tile.n) {
            items.push(depth as f64 / whole as f64);
        }
    }
    let clusters = plan.launch.grid[0] as usize / tile.cluster;
    let times = (0..clusters).map(|c| {
        let turns: Vec<(f64, f64)> = items
            .iter()
            .skip(c)
            .step_by(clusters)
            .map(|depth| (depth * plan.products(), plan.way_out(follows)))
            .collect();
        played(tile.ping_pong, &turns)
    });
    let longest = times.fold(0.0, f64::max);
    // What a split costs is not part of the schedule.
    let at_best = cycles(tile.ping_pong, plan.turns, plan.products(), plan.way_out(follows));
    longest + plan.time([m, n], follows) - at_best
}

const VIT_B: [([usize; 3], Follows, bool); 16] = [
    ([3728, 768, 4096], Follows::Place, false),
    ([8000, 768, 4096], Follows::Place, false),
    ([3768, 2304, 768], Follows::Nothing, false),
    ([3768, 768, 768], Follows::Add, false),
    ([3768, 3072, 768], Follows::GeluKeep, false),
    ([3768, 768, 3072], Follows::Add, false),
    ([3768, 3072, 768], Follows::GeluGrad, false),
    ([8008, 3072, 768], Follows::Gelu, false),
    ([14_952, 1536, 512], Follows::Nothing, false),
    ([14_952, 512, 2048], Follows::Add, false),
    ([14_952, 512, 4096], Follows::Nothing, false),
    ([11_184, 4096, 512], Follows::Compare, false),
    ([3072, 768, 3768], Follows::Parts, true),
    ([768, 768, 3768], Follows::Parts, true),
    ([512, 2048, 14_952], Follows::Parts, true),
    ([40, 2048, 768], Follows::Gelu, false),
];

#[test]
fn the_choice_is_the_best_of_all_played_through() {
    let mut rng = Rng::new(5, Purpose::Test, 0, 0, 0);
    let drawn = (0..40).map(|i| {
        let mut side = |most: f64| (rng.range(3.0, most).exp2() as usize).next_multiple_of(8);
        let splits = i % 2 == 0;
        let follows = if splits { Follows::Parts } else { Follows::Add };
        ([side(14.0), side(12.0), side(12.0)], follows, splits)
    });
    for (size @ [m, n, k], follows, may_split) in VIT_B.into_iter().chain(drawn) {
        let chosen = choose(&TILES, size, follows, may_split);
        let most = if may_split { k.div_ceil(256).clamp(1, 128) } else { 1 };
        let best = TILES
            .iter()
            .filter(|tile| tile.can(follows))
            .flat_map(|&tile| (1..=most).map(move |parts| Plan::new(tile, size, parts)))
            .map(|plan| brute_force(&plan, size, follows))
            .fold(f64::INFINITY, f64::min);
        let ours = brute_force(&chosen, size, follows);
        // The formula takes a shorter last part for a whole one.
        assert!(ours <= 1.05 * best, "{size:?} {follows:?}: {chosen:?} takes {ours}, best {best}");
        assert!(ours <= chosen.time([m, n], follows) + 1e-6);
    }
}

#[test]
fn tiles_fit_an_sm_and_their_boxes_the_copy_engine() {
    for tile in TILES {
        assert!(tile.shared_bytes() <= 227 * 1024, "{tile:?}");
        for is_k_major in [false, true] {
            for [rows, columns] in [tile.a_box(is_k_major), tile.b_box(is_k_major)] {
                assert!(rows <= 256 && columns * 2 == ROW, "{tile:?}");
            }
        }
        assert!(Plan::new(tile, [1, 8, 8], 1).launch.blocks() as usize == tile.cluster);
    }
    assert!(TILES.iter().any(|tile| tile.can(Follows::CompareKeep)));
}

#[test]
fn parts_cover_the_sum() {
    for k in [1, 63, 64, 65, 1000, 3768, 65_536] {
        for parts in 1..40 {
            let plan = Plan::new(TILES[1], [130, 70, k], parts);
            assert!(plan.parts * plan.k_part >= k && (plan.parts - 1) * plan.k_part < k);
            assert!(plan.k_part.is_multiple_of(K));
        }
    }
}

/// What the model says of the products of a step of vit-b at four volumes.
#[test]
fn choices_at_the_shapes_of_the_model() {
    for (size @ [m, n, k], follows, may_split) in VIT_B {
        let plan = choose(&TILES, size, follows, may_split);
        let time = plan.time([m, n], follows);
        let share = (m * n * k) as f64 / MADS / SMS as f64 / time;
        println!(
            "{size:?} {follows:?}: {} in {} parts, {} turns, {time:.0} cycles, {:.0} %",
            plan.tile.variant,
            plan.parts,
            plan.turns,
            100.0 * share
        );
        let least = if may_split { 0.2 } else { 0.35 };
        assert!(m < 100 || share > least, "{size:?} {follows:?}: {plan:?} {share}");
    }
}
