//! What can be wrong with a pipeline: stages, barriers, bytes, parities, fences, the end of a cluster.

use glmae_simt::hopper::swizzle::Swizzle;
use glmae_simt::hopper::tensor_map::Element;
use glmae_simt::machine::Schedule;

use crate::Arg;
use crate::gemm::{GOOD, Pipeline, map};
use crate::launch::fault;

const WAITS: &[&str] = &["wait_full", "wait_empty"];

#[test]
fn stages_that_are_released_too_early() {
    let texts = &[
        "of 'dynamic shared memory', which a product of warpgroup",
        "of 'dynamic shared memory', read by a product of warpgroup",
    ];
    // Before the products of the stage were waited for; of this stage instead of the one before.
    GOOD.changed("wait_one", "").fails(&fault(texts, &["load_a", "load_b"]));
    GOOD.changed("wait_one", "wgmma.wait_group.sync.aligned 2;")
        .fails(&fault(texts, &["load_a", "load_b"]));
    let this = "mbarrier.arrive.shared::cta.b64 _, [%empty];";
    let both = [texts[0], texts[1], "arrive where", "deadlock"];
    GOOD.changed("release", this)
        .fails(&fault(&both, &["load_a", "load_b", "release", "wait_empty", "wait_full"]));
    // Nobody looks at the empty barriers.
    let all = [texts[0], texts[1], "1 arrive where 0 are pending"];
    GOOD.changed("wait_empty", "setp.eq.u32 %done, 0, 0;")
        .fails(&fault(&all, &["load_a", "load_b", "expect"]));
    // Nobody releases, one of two does.
    let text = "at byte 0 of '__shared__ empty': a wait for the phase of parity 0 to end, in which";
    GOOD.changed("release", "").fails(&fault(&[text], &["wait_empty", "wait_full"]));
    let some = "setp.eq.u32 %p4, %group, 0; @%p4 mbarrier.arrive.shared::cta.b64 _, [%last];";
    GOOD.changed("release", some).fails(&fault(&[text], &["wait_empty", "wait_full"]));
}

#[test]
fn stages_that_threads_have_read() {
    // Besides the products somebody reads a word of the stage, which the next load comes over.
    let reads = "mad.lo.u32 %r5, %stage, 24576, %tile; setp.eq.u32 %p4, %inner, 0; @%p4 ld.shared.u32 %r6, [%r5];";
    let with = |fence: &str| GOOD.changed("early", &format!("{reads} {fence}"));
    with("fence.proxy.async.shared::cta;").passes(|ran| GOOD.check(&ran.buffers[2]));
    with("fence.proxy.async;").passes(|ran| GOOD.check(&ran.buffers[2]));
    let text = "of 'dynamic shared memory', read by thread (";
    with("").fails(&fault(&[text], &["load_a"]).lanes(1));
    let text = "with no fence.proxy.async behind it";
    with("fence.proxy.async.global;").fails(&fault(&[text], &["load_a"]).lanes(1));
    // Another thread than the one that releases: its read may come after.
    let other = reads.replace("%inner, 0;", "%inner, 33;");
    GOOD.changed("early", &format!("{other} fence.proxy.async;"))
        .fails(&fault(&["data race"], &["load_a"]).lanes(1));
}

#[test]
fn barriers_with_wrong_counts() {
    let deadlock = |mark: &str, instead: &str, text: &str| {
        GOOD.changed(mark, instead).fails(&fault(&[text], WAITS));
    };
    deadlock(
        "init_empty",
        "mbarrier.init.shared::cta.b64 [%r0], 3;",
        "in which 1 of 3 arrivals are missing",
    );
    deadlock(
        "init_full",
        "mbarrier.init.shared::cta.b64 [%r0], 2;",
        "in which 1 of 2 arrivals are missing",
    );
    let texts = [
        "of 'dynamic shared memory', which a product",
        "read by a product",
        "not waited for",
        "data race",
        "deadlock",
    ];
    GOOD.changed("init_empty", "mbarrier.init.shared::cta.b64 [%r0], 1;")
        .fails(&fault(&texts, &["load_a", "load_b", "product", "wait_empty", "wait_full"]));
    // The initialisation is not fenced, or not behind a barrier, or is not there.
    GOOD.changed("init_fence", "")
        .fails(&fault(&["a fence is missing behind its initialisation"], &["load_a"]).lanes(1));
    let texts =
        ["was initialised by another thread", "is no barrier", "never written", "data race"];
    GOOD.changed("begin", "").fails(&fault(&texts, &["wait_full", "wait_empty", "expect"]));
    GOOD.changed("init_full", "")
        .fails(&fault(&["is no barrier", "never written"], &["wait_full", "expect"]));
}

#[test]
fn bytes_that_are_not_as_expected() {
    let bytes = |n: u32| format!("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%full], {n};");
    let full = 24576;
    let text = "in which all arrived but 16 bytes are missing";
    GOOD.changed("expect", &bytes(full + 16)).fails(&fault(&[text], WAITS));
    let texts =
        ["bytes too many came", "came that were not expected", "not waited for", "data race"];
    GOOD.changed("expect", &bytes(full - 16))
        .fails(&fault(&texts, &["wait_full", "wait_empty", "product"]));
    // As many as A has: the phase may end before B is there.
    GOOD.changed("expect", &bytes(16384))
        .fails(&fault(&texts, &["wait_full", "wait_empty", "product"]));
    let text = "in which 1 of 1 arrivals are missing";
    GOOD.changed("expect", "").fails(&fault(&[text], WAITS));
    let only = format!("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%full], {full};");
    GOOD.changed("expect", &only).fails(&fault(&[text], WAITS));
    let plain = "mbarrier.arrive.shared::cta.b64 _, [%full];";
    let texts = ["never written", "not waited for", "data race", "came that were not expected"];
    GOOD.changed("expect", plain).fails(&fault(&texts, &["product", "wait_full", "wait_empty"]));
    // A box that is two rows short.
    let mut short = GOOD.job();
    short.args[0] = Arg::map(|at| map(Element::Bf16, at[0], (128, 448), [64, 126], Swizzle::B128));
    short.fails(&fault(&["in which all arrived but 256 bytes are missing"], WAITS));
    // No swizzle, or another one, where the descriptor says 128 bytes: no fault, but another product.
    let mut plain = GOOD.job();
    plain.args[0] = Arg::map(|at| map(Element::Bf16, at[0], (128, 448), [64, 128], Swizzle::None));
    let ran = plain.run(&plain.program(), Schedule::Ascending, true);
    assert!(ran.outcome.is_ok());
    assert!(std::panic::catch_unwind(|| GOOD.check(&ran.buffers[2])).is_err());
}

#[test]
fn parities_that_are_wrong() {
    let texts = [
        "never written",
        "not waited for",
        "data race",
        "nothing has happened in it, so if the phase before was meant, the parity is wrong",
    ];
    let marks = ["product", "wait_full", "wait_empty"];
    GOOD.changed("consumer_parity", "mov.u32 %parity, 1;").fails(&fault(&texts, &marks));
    let text = "at byte 0 of '__shared__ empty': a wait for the phase of parity 0 to end, in which 2 of 2 arrivals \
                are missing; nothing has happened in it";
    GOOD.changed("producer_parity", "mov.u32 %parity, 0;").fails(&fault(&[text], WAITS));
    let texts =
        ["not waited for", "data race", "which a product", "deadlock", "arrive where 0 are"];
    let marks = ["product", "wait_full", "wait_empty", "expect", "load_a", "load_b", "release"];
    GOOD.changed("consumer_flip", "").fails(&fault(&texts, &marks));
    GOOD.changed("producer_flip", "").fails(&fault(&texts, &marks));
}

#[test]
fn consumers_that_do_not_wait() {
    let texts = ["never written", "not waited for", "data race"];
    GOOD.changed("wait_full", "setp.eq.u32 %done, 0, 0;")
        .fails(&fault(&texts, &["product", "load_a", "load_b"]));
    // One warp of four does not.
    let most = "setp.eq.u32 %done, %warp, 2; @!%done mbarrier.try_wait.parity.shared::cta.b64 %done, [%full], %parity;";
    GOOD.changed("wait_full", most).fails(&fault(&texts, &["product"]));
    let text = "belongs to a product that is under way: wgmma.wait_group is missing";
    GOOD.changed("wait_all", "").fails(&fault(&[text], &["put"]).lanes(u32::MAX));
    GOOD.changed("wait_all", "wgmma.wait_group.sync.aligned 1;").fails(&fault(&[text], &["put"]));
    let text = "wgmma.fence is missing before the first product of the warp";
    GOOD.changed("fence", "").fails(&fault(&[text], &["product"]));
    // What lets other grids start, or wastes time, changes nothing here.
    let other = "griddepcontrol.launch_dependents; nanosleep.u32 20;";
    GOOD.changed("more", other).passes(|ran| GOOD.check(&ran.buffers[2]));
    GOOD.job_of(&GOOD.source().change("elect", "elect.sync _|%p1, 0xffffffff;"))
        .passes(|ran| GOOD.check(&ran.buffers[2]));
    // Copies of accumulators in the loop, as compilers make them.
    GOOD.changed("early", "mov.f32 %f31, %f31; mov.f32 %f0, %f0;")
        .passes(|ran| GOOD.check(&ran.buffers[2]));
    let text = "write of %f3, which belongs to a product";
    GOOD.changed("early", "mov.f32 %f3, 0f00000000;").fails(&fault(&[text], &["early"]));
    GOOD.changed("advance", "add.u64 %a, %a, 4; add.u64 %b, %b, 4;")
        .fails(&fault(&["lies in the middle of the swizzle's pattern"], &["product"]));
    let low = GOOD.changed("tile", "mov.u32 %tile, tiles; add.u32 %tile, %tile, 128;");
    let n = low.shared;
    low.shared(n + 1024)
        .fails(&fault(&["lies in the middle of the swizzle's pattern"], &["product"]));
}

#[test]
fn tiles_that_go_out_wrongly() {
    for good in [GOOD, Pipeline { is_half: true, ..GOOD }] {
        let fence = "with no fence.proxy.async behind it";
        good.changed("store_fence", "").fails(&fault(&[fence], &["store"]));
        good.changed("store_barrier", "")
            .fails(&fault(&["data race", "never written"], &["store", "put"]));
        let text = "without having waited for this bulk store";
        good.changed("store_wait", "").fails(&fault(&[text], &["store"]).lanes(1));
        good.changed("store_commit", "").fails(&fault(&[text], &["store"]));
        // The barrier of the other warpgroup.
        // Whether the eight warps mix depends on their order.
        let same = "bar.sync 1, 128;";
        let texts = ["data race", "never written"];
        good.changed("store_barrier", same).fails_under(
            &[Schedule::Shuffled(1), Schedule::Shuffled(2)],
            &fault(&texts, &["store", "put"]),
        );
        let many = "bar.sync %r2, 256;";
        good.changed("store_barrier", many).fails(&fault(
            &["deadlock: barrier 1 reached by only 4 of 8 warps", "deadlock: barrier 2"],
            &["store_barrier"],
        ));
    }
}

#[test]
fn clusters_that_are_wrong() {
    let good = Pipeline { cluster: 2, m: 256, k: 320, ..GOOD };
    // The other block's consumers are not asked before its stage is written.
    let own =
        "mbarrier.arrive.shared::cta.b64 _, [%last]; mbarrier.arrive.shared::cta.b64 _, [%last];";
    let texts = [
        "which a product of warpgroup",
        "read by a product of warpgroup",
        "not waited for",
        "data race",
        "never written",
        "came that were not expected",
        "deadlock",
    ];
    let marks = ["load_a", "load_b", "product", "wait_full", "wait_empty", "release"];
    good.changed("release", own).fails(&fault(&texts, &marks));
    // The other block may have ended, or have barriers that are not there yet.
    let texts = [
        "of the cluster may have ended before this access",
        "which has ended",
        "ended while this copy",
    ];
    good.changed("tail", "").fails(&fault(&texts, &["release", "load_b"]));
    let texts = ["data race", "is no barrier", "never written"];
    good.changed("begin", "bar.sync 0;")
        .fails(&fault(&texts, &["load_b", "release", "wait_full", "wait_empty", "expect"]));
    good.changed("init_fence", "").fails(&fault(
        &["data race", "a fence is missing behind its initialisation"],
        &["load_a", "load_b", "release", "wait_full", "wait_empty", "expect"],
    ));
    let bytes = "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%full], 20480;";
    let texts = [
        "not waited for",
        "never written",
        "data race",
        "too many came",
        "came that were not expected",
    ];
    good.changed("expect", bytes)
        .fails(&fault(&texts, &["product", "wait_full", "wait_empty", "load_b", "load_a"]));
}
