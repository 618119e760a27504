//! `cp.async.bulk` without a tensor (9.7.9.25.5.2): loads, stores, copies between blocks, multicast.

use glmae_simt::machine::Schedule;

use crate::launch::{fault, words};
use crate::{Arg, Job, Source};

fn source(kernel: &str) -> Source {
    Source::kernel("hopper_bulk", kernel)
}

fn load(source: &Source) -> Job {
    source.job(vec![Arg::words(0..256), Arg::Out(512)]).block(128)
}

#[test]
fn loads_of_two_runs() {
    for to in ["shared::cluster", "shared::cta"] {
        load(&source("load").with("to", to)).gives(1, &(0..128).collect::<Vec<u32>>());
    }
}

#[test]
fn loads_that_are_wrong() {
    let source = source("load").with("to", "shared::cta");
    let deadlock = |change: &str, text: &str| {
        let text = format!(
            "deadlock: warps 0 to 3 wait at the barrier at byte 0 of '__shared__ bar': {text}"
        );
        load(&source.change("expect", change)).fails(&fault(&[&text], &["wait"]).lanes(u32::MAX));
    };
    // More, less and no bytes expected than come; bytes without an arrival.
    deadlock(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 528;",
        "a wait for the phase of parity 0 to end, in which all arrived but 16 bytes are missing",
    );
    deadlock(
        "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [bar], 512;",
        "a wait for the phase of parity 0 to end, in which 1 of 1 arrivals are missing",
    );
    deadlock(
        "",
        "a wait for the phase of parity 0 to end, in which 1 of 1 arrivals are missing and 512 bytes came that \
         were not expected",
    );
    deadlock(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 500;",
        "a wait for the phase of parity 0 to end, in which all arrived but 12 bytes too many came",
    );
    // As few as one of the copies brings: the phase ends too early.
    let early = source.change("expect", "mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 384;");
    let texts = ["not waited for", "came that were not", "too many came", "data race"];
    load(&early).fails(&fault(&texts, &["read", "wait"]));
    // Nobody waits.
    let text = ["not waited for", "never written", "data race"];
    load(&source.change("wait", "setp.eq.u32 %p1, 0, 0;")).fails(&fault(&text, &["read"]));
    // The barrier's initialisation cannot be seen by the copy.
    load(&source.without("fence"))
        .fails(&fault(&["a fence is missing behind its initialisation"], &["first"]).lanes(1));
    let other =
        source.without("fence").change("begin", "bar.sync 0; fence.mbarrier_init.release.cluster;");
    // Thread 0 has fenced behind the block's barrier: also good.
    load(&other).gives(1, &(0..128).collect::<Vec<u32>>());
    let elsewhere = source.without("fence").change(
        "begin",
        "bar.sync 0; setp.ne.u32 %p2, %r0, 1; @!%p2 fence.mbarrier_init.release.cluster; bar.sync 0;",
    );
    load(&elsewhere).fails(&fault(&["a fence is missing behind its initialisation"], &["first"]));
    // Two copies to one place.
    let twice = source.change(
        "second",
        "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [cells+368], [%in+384], 128, [bar];",
    );
    load(&twice).fails(&fault(&["an asynchronous copy was not waited for"], &["second"]).lanes(1));
    // The thread writes where its copy goes.
    let over = source.change("second", "st.shared.u32 [cells], %r0;");
    load(&over).fails(&fault(&["data race"], &["second"]).lanes(1));
    // Beyond the source, and never written.
    let beyond = source.change(
        "second",
        "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [cells+384], [%in+928], 128, [bar];",
    );
    load(&beyond).fails(&fault(
        &["read of 128 bytes reaches 32 bytes past the end of 'buffer 0'"],
        &["second"],
    ));
    let unwritten = source.change(
        "second",
        "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [cells+384], [%out], 128, [bar];",
    );
    load(&unwritten).fails(&fault(&["of 'buffer 1', which was never written"], &["second"]));
}

#[test]
fn nobody_waits_for_a_load() {
    // The copy may still be under way when the block ends: under every schedule in which it is.
    let source = source("load").with("to", "shared::cta").change("wait", "bra END;");
    let text = "the block ended while this copy was under way: nobody there waited for its barrier";
    load(&source).fails_under(&[Schedule::Ascending], &fault(&[text], &["first", "second"]));
}

fn again(source: &Source) -> Job {
    source.job(vec![Arg::words(0..64), Arg::Out(256)])
}

#[test]
fn a_buffer_that_is_loaded_again() {
    let source = source("again");
    again(&source).gives(1, &(0..64).collect::<Vec<u32>>());
    // The second load may overtake what the lanes read of the first: whatever barrier is between, without a fence.
    let text = "write of 128 bytes at byte 0 of '__shared__ cells', read by thread (0, 0, 0) (PTX line 69) with no \
                fence.proxy.async behind it";
    again(&source.without("reuse")).fails(&fault(&[text], &["load"]).lanes(1));
    again(&source.without("between"))
        .fails(&fault(&["data race: write of 128 bytes at byte"], &["load"]).lanes(1));
    let flip = source.change("wait", "mbarrier.try_wait.parity.shared::cta.b64 %p1, [bar], 0;");
    again(&flip).fails(&fault(&["not waited for", "data race"], &["read"]));
    again(&source.without("arrive")).fails(&fault(&["1 of 1 arrivals are missing"], &["wait"]));
}

fn store_source() -> Source {
    source("store").with("read", "").with("then", "").with("early", "").with("late", "")
}

fn store(source: &Source) -> Job {
    source.job(vec![Arg::Out(768)]).block(64)
}

#[test]
fn stores_from_two_buffers() {
    let wanted: Vec<u32> = (0..192).map(|i| 1000 * (i / 64) + i % 64).collect();
    store(&store_source()).gives(0, &wanted);
    // Shared memory is free behind .read, and the kernel's end ends all writes.
    let read = source("store").with("read", ".read").with("then", "").with("early", "");
    store(&read.with("late", "")).gives(0, &wanted);
}

#[test]
fn stores_that_are_wrong() {
    let good = store_source();
    let race = ["which a bulk copy", "data race: write of 4 bytes at"];
    // The buffer is written again while the store may read it.
    store(&good.without("reuse")).fails(&fault(&race, &["write"]).lanes(1));
    store(&good.change("reuse", "cp.async.bulk.wait_group.read 2;"))
        .fails(&fault(&race, &["write"]));
    store(&good.without("commit")).fails(&fault(&race, &["write"]));
    // Thread 0 has waited, but the others have not heard of it.
    store(&good.without("free")).fails(&fault(&["data race", "which a bulk copy"], &["write"]));
    // Nobody waits at the end.
    let open = "ended without having waited for this bulk store";
    store(&good.without("end")).fails(&fault(&[open], &["store"]).lanes(1));
    store(&good.change("end", "cp.async.bulk.wait_group.read 1;"))
        .fails(&fault(&[open], &["store"]));
    // No fence; one before the write instead of behind; one by another thread before it could know.
    let fence = "with no fence.proxy.async behind it";
    store(&good.without("fence")).fails(&fault(&[fence], &["store"]).lanes(1));
    let before = source("store").with("read", "").with("then", "").with("late", "");
    let before = before.with("early", "fence.proxy.async;").without("fence");
    store(&before).fails(&fault(&[fence], &["store"]));
    let other = good.change("fence", "@!%p0 fence.proxy.async;");
    store(&other).fails(&fault(&[fence], &["store"]));
    // By the thread that starts the store, behind the barrier: on the way from the writes to the read.
    let late = source("store").with("read", "").with("then", "").with("early", "");
    let late = late.with("late", "fence.proxy.async;").without("fence");
    let wanted: Vec<u32> = (0..192).map(|i| 1000 * (i / 64) + i % 64).collect();
    store(&late).gives(0, &wanted);
    // No barrier between the writes and the store.
    store(&good.without("full"))
        .fails(&fault(&["data race", "never written"], &["store", "write"]));
    // What is stored can be read only behind a wait without .read.
    let back = "ld.global.u32 %r7, [%out+-768];";
    let read = source("store").with("read", ".read").with("then", back).with("early", "");
    let text =
        "data race: read of 4 bytes at byte 0 of 'buffer 0', written by an asynchronous copy";
    store(&read.with("late", "")).fails(&fault(&[text], &["then"]).lanes(1));
    let all =
        source("store").with("read", "").with("then", back).with("early", "").with("late", "");
    store(&all).gives(0, &wanted);
    // Beyond the target.
    let beyond =
        good.change("store", "cp.async.bulk.global.shared::cta.bulk_group [%out+528], [%r5], 256;");
    let text = "bytes past the end of 'buffer 0' (768 bytes)";
    store(&beyond).fails(&fault(&[text], &["store"]));
}

#[test]
fn loaded_bytes_are_stored_without_a_fence() {
    let source = source("through");
    let job = |source: &Source| source.job(vec![Arg::words(0..64), Arg::Out(256)]).block(1);
    job(&source).gives(1, &(0..64).collect::<Vec<u32>>());
    let text = ["not waited for", "data race", "which was never written"];
    job(&source.change("wait", "setp.eq.u32 %p1, 0, 0;")).fails(&fault(&text, &["store"]));
    let far = source.change("prefetch", "cp.async.bulk.prefetch.L2.global [%in+16], 256;");
    let text = "read of 256 bytes reaches 16 bytes past the end of 'buffer 0'";
    job(&far).fails(&fault(&[text], &["prefetch"]));
}

fn across(source: &Source, blocks: u32) -> Job {
    source.job(vec![Arg::Out(128 * blocks as usize)]).cluster(blocks)
}

#[test]
fn rows_go_around_a_cluster() {
    for blocks in [1, 2, 4, 8] {
        let wanted = (0..32 * blocks).map(|i| 1000 * ((i / 32 + blocks - 1) % blocks) + i % 32);
        across(&source("across"), blocks).gives(0, &wanted.collect::<Vec<u32>>());
    }
}

#[test]
fn copies_between_blocks_that_are_wrong() {
    let source = source("across");
    // The other block's barrier may not be there yet.
    let bare = source.without("wait_first").without("arrive_first");
    let texts = [
        "never written",
        "is no barrier",
        "data race: the barrier at byte 0 of '__shared__ bar' of block",
    ];
    across(&bare, 2).fails(&fault(&texts, &["copy"]).lanes(1));
    // A block must not end before its copy has read it, nor before what comes from the other one is there.
    let end = source.without("arrive_last").without("wait_last");
    let texts = [
        "of the cluster may have ended before this access to its shared memory",
        "of the cluster ended while this copy out of its shared memory was under way",
    ];
    across(&end, 2).fails(&fault(&texts, &["copy"]).lanes(1));
    // Its own initialisation is not fenced, or its data.
    let text = "a fence is missing behind its initialisation";
    across(&source.without("fence_init").without("fence"), 2).fails(&fault(&[text], &["copy"]));
    across(&source.without("fence"), 2)
        .fails(&fault(&["with no fence.proxy.async behind it"], &["copy"]));
    // A barrier of the wrong block.
    let text = "a copy to block 1 of the cluster with a barrier in block 0";
    across(&source.without("map"), 2).fails(&fault(
        &[text, "a copy to block 0 of the cluster with a barrier in block 1"],
        &["copy"],
    ));
}

fn multicast(source: &Source, blocks: u32, mask: u32) -> Job {
    let args = vec![Arg::words(0..32), Arg::Out(128 * blocks as usize), Arg::u32(mask)];
    source.job(args).cluster(blocks)
}

#[test]
fn one_load_for_several_blocks() {
    for (blocks, mask) in [(1, 1), (2, 3), (2, 1), (4, 15), (4, 0b1010), (8, 0xff), (16, 0xffff)] {
        multicast(&source("multicast"), blocks, mask).passes(|ran| {
            for (rank, row) in words(&ran.buffers[1]).chunks(32).enumerate() {
                let gets = mask >> rank & 1 == 1;
                let wanted: Vec<u32> = (0..32).map(|i| if gets { i } else { u32::MAX }).collect();
                assert_eq!(row, wanted, "block {rank}");
            }
        });
    }
}

#[test]
fn multicast_that_is_wrong() {
    let source = source("multicast");
    let text = "multicast to blocks 0x0007 of a cluster of 2";
    multicast(&source, 2, 7).fails(&fault(&[text], &["load"]).lanes(1));
    multicast(&source, 2, 0).fails(&fault(&["multicast to blocks 0x0000"], &["load"]));
    // Block 1's barrier: never initialised, not fenced, or not known to block 0.
    let absent = source
        .change("init", "setp.ne.u32 %p3, %rank, 0; @!%p3 mbarrier.init.shared::cta.b64 [bar], 1;");
    let absent = absent.without("expect");
    multicast(&absent, 2, 3).fails(&fault(&["is no barrier", "never written"], &["load", "wait"]));
    let bare = source.without("fence");
    let texts = [
        "data race: the barrier at byte 0 of '__shared__ bar' of block 1",
        "a fence is missing",
        "data race: read of 8 bytes at byte 0 of '__shared__ bar'",
    ];
    multicast(&bare, 2, 3).fails(&fault(&texts, &["load"]).lanes(1));
    let bare = source.without("arrive").without("begin");
    let texts = ["is no barrier", "never written", "data race"];
    multicast(&bare, 2, 3).fails(&fault(&texts, &["load", "wait"]));
    // Block 1 ends without having waited for what goes there.
    let ends = source.change("read", "mov.u32 %r4, 0;").change("wait", "setp.eq.u32 %p1, 0, 0;");
    let texts = [
        "block 1 of the cluster ended while this copy was under way: nobody there waited for its barrier",
        "block 0 of the cluster ended while this copy was under way",
        "block 1 of the cluster may have ended before this access to its shared memory",
        "of block 1 of the cluster, which has ended",
    ];
    multicast(&ends, 2, 3).fails(&fault(&texts, &["load"]));
}

#[test]
fn bulk_copies_by_sixteen_bytes_only() {
    let load = "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes";
    for (it, text) in [
        (format!("{load} [cells], [%in], 24, [bar];"), "not by 16"),
        (format!("{load} [cells], [%in], 0, [bar];"), "not by 16"),
        (format!("{load} [cells+8], [%in], 16, [bar];"), "not by 16"),
        (format!("{load} [cells], [%in+8], 16, [bar];"), "not by 16"),
        (format!("{load} [cells+248], [%in], 16, [bar];"), "not by 16"),
        (format!("{load} [cells+256], [%in], 16, [bar];"), "past the end of __shared__ cells"),
        (format!("{load} [cells], [%in], 16, [bar+4];"), "no multiple of 8"),
        (
            format!("{load} [cells], [%in], 16, [cells+16];"),
            "is no barrier: it was never initialised",
        ),
        (format!("{load} [cells], [%in], 16, [%in];"), "past the end of __shared__"),
        ("cp.async.bulk.prefetch.L2.global [%in], 8;".into(), "not by 16"),
        ("cp.async.bulk.prefetch.L2.global [%in+8], 16;".into(), "not by 16"),
        ("cp.async.bulk.prefetch.L2.global [%in], 0;".into(), "not by 16"),
        // What the thread has written itself in global memory, without a fence.
        (
            format!("st.global.u32 [%in], 5; {load} [cells], [%in], 16, [bar];"),
            "byte 0 of 'buffer 0', written by thread (0, 0, 0) (PTX line 248) with no fence.proxy.async",
        ),
        (
            "cp.async.bulk.global.shared::cta.bulk_group [%in], [cells], 16;".into(),
            "read of 16 bytes at byte 0 of '__shared__ cells', which was never written",
        ),
    ] {
        let job = source("single").with("it", it).job(vec![Arg::words(0..64)]);
        job.fails(&fault(&[text], &["it"]).lanes(1));
    }
    let fenced =
        format!("st.global.u32 [%in], 5; fence.proxy.async; {load} [cells], [%in], 16, [bar];");
    source("single").with("it", fenced).job(vec![Arg::words(0..64)]).passes(|_| ());
    for (it, text) in [
        (
            "cp.async.bulk.shared::cta.global.bulk_group [cells], [%in], 16;",
            "does not fit the direction",
        ),
        (
            "cp.async.bulk.global.shared::cta.mbarrier::complete_tx::bytes [%in], [cells], 16, [bar];",
            "does not fit the direction",
        ),
        (
            "cp.async.bulk.shared::cta.shared::cluster.mbarrier::complete_tx::bytes [cells], [cells], 16, [bar];",
            "not implemented",
        ),
        ("cp.async.bulk.global.global.bulk_group [%in], [%in], 16;", "not implemented"),
        (
            "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [cells], [%in], 16;",
            "operands",
        ),
        (
            "cp.async.bulk.global.shared::cta.bulk_group.multicast::cluster [%in], [cells], 16, 1;",
            "only loads can be multicast",
        ),
        (
            "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%in], [cells], 16;",
            "not implemented",
        ),
    ] {
        let refusal = source("single").with("it", it).job(vec![Arg::words(0..64)]).refusal();
        assert!(refusal.contains(text), "{it}: {refusal}");
    }
}

#[test]
fn what_a_load_reads_stays_until_it_was_waited_for() {
    let write = "setp.eq.u32 %p2, %r0, 7; @%p2 st.global.u32 [%in+16], %r0;";
    let job = |early: &str, late: &str| {
        let source = source("late").with("early", early).with("late", late);
        source.job(vec![Arg::words(0..32), Arg::Out(128)])
    };
    let wanted: Vec<u32> = (0..32).collect();
    job("", "").gives(1, &wanted);
    job("", write).passes(|ran| assert_eq!(words(&ran.buffers[1]), wanted));
    // The thread that started the load hears of the write before it waits: too late.
    for early in [write.to_owned(), format!("{write} bar.sync 0;")] {
        job(&early, "").fails(&fault(&["data race"], &["early", "load"]));
    }
}

#[test]
fn each_load_has_to_be_waited_for() {
    let job = |source: &Source| source.job(vec![Arg::words(0..8), Arg::Out(8)]).block(1);
    let source = source("two");
    job(&source).gives(1, &[0, 4]);
    for (wait, read) in [("first", "read_first"), ("second", "read_second")] {
        let one = source.change(wait, "setp.eq.u32 %p1, 0, 0;");
        job(&one).fails(&fault(&["not waited for", "data race"], &[read]));
    }
}
