//! `mbarrier.*` (9.7.13.15) within one block.

use glmae_simt::machine::Schedule;

use crate::launch::{fault, words};
use crate::{Arg, Job, Source};

fn source(kernel: &str) -> Source {
    Source::kernel("hopper_mbarrier", kernel)
}

#[test]
fn counts_phases_and_bytes() {
    // pending counts 5, 4, 2 before the three arrivals; then with one missing only the phase before the first,
    // which has parity 1, has ended; then the first has.
    let first = [5, 4, 2, 0, 0, 1, 1, 1, 0];
    // 5 pending, 4, then 3 arrive at once, which ends the phase.
    let second = [5, 4, 3, 1];
    // 3 pending; after one 2, after two 1. 64 bytes expected, 60 came, then all.
    let third = [3, 2, 1, 0, 1];
    // What a store left there; a new barrier, whose one arrival ends its phase.
    let fourth = [77, 1, 1, 1];
    let wanted: Vec<u32> = [&first[..], &second, &third, &fourth].concat();
    let n = 4 * wanted.len();
    source("counts").job(vec![Arg::Out(n)]).passes(|ran| {
        // Word by word, as try_wait may give up.
        let got = words(&ran.buffers[0]);
        for (i, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
            assert_eq!(got, wanted, "word {i}");
        }
    });
}

fn rounds(source: &Source, n: u32) -> Job {
    source.job(vec![Arg::Out(4 * 96), Arg::u32(n)]).block(96)
}

#[test]
fn many_rounds_of_two_barriers() {
    for n in [1, 2, 3, 10] {
        let sum = |t: u32| (0..n).map(|round| 1000 * round + (t + 33) % 96).sum();
        let wanted: Vec<u32> = (0..96).map(sum).collect();
        rounds(&source("rounds"), n).gives(0, &wanted);
    }
}

#[test]
fn rounds_that_are_wrong() {
    let source = source("rounds");
    let race = &["data race", "never written"];
    // The parity never flips: the second wait passes at once.
    rounds(&source.change("parity", "mov.u32 %r7, 0;"), 3).fails(&fault(race, &["read", "write"]));
    // It starts with 1.
    let late = source.change("parity", "and.b32 %r7, %round, 1; xor.b32 %r7, %r7, 1;");
    rounds(&late, 3).fails(&fault(race, &["read", "write"]));
    // Nobody waits before the next round.
    rounds(&source.change("out", "setp.eq.u32 %p1, 0, 0;"), 3)
        .fails(&fault(race, &["read", "write"]));
    // Arrivals that are relaxed let nobody see anything.
    let relaxed =
        source.change("arrive", "mbarrier.arrive.relaxed.cta.shared::cta.b64 %state, [bars];");
    rounds(&relaxed, 3).fails(&fault(race, &["read", "write"]));
    // One thread too few.
    let absent = source.change("arrive", "@%p0 mbarrier.arrive.shared::cta.b64 %state, [bars];");
    let missing = "in which 1 of 96 arrivals are missing";
    rounds(&absent, 3).fails(&fault(&[missing], &["wait"]).lanes(u32::MAX));
    // Arrivals are counted twice.
    let twice = source.change("arrive", "mbarrier.arrive.shared::cta.b64 %state, [bars], 2;");
    rounds(&twice, 1).fails(&fault(
        &["never written", "data race", "arrive where"],
        &["read", "write", "arrive"],
    ));
    // The initialisation is not behind a barrier.
    let early = source.without("begin");
    let texts = ["data race", "is no barrier", "never written"];
    rounds(&early, 1).fails(&fault(&texts, &["arrive", "wait", "leave", "out"]));
}

#[test]
fn a_wait_that_is_not_repeated_is_found() {
    let once = source("rounds").without("again");
    let seeds = [Schedule::Shuffled(1), Schedule::Shuffled(2), Schedule::Shuffled(0x5eed)];
    rounds(&once, 10)
        .fails_under(&seeds, &fault(&["data race", "never written"], &["read", "write"]));
}

fn ring(source: &Source, n: u32) -> Job {
    source.job(vec![Arg::Out(4 * 64), Arg::u32(n)]).block(96)
}

#[test]
fn rings_of_producers_and_consumers() {
    for n in [1, 3, 4, 11] {
        let sum = |t: u32| (0..n).map(|i| 100 * i + t % 32).sum();
        ring(&source("ring"), n).gives(0, &(0..64).map(sum).collect::<Vec<u32>>());
    }
}

#[test]
fn rings_with_wrong_parities() {
    let source = source("ring");
    let wrong = |mark: &str, instead: &str| ring(&source.change(mark, instead), 11);
    // The consumer takes the phase before the first for the first; where that is over, it waits for the next.
    let first = [
        "never written",
        "data race",
        "nothing has happened in it, so if the phase before was meant",
    ];
    let marks = ["take", "put", "wait_empty"];
    wrong("consumer_parity", "mov.u32 %parity, 1;").fails(&fault(&first, &marks));
    // The producer waits for stages that nobody has ever used.
    let waits =
        "phase of parity 0 to end, in which 64 of 64 arrivals are missing; nothing has happened";
    wrong("producer_parity", "mov.u32 %parity, 0;").fails(&fault(&[waits], &["wait_empty"]));
    // Parities that never flip.
    let consumer = ring(&source.without("consumer_flip"), 11);
    consumer.fails(&fault(&["data race", "deadlock"], &["take", "put", "wait_full", "wait_empty"]));
    let marks = ["take", "put", "arrive_full", "wait_full", "wait_empty"];
    ring(&source.without("producer_flip"), 11)
        .fails(&fault(&["data race", "arrive where", "deadlock"], &marks));
    // Nobody releases stages.
    ring(&source.without("arrive_empty"), 11)
        .fails(&fault(&[waits.trim_start_matches("phase of parity 0 ")], &["wait_empty"]));
}

#[test]
fn rings_with_wrong_counts() {
    let source = source("ring");
    // The first barrier is initialised over and over.
    let one = source.change("empty", "mbarrier.init.shared::cta.b64 [empty], 64;");
    ring(&one, 11).fails(&fault(&["needs mbarrier.inval first"], &["empty"]).lanes(1));
    let text = "in which 1 of 65 arrivals are missing";
    ring(&empty_counts(&source, 65), 11).fails(&fault(&[text], &["wait_empty"]).lanes(u32::MAX));
    let texts = ["data race", "arrive where", "in which 32 of 32 arrivals are missing"];
    let marks = ["put", "take", "arrive_empty", "wait_empty", "wait_full"];
    ring(&empty_counts(&source, 32), 11).fails(&fault(&texts, &marks));
}

/// Another count for the empty barriers.
fn empty_counts(source: &Source, count: u32) -> Source {
    let all = ["empty", "empty+8", "empty+16"];
    let all = all.map(|at| format!("mbarrier.init.shared::cta.b64 [{at}], {count};"));
    source.change_each("empty", &all)
}

fn copies(noinc: &str, more: &str) -> Source {
    source("copies").with("noinc", noinc).with("more", more)
}

fn copies_job(source: &Source) -> Job {
    source.job(vec![Arg::words(0..128), Arg::Out(128)]).block(64)
}

#[test]
fn arrivals_behind_copies() {
    let wanted: Vec<u32> = (0..32).map(|l| 4 * l + 1).collect();
    // With .noinc the barrier counts the arrival; without it counts one that comes by itself.
    copies_job(&copies(".noinc", "")).gives(1, &wanted);
    copies_job(&copies("", "mbarrier.arrive.shared::cta.b64 _, [bar];")).gives(1, &wanted);
    // Waiting for the group as well does no harm.
    copies_job(&copies(".noinc", "cp.async.wait_all;")).gives(1, &wanted);
    // Without .noinc nothing is counted off.
    let missing = "in which 32 of 32 arrivals are missing";
    copies_job(&copies("", "")).fails(&fault(&[missing], &["wait"]));
    // With it, an arrival by the thread itself is one too many.
    let early = copies(".noinc", "mbarrier.arrive.shared::cta.b64 _, [bar];");
    let texts = ["not waited for", "data race", "in which 32 of 32 arrivals are missing"];
    copies_job(&early).fails(&fault(&texts, &["read", "wait"]));
    // Only one's own copies are waited for.
    let absent = copies(".noinc", "").change("copy", "").without("more");
    copies_job(&absent).fails(&fault(&["never written"], &["read"]));
}

#[test]
fn the_thread_itself_has_to_wait_for_its_copies() {
    let reads = copies(".noinc", "ld.shared.u32 %r4, [%r3];");
    copies_job(&reads).fails(&fault(&["not waited for", "data race"], &["more"]).lanes(1));
}

#[test]
fn relaxed_arrivals_and_waits_need_fences() {
    let source = source("relaxed");
    let job = |source: &Source| source.job(vec![Arg::Out(128)]).block(64);
    job(&source).gives(0, &(0..32).collect::<Vec<u32>>());
    for mark in ["release", "acquire"] {
        job(&source.without(mark)).fails(&fault(&["data race"], &["read"]).lanes(1));
    }
}

#[test]
fn misuse_is_refused() {
    let single = |it: &str| source("single").with("it", it).job(vec![Arg::Out(4)]);
    for (it, text) in [
        ("mbarrier.arrive.shared::cta.b64 %s1, [bar], 3;", "3 arrive where 2 are pending"),
        (
            "mbarrier.arrive.shared::cta.b64 %s1, [bar], 0;",
            "a count of 0; it must be 1 to 2^20 - 1",
        ),
        (
            "mbarrier.arrive.noComplete.shared::cta.b64 %s1, [bar], 2;",
            "noComplete would end the phase",
        ),
        ("mbarrier.arrive_drop.shared::cta.b64 %s1, [bar], 3;", "3 drop out where 2 are expected"),
        (
            "mbarrier.arrive.shared::cta.b64 %s1, [bar+8];",
            "byte 8 of '__shared__ bar': mbarrier: 0xffffffffffffffff is no barrier",
        ),
        ("mbarrier.arrive.shared::cta.b64 %s1, [bar+4];", "no multiple of 8"),
        ("mbarrier.arrive.shared::cta.b64 %s1, [bar+16];", "past the end of __shared__ bar"),
        ("mbarrier.arrive.b64 %s1, [%s0];", "not in shared memory"),
        (
            "mbarrier.init.shared::cta.b64 [bar], 1;",
            "there is a barrier at byte 0 of '__shared__ bar' already",
        ),
        ("mbarrier.init.shared::cta.b64 [bar+8], 1048576;", "a count of 1048576"),
        ("mbarrier.inval.shared::cta.b64 [bar+8];", "0xffffffffffffffff is no barrier"),
        ("st.shared.u64 [bar], 3; mbarrier.arrive.shared::cta.b64 %s1, [bar];", "is no barrier"),
        ("st.shared.u8 [bar+2], 1; mbarrier.arrive.shared::cta.b64 %s1, [bar];", "is no barrier"),
        ("mbarrier.test_wait.shared::cta.b64 %p1, [bar], %s0;", "0x5 is no state"),
        ("mbarrier.test_wait.parity.shared::cta.b64 %p1, [bar], 2;", "parity 2; it must be 0 or 1"),
        ("mbarrier.pending_count.b64 %r1, %s0;", "0x5 is no state"),
        ("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [bar], 1048576;", "1048576 bytes pending"),
        (
            "mbarrier.inval.shared::cta.b64 [bar]; mbarrier.arrive.shared::cta.b64 %s1, [bar];",
            "is no barrier",
        ),
    ] {
        single(it).fails(&fault(&[text], &["it"]).lanes(1));
    }
    for (it, text) in [
        ("mbarrier.init.shared::cta.b32 [bar], 1;", "not implemented"),
        ("mbarrier.arrive.noComplete.shared::cta.b64 %s1, [bar];", "a count is needed"),
        ("mbarrier.arrive.expect_tx.shared::cta.b64 %s1, [bar];", "a count is needed"),
        ("mbarrier.arrive.shared::cta.b64 %s1, bar;", "an address"),
        ("mbarrier.test_wait.shared::cta.b64 %p1, [bar];", "operands"),
        ("mbarrier.arrive.global.b64 %s1, [bar];", ""),
        ("mbarrier.swap.shared::cta.b64 %s1, [bar];", "not implemented"),
    ] {
        let refusal = match text {
            "" => continue,
            _ => single(it).refusal(),
        };
        assert!(refusal.contains(text), "{it}: {refusal}");
    }
}

#[test]
fn spinning_with_test_wait_is_told_as_a_deadlock() {
    let spins =
        source("rounds").change("arrive", "@%p0 mbarrier.arrive.shared::cta.b64 %state, [bars];");
    let spins = spins.change("wait", "mbarrier.test_wait.parity.shared::cta.b64 %p1, [bars], %r7;");
    let text = "deadlock: warps 0 to 2 ask again and again at the barrier at byte 0 of \
                '__shared__ bars': a wait for the phase of parity 0 to end, in which 1 of 96 arrivals \
                are missing";
    rounds(&spins, 1).fails(&fault(&[text], &["wait"]));
}

#[test]
fn a_phase_lets_see_what_earlier_ones_did() {
    let job = |source: &Source| source.job(vec![Arg::Out(4)]).block(96);
    let good = source("chain");
    job(&good).gives(0, &[7]);
    // Whoever releases nothing, or acquires nothing, has no part in it.
    let relaxed = "mbarrier.arrive.relaxed.cta.shared::cta.b64 _, [bar];";
    let text =
        "data race: read of 4 bytes at byte 0 of '__shared__ cell', written by thread (0, 0, 0)";
    job(&good.change("first", relaxed)).fails(&fault(&[text], &["read"]).lanes(1));
    let relaxed = "mbarrier.try_wait.relaxed.cta.shared::cta.b64 %p3, [bar], %state;";
    job(&good.change("last", relaxed)).fails(&fault(&[text], &["read"]).lanes(1));
}
