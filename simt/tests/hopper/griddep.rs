//! `griddepcontrol` (9.7.13): in a kernel that waits for the one before, global memory is out of bounds until then.

use glmae_simt::hopper::swizzle::Swizzle;
use glmae_simt::hopper::tensor_map::Element;

use crate::gemm::{GOOD, Pipeline, map};
use crate::launch::fault;
use crate::{Arg, Job, Source};

const EARLY: &str = "before griddepcontrol.wait, while the kernel before may still run";

fn source(kernel: &str) -> Source {
    Source::kernel("hopper_griddep", kernel)
}

fn with_early(early: &str) -> Source {
    source("plain").with("early", early).with("then", "")
}

fn plain(source: &Source) -> Job {
    source.job(vec![Arg::words(0..64), Arg::Out(256), Arg::words([5])]).block(64)
}

fn check_plain(job: &Job) {
    job.gives(1, &(1..65).collect::<Vec<u32>>());
    job.gives(2, &[69]);
}

#[test]
fn threads_that_wait_first() {
    check_plain(&plain(&with_early("")));
    // What is no global memory is free: shared memory, parameters, also by generic addresses, and hints.
    for free in [
        "ld.shared.u32 %r3, [%r1]; atom.shared.add.u32 %r3, [%r1], 1;",
        "cvt.u64.u32 %d1, %r1; cvta.shared.u64 %d1, %d1; ld.u32 %r3, [%d1]; st.u32 [%d1], %r3;",
        "mov.b64 %d1, count; cvta.param.u64 %d1, %d1; ld.u64 %d2, [%d1]; ld.param.u64 %d2, [in];",
        "prefetch.global.L2 [%in]; cp.async.ca.shared.global [%r1], [%in], 4, 0; cp.async.wait_all;",
        "griddepcontrol.launch_dependents;",
        // Waiting once more.
        "griddepcontrol.wait; ld.global.u32 %r3, [%in];",
    ] {
        check_plain(&plain(&with_early(free)));
    }
    // No thread waits: the kernel is launched behind the end of the one before.
    check_plain(&plain(&with_early("").without("wait")));
}

#[test]
fn accesses_before_the_wait() {
    for (early, access) in [
        ("ld.global.u32 %r3, [%in];", "read of 4 bytes at byte 0 of 'buffer 0'"),
        ("ld.global.nc.u32 %r3, [%in];", "read of 4 bytes at byte 0 of 'buffer 0'"),
        ("ld.u32 %r3, [%in];", "read of 4 bytes at byte 0 of 'buffer 0'"),
        ("st.global.u32 [%out], %r0;", "write of 4 bytes at byte 0 of 'buffer 1'"),
        ("st.volatile.global.u32 [%out], %r0;", "write of 4 bytes at byte 0 of 'buffer 1'"),
        ("red.global.add.u32 [%count], 1;", "atomic of 4 bytes at byte 0 of 'buffer 2'"),
        ("atom.add.u32 %r3, [%count], 1;", "atomic of 4 bytes at byte 0 of 'buffer 2'"),
    ] {
        let text = format!("{access} {EARLY}");
        plain(&with_early(early)).block(32).fails(&fault(&[&text], &["early"]).lanes(u32::MAX));
        // By some lanes only.
        let some = with_early(&format!("@%p0 {early}"));
        plain(&some).block(32).fails(&fault(&[&text], &["early"]).lanes(0xf));
    }
    let copy = "cp.async.ca.shared.global [%r1], [%in], 4; cp.async.wait_all;";
    let text = format!("read of 4 bytes at byte 0 of 'buffer 0' {EARLY}");
    plain(&with_early(copy)).block(32).fails(&fault(&[&text], &["early"]).lanes(1));
    // It is waited for behind the wait, but it may have read before.
    let late = source("plain").with("then", "cp.async.wait_all;");
    let late = late.with("early", "cp.async.ca.shared.global [%r1], [%in], 4;");
    plain(&late).block(32).fails(&fault(&[&text], &["early"]).lanes(1));
}

#[test]
fn a_wait_behind_the_first_load() {
    let late = source("plain").with("early", "").with("then", "griddepcontrol.wait;");
    let text = format!("read of 4 bytes at byte 0 of 'buffer 0' {EARLY}");
    plain(&late.without("wait")).block(32).fails(&fault(&[&text], &["load"]).lanes(u32::MAX));
    // Four lanes have waited. A warp does not wait as a whole.
    let some = late.change("wait", "@%p0 griddepcontrol.wait;");
    let text = format!("read of 4 bytes at byte 16 of 'buffer 0' {EARLY}");
    plain(&some).block(32).fails(&fault(&[&text], &["load"]).lanes(!0xf));
}

fn paths(source: &Source) -> Job {
    source.job(vec![Arg::words(0..32), Arg::Out(128)])
}

#[test]
fn lanes_that_wait_on_their_paths() {
    let good = source("paths").with("meet", "");
    let wanted: Vec<u32> = (0..32).collect();
    paths(&good).gives(1, &wanted);
    let text = |byte: u32| format!("read of 4 bytes at byte {byte} of 'buffer 0' {EARLY}");
    for (mark, byte, lanes) in [("odd", 4, 0xaaaa_aaaa), ("even", 0, 0x5555_5555)] {
        let one = good.without(mark);
        paths(&one).fails(&fault(&[&text(byte)], &["load"]).lanes(lanes));
        // Votes and shuffles order nothing.
        let vote = source("paths").with("meet", "vote.sync.any.pred %p1, %p0, 0xffffffff;");
        paths(&vote.without(mark)).fails(&fault(&[&text(byte)], &["load"]).lanes(lanes));
        // The lanes that have waited, and the others behind them.
        let sync = source("paths").with("meet", "bar.warp.sync 0xffffffff;");
        paths(&sync.without(mark)).gives(1, &wanted);
        // Lanes that do nothing need not wait.
        let ends = source("paths").with("meet", "@%p0 ret;");
        let job = paths(&ends.without(mark));
        match mark {
            "odd" => job.passes(|_| ()),
            _ => job.fails(&fault(&[&text(0)], &["load"]).lanes(0x5555_5555)),
        }
    }
    // Half of the lanes meet.
    let half = source("paths").with("meet", "setp.lt.u32 %p1, %r0, 16; @%p1 bar.warp.sync 0xffff;");
    paths(&half.without("odd")).fails(&fault(&[&text(68)], &["load"]).lanes(0xaaaa_0000));
}

fn order(source: &Source, blocks: u32) -> Job {
    let n = 64 * blocks;
    source.job(vec![Arg::words(0..n), Arg::Out(4 * n as usize)]).block(64).cluster(blocks)
}

fn ordered(before: &str, order: &str) -> Source {
    source("order").with("before", before).with("order", order)
}

const CLUSTER: &str = "barrier.cluster.arrive; barrier.cluster.wait;";
/// Thread 0 arrives, all wait for it.
const MBARRIER: &str = "@!%p0 mbarrier.arrive.shared::cta.b64 _, [bar]; AGAIN: \
                        mbarrier.try_wait.parity.shared::cta.b64 %p1, [bar], 0; @!%p1 bra AGAIN;";

#[test]
fn threads_behind_one_that_has_waited() {
    let wanted: Vec<u32> = (0..128).collect();
    order(&ordered("", "bar.sync 0;"), 1).gives(1, &wanted[..64]);
    order(&ordered("bar.sync 0;", MBARRIER), 1).gives(1, &wanted[..64]);
    order(&ordered("", CLUSTER), 2).gives(1, &wanted);
    // Through the second block's barrier to its threads.
    let first = "barrier.cluster.arrive; barrier.cluster.wait; bar.sync 0;";
    order(&ordered("", first), 2).gives(1, &wanted);
}

#[test]
fn threads_that_are_not_behind_it() {
    let text = [EARLY];
    let at = ["load"];
    // Nothing in between, or too early.
    order(&ordered("", ""), 1).fails(&fault(&text, &at));
    order(&ordered("bar.sync 0;", ""), 1).fails(&fault(&text, &at));
    order(&ordered(CLUSTER, ""), 2).fails(&fault(&text, &at));
    let early = format!("bar.sync 0; {MBARRIER}");
    order(&ordered(&early, ""), 1).fails(&fault(&text, &at));
    // The first warp alone; a barrier of another block.
    let half = "setp.lt.u32 %p2, %r0, 32; @%p2 bar.warp.sync 0xffffffff;";
    order(&ordered("", half), 1).fails(&fault(&text, &at).lanes(u32::MAX));
    order(&ordered("", "bar.sync 0;"), 2).fails(&fault(&text, &at).lanes(u32::MAX));
    // Arrivals that publish nothing.
    let relaxed = "barrier.cluster.arrive.relaxed; barrier.cluster.wait;";
    order(&ordered("", relaxed), 2).fails(&fault(&text, &at));
}

fn tiles(source: &Source) -> Job {
    let of = |buffer: usize| {
        Arg::map(move |at| map(Element::U32, at[buffer], (4, 32), [32, 4], Swizzle::None))
    };
    source.job(vec![of(0), of(1), Arg::words(0..128), Arg::Out(512)]).block(64)
}

const LOAD: &str = "cp.async.bulk.tensor.2d.shared::cta.global.tile.mbarrier::complete_tx::bytes \
                    [tile], [%from, {0, 0}], [bar];";

#[test]
fn bulk_copies_of_a_thread_that_has_waited() {
    let good = source("tiles").with("early", "");
    let wanted: Vec<u32> = (0..128).collect();
    tiles(&good).gives(1, &wanted);
    let bulk = good.change(
        "load",
        "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [tile], [%in], 512, [bar];",
    );
    tiles(&bulk).gives(1, &wanted);
    let bulk =
        bulk.change("store", "cp.async.bulk.global.shared::cta.bulk_group [%out], [tile], 512;");
    tiles(&bulk).gives(1, &wanted);
    // A prefetch into the cache of level 2, which all share, is free.
    let hint = "cp.async.bulk.prefetch.L2.global [%in], 512;";
    tiles(&source("tiles").with("early", hint)).gives(1, &wanted);
}

#[test]
fn bulk_copies_before_the_wait() {
    // Boxes are read and written row by row.
    for (early, access) in [
        (LOAD, "read of 128 bytes at byte 0 of 'buffer 0'"),
        (
            "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [tile], [%in+256], 256, [bar];",
            "read of 256 bytes at byte 256 of 'buffer 0'",
        ),
        (
            "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%to, {0, 1}], [tile];",
            "write of 128 bytes at byte 128 of 'buffer 1'",
        ),
        (
            "cp.async.bulk.global.shared::cta.bulk_group [%out], [tile], 512;",
            "write of 512 bytes at byte 0 of 'buffer 1'",
        ),
        (
            "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%to, {0, 0}], [tile];",
            "reduction of 128 bytes at byte 0 of 'buffer 1'",
        ),
        // A map in global memory, where a kernel before may have put it.
        (
            "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%in, {0, 0}], [tile];",
            "read of 128 bytes at byte 0 of 'buffer 0'",
        ),
    ] {
        let text = format!("{access} {EARLY}");
        let source = source("tiles").with("early", early);
        tiles(&source).fails(&fault(&[&text], &["early"]).lanes(1));
    }
    // The wait comes behind, and before the copy has ended.
    let good = source("tiles").with("early", "");
    let late = good.without("wait").change("load", &format!("{LOAD} griddepcontrol.wait;"));
    tiles(&late).fails(&fault(&[EARLY], &["load"]).lanes(1));
    let late = good.change("wait", "@%p0 griddepcontrol.wait;");
    tiles(&late).fails(&fault(&[EARLY], &["load"]).lanes(1));
}

#[test]
fn pipelines_whose_producer_waits() {
    let wait = "griddepcontrol.wait;";
    // Who multiplies is behind the producer by its barriers, and stores without a wait of its own.
    for pipeline in [GOOD, Pipeline { cluster: 2, ..GOOD }] {
        pipeline.changed("less", wait).passes(|ran| pipeline.check(&ran.buffers[2]));
        let begin = format!("{wait} barrier.cluster.arrive; barrier.cluster.wait;");
        pipeline.changed("begin", &begin).passes(|ran| pipeline.check(&ran.buffers[2]));
    }
    // Only those who multiply, or the producer when it has begun.
    GOOD.changed("more", wait).fails(&fault(&[EARLY], &["load_a"]).lanes(1));
    let late = GOOD.source().change("producer_flip", wait);
    GOOD.job_of(&late).fails(&fault(&[EARLY], &["load_a"]));
}

#[test]
fn actions_that_are_none() {
    for it in ["griddepcontrol;", "griddepcontrol.later;", "griddepcontrol.wait.later;"] {
        let refusal = plain(&with_early(it)).refusal();
        assert!(refusal.contains("griddepcontrol"), "{it}: {refusal}");
    }
}
