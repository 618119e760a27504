//! What the parser makes of instructions and their operands.

use glmae_simt::ptx::ast::{Function, Instruction, Operand, Reg};
use glmae_simt::ptx::parse;

/// A kernel with this body.
fn kernel(body: &str) -> Function {
    let text = format!(".version 9.0 .target sm_90a .address_size 64 .entry k() {{\n{body}\n}}\n");
    parse("test.ptx", &text).unwrap_or_else(|error| panic!("{error}")).functions.remove(0)
}

/// The only instruction of a body with registers of every kind.
fn instruction(text: &str) -> Instruction {
    let registers = ".reg .pred %p<4>, p; .reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .f32 %f<9>;\
                     .reg .b16 %rs<2>; .reg .b128 %q; .shared .b8 tile[64];";
    let mut function = kernel(&format!("{registers}\n{text}"));
    assert_eq!(function.instructions.len(), 1, "{text}");
    function.instructions.remove(0)
}

// Registers in the order in which `instruction` declares them.
const P: u32 = 0;
const NAMED_P: u32 = 4;
const R: u32 = 5;
const RD: u32 = 14;
const F: u32 = 23;
const RS: u32 = 32;
const Q: u32 = 34;

fn reg(base: u32, number: u32) -> Operand {
    Operand::Register(Reg(base + number))
}

fn at(base: Operand, offset: i64) -> Operand {
    Operand::Address(Box::new(base), offset)
}

fn pair(first: Operand, second: Operand) -> Operand {
    Operand::Pair(Box::new(first), Box::new(second))
}

fn symbol(name: &str, offset: i64) -> Operand {
    Operand::Symbol(name.into(), offset)
}

fn special(name: &str, axis: Option<u8>) -> Operand {
    Operand::Special(name.into(), axis)
}

#[track_caller]
fn check(text: &str, name: &str, operands: &[Operand]) {
    let instruction = instruction(text);
    assert_eq!(instruction.name(), name);
    assert_eq!(instruction.operands, operands, "{text}");
}

#[test]
fn plain_operands() {
    check("add.s32 %r1, %r2, -16;", "add.s32", &[reg(R, 1), reg(R, 2), Operand::Integer(-16)]);
    check(
        "fma.rn.f32 %f1, 0f3F800000, 0d3FF0000000000000, 1.5;",
        "fma.rn.f32",
        &[
            reg(F, 1),
            Operand::Float32(0x3f80_0000),
            Operand::Float64(1f64.to_bits()),
            Operand::Float64(1.5f64.to_bits()),
        ],
    );
    let numbers =
        "x 0x1F, 0xFFFFFFFFFFFFFFFFU, 017, 0b101, 3U, 1+2+-5, WARP_SZ, WARP_SZ-1, -0.5, .5;";
    let integer = Operand::Integer;
    let float = |value: f64| Operand::Float64(value.to_bits());
    check(
        numbers,
        "x",
        &[
            integer(31),
            integer(-1),
            integer(15),
            integer(5),
            integer(3),
            integer(-2),
            integer(32),
            integer(31),
            float(-0.5),
            float(0.5),
        ],
    );
    let negated = Operand::Negated(Reg(P + 2));
    check(
        "setp.lt.and.s32 %p1|%p2, %r1, %r2, !%p2;",
        "setp.lt.and.s32",
        &[pair(reg(P, 1), reg(P, 2)), reg(R, 1), reg(R, 2), negated],
    );
    check("mov.u64 %rd1, tile+16;", "mov.u64", &[reg(RD, 1), symbol("tile", 16)]);
    check(
        "mov.b64 %rd1, {%r1, %r2};",
        "mov.b64",
        &[reg(RD, 1), Operand::Vector(vec![reg(R, 1), reg(R, 2)])],
    );
    check(
        "mov.b128 {%rd1, _}, %q;",
        "mov.b128",
        &[Operand::Vector(vec![reg(RD, 1), Operand::Sink]), reg(Q, 0)],
    );
    check(
        "st.v2.b32 [%rd1], {0x10, -1};",
        "st.v2.b32",
        &[at(reg(RD, 1), 0), Operand::Vector(vec![integer(16), integer(-1)])],
    );
    check("cp.async.commit_group;", "cp.async.commit_group", &[]);
    check("membar /* all */ .gl // of it\n ;", "membar.gl", &[]);
}

#[test]
fn addresses() {
    check("ld.b32 %r1, [%rd1+-16];", "ld.b32", &[reg(R, 1), at(reg(RD, 1), -16)]);
    check("ld.b32 %r1, [%rd1-16+4];", "ld.b32", &[reg(R, 1), at(reg(RD, 1), -12)]);
    check("ld.b32 %r1, [tile+4];", "ld.b32", &[reg(R, 1), at(symbol("tile", 0), 4)]);
    check("ld.b32 %r1, [16+0x10];", "ld.b32", &[reg(R, 1), at(Operand::Integer(32), 0)]);
    check(
        "ld.global.nc.L1::no_allocate.L2::128B.v2.u32 {%r1, %r2}, [%rd1];",
        "ld.global.nc.L1::no_allocate.L2::128B.v2.u32",
        &[Operand::Vector(vec![reg(R, 1), reg(R, 2)]), at(reg(RD, 1), 0)],
    );
}

#[test]
fn special_registers() {
    for (text, name, axis) in [
        ("%tid.x", "tid", Some(0)),
        ("%ctaid.y", "ctaid", Some(1)),
        ("%nctaid.z", "nctaid", Some(2)),
        ("%clusterid.x", "clusterid", Some(0)),
        ("%nclusterid.x", "nclusterid", Some(0)),
        ("%cluster_ctaid.x", "cluster_ctaid", Some(0)),
        ("%cluster_nctaid.x", "cluster_nctaid", Some(0)),
        ("%laneid", "laneid", None),
        ("%clock64", "clock64", None),
        ("%globaltimer", "globaltimer", None),
        ("%lanemask_lt", "lanemask_lt", None),
        ("%dynamic_smem_size", "dynamic_smem_size", None),
        ("%total_smem_size", "total_smem_size", None),
        ("%cluster_ctarank", "cluster_ctarank", None),
        ("%cluster_nctarank", "cluster_nctarank", None),
        ("%is_explicit_cluster", "is_explicit_cluster", None),
        ("%envreg31", "envreg31", None),
        ("%pm0", "pm0", None),
    ] {
        check(&format!("mov.u32 %r1, {text};"), "mov.u32", &[reg(R, 1), special(name, axis)]);
    }
    // A register of that name hides the special one.
    let function = kernel(".reg .b32 %laneid;\nmov.b32 %laneid, %smid;");
    assert_eq!(function.instructions[0].operands, [reg(0, 0), special("smid", None)]);
}

#[test]
fn hopper() {
    let accumulators: Vec<String> = (1..=128).map(|i| format!("%f{i}")).collect();
    let text = format!(
        ".reg .f32 %f<129>; .reg .b64 %rd<3>; .reg .pred p;\n\
         wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {{{}}}, %rd1, %rd2, p, 1, 1, 0, 1;",
        accumulators.join(",")
    );
    let wgmma = &kernel(&text).instructions[0];
    assert_eq!(wgmma.opcode, "wgmma");
    assert_eq!(
        wgmma.modifiers,
        ["mma_async", "sync", "aligned", "m64n256k16", "f32", "bf16", "bf16"]
    );
    assert_eq!(wgmma.operands[0], Operand::Vector((1..=128).map(|i| reg(0, i)).collect()));
    let one = Operand::Integer(1);
    assert_eq!(
        wgmma.operands[1..],
        [reg(129, 1), reg(129, 2), reg(132, 0), one.clone(), one.clone(), Operand::Integer(0), one]
    );

    let copy = "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes\
                .multicast::cluster";
    let tensor = Operand::Tensor(Box::new(reg(RD, 1)), vec![reg(R, 2), reg(R, 3)]);
    check(
        &format!("{copy} [%r1], [%rd1, {{%r2, %r3}}], [%r4], %rs1;"),
        copy,
        &[at(reg(R, 1), 0), tensor, at(reg(R, 4), 0), reg(RS, 1)],
    );
    assert_eq!(
        instruction(&format!("{copy} [%r1], [%rd1, {{%r2}}], [%r4];")).modifiers,
        [
            "async",
            "bulk",
            "tensor",
            "2d",
            "shared::cluster",
            "global",
            "mbarrier::complete_tx::bytes",
            "multicast::cluster",
        ]
    );
    check(
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%r1], %r2;",
        "mbarrier.try_wait.parity.shared::cta.b64",
        &[reg(NAMED_P, 0), at(reg(R, 1), 0), reg(R, 2)],
    );
    check(
        "mbarrier.arrive.shared::cta.b64 _, [%r1];",
        "mbarrier.arrive.shared::cta.b64",
        &[Operand::Sink, at(reg(R, 1), 0)],
    );
    check(
        "elect.sync _|%p1, 0xffffffff;",
        "elect.sync",
        &[pair(Operand::Sink, reg(P, 1)), Operand::Integer(0xffff_ffff)],
    );
    check(
        "setmaxnreg.inc.sync.aligned.u32 232;",
        "setmaxnreg.inc.sync.aligned.u32",
        &[Operand::Integer(232)],
    );
    check(
        "shfl.sync.bfly.b32 %r1|%p1, %r2, 16, 31, -1;",
        "shfl.sync.bfly.b32",
        &[
            pair(reg(R, 1), reg(P, 1)),
            reg(R, 2),
            Operand::Integer(16),
            Operand::Integer(31),
            Operand::Integer(-1),
        ],
    );
}
