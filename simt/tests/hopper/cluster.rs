//! Clusters: `barrier.cluster`, `mapa`, shared memory and barriers of other blocks.

use crate::launch::{fault, words};
use crate::{Arg, Job, Source};

fn source(kernel: &str) -> Source {
    Source::kernel("hopper_cluster", kernel)
}

#[test]
fn special_registers() {
    let (grid, cluster) = ([4u32, 6, 2], [2u32, 3, 1]);
    let mut job = source("registers").job(vec![Arg::Out(4 * 16 * 48)]).grid(grid);
    job.cluster = cluster;
    let mut wanted = Vec::new();
    for block in 0..48 {
        let at = [block % 4, block / 4 % 6, block / 24];
        let inner: [u32; 3] = std::array::from_fn(|i| at[i] % cluster[i]);
        wanted.extend((0..3).map(|i| at[i] / cluster[i]));
        wanted.extend((0..3).map(|i| grid[i] / cluster[i]));
        wanted.extend(inner);
        wanted.extend(cluster);
        wanted.extend([inner[0] + 2 * inner[1], 6, 1, block]);
    }
    job.gives(0, &wanted);
}

#[test]
fn own_addresses_hold_the_rank() {
    let source = source("own_addresses");
    for blocks in [1, 2, 4] {
        let of = |rank: u32| [rank << 24, 0, 0, 0, rank + 77];
        let wanted: Vec<u32> = (0..blocks).flat_map(of).collect();
        let job = |source: &Source| {
            source.job(vec![Arg::Out(20 * blocks as usize)]).grid([blocks, 1, 1]).cluster(blocks)
        };
        job(&source).gives(0, &wanted);
        if blocks > 1 {
            // An address without the rank is the first block's.
            let cut = source.change("named", "mov.u32 %r1, tile; and.b32 %r1, %r1, 0x3ffff;");
            let text = "an address in shared memory of block 0 of the cluster";
            job(&cut).fails(&fault(&[text], &["read"]).lanes(1));
        }
    }
}

#[test]
fn grids_that_do_not_fit_their_clusters() {
    let job = source("registers").job(vec![Arg::Out(4 * 16 * 48)]);
    for (grid, cluster, text) in [
        ([3, 1, 1], [2, 1, 1], "a grid of [3, 1, 1] blocks in clusters of [2, 1, 1]"),
        ([4, 3, 1], [2, 2, 1], "a grid of [4, 3, 1] blocks in clusters of [2, 2, 1]"),
        ([32, 1, 1], [32, 1, 1], "in clusters of [32, 1, 1]"),
        ([2, 1, 1], [0, 1, 1], "in clusters of [0, 1, 1]"),
    ] {
        let mut job = source("registers").job(vec![Arg::Out(4 * 16 * 48)]).grid(grid);
        job.cluster = cluster;
        job.fails(&fault(&[text], &[]));
    }
    job.passes(|_| ());
    let required = |blocks: u32| source("required").job(vec![Arg::Out(4)]).cluster(blocks);
    required(1)
        .fails(&fault(&["clusters of [1, 1, 1], where .reqnctapercluster says [2, 1, 1]"], &[]));
    // It runs with two; that both write the same word is another thing.
    required(2).fails(&fault(&["data race"], &["race"]));
}

fn sums(source: &Source, blocks: u32) -> Job {
    source.job(vec![Arg::Out(8 * 64 * blocks as usize)]).block(64).cluster(blocks)
}

#[test]
fn sums_over_all_blocks() {
    for blocks in [1, 2, 4, 16] {
        let sum = |t: u32| (0..blocks).map(|b| 1000 * b + t).sum::<u32>();
        let count = |b: u32| if b + 1 == blocks { 64 * blocks } else { 0 };
        let wanted = (0..64 * blocks).flat_map(|i| [sum(i % 64), count(i / 64)]);
        sums(&source("sums"), blocks).gives(0, &wanted.collect::<Vec<u32>>());
    }
}

#[test]
fn sums_that_are_wrong() {
    let source = source("sums");
    let early = source.without("arrive").without("wait");
    sums(&early, 2).fails(&fault(&["never written", "data race"], &["read", "add", "write"]));
    // Waiting without having arrived; arriving twice; not waiting in between.
    sums(&source.without("arrive"), 2).fails(&fault(&["without having arrived"], &["wait"]));
    let twice = source.change("wait", "barrier.cluster.arrive;");
    sums(&twice, 2).fails(&fault(&["arrives a second time without having waited"], &["wait"]));
    // An arrival that releases nothing.
    let relaxed = source.change("arrive", "barrier.cluster.arrive.relaxed;");
    sums(&relaxed, 2).fails(&fault(&["data race"], &["read", "add"]));
    let fenced = source.change("arrive", "fence.acq_rel.cluster; barrier.cluster.arrive.relaxed;");
    sums(&fenced, 2).passes(|_| ());
    let end = source.without("arrive_last").without("wait_last");
    let texts = ["data race", "may have ended before this access", "which has ended"];
    sums(&end, 2).fails(&fault(&texts, &["count", "read", "add"]));
    // A block that is not there.
    let far = source.change("map", "add.u32 %i, %i, 2; mapa.shared::cluster.u32 %at, %r2, %i;");
    sums(&far, 2).fails(&fault(&["mapa of block 2 of a cluster of 2"], &["map"]));
    let global = source.change("map", "mapa.u64 %d1, %out, 0;");
    sums(&global, 2).fails(&fault(&["which is not in shared memory"], &["map"]));
    // Without the word the address is taken for one of the own block's.
    let text =
        "an address in shared memory of block 0 of the cluster, which needs .shared::cluster";
    let other =
        "an address in shared memory of block 1 of the cluster, which needs .shared::cluster";
    let own = source.change("read", "ld.shared.u32 %r4, [%at];");
    sums(&own, 2).fails(&fault(&[text, other], &["read"]));
    let matrix = "mapa.shared::cluster.u32 %at, %r2, 1; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r4}, [%at];";
    let matrix =
        source.change("read", &format!("setp.eq.u32 %p2, %rank, 0; @!%p2 bra ON; {matrix} ON:"));
    sums(&matrix, 2).fails(&fault(&[other], &["read"]));
    let beyond = source.change("read", "ld.shared::cluster.u32 %r4, [%at+512];");
    sums(&beyond, 2).fails(&fault(&["past the end of __shared__ c"], &["read"]));
    // Only one warp arrives.
    let some = source.change("arrive", "setp.lt.u32 %p2, %r0, 32; @%p2 barrier.cluster.arrive;");
    sums(&some, 2).fails(&fault(&["without having arrived"], &["wait"]));
    let text = "deadlock: waits for the cluster";
    let lost = source
        .change("arrive", "setp.ge.u32 %p2, %r0, 32; @%p2 bar.sync 0; barrier.cluster.arrive;");
    sums(&lost, 2).fails(&fault(
        &[text, "deadlock: barrier 0 reached by only 1 of 2 warps"],
        &["wait", "arrive"],
    ));
    let lanes = source.change("arrive", "@%p0 barrier.cluster.arrive;");
    sums(&lanes, 2)
        .fails(&fault(&["divergent barrier: reached by only 31 of the 32"], &["arrive"]));
}

fn put(source: &Source, blocks: u32) -> Job {
    source.job(vec![Arg::Out(128 * blocks as usize)]).cluster(blocks)
}

#[test]
fn rows_and_arrivals_at_other_blocks() {
    // Every block waits for all that the one before it does there, so that it may end behind that.
    let source = source("put");
    for blocks in [1, 2, 3, 8] {
        let wanted = (0..32 * blocks).map(|i| 1000 * ((i / 32 + blocks - 1) % blocks) + i % 32);
        put(&source, blocks).gives(0, &wanted.collect::<Vec<u32>>());
    }
    // Wrong in many ways.
    put(&source.without("arrive").without("wait"), 2).fails(&fault(
        &["never written", "is no barrier", "data race"],
        &["tell", "await", "read", "write"],
    ));
    let bare = put(&source.without("fence"), 2);
    bare.fails(&fault(
        &["data race: the barrier at", "data race: write of 8 bytes"],
        &["tell", "await"],
    ));
    let relaxed = "mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [%bar];";
    put(&source.change("tell", relaxed), 2).fails(&fault(&["data race"], &["read"]));
    let fenced = format!("fence.acq_rel.cluster; {relaxed}");
    put(&source.change("tell", &fenced), 2).passes(|_| ());
    put(&source.without("tell"), 2).fails(&fault(&["32 of 32 arrivals are missing"], &["await"]));
    // Only `.shared::cluster` is for barriers of other blocks.
    let text = "of the cluster, which needs .shared::cluster";
    for arrival in [
        "mbarrier.arrive.release.cluster.shared::cta.b64 _, [%bar];",
        "mbarrier.arrive.shared.b64 _, [%bar];",
        "cvt.u64.u32 %d1, %bar; cvta.shared.u64 %d1, %d1; mbarrier.arrive.release.cluster.b64 _, [%d1];",
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 0;",
        "mbarrier.arrive_drop.shared::cta.b64 _, [%bar];",
        "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%bar], 0;",
    ] {
        put(&source.change("tell", arrival), 2).fails(&fault(&[text], &["tell"]));
    }
    put(&source.change("tell", "mbarrier.arrive.shared::cta.b64 _, [%bar];"), 1).passes(|_| ());
    let init = "mbarrier.init.shared::cta.b64 [%bar], 1;";
    put(&source.change("tell", init), 2)
        .fails(&fault(&["only arrivals without a state"], &["tell"]));
    for elsewhere in [
        "mbarrier.expect_tx.relaxed.cluster.shared::cluster.b64 [%bar], 0;",
        "cvt.u64.u32 %d1, %bar; cvta.shared.u64 %d1, %d1; mbarrier.expect_tx.relaxed.cluster.b64 [%d1], 0;",
    ] {
        let tell = "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%bar];";
        put(&source.change("tell", &format!("{elsewhere} {tell}")), 2).passes(|_| ());
    }
    // A state comes back only from the block's own barrier; nobody waits at another one's.
    let state = source.change("tell", "mbarrier.arrive.shared::cluster.b64 %d1, [%bar];");
    put(&state, 2).fails(&fault(&["only arrivals without a state"], &["tell"]));
    let wait = "mbarrier.try_wait.parity.shared::cta.b64 %p1, [%bar], 0;";
    put(&source.change("await", wait), 2)
        .fails(&fault(&["a wait at a barrier of block"], &["await"]));
}

/// An arrival at another block's barrier and a wait for one, without a scope: `.cta`.
const NARROW_TELL: &str = "mbarrier.arrive.shared::cluster.b64 _, [%bar];";
const NARROW_WAIT: &str = "mbarrier.try_wait.parity.shared::cta.b64 %p1, [bar], 0;";

#[test]
fn scopes_that_do_not_publish_to_other_blocks() {
    let by_global = source("put")
        .change(
            "write",
            "mad.lo.u32 %r6, %next, 32, %r0; mul.wide.u32 %d2, %r6, 4; add.u64 %d2, %out, %d2; \
             st.global.u32 [%d2], %r3;",
        )
        .change(
            "read",
            "mad.lo.u32 %r6, %rank, 32, %r0; mul.wide.u32 %d2, %r6, 4; add.u64 %d2, %out, %d2; \
             ld.global.u32 %r4, [%d2];",
        );
    let by_matrix = source("put").change(
        "read",
        "and.b32 %r6, %r0, 7; shl.b32 %r6, %r6, 4; mov.u32 %r7, cells; add.u32 %r6, %r6, %r7; \
         ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r4}, [%r6];",
    );
    for (source, place) in [
        (source("put"), "byte 0 of '__shared__ cells' of block"),
        (by_global.clone(), "of 'buffer 0'"),
        (by_matrix.clone(), "byte 0 of '__shared__ cells' of block"),
    ] {
        put(&source, 3).passes(|_| ());
        let text = "has the scope .cta only";
        let tell = source.change("tell", NARROW_TELL);
        put(&tell, 3).fails(&fault(&[text], &["read"]).lanes(1));
        put(&tell, 3).fails(&fault(&[place], &["read"]));
        put(&tell, 3).fails(&fault(&[", written by thread (0, 0, 0) of block"], &["read"]));
        put(&source.change("await", NARROW_WAIT), 3).fails(&fault(&[text], &["read"]));
        put(&tell.change("await", NARROW_WAIT), 2).fails(&fault(&[text], &["read"]));
        let relaxed =
            "fence.acq_rel.cluster; mbarrier.arrive.relaxed.cta.shared::cluster.b64 _, [%bar];";
        put(&source.change("tell", relaxed), 2).fails(&fault(&[text], &["read"]));
        // Through a thread that has waited to those of its block that have not.
        let first = format!(
            "@%p0 bra PASSED; AGAIN1: {NARROW_WAIT} @!%p1 bra AGAIN1; PASSED: bar.sync 0; setp.eq.u32 %p1, 0, 0;"
        );
        put(&source.change("await", &first), 2).fails(&fault(&[text], &["read"]));
        // The cluster's barrier publishes, and then it is not needed.
        let meet = format!("{NARROW_TELL} barrier.cluster.arrive; barrier.cluster.wait;");
        put(&source.change("tell", &meet), 3).passes(|_| ());
        put(&source.change("tell", &meet).change("await", NARROW_WAIT), 3).passes(|_| ());
        // A block that has only itself.
        put(&tell.change("await", NARROW_WAIT), 1).passes(|_| ());
    }
    let wanted: Vec<u32> = (0..96).map(|i| 1000 * ((i / 32 + 2) % 3) + i % 32).collect();
    put(&by_global, 3).gives(0, &wanted);
}

#[test]
fn buffers_are_freed_with_any_scope() {
    // A block reads what another one has in its shared memory, and tells it; that one writes over it.
    let source = source("put")
        .change(
            "arrive",
            "shl.b32 %r1, %r0, 2; mov.u32 %r2, cells; add.u32 %r2, %r2, %r1; st.shared.u32 [%r2], %r0; \
             fence.acq_rel.cluster; barrier.cluster.arrive.relaxed;",
        )
        .change("write", "ld.shared::cluster.u32 %r6, [%at]; add.u32 %r3, %r3, %r6;")
        .change("read", "st.shared.u32 [%r2], %r3; ld.shared.u32 %r4, [%r2];");
    let wanted: Vec<u32> = (0..96).map(|i| 1000 * (i / 32) + 2 * (i % 32)).collect();
    for (tell, wait) in [
        ("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%bar];", NARROW_WAIT),
        (NARROW_TELL, NARROW_WAIT),
    ] {
        put(&source.change("tell", tell).change("await", wait), 3).gives(0, &wanted);
    }
    let early = source.change("await", "setp.eq.u32 %p1, 0, 0;");
    put(&early, 3).fails(&fault(&["data race", "which has ended"], &["read", "write"]));
}

#[test]
fn a_block_must_not_end_while_others_read_its_memory() {
    let source = source("last");
    let job = |source: &Source| source.job(vec![Arg::Out(4)]).block(64).cluster(2);
    job(&source).gives(0, &[0]);
    let texts = [
        "block 0 of the cluster may have ended before this access to its shared memory: a barrier.cluster",
        "of '__shared__ cell' of block 0 of the cluster, which has ended: a barrier.cluster is missing",
    ];
    job(&source.without("arrive").without("wait")).fails(&fault(&texts, &["read"]));
    // Block 0 does not wait.
    let hasty = source.change("wait", "@!%p1 barrier.cluster.wait;");
    job(&hasty).fails(&fault(&texts, &["read"]));
    // Block 1 need not.
    let hasty = source.change("wait", "@%p1 barrier.cluster.wait;");
    job(&hasty).gives(0, &[0]);
}

#[test]
fn warps_that_have_ended_are_not_waited_for() {
    let job = source("early").job(vec![Arg::Out(4 * 128)]).block(64).cluster(2);
    job.passes(|ran| {
        let wanted: Vec<u32> =
            (0..128).map(|i| if i % 64 < 32 { u32::MAX } else { i % 64 }).collect();
        assert_eq!(words(&ran.buffers[0]), wanted);
    });
}
