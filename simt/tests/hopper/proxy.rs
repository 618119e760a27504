//! Fences between the proxies (9.7.13.4): for reads as for writes, for the objects of one space, and between blocks,
//! which are ordered by atomics (9.7.13.5).

use crate::launch::{fault, words};
use crate::{Arg, Job, Source};

const NO_FENCE: &str = "with no fence.proxy.async behind it";

fn bulk(kernel: &str) -> Source {
    Source::kernel("hopper_bulk", kernel)
}

fn source(kernel: &str) -> Source {
    Source::kernel("hopper_proxy", kernel)
}

#[test]
fn what_was_read_is_loaded_over_behind_a_fence() {
    let job = |source: &Source| source.job(vec![Arg::words(0..64), Arg::Out(256)]);
    let good = bulk("again");
    let wanted: Vec<u32> = (0..64).collect();
    job(&good).gives(1, &wanted);
    // By those who read, in front of the barrier, or by the one that loads, behind it.
    for fence in ["fence.proxy.async;", "fence.proxy.async.shared::cluster;"] {
        job(&good.change("reuse", fence)).gives(1, &wanted);
        let late = good.change("between", &format!("bar.sync 0; @!%p0 {fence}"));
        job(&late.without("reuse")).gives(1, &wanted);
    }
    let text = "write of 128 bytes at byte 0 of '__shared__ cells', read by thread (0, 0, 0)";
    job(&good.without("reuse")).fails(&fault(&[text], &["load"]).lanes(1));
    job(&good.without("reuse")).fails(&fault(&[NO_FENCE], &["load"]));
    // For global memory; in front of the read; by another thread than the one that read; by only one of them.
    let early = good.change("read", "fence.proxy.async; ld.shared.u32 %r3, [%r1];");
    for bad in [
        good.change("reuse", "fence.proxy.async.global;"),
        early.without("reuse"),
        good.change("reuse", "@%p0 fence.proxy.async;"),
        good.change("reuse", "@!%p0 fence.proxy.async;"),
    ] {
        job(&bad).fails(&fault(&[NO_FENCE], &["load"]).lanes(1));
    }
}

#[test]
fn what_was_read_is_stored_over_behind_a_fence() {
    let job = |source: &Source| source.job(vec![Arg::words(0..32)]);
    let good = source("over").with("late", "");
    let wanted: Vec<u32> = (1..33).collect();
    job(&good).gives(0, &wanted);
    // Shared memory in front of the barrier, global memory behind it.
    let late = |fence: &str| source("over").with("late", fence);
    let some = late("fence.proxy.async.global;").change("fence", "fence.proxy.async.shared::cta;");
    job(&some).gives(0, &wanted);
    job(&late("fence.proxy.async;").without("fence")).gives(0, &wanted);
    // One of the two spaces only.
    let text = "write of 128 bytes at byte 0 of 'buffer 0', read by thread (0, 0, 0) (PTX line";
    job(&good.change("fence", "fence.proxy.async.shared::cta;"))
        .fails(&fault(&[text], &["store"]).lanes(1));
    let text =
        "read of 128 bytes at byte 0 of '__shared__ cells', written by thread (0, 0, 0) (PTX line";
    job(&good.change("fence", "fence.proxy.async.global;"))
        .fails(&fault(&[text], &["store"]).lanes(1));
    job(&good.without("fence")).fails(&fault(&[NO_FENCE], &["store"]));
}

#[test]
fn fences_are_for_one_space() {
    // Panels that are written and stored.
    let store = |fence: &str| {
        let source = bulk("store").with("read", "").with("then", "").with("early", "");
        let source = source.with("late", "").change("fence", fence);
        source.job(vec![Arg::Out(768)]).block(64)
    };
    store("fence.proxy.async.shared::cluster;").passes(|_| ());
    store("fence.proxy.async;").passes(|_| ());
    store("fence.proxy.async.global; fence.proxy.async.shared::cta;").passes(|_| ());
    store("fence.proxy.async.global;").fails(&fault(&[NO_FENCE], &["store"]).lanes(1));
    // Words of global memory that are written and loaded.
    let load = |fence: &str| {
        let load = "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [cells], [%in], 16, [bar];";
        let it = format!("st.global.u32 [%in], 5; {fence} {load}");
        bulk("single").with("it", it).job(vec![Arg::words(0..64)])
    };
    load("fence.proxy.async.global;").passes(|_| ());
    load("fence.proxy.async;").passes(|_| ());
    for fence in ["fence.proxy.async.shared::cta;", "fence.proxy.async.shared::cluster;", ""] {
        load(fence).fails(&fault(&[NO_FENCE], &["it"]).lanes(1));
    }
    // Barriers are in shared memory.
    let init = |fence: &str| {
        let source = bulk("load").with("to", "shared::cta").change("fence", fence);
        source.job(vec![Arg::words(0..256), Arg::Out(512)]).block(128)
    };
    init("fence.proxy.async.shared::cta;").passes(|_| ());
    init("fence.proxy.async.global;")
        .fails(&fault(&["a fence is missing behind its initialisation"], &["first"]).lanes(1));
    let refusal = load("fence.proxy.async.local;").refusal();
    assert!(refusal.contains("'.local'"), "{refusal}");
}

const BLOCKS: u32 = 3;

fn stores(source: &Source) -> Job {
    let args = vec![Arg::Out(128 * BLOCKS as usize), Arg::words([0]), Arg::Out(128)];
    source.job(args).grid([BLOCKS, 1, 1])
}

const NOT_RELEASED: &str = "which the atomic that orders the blocks does not release: a fence, a bar.sync or a \
                            wait_group without .read is missing before it";

#[test]
fn stores_that_another_block_reads() {
    let good = source("stores");
    let wanted: Vec<u32> = (0..32).map(|t| (0..BLOCKS).map(|b| 1000 * b + t).sum()).collect();
    stores(&good).passes(|ran| {
        assert_eq!(words(&ran.buffers[2]), wanted);
        assert_eq!(words(&ran.buffers[1]), [0]);
    });
    // The atomic itself may release.
    for order in ["release.gpu", "acq_rel.gpu", "acq_rel.sys"] {
        let meet = format!("atom.{order}.global.add.u32 %r2, [%ticket], 1;");
        stores(&good.without("fence").change("meet", &meet)).gives(2, &wanted);
    }
    for fence in ["fence.acq_rel.gpu;", "fence.sc.sys;"] {
        stores(&good.change("fence", fence)).gives(2, &wanted);
    }
    let of = "written by an asynchronous copy of block (";
    let fails = |bad: Source| {
        stores(&bad).fails(&fault(&[of], &["read"]));
        stores(&bad).fails(&fault(&[NOT_RELEASED], &["read"]));
    };
    // Only the reads of the store were waited for.
    fails(good.change("wait", "cp.async.bulk.wait_group.read 0;"));
    // No fence, one in front of the wait, an atomic that releases nothing.
    fails(good.without("fence"));
    fails(good.without("fence").change("wait", "membar.gl; cp.async.bulk.wait_group 0;"));
    let relaxed = "atom.relaxed.gpu.global.add.u32 %r2, [%ticket], 1;";
    fails(good.without("fence").change("meet", relaxed));
    // Without an atomic on the same word there is no order at all.
    let apart = good.change("meet", "mov.u32 %r2, %block;");
    stores(&apart).fails(&fault(&["data race", "never written"], &["read", "store"]));
}

fn loads(source: &Source) -> Job {
    let n = 256 * BLOCKS as usize;
    source.job(vec![Arg::Out(n), Arg::words([0]), Arg::Out(n)]).block(64).grid([BLOCKS, 1, 1])
}

fn loads_with(writer: &str, before: &str, reader: &str) -> Source {
    source("loads").with("writer", writer).with("before", before).with("reader", reader)
}

#[test]
fn rows_that_another_block_loads() {
    let wanted: Vec<u32> = (0..64 * BLOCKS).map(|i| 1000 * (i / 64) + i % 64).collect();
    // A fence by those who write, by the one that comes to the atomic, or by the one that loads.
    for fence in ["fence.proxy.async;", "fence.proxy.async.global;"] {
        loads(&loads_with(fence, "", "")).gives(2, &wanted);
        loads(&loads_with("", fence, "")).gives(2, &wanted);
        loads(&loads_with("", "", fence)).gives(2, &wanted);
    }
    // Between the barrier and the atomic, or by everybody in front of the barrier.
    let good = loads_with("fence.proxy.async;", "", "");
    loads(&loads_with("fence.proxy.async; membar.gl;", "", "").without("fence")).gives(2, &wanted);
    let releases = "atom.release.gpu.global.add.u32 %r2, [%ticket], 1;";
    loads(&good.without("fence").change("meet", releases)).gives(2, &wanted);
    let text = "written by thread (";
    for bad in [
        loads_with("", "", ""),
        loads_with("fence.proxy.async.shared::cta;", "", ""),
        loads_with("", "", "fence.proxy.async.shared::cta;"),
    ] {
        loads(&bad).fails(&fault(&[text], &["load"]).lanes(1));
        loads(&bad).fails(&fault(&[NO_FENCE], &["load"]));
    }
    // The ticket may be drawn before the other warp has written.
    let texts = [NOT_RELEASED, "never written", "with no barrier between"];
    loads(&good.without("barrier")).fails(&fault(&texts, &["load", "write"]));
    // One warp only has a fence.
    let some = "fence.proxy.async; setp.lt.u32 %p2, %t, 32; @%p2 membar.gl;";
    let some = loads_with(some, "", "").without("fence");
    loads(&some).fails(&fault(&[NOT_RELEASED, "with no barrier between"], &["load"]));
    loads(&good.without("fence")).fails(&fault(&[NOT_RELEASED], &["load"]));
}

#[test]
fn what_other_blocks_have_read_is_stored_over() {
    let job = |source: &Source| {
        let args = vec![Arg::words(0..32), Arg::words([0]), Arg::Out(256)];
        source.job(args).grid([2, 1, 1])
    };
    let with = |reader: &str| source("last").with("reader", reader);
    let wanted: Vec<u32> = (0..64).map(|i| i % 32).collect();
    let passes = |source: Source| {
        job(&source).passes(|ran| {
            assert_eq!(words(&ran.buffers[0]), [77; 32]);
            assert_eq!(words(&ran.buffers[2]), wanted);
        });
    };
    passes(with(""));
    passes(with("fence.proxy.async;").without("proxy"));
    let text = "write of 128 bytes at byte 0 of 'buffer 0', read by thread (";
    let shared = with("").change("proxy", "fence.proxy.async.shared::cta;");
    job(&shared).fails(&fault(&[text], &["store"]).lanes(1));
    job(&shared).fails(&fault(&[NO_FENCE], &["store"]));
    job(&with("").without("fence")).fails(&fault(&[NOT_RELEASED], &["store"]));
    // No ticket at all.
    let none = with("").change("meet", "mov.u32 %r4, %block;");
    job(&none).fails(&fault(&["data race"], &["store", "read"]));
}

#[test]
fn locks_of_blocks() {
    let job = |leave: &str, blocks: u32| {
        let source = source("lock").with("leave", leave);
        source.job(vec![Arg::words([5]), Arg::words([0])]).block(1).grid([blocks, 1, 1])
    };
    for leave in [
        "membar.gl; atom.global.exch.b32 %r2, [%lock], 0;",
        "atom.release.gpu.global.exch.b32 %r2, [%lock], 0;",
        "red.release.gpu.global.add.u32 [%lock], -1;",
    ] {
        job(leave, 4).gives(0, &[9]);
    }
    // Two blocks: a third would wait forever for the lock that the second holds when it fails.
    for leave in ["atom.global.exch.b32 %r2, [%lock], 0;", "red.global.add.u32 [%lock], -1;"] {
        job(leave, 2).fails(&fault(&[NOT_RELEASED], &["read"]).lanes(1));
    }
}
