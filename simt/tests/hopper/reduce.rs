//! `cp.reduce.async.bulk.tensor` (9.7.9.25.5): boxes that are added to what a tensor holds, each element once. Where
//! they go is what `tensor.rs` says of stores; the sums are computed here in f64, or in whole numbers.

use half::{bf16, f16};

use glmae_simt::hopper::swizzle::Swizzle;
use glmae_simt::hopper::tensor_map::{Element, TensorMap};
use glmae_simt::machine::Schedule;
use glmae_simt::random::Random;

use crate::launch::fault;
use crate::tensor::{Shape, names, noise, swizzled};
use crate::{Arg, Job, Source};

const NO_FENCE: &str = "with no fence.proxy.async behind it";
const BUFFER: &str = "of 'buffer 2'";

/// A kernel that adds a box of this rank.
pub fn source(rank: usize) -> Source {
    let source = Source::kernel("hopper_reduce", "add").with("rank", format!("{rank}d"));
    source.with("hint", format!(" [%map, {{{}}}], [%tile]", names("c", rank)))
}

/// The same in tiled mode, with nothing around it.
fn plain(rank: usize) -> Source {
    bare(source(rank).with("mode", ".tile"))
}

pub fn bare(source: Source) -> Source {
    source.with("before", "").with("then", "").with("last", "")
}

/// Values of a type whose sums mostly have to be rounded.
pub fn values(element: Element, n: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut float = || {
        let scale = [1.0, 0.0625, 3.0, 1024.0][random.below(4) as usize];
        (random.below(1 << 17) as f64 - 65536.0) / 65536.0 * scale
    };
    match element {
        Element::F32 => (0..n).flat_map(|_| (float() as f32 / 3.0).to_le_bytes()).collect(),
        Element::F16 => (0..n).flat_map(|_| f16::from_f64(float()).to_le_bytes()).collect(),
        Element::Bf16 => (0..n).flat_map(|_| bf16::from_f64(float()).to_le_bytes()).collect(),
        _ => noise(n * element.bytes() as usize, seed),
    }
}

/// The sum of two elements.
pub fn sum(element: Element, a: &[u8], b: &[u8]) -> Vec<u8> {
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    let half = |bytes: &[u8]| u16::from_le_bytes(bytes.try_into().expect("two bytes"));
    match element {
        Element::F32 => {
            let sum = f64::from(f32::from_bits(word(a))) + f64::from(f32::from_bits(word(b)));
            (sum as f32).to_le_bytes().to_vec()
        }
        Element::F16 => {
            let sum = f16::from_bits(half(a)).to_f64() + f16::from_bits(half(b)).to_f64();
            f16::from_f64(sum).to_le_bytes().to_vec()
        }
        Element::Bf16 => {
            let sum = bf16::from_bits(half(a)).to_f64() + bf16::from_bits(half(b)).to_f64();
            bf16::from_f64(sum).to_le_bytes().to_vec()
        }
        Element::U32 | Element::I32 => word(a).wrapping_add(word(b)).to_le_bytes().to_vec(),
        _ => {
            let long = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
            long(a).wrapping_add(long(b)).to_le_bytes().to_vec()
        }
    }
}

fn before(shape: &Shape) -> Vec<u8> {
    // The last row as well is whole chunks of 16 bytes.
    let bytes = shape.bytes().next_multiple_of(16);
    values(shape.element, bytes / shape.element.bytes() as usize, 11)
}

fn boxes(shape: &Shape, n: usize) -> Vec<u8> {
    values(shape.element, n * (shape.box_bytes() / shape.element.bytes()) as usize, 9)
}

/// A block for each of these coordinates.
fn job(source: &Source, shape: &Shape, at: &[&[i32]]) -> Job {
    let mut words = vec![0; 8 * at.len()];
    for (row, at) in words.chunks_mut(8).zip(at) {
        row.iter_mut().zip(*at).for_each(|(w, &x)| *w = x as u32);
    }
    let bytes = shape.box_bytes();
    let args = vec![
        Arg::map(shape.map()),
        Arg::words(words),
        Arg::In(boxes(shape, at.len())),
        Arg::In(before(shape)),
        Arg::u32(bytes),
    ];
    source.job(args).shared(bytes).grid([at.len() as u32, 1, 1])
}

/// Adds elements of boxes to a tensor, each at its place.
fn add(shape: &Shape, tensor: &mut [u8], image: &[u8], at: &[i32]) {
    let size = shape.element.bytes() as usize;
    for (i, place) in shape.places(at).iter().enumerate() {
        let Some(place) = *place else { continue };
        let from = swizzled(shape.swizzle, size * i);
        let sum = sum(shape.element, &tensor[place..place + size], &image[from..from + size]);
        tensor[place..place + size].copy_from_slice(&sum);
    }
}

fn check(shape: &Shape, at: &[&[i32]]) {
    let (all, mut wanted) = (boxes(shape, at.len()), before(shape));
    for (image, at) in all.chunks(shape.box_bytes() as usize).zip(at) {
        add(shape, &mut wanted, image, at);
    }
    job(&plain(shape.dims.len()), shape, at)
        .passes(|ran| assert!(ran.buffers[2] == wanted, "{:?} at {at:?}", shape.size));
}

#[test]
fn sums_of_every_rank() {
    let f32 = Element::F32;
    check(&Shape::new(f32, &[100], &[64]), &[&[8]]);
    check(&Shape::new(f32, &[40, 30], &[16, 5]), &[&[8, 3]]);
    check(&Shape::new(f32, &[12, 9, 7], &[8, 3, 4]), &[&[4, 2, 1]]);
    check(&Shape::new(f32, &[12, 5, 4, 6], &[8, 2, 3, 2]), &[&[4, 1, 0, 3]]);
    check(&Shape::new(f32, &[12, 3, 4, 5, 3], &[4, 2, 2, 3, 2]), &[&[4, 1, 1, 0, 1]]);
    let mut steps = Shape::new(f32, &[32, 20, 9], &[16, 7, 4]);
    steps.steps = vec![1, 2, 3];
    check(&steps, &[&[16, 11, 2]]);
    for (swizzle, row) in [(Swizzle::B32, 8), (Swizzle::B64, 16), (Swizzle::B128, 32)] {
        let shape = Shape { swizzle, ..Shape::new(f32, &[64, 40], &[row, 24]) };
        check(&shape, &[&[32, 10]]);
    }
}

#[test]
fn sums_of_every_type() {
    for element in
        [Element::F16, Element::Bf16, Element::F32, Element::U32, Element::I32, Element::U64]
    {
        let n = 16 / element.bytes();
        let shape = Shape::new(element, &[u64::from(n) * 5, 9], &[2 * n, 5]);
        check(&shape, &[&[n as i32, 2]]);
        let swizzle = Swizzle::B32;
        check(&Shape { swizzle, ..shape }, &[&[2 * n as i32, 4]]);
    }
}

#[test]
fn boxes_that_leave_the_tensor() {
    // Beyond every dimension, in part and as a whole: what lies there is dropped.
    let shape = Shape::new(Element::F32, &[12, 9, 7], &[8, 3, 4]);
    for at in [[8, 7, 5], [12, 0, 0], [0, 9, 0], [0, 0, 7], [4, 8, 6]] {
        check(&shape, &[&at]);
    }
    let swizzle = Swizzle::B128;
    check(&Shape { swizzle, ..Shape::new(Element::F32, &[48, 13], &[32, 8]) }, &[&[32, 8]]);
    // Blocks that share the tensor, each element to one of them.
    let shape = Shape::new(Element::F32, &[20, 11], &[16, 4]);
    check(&shape, &[&[0, 0], &[16, 0], &[0, 4], &[16, 4], &[0, 8], &[16, 8]]);
}

#[test]
fn rows_that_end_inside_a_chunk() {
    // The rest of 16 bytes counts as a store's: it is written to, and lies behind what is checked.
    let shape = Shape::new(Element::F32, &[21, 5], &[16, 4]);
    let at = [16, 2];
    let (image, mut wanted) = (boxes(&shape, 1), before(&shape));
    add(&shape, &mut wanted, &image, &at);
    let rows =
        |all: &[u8]| -> Vec<u8> { all.chunks(96).flat_map(|row| row[..84].to_vec()).collect() };
    let good = job(&plain(2), &shape, &[&at]);
    good.passes(|ran| assert!(rows(&ran.buffers[2]) == rows(&wanted)));
    // Where there is no such rest, the last row must not be reached.
    let mut short = job(&plain(2), &shape, &[&at]);
    short.args[3] = Arg::In(before(&shape)[..shape.bytes()].to_vec());
    let text = "reduction of 32 bytes reaches 12 bytes past the end of 'buffer 2'";
    short.fails(&fault(&[text], &["reduce"]).lanes(1));
    // Nor bytes that nobody has written.
    let mut bare = job(&plain(2), &shape, &[&at]);
    bare.args[3] = Arg::Out(before(&shape).len());
    bare.fails(&fault(&["which was never written"], &["reduce"]));
}

#[test]
fn special_values() {
    // Subnormal operands and results are zeros of the same sign; infinities and NaNs are what they are for add.f32.
    let cases: [(u32, u32, u32); 12] = [
        (0x3f80_0000, 0x3380_0000, 0x3f80_0000),
        (0x3f80_0001, 0x3380_0000, 0x3f80_0002),
        (0x0000_0001, 0x8000_0001, 0x0000_0000),
        (0x8000_0001, 0x8000_0001, 0x8000_0000),
        (0x007f_ffff, 0x3f80_0000, 0x3f80_0000),
        (0x0080_0001, 0x8080_0000, 0x0000_0000),
        (0x8080_0001, 0x0080_0000, 0x8000_0000),
        (0x8000_0000, 0x8000_0000, 0x8000_0000),
        (0x8000_0000, 0x0000_0000, 0x0000_0000),
        (0x7f7f_ffff, 0x7f7f_ffff, 0x7f80_0000),
        (0x7f80_0000, 0xff80_0000, 0x7fff_ffff),
        (0x7fc0_0000, 0x3f80_0000, 0x7fff_ffff),
    ];
    let shape = Shape::new(Element::F32, &[12], &[12]);
    let mut job = job(&plain(1), &shape, &[&[0]]);
    job.args[2] = Arg::words(cases.map(|c| c.1));
    job.args[3] = Arg::words(cases.map(|c| c.0));
    job.gives(2, &cases.map(|c| c.2));
    // Those of 16 bits keep them.
    let cases: [(u16, u16, u16); 8] = [
        (0x0001, 0x0001, 0x0002),
        (0x03ff, 0x0001, 0x0400),
        (0x0401, 0x8400, 0x0001),
        (0x3c00, 0x0c00, 0x3c00),
        (0x7bff, 0x7bff, 0x7c00),
        (0x7c00, 0xfc00, 0x7fff),
        (0x8000, 0x8000, 0x8000),
        (0x3c01, 0x1000, 0x3c02),
    ];
    let shape = Shape::new(Element::F16, &[8], &[8]);
    let bytes = |of: fn(&(u16, u16, u16)) -> u16| -> Vec<u8> {
        cases.iter().flat_map(|c| of(c).to_le_bytes()).collect()
    };
    let mut job = self::job(&plain(1), &shape, &[&[0]]);
    (job.args[2], job.args[3]) = (Arg::In(bytes(|c| c.1)), Arg::In(bytes(|c| c.0)));
    job.passes(|ran| assert_eq!(ran.buffers[2], bytes(|c| c.2)));
}

/// A box of 24 rows that fills its tensor.
fn panel() -> Shape {
    let shape = Shape::new(Element::F32, &[32, 24], &[32, 24]);
    Shape { swizzle: Swizzle::B128, ..shape }
}

/// A kernel with these instructions before the reduction, behind it and behind the wait.
fn around(before: &str, then: &str, last: &str) -> Source {
    let source = source(2).with("mode", "");
    source.with("before", before).with("then", then).with("last", last)
}

fn one(source: &Source) -> Job {
    job(source, &panel(), &[&[0, 0]])
}

#[test]
fn shared_memory_that_is_added() {
    let good = plain(2);
    // Its writes are fenced, for shared memory, by those who made them, in front of the barrier.
    let text = "of 'dynamic shared memory', written by thread (0, 0, 0) (PTX line";
    one(&good.without("fence")).fails(&fault(&[text], &["reduce"]).lanes(1));
    one(&good.without("fence")).fails(&fault(&[NO_FENCE], &["reduce"]));
    for fence in ["fence.proxy.async.global;", "@!%p0 fence.proxy.async;"] {
        one(&good.change("fence", fence)).fails(&fault(&[NO_FENCE], &["reduce"]).lanes(1));
    }
    let half = good.without("full").change("write", "@!%p0 st.shared.u32 [%r2], %r3;");
    one(&half).fails(&fault(&["data race", "never written"], &["reduce"]));
    // It is written again only behind the wait.
    let write = "st.shared.u32 [%tile], %r0;";
    let texts = ["which a bulk copy", "data race: write of 4 bytes at"];
    one(&around("", write, "")).fails(&fault(&texts, &["then"]).lanes(1));
    let late = around("", "", write);
    one(&late).passes(|_| ());
    one(&late.change("end", "cp.async.bulk.wait_group.read 1;")).fails(&fault(&texts, &["last"]));
    one(&late.without("commit")).fails(&fault(&texts, &["last"]));
    // Nobody waits at the end.
    let text =
        "the thread ended without having waited for this bulk reduction to have read shared memory";
    one(&good.without("end")).fails(&fault(&[text], &["reduce"]).lanes(1));
    one(&good.change("end", "cp.async.bulk.wait_group.read 1;"))
        .fails(&fault(&[text], &["reduce"]));
    let low = good.change("tile", "mov.u32 %tile, tiles; add.u32 %tile, %tile, 64;");
    one(&low).shared(4096).fails(&fault(&["is no multiple of 128"], &["reduce"]));
}

#[test]
fn global_memory_that_is_added_to() {
    let mut unwritten = one(&plain(2));
    unwritten.args[3] = Arg::Out(before(&panel()).len());
    let text = "reduction of 128 bytes at byte 0 of 'buffer 2', which was never written";
    unwritten.fails(&fault(&[text], &["reduce"]).lanes(1));
    let mut short = one(&plain(2));
    short.args[3] = Arg::In(before(&panel())[..1024].to_vec());
    short.fails(&fault(&["past the end of 'buffer 2' (1024 bytes)"], &["reduce"]));
    // What the thread has written, or read, it must fence, as in front of a store.
    let touches = ["st.global.u32 [%out], 0;", "ld.global.u32 %r7, [%out];"];
    for touch in touches {
        one(&around(touch, "", "")).fails(&fault(&[NO_FENCE], &["reduce"]).lanes(1));
        let other = format!("{touch} fence.proxy.async.shared::cta;");
        one(&around(&other, "", "")).fails(&fault(&[NO_FENCE], &["reduce"]).lanes(1));
        one(&around(&format!("{touch} fence.proxy.async.global;"), "", "")).passes(|_| ());
        // Behind it, only a wait without .read is enough.
        let texts = ["data race", NO_FENCE];
        one(&around("", touch, "")).fails(&fault(&texts, &["then", "reduce"]));
        let late = around("", "", touch);
        let text = "written by an asynchronous copy (PTX line";
        one(&late).fails(&fault(&[text], &["last"]).lanes(1));
        one(&late.change("end", "cp.async.bulk.wait_group 0;")).passes(|_| ());
    }
    // Another block touches it at any time.
    let apart = Shape { swizzle: Swizzle::B128, ..Shape::new(Element::F32, &[64, 24], &[32, 24]) };
    for touch in ["@%p3 st.global.u32 [%out], 0;", "@%p3 ld.global.u32 %r7, [%out];"] {
        let source = around(&format!("{touch} fence.proxy.async;"), "", "");
        let job = job(&source, &apart, &[&[0, 0], &[32, 0]]);
        job.fails(&fault(&["data race"], &["before", "reduce"]).lanes(1));
        job.fails(&fault(&[BUFFER], &["before", "reduce"]));
    }
}

#[test]
fn sums_in_no_order() {
    // Two blocks. Which byte they meet at first is up to the threads of the host.
    let races = ["data race: reduction of 128 bytes at byte "];
    let two = job(&plain(2), &panel(), &[&[0, 0], &[0, 0]]);
    two.fails(&fault(&races, &["reduce"]).lanes(1));
    two.fails(&fault(&["written by an asynchronous copy of block ("], &["reduce"]));
    // Blocks whose boxes have one row in common.
    let rows = Shape::new(Element::F32, &[32, 9], &[32, 5]);
    job(&plain(2), &rows, &[&[0, 0], &[0, 4]]).fails(&fault(&races, &["reduce"]));
    check(&rows, &[&[0, 0], &[0, 5]]);
    // One thread, in one group or in two. That the reads have ended is not enough.
    let again = "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.bulk_group [%map, {%c0, %c1}], [%tile];";
    let open = "with no barrier between: the order of the two additions is open";
    for then in [
        format!("{again} cp.async.bulk.commit_group;"),
        format!("cp.async.bulk.wait_group.read 0; {again} cp.async.bulk.commit_group;"),
    ] {
        let twice = one(&around("", &then, ""));
        twice.fails(&fault(&races, &["reduce", "then"]).lanes(1));
        twice.fails(&fault(&[open], &["reduce", "then"]));
    }
    // Behind a wait there is an order.
    let then = format!("cp.async.bulk.wait_group 0; {again} cp.async.bulk.commit_group;");
    let (image, mut wanted) = (boxes(&panel(), 1), before(&panel()));
    (0..2).for_each(|_| add(&panel(), &mut wanted, &image, &[0, 0]));
    one(&around("", &then, "")).passes(|ran| assert!(ran.buffers[2] == wanted));
    // A store and a reduction.
    let store =
        "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%map, {%c0, %c1}], [%tile];";
    one(&around(store, "", "")).fails(&fault(&["data race"], &["before", "reduce"]));
    // A map whose rows overlap: one operation comes to an element twice.
    let mut shape = Shape::new(Element::F32, &[8, 4], &[8, 4]);
    shape.strides = vec![16];
    job(&plain(2), &shape, &[&[0, 0]]).fails(&fault(&["data race: reduction"], &["reduce"]));
    // Whole numbers as well, although their sum has no order.
    let whole = Shape { element: Element::U32, ..panel() };
    job(&plain(2), &whole, &[&[0, 0], &[0, 0]]).fails(&fault(&races, &["reduce"]));
}

#[test]
fn the_last_block_adds_to_what_the_others_have_added() {
    const BLOCKS: u32 = 3;
    let shape = Shape::new(Element::F32, &[32, BLOCKS.into()], &[32, 1]);
    let terms = values(Element::F32, 32 * (BLOCKS as usize + 1), 5);
    let mut wanted = before(&shape);
    for row in 0..BLOCKS as usize {
        add(&shape, &mut wanted, &terms[128 * row..], &[0, row as i32]);
        add(&shape, &mut wanted, &terms[128 * BLOCKS as usize..], &[0, row as i32]);
    }
    let job = |source: &Source| {
        let args = vec![
            Arg::map(shape.map()),
            Arg::In(terms.clone()),
            Arg::words([0]),
            Arg::In(before(&shape)),
        ];
        source.job(args).shared(256).grid([BLOCKS, 1, 1])
    };
    let good = Source::kernel("hopper_reduce", "last");
    job(&good).passes(|ran| assert!(ran.buffers[2] == wanted));
    let text = "which the atomic that orders the blocks does not release: a fence, a bar.sync or a wait_group without \
                .read is missing before it: the order of the two additions is open";
    let own = "with no barrier between: the order of the two additions is open";
    job(&good.change("wait", "cp.async.bulk.wait_group.read 0;"))
        .fails(&fault(&[text, own], &["second"]).lanes(1));
    job(&good.without("release")).fails(&fault(&[text], &["second"]));
    // Without the ticket, block 2 counts as the last one.
    let none = good.change("meet", "mov.u32 %r2, %block;");
    job(&none).fails(&fault(&["data race: reduction"], &["first", "second"]));
}

#[test]
fn maps_that_are_wrong() {
    for element in [Element::U8, Element::U16, Element::I64, Element::F64] {
        let n = 16 / element.bytes();
        let shape = Shape::new(element, &[u64::from(n), 8], &[n, 8]);
        let text = format!("a tensor map of {element:?}, for which a reduction has no .add");
        job(&plain(2), &shape, &[&[0, 0]]).fails(&fault(&[&text], &["reduce"]).lanes(1));
    }
    let texts = ["a map of rank 2 in a copy of rank 3"];
    job(&plain(3), &panel(), &[&[0, 0]]).fails(&fault(&texts, &["reduce"]));
    let texts = ["a store at coordinate -1 of dimension 1; it must not be negative"];
    job(&plain(2), &panel(), &[&[0, -1]]).fails(&fault(&texts, &["reduce"]));
    let texts = ["an im2col copy with a tensor map for tiles"];
    let columns = bare(source(2).with("mode", ".im2col_no_offs"));
    job(&columns, &panel(), &[&[0, 0]]).fails(&fault(&texts, &["reduce"]));
}

#[test]
fn hints_change_nothing() {
    let (image, mut wanted) = (boxes(&panel(), 1), before(&panel()));
    add(&panel(), &mut wanted, &image, &[0, 0]);
    let hint = ".L2::cache_hint [%map, {%c0, %c1}], [%tile], %policy";
    let source = Source::kernel("hopper_reduce", "add").with("rank", "2d").with("mode", "");
    one(&bare(source.with("hint", hint))).passes(|ran| assert!(ran.buffers[2] == wanted));
}

#[test]
fn counts_are_those_of_a_store() {
    // 24 rows of 128 bytes, of which 80 are inside, from the 16th byte of a sector on; 20 rows are inside.
    let shape = Shape::new(Element::F32, &[24, 25], &[32, 24]);
    let source = plain(2);
    let job = job(&source, &shape, &[&[4, 5]]);
    let program = job.program();
    let line = source.lines_of("reduce")[0];
    let pc = program.instructions.iter().position(|i| i.line == line).expect("the reduction");
    let ran = job.run(&program, Schedule::Ascending, true);
    let traffic = ran.outcome.expect("a good run").instructions[pc].traffic;
    assert_eq!((traffic.requests, traffic.bytes), (1, 24 * 128));
    assert_eq!((traffic.sectors, traffic.least_sectors), (20 * 3, 20 * 80 / 32));
    assert_eq!((traffic.passes, traffic.least_passes), (24, 24));
}

#[test]
fn what_is_refused() {
    let reduce = "cp.reduce.async.bulk.tensor.1d.global.shared::cta";
    let operands = "[%map, {0}], [cells]";
    let mut cases = vec![
        (format!("{reduce}.bulk_group {operands};"), "'.add' is needed".to_owned()),
        (format!("{reduce}.add {operands};"), "does not fit the direction".into()),
        (
            format!("{reduce}.add.mbarrier::complete_tx::bytes {operands}, [bar];"),
            "does not fit the direction".into(),
        ),
        (format!("{reduce}.add.im2col.bulk_group {operands};"), "not implemented".into()),
        (
            format!("{reduce}.add.bulk_group.multicast::cluster {operands}, 1;"),
            "only loads can be multicast".into(),
        ),
        (format!("{reduce}.add.f32.bulk_group {operands};"), "not implemented with '.f32'".into()),
        (format!("{reduce}.add.bulk_group {operands}, [bar];"), "operands".into()),
        (
            "cp.reduce.async.bulk.tensor.1d.shared::cta.global.add.mbarrier::complete_tx::bytes [cells], [%map, {0}], \
             [bar];"
                .into(),
            "not implemented".into(),
        ),
        (
            "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%out], [cells], 16;".into(),
            "not implemented".into(),
        ),
        (
            "cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.add.u32 [cells], [cells], \
             16, [bar];"
                .into(),
            "not implemented".into(),
        ),
    ];
    for word in ["min", "max", "inc", "dec", "and", "or", "xor"] {
        let text = format!("this instruction is not implemented with '.{word}'");
        cases.push((format!("{reduce}.{word}.bulk_group {operands};"), text));
    }
    let map = |_: &[u64]| -> TensorMap { panic!("no run") };
    for (it, text) in cases {
        let source = Source::kernel("hopper_reduce", "single").with("it", &it);
        let refusal = source.job(vec![Arg::map(map), Arg::Out(64)]).refusal();
        assert!(refusal.contains(&text) && refusal.contains("cp.reduce"), "{it}: {refusal}");
    }
}
