//! What can be wrong with a product: its fences, its waits, its operands, its warps.

use glmae_simt::hopper::swizzle::Swizzle;
use glmae_simt::machine::Schedule;

use crate::launch::fault;
use crate::product::{K128, Layout, Trial, Type};
use crate::{Arg, Job};

fn trial() -> Trial {
    Trial::new(Type::Bf16, 16, Some(K128), K128)
}

/// The trial with a line changed.
fn changed(trial: &Trial, mark: &str, instead: &str) -> Job {
    let (mut job, _) = trial.job();
    job.source = job.source.change(mark, instead);
    job
}

const LINE: &str = "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3, %f4, %f5, %f6, %f7}, %a, \
                    %b, %scale, 1, 1, 0, 0;";

#[test]
fn fences_of_registers() {
    let before =
        fault(&["wgmma.fence is missing before the first product of the warp"], &["product"]);
    changed(&trial(), "fence", "").fails(&before.lanes(u32::MAX));
    for (access, register) in [
        ("add.f32 %f3, %f3, %f3;", "%f3"),
        ("mov.f32 %f7, 0f00000000;", "%f7"),
        ("add.f32 %g, %f2, %g;", "%f2"),
        ("mov.f32 %f5, %g;", "%f5"),
    ] {
        let text =
            format!("wgmma.fence is missing: {register} was read or written since the last one");
        let line = format!("wgmma.fence.sync.aligned; {access}");
        changed(&trial(), "fence", &line).fails(&fault(&[&text], &["product"]).lanes(u32::MAX));
    }
    // A of the first product is written behind the fence; that of the next one without.
    let in_registers = Trial::new(Type::Bf16, 16, None, K128);
    let late = "wgmma.fence.sync.aligned; add.u32 %a1, %a1, 0;";
    let text = "wgmma.fence is missing: %a1 was read or written since the last one";
    changed(&in_registers, "fence", late).fails(&fault(&[text], &["product"]));
    let bare =
        "wgmma.wait_group.sync.aligned 0; ld.global.v4.u32 {%a0, %a1, %a2, %a3}, [%fragments];";
    let text = "wgmma.fence is missing: %a0 was";
    changed(&in_registers, "next_a", bare).fails(&fault(&[text], &["product"]));
    let soon = "ld.global.v4.u32 {%a0, %a1, %a2, %a3}, [%fragments]; wgmma.fence.sync.aligned;";
    let text =
        "write of %a0, which belongs to a product that is under way: wgmma.wait_group is missing";
    changed(&in_registers, "next_a", soon).fails(&fault(&[text], &["next_a"]));
    // Only one warp has no fence.
    let some = "setp.lt.u32 %p2, %r0, 96; @%p2 bra FENCE; bra NO_FENCE; FENCE: wgmma.fence.sync.aligned; NO_FENCE:";
    changed(&trial(), "fence", some)
        .fails(&fault(&["wgmma.fence is missing before the first"], &["product"]));
}

#[test]
fn accumulators_that_are_touched_too_early() {
    let wait = "wgmma.wait_group is missing, or leaves too many groups open";
    let read = format!("read of %f0, which belongs to a product that is under way: {wait}");
    changed(&trial(), "last", "").fails(&fault(&[&read], &["read"]).lanes(u32::MAX));
    changed(&trial(), "last", "wgmma.wait_group.sync.aligned 1;")
        .fails(&fault(&[&read], &["read"]));
    let text = "read of %f0, which belongs to a product that is under way: wgmma.commit_group and \
                wgmma.wait_group are missing";
    changed(&trial(), "commit", "").fails(&fault(&[text], &["read"]));
    changed(&trial(), "before", "add.f32 %g, %f0, %g;").fails(&fault(&[&read], &["before"]));
    let write = format!("write of %f4, which belongs to a product that is under way: {wait}");
    changed(&trial(), "before", "mov.f32 %f4, %g;").fails(&fault(&[&write], &["before"]));
    changed(&trial(), "before", "@!%p1 mov.f32 %g, %f0;").fails(&fault(&[&read], &["before"]));
    // Copies, as compilers make them; but no arithmetic on the copy, before the wait.
    let (job, wanted) = trial().job();
    let copied =
        Job { source: job.source.change("before", "mov.f32 %g, %f0; mov.b32 %f0, %g;"), ..job };
    copied.passes(|ran| wanted.check(&ran.buffers[2], "copies"));
    let text = format!("read of %g, which belongs to a product that is under way: {wait}");
    changed(&trial(), "before", "mov.f32 %g, %f0; add.f32 %g, %g, %g;")
        .fails(&fault(&[&text], &["before"]));
    changed(
        &trial(),
        "last",
        "wgmma.wait_group.sync.aligned 0; mov.f32 %g, %f0; add.f32 %g, %g, %g;",
    )
    .passes(|_| ());
    // The next product may go on with the same accumulators, but not with another shape of it.
    let other = "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, %a, %b, %scale, 1, 1, 0, 0;";
    let text =
        "%f0 belongs to a product that is under way, with another shape: wgmma.fence is missing";
    changed(&trial(), "before", other).fails(&fault(&[text], &["before"]));
    changed(
        &trial(),
        "before",
        &format!("wgmma.wait_group.sync.aligned 0; sub.u64 %a, %a, %as; sub.u64 %b, %b, %bs; {other} wgmma.commit_group.sync.aligned;"),
    )
    .passes(|_| ());
    // The warp ends with a product under way.
    changed(&trial(), "last", "ret;")
        .fails(&fault(&["the warp ended without having waited for this product"], &["product"]));
}

#[test]
fn registers_of_two_products() {
    // The second product computes the same once more, from the same registers or in another shape.
    let again = |trial: &Trial, between: &str, line: &str| {
        let (job, wanted) = trial.job();
        let source = job.source.change("next_a", "").change(
            "before",
            &format!(
                "sub.u64 %a, %a, %as; sub.u64 %b, %b, %bs; setp.ne.u32 %scale, 0, 0; {between} {line} \
                 wgmma.commit_group.sync.aligned;"
            ),
        );
        (Job { source, ..job }, wanted)
    };
    let fence = "wgmma.fence.sync.aligned;";
    let once = Trial { steps: 1, keeps: false, ..trial() };
    let narrow = LINE.replace("n16", "n8").replace(", %f4, %f5, %f6, %f7", "");
    let in_registers = Trial { a: None, ..once.clone() };
    let same_a = LINE.replace("%a,", "{%a0, %a1, %a2, %a3},").replace("1, 1, 0, 0", "1, 1, 0");
    for (trial, line, what) in [
        (&once, &narrow, "%f0 belongs to a product that is under way, with another shape"),
        (&in_registers, &same_a, "%a0 belongs to a product that is under way, as A"),
    ] {
        for between in [fence, "wgmma.wait_group.sync.aligned 0;"] {
            let (job, wanted) = again(trial, between, line);
            job.passes(|ran| wanted.check(&ran.buffers[2], what));
        }
        let text = format!("{what}: wgmma.fence is missing");
        again(trial, "", line).0.fails(&fault(&[&text], &["before"]).lanes(u32::MAX));
        // One that comes too early.
        let (job, _) = again(trial, "", line);
        let early = job.source.change("fence", &format!("{fence}{fence}"));
        Job { source: early, ..job }.fails(&fault(&[&text], &["before"]));
        // Who reads or writes them must have waited, fence or not.
        let text = "which belongs to a product that is under way";
        let (job, _) = again(trial, fence, line);
        let source = job.source.change("last", "wgmma.fence.sync.aligned;");
        Job { source, ..job }.fails(&fault(&[text], &["read"]));
    }
    // What is being added up is no A yet, and A must stay while it is read.
    let sum = same_a.replace("{%a0, %a1, %a2, %a3}", "{%f0, %f1, %f2, %f3}");
    let text = "%f0 belongs to a product that is under way, as an accumulator, and is A of this one: wgmma.wait_group";
    let other = sum.replacen("{%f0, %f1, %f2, %f3, %f4, %f5, %f6, %f7}", "{%a0, %a1, %a2, %a3}", 1);
    let other = other.replace("n16", "n8");
    again(&once, fence, &other).0.fails(&fault(&[text], &["before"]));
    let text = "%a0 belongs to a product that is under way, as A, and is an accumulator of this one: wgmma.wait_group";
    let other = narrow.replace("{%f0, %f1, %f2, %f3}", "{%a0, %a1, %a2, %a3}");
    again(&in_registers, fence, &other).0.fails(&fault(&[text], &["before"]));
}

#[test]
fn operands_that_the_product_cannot_see() {
    let fence = "with no fence.proxy.async behind it";
    changed(&trial(), "proxy", "").fails(&fault(&[fence], &["product"]).lanes(u32::MAX));
    changed(&trial(), "proxy", "setp.eq.u32 %p2, %r0, 5; @%p2 fence.proxy.async;")
        .fails(&fault(&[fence], &["product"]));
    let (job, _) = trial().job();
    let before =
        job.source.change("proxy", "").change("tile", "mov.u32 %tile, tiles; fence.proxy.async;");
    Job { source: before, ..job }.fails(&fault(&[fence], &["product"]));
    // By all who issue the product, behind the barrier.
    let (job, wanted) = trial().job();
    let behind = job.source.change("proxy", "").change("copied", "bar.sync 0; fence.proxy.async;");
    Job { source: behind, ..job }
        .passes(|ran| wanted.check(&ran.buffers[2], "fence behind the barrier"));
    // By one warp only of those who issue it: the others do not see it.
    let (job, _) = trial().job();
    let some = "bar.sync 0; setp.lt.u32 %p2, %r0, 32; @%p2 fence.proxy.async;";
    let some = job.source.change("proxy", "").change("copied", some);
    Job { source: some, ..job }.fails(&fault(&[fence], &["product"]));
    // No barrier: some of the bytes may not be there.
    changed(&trial(), "copied", "").fails(&fault(&["data race", "never written"], &["product"]));
    // Written while the product may read them.
    let over = "@!%p1 st.shared.u32 [%tile], %r0;";
    changed(&trial(), "before", over).fails(&fault(
        &["of 'dynamic shared memory', which a product of warpgroup 0 (PTX line"],
        &["before"],
    ));
    // One warp waits and writes, another one has not waited: that is how stages are released. The others only hear
    // of it by a barrier.
    let (job, _) = trial().job();
    let after = job
        .source
        .change("last", "wgmma.wait_group.sync.aligned 0; @!%p2 st.shared.u32 [%tile], %r0;");
    let after = after.change("fence", "wgmma.fence.sync.aligned; setp.ne.u32 %p2, %r0, 0;");
    Job { source: after, ..job }.passes(|_| ());
}

#[test]
fn descriptors_that_are_wrong() {
    let with = |trial: &Trial, change: &dyn Fn(u64) -> u64| {
        let (mut job, wanted) = trial.job();
        for i in [3, 4] {
            let Arg::Raw(bytes) = &mut job.args[i] else { panic!("a number") };
            let bits = u64::from_le_bytes(bytes[..].try_into().expect("8 bytes"));
            *bytes = change(bits).to_le_bytes().to_vec();
        }
        (job, wanted)
    };
    let refused = |trial: &Trial, change: &dyn Fn(u64) -> u64, text: &str| {
        with(trial, change).0.fails(&fault(&[text], &["product"]).lanes(u32::MAX));
    };
    // Not refused, but not the product either, or not within what was written.
    let differs = |trial: &Trial, change: &dyn Fn(u64) -> u64| {
        let (job, wanted) = with(trial, change);
        let ran = job.run(&job.program(), Schedule::Ascending, true);
        match ran.outcome {
            Err(fault) => assert!(fault.message.contains("operand "), "{fault}"),
            Ok(_) => assert!(!wanted.fits(&ran.buffers[2]), "it fits"),
        }
    };
    let exchange = |bits: u64| {
        bits & !(0x3fff_3fff << 16) | (bits >> 16 & 0x3fff) << 32 | (bits >> 32 & 0x3fff) << 16
    };
    let plain = Layout { is_k_major: true, swizzle: Swizzle::None };
    let mn = Layout { is_k_major: false, swizzle: Swizzle::B64 };
    differs(&Trial::new(Type::Bf16, 64, Some(plain), plain), &exchange);
    differs(&Trial::new(Type::Bf16, 64, Some(mn), mn), &exchange);
    // Swizzled K-major operands do not use LBO: exchanged, all rows beyond the first eight are others.
    differs(&Trial::new(Type::Bf16, 64, Some(K128), K128), &exchange);
    // No swizzle where the bytes are swizzled.
    differs(&trial(), &|bits| bits & !(3 << 62));
    differs(&trial(), &|bits| bits ^ 3 << 62);
    // The stride is that of rows of 64 instead of 128 bytes.
    differs(&trial(), &|bits| bits & !(0x3fff << 32) | 32 << 32);
    refused(
        &trial(),
        &|bits| bits & !(0x3fff << 32),
        "operand A: matrix descriptor: the leading or stride byte offset is 0",
    );
    refused(
        &trial(),
        &|bits| bits | 1 << 46,
        "operand A: matrix descriptor: the reserved bits 0x400000000000 are set",
    );
    refused(&trial(), &|bits| bits | 1 << 52, "the reserved bits 0x10000000000000 are set");
    refused(&trial(), &|bits| bits | 1 << 49, "base offset 1; only 0 is supported");
    refused(
        &trial(),
        &|bits| bits + 0x2000,
        "operand A: read of 16 bytes at byte 131072 of dynamic shared memory",
    );
    refused(&trial(), &|bits| bits + 8, "lies in the middle of the swizzle's pattern");
    // The operands begin 128 bytes behind a multiple of 1024: the stage is not aligned to its pattern.
    let low = changed(&trial(), "tile", "mov.u32 %tile, tiles; add.u32 %tile, %tile, 128;");
    let text = "lies in the middle of the swizzle's pattern, which repeats every 1024 bytes";
    let n = low.shared;
    low.shared(n + 1024).fails(&fault(&[text], &["product"]));
    // A step of 64 instead of 32 bytes along k leaves the atom after the second.
    let (mut job, _) = trial().job();
    for i in [5, 6] {
        job.args[i] = Arg::u64(4);
    }
    job.fails(&fault(
        &["lies in the middle of the swizzle's pattern", "run over the end of a row"],
        &["product"],
    ));
    // The address of the tile instead of its sixteenth part.
    let (job, _) = trial().job();
    let whole = job.source.change("tile", "mov.u32 %tile, tiles; shl.b32 %tile, %tile, 4;");
    Job { source: whole, ..job }.fails(&fault(&["shared"], &["write"]));
    // Lanes that disagree.
    let (job, _) = trial().job();
    let lanes = job.source.change(
        "fence",
        "wgmma.fence.sync.aligned; @%p1 bra LOOP; setp.eq.u32 %p2, %r0, 3; @%p2 add.u64 %b, %b, 2;",
    );
    Job { source: lanes, ..job }
        .fails(&fault(&["lanes disagree about a descriptor"], &["product"]));
    let (job, _) = trial().job();
    let warps = job.source.change(
        "fence",
        "wgmma.fence.sync.aligned; setp.ge.u32 %p2, %r0, 96; @%p2 sub.u64 %b, %b, 64;",
    );
    Job { source: warps, ..job }.fails(&fault(
        &["the warps of a warpgroup disagree about a descriptor or scale-d"],
        &["product"],
    ));
    let (job, _) = trial().job();
    let scale = job.source.change(
        "fence",
        "wgmma.fence.sync.aligned; setp.ne.u32 %scale, %keeps, 0; setp.eq.u32 %p2, %r0, 3;",
    );
    let scale = scale.change("product", &format!("@%p2 setp.ne.u32 %scale, 0, 0; {LINE}"));
    Job { source: scale, ..job }.fails(&fault(&["lanes disagree about scale-d"], &["product"]));
}

#[test]
fn warps_that_are_absent() {
    // 127 lanes.
    changed(&trial(), "product", &format!("setp.ne.u32 %p2, %r0, 77; @%p2 {LINE}")).fails(
        &fault(&["an instruction of the whole warpgroup, reached by only 31 lanes"], &["product"])
            .lanes(!(1 << 13)),
    );
    // One warp leaves the product out.
    let three = format!("setp.lt.u32 %p2, %r0, 96; @!%p2 bra OUT; {LINE} OUT:");
    let text = "deadlock: warps 0 to 2 wait for the other warps of its warpgroup, PTX line";
    changed(&trial(), "product", &three).fails(&fault(&[text], &["last", "wait"]));
    // Two warps are at another product.
    let other = format!(
        "setp.lt.u32 %p2, %r0, 64; @%p2 bra FIRST; {LINE} bra JOINED; FIRST: {LINE} JOINED:"
    );
    changed(&trial(), "product", &other).fails(&fault(
        &["the warps of a warpgroup disagree: another one is at the product in PTX line"],
        &["product"],
    ));
    // Three warps, and seven.
    for (threads, warps) in [(96, 3), (224, 3), (32, 1)] {
        let (mut job, _) = trial().job();
        let write = "setp.lt.u32 %p2, %r0, 128; @%p2 st.shared.v4.u32 [%r6], {%r2, %r3, %r4, %r5};";
        job.source = job.source.change("write", write);
        let text = format!("the last warpgroup of the block has only {warps} warps");
        job.block(threads).fails(&fault(&[&text], &["product"]).lanes(u32::MAX));
    }
}

#[test]
fn products_that_do_not_decode() {
    for (it, text) in [
        (LINE.replace("m64n16k16", "m64n12k16"), "not implemented"),
        (LINE.replace("m64n16k16", "m64n264k16"), "not implemented"),
        (LINE.replace("m64n16k16", "m64n16k8"), "not implemented"),
        (LINE.replace("f32.bf16.bf16", "f16.f16.f16"), "not implemented"),
        (LINE.replace("f32.bf16.bf16", "f32.bf16.f16"), "not implemented"),
        (LINE.replace("f32.bf16.bf16", "f32.e4m3.e4m3"), ""),
        (LINE.replace(", %f7", ""), "7 accumulators for n = 16"),
        (LINE.replace("1, 1, 0, 0", "2, 1, 0, 0"), "a scale of 2"),
        (LINE.replace("1, 1, 0, 0", "1, 1, 0, 2"), "a transposition of 2"),
        (LINE.replace("1, 1, 0, 0", "1, 1, 0"), "operands"),
        (LINE.replace(".sync", ""), "'.sync' is needed"),
        (LINE.replace("f32.bf16.bf16", "f32.tf32.tf32").replace("k16", "k8"), "operands"),
    ] {
        let refusal = changed(&trial(), "product", &it).refusal();
        assert!(refusal.contains(text), "{it}: {refusal}");
    }
}
