//! `setmaxnreg` (9.7.19.5) in a pipeline with a warpgroup for the producer, of which one warp works.

use crate::Job;
use crate::gemm::{GOOD, Pipeline};
use crate::launch::fault;

/// Launch bounds with which ptxas keeps `setmaxnreg`: 168 registers at the start.
const BOUNDS: &str = ".maxntid 384, 1, 1 .minnctapersm 1";
/// Where warps wait for one that has no registers.
const WAITS: &[&str] = &["more", "wait_empty", "wait_full", "wait_one"];

fn inc(n: u32) -> String {
    format!("setmaxnreg.inc.sync.aligned.u32 {n};")
}

fn dec(n: u32) -> String {
    format!("setmaxnreg.dec.sync.aligned.u32 {n};")
}

/// The consumers begin with `more`, the producer's warpgroup with `less`.
fn with(more: &str, less: &str, bounds: &str) -> Job {
    of(GOOD, more, less, bounds)
}

fn of(pipeline: Pipeline, more: &str, less: &str, bounds: &str) -> Job {
    let first = 4 * pipeline.groups;
    let less = format!("{less} setp.ne.u32 %p4, %warp, {first}; @%p4 bra END;");
    let source = pipeline.source().change("more", more).change("less", &less);
    pipeline.job_of(&source.entry(bounds)).block(128 * (pipeline.groups + 1))
}

fn passes(job: &Job) {
    job.passes(|ran| GOOD.check(&ran.buffers[2]));
}

#[test]
fn registers_move_from_the_producer_to_the_consumers() {
    // 4 x 144 registers for 8 x 72; 4 x 128 for 8 x 64.
    passes(&with(&inc(240), &dec(24), BOUNDS));
    passes(&with(&inc(232), &dec(40), BOUNDS));
    let free = |more: &str, less: &str, bounds: &str, text: &str| {
        let text = format!("for registers ({text} of one warp free)");
        with(more, less, bounds).fails(&fault(&[&text], WAITS));
    };
    free(&inc(248), &dec(24), BOUNDS, "168 a thread held, 16");
    free(&inc(240), &dec(40), BOUNDS, "168 a thread held, 8");
    with(&inc(240), "", BOUNDS).fails(&fault(&["deadlock"], WAITS));
    // No inc goes beyond 160: then the kernel starts with these.
    passes(&with(&inc(160), "", BOUNDS));
    // `.maxnreg` is less than what the bounds leave, or is all there is; it counts in eights.
    let low = ".maxntid 384, 1, 1 .minnctapersm 1 .maxnreg 128";
    free(&inc(232), &dec(40), low, "128 a thread held, 40");
    free(&inc(232), &dec(40), ".maxnreg 128", "128 a thread held, 40");
    passes(&with(&inc(240), &dec(24), ".maxnreg 168"));
    passes(&with(&inc(240), &dec(24), ".maxnreg 163"));
    free(&inc(240), &dec(24), ".maxnreg 160", "160 a thread held, 64");
}

#[test]
fn two_warpgroups_start_with_what_the_consumer_wants() {
    let one = Pipeline { groups: 1, m: 64, ..GOOD };
    let bounds = ".maxntid 256, 1, 1 .minnctapersm 1";
    for (more, less) in [(232, 40), (160, 24), (256, 24)] {
        let job = of(one, &inc(more), &dec(less), bounds);
        job.passes(|ran| one.check(&ran.buffers[2]));
    }
    // 256 x 2: 128 registers.
    let job = |more| of(one, &inc(more), &dec(24), ".maxntid 256, 1, 1 .minnctapersm 2");
    job(232).passes(|ran| one.check(&ran.buffers[2]));
    let text = "for registers (128 a thread held, 56 of one warp free)";
    job(248).fails(&fault(&[text], WAITS));
}

#[test]
fn kernels_whose_registers_ptxas_does_not_know() {
    for bounds in [
        "",
        ".maxntid 384, 1, 1",
        ".reqntid 384, 1, 1",
        ".minnctapersm 1",
        ".maxntid 384, 1, 1 .minnctapersm 6",
    ] {
        passes(&with(&inc(248), &dec(232), bounds));
        passes(&with(&inc(248), "", bounds));
    }
}

#[test]
fn counts_that_are_wrong() {
    // Another inc, which nobody executes, is larger.
    let less = format!(
        "setp.ne.u32 %p4, 0, 0; @%p4 bra NEVER; {} bra ON; NEVER: {} ON:",
        inc(152),
        inc(240)
    );
    with(&less, &dec(24), BOUNDS)
        .fails(&fault(&["setmaxnreg.inc to 152 registers, where the warp has 168"], &["more"]));
    with(&dec(232), &dec(24), BOUNDS)
        .fails(&fault(&["setmaxnreg.dec to 232 registers, where the warp has 168"], &["more"]));
    for (n, text) in
        [(252, "a multiple of 8 from 24 to 256"), (16, "a multiple of 8"), (264, "a multiple of 8")]
    {
        let refusal = with(&inc(n), "", BOUNDS).refusal();
        assert!(refusal.contains(text), "{refusal}");
    }
}

#[test]
fn warps_of_a_warpgroup_that_do_not_do_the_same() {
    let some = format!(
        "setp.lt.u32 %p4, %t, 64; @%p4 bra SOME; {} bra SAME; SOME: {} SAME:",
        dec(160),
        dec(160)
    );
    with(&some, "", BOUNDS).fails(&fault(
        &["another warp of the warpgroup has executed another setmaxnreg"],
        &["more"],
    ));
    let all = "setmaxnreg has to be executed by all warps of the warpgroup: warp";
    // Only the warp that produces gives registers back.
    let one = format!("setp.ne.u32 %p5, %warp, 8; @%p5 bra END; {}", dec(24));
    with("", &one, BOUNDS).fails(&fault(&[all], &["less"]));
    // One consumer of eight does not ask for any.
    let most = format!("setp.eq.u32 %p4, %warp, 6; @%p4 bra SKIP; {} SKIP:", inc(240));
    let text = format!("{all} 6 of the block has ended without it");
    with(&most, &dec(24), BOUNDS).fails(&fault(&[&text], &["more"]).lanes(u32::MAX));
    // Half of a warp.
    let lanes = format!("setp.lt.u32 %p4, %lane, 16; @%p4 {}", dec(160));
    with(&lanes, "", BOUNDS).fails(&fault(&["by the whole warp"], &["more"]));
    // Four warps are a warpgroup, one is none.
    let job = with(&inc(240), &dec(24), ".maxntid 288, 1, 1 .minnctapersm 1").block(288);
    job.fails(&fault(&["the last one of the block has only 1 warps"], &["less"]));
}

#[test]
fn one_setmaxnreg_after_the_other() {
    let twice = |between: &str| format!("{} {between} {}", inc(200), inc(240));
    let text = "of the warpgroup has not been waited for behind its first";
    with(&twice(""), &dec(24), BOUNDS).fails(&fault(&[text], &["more"]));
    with(&twice("bar.warp.sync 0xffffffff;"), &dec(24), BOUNDS).fails(&fault(&[text], &["more"]));
    passes(&with(&twice("bar.sync 3, 256;"), &dec(24), BOUNDS));
    passes(&with(&twice("add.u32 %r5, %group, 3; bar.sync %r5, 128;"), &dec(24), BOUNDS));
}
