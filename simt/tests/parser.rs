//! What the parser makes of modules, kernels, scopes, labels and line information.

use glmae_simt::ptx::ast::{
    Function, Guard, Instruction, LabelId, Module, Operand, Place, Reg, Space, Type, Variable,
};
use glmae_simt::ptx::parse;

const HEAD: &str = ".version 9.0\n.target sm_90a\n.address_size 64\n";

fn module(text: &str) -> Module {
    parse("test.ptx", &format!("{HEAD}{text}")).unwrap_or_else(|error| panic!("{error}"))
}

/// A kernel with this body, which starts on line 6.
fn kernel(body: &str) -> Function {
    module(&format!(".entry k()\n{{\n{body}\n}}\n")).functions.remove(0)
}

fn reg(number: u32) -> Operand {
    Operand::Register(Reg(number))
}

fn label(index: u32) -> Operand {
    Operand::Label(LabelId(index))
}

fn at(base: Operand, offset: i64) -> Operand {
    Operand::Address(Box::new(base), offset)
}

fn symbol(name: &str, offset: i64) -> Operand {
    Operand::Symbol(name.into(), offset)
}

#[test]
fn heads() {
    let module = module(
        r#"
// .globl scale
.visible .entry scale(
    .param .u64 scale_param_0,
    .param .align 8 .b8 scale_param_1[64],
    .param .align 64 .b8 map[128],
    .param .u64 .ptr .global .align 16 scale_param_3
)
.maxntid 128, 2, 1
.minnctapersm 3
.maxnreg 168
.reqnctapercluster 2, 1, 1
.explicitcluster
.maxclusterrank 8
.pragma "nounroll";
{
    ret;
}
.weak .entry plain
.reqntid 32
{
    .pragma "nounroll", "other";
}
.extern .func (.param .b32 func_retval0) vprintf(.param .b64 a, .param .b64 b)
;
.func (.param .b32 result) twice(.param .b32 x) .noreturn
{
    .reg .b32 %r;
    ld.param.b32 %r, [x];
    st.param.b32 [result+0], %r;
    ret;
}
.file 1 "/src/scale.cu"
.file 2 "/src/vec.cuh", 1700000000, 42
.section .debug_str
{
$L__info_string0:
.b8 95,90,0
.b32 $L__info_string0+4
.b64 a-b
}
"#,
    );
    assert_eq!((module.version, module.target.as_str()), ((9, 0), "sm_90a"));
    assert_eq!(module.files, [(1, "/src/scale.cu".into()), (2, "/src/vec.cuh".into())]);
    let names: Vec<&str> = module.functions.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["scale", "plain", "twice"]);

    let scale = module.function("scale").unwrap();
    assert_eq!((scale.is_entry, scale.line), (true, 6));
    let parameter = |name: &str, ty, align, bytes| Variable {
        name: name.into(),
        space: Space::Param,
        ty,
        align,
        bytes: Some(bytes),
        init: vec![],
        is_extern: false,
    };
    assert_eq!(
        scale.params,
        [
            parameter("scale_param_0", Type::U64, 8, 8),
            parameter("scale_param_1", Type::B8, 8, 64),
            parameter("map", Type::B8, 64, 128),
            parameter("scale_param_3", Type::U64, 8, 8),
        ]
    );
    assert_eq!(scale.max_threads, Some([128, 2, 1]));
    assert_eq!(scale.required_threads, None);
    assert_eq!(scale.min_blocks, Some(3));
    assert_eq!(scale.max_registers, Some(168));
    assert_eq!(scale.cluster, Some([2, 1, 1]));
    assert!(scale.is_explicit_cluster);
    assert_eq!(scale.instructions.len(), 1);

    let plain = module.function("plain").unwrap();
    assert_eq!(plain.required_threads, Some([32, 1, 1]));
    assert_eq!((plain.max_threads, plain.min_blocks, plain.cluster), (None, None, None));
    assert_eq!(plain.max_registers, None);
    assert!(!plain.is_explicit_cluster && plain.params.is_empty() && plain.instructions.is_empty());

    let twice = module.function("twice").unwrap();
    assert!(!twice.is_entry);
    assert_eq!(twice.params, [parameter("x", Type::B32, 4, 4)]);
    assert_eq!(twice.variables, [parameter("result", Type::B32, 4, 4)]);
    assert_eq!(twice.instructions[1].operands[0], at(symbol("result", 0), 0));
}

#[test]
fn variables_of_a_module() {
    let module = module(
        r"
.extern .shared .align 128 .b8 dynamic[];
.shared .align 4 .u64 bar;
.global .align 16 .b8 grid[3][5];
.const .u16 small[4] = {1, 2, 0x3};
.global .s32 sums[] = {-1, 010, 0b11U, 4+5-1};
.visible .global .f32 floats[3] = {0f3F800000, 1.5, -.25};
.const .f64 wide = 0d3FF0000000000000;
.global .f64 wider = 0f3F800000;
.const .u8 cut[2] = {0x1FF, -2};
.global .b64 mask = 0xFFFFFFFFFFFFFFFF, other = 7;
",
    );
    let find = |name: &str| module.variables.iter().find(|v| v.name == name).unwrap();
    let layout = |name: &str| {
        let v = find(name);
        (v.space, v.ty, v.align, v.bytes)
    };
    assert_eq!(layout("dynamic"), (Space::Shared, Type::B8, 128, None));
    assert!(find("dynamic").is_extern && !find("bar").is_extern);
    // An alignment below that of the type is raised to it.
    assert_eq!(layout("bar"), (Space::Shared, Type::U64, 8, Some(8)));
    assert_eq!(layout("grid"), (Space::Global, Type::B8, 16, Some(15)));
    assert!(find("grid").init.is_empty());
    assert_eq!(layout("small"), (Space::Const, Type::U16, 2, Some(8)));
    assert_eq!(find("small").init, [1, 0, 2, 0, 3, 0]);
    assert_eq!(layout("sums"), (Space::Global, Type::S32, 4, Some(16)));
    let sums: Vec<u8> = [-1i32, 8, 3, 8].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(find("sums").init, sums);
    let floats: Vec<u8> = [1f32, 1.5, -0.25].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(find("floats").init, floats);
    assert_eq!(find("wide").init, 1f64.to_le_bytes());
    assert_eq!(find("wider").init, 1f64.to_le_bytes());
    assert_eq!(find("cut").init, [0xff, 0xfe]);
    assert_eq!(find("mask").init, [0xff; 8]);
    assert_eq!((layout("other").3, find("other").init[0]), (Some(8), 7));
}

#[test]
fn registers_and_guards() {
    let function = kernel(
        ".reg .pred %p<2>;\n.reg .b128 %q, wide;\n.reg .f32 %f<3>, x;\n.reg .b32 %none<0>;\n\
         @%p1 ret;\n@!%p0 exit;\n  trap  ;",
    );
    let registers: Vec<(&str, Type)> =
        function.registers.iter().map(|r| (r.name.as_str(), r.ty)).collect();
    assert_eq!(
        registers,
        [
            ("%p0", Type::Pred),
            ("%p1", Type::Pred),
            ("%q", Type::B128),
            ("wide", Type::B128),
            ("%f0", Type::F32),
            ("%f1", Type::F32),
            ("%f2", Type::F32),
            ("x", Type::F32),
        ]
    );
    let guards: Vec<_> = function.instructions.iter().map(|i| (i.guard, i.line)).collect();
    assert_eq!(
        guards,
        [
            (Some(Guard { register: Reg(1), negated: false }), 10),
            (Some(Guard { register: Reg(0), negated: true }), 11),
            (None, 12),
        ]
    );
}

#[test]
fn labels_and_tables() {
    let function = kernel(
        ".reg .pred %p; .reg .b32 %r;\n\
         bra END;\n\
         L0:\n\
         @!%p bra L0;\n\
         bra.uni $L_1;\n\
         ts: .branchtargets L0, $L_1, L0;\n\
         brx.idx.uni %r, ts;\n\
         $L_1: ret;\n\
         END:",
    );
    let labels: Vec<(&str, u32)> =
        function.labels.iter().map(|l| (l.name.as_str(), l.at)).collect();
    assert_eq!(labels, [("L0", 1), ("ts", 3), ("$L_1", 4), ("END", 5)]);
    assert_eq!(function.labels[1].targets, [LabelId(0), LabelId(2), LabelId(0)]);
    assert!(function.labels[0].targets.is_empty());
    let operands: Vec<&[Operand]> =
        function.instructions.iter().map(|i| i.operands.as_slice()).collect();
    assert_eq!(operands[0], [label(3)]);
    assert_eq!(operands[1], [label(0)]);
    assert_eq!(operands[2], [label(2)]);
    assert_eq!(operands[3], [reg(1), label(1)]);
    assert!(function.instructions[2].has("uni"));
}

#[test]
fn inner_scopes_hide_outer_ones() {
    let function = kernel(
        ".reg .b32 x, y;\n\
         DONE: mov.b32 x, y;\n\
         {\n.reg .pred x;\n@x bra DONE;\nmov.b32 y, 1;\n\
         { .reg .f32 y; mov.f32 y, y; bra DONE; bra OUT; DONE: }\n\
         DONE:\n};\n\
         { bra DONE; }\n\
         OUT: bra DONE;",
    );
    let registers: Vec<(&str, Type)> =
        function.registers.iter().map(|r| (r.name.as_str(), r.ty)).collect();
    assert_eq!(
        registers,
        [("x", Type::B32), ("y", Type::B32), ("x", Type::Pred), ("y", Type::F32)]
    );
    let labels: Vec<(&str, u32)> =
        function.labels.iter().map(|l| (l.name.as_str(), l.at)).collect();
    // In the order of their definition: the outermost, the innermost, the middle one, OUT.
    assert_eq!(labels, [("DONE", 0), ("DONE", 6), ("DONE", 6), ("OUT", 7)]);
    let operands: Vec<Vec<Operand>> =
        function.instructions.iter().map(|i| i.operands.clone()).collect();
    assert_eq!(
        operands,
        [
            vec![reg(0), reg(1)],
            vec![label(2)],
            vec![reg(1), Operand::Integer(1)],
            vec![reg(3), reg(3)],
            vec![label(1)],
            vec![label(3)],
            vec![label(0)],
            vec![label(0)],
        ]
    );
    assert_eq!(function.instructions[1].guard, Some(Guard { register: Reg(2), negated: false }));
}

#[test]
fn variables_of_a_body_get_names_of_their_own() {
    let module = module(
        ".shared .b32 s;\n\
         .entry k(.param .b32 a) {\n\
         .reg .b64 %rd;\n\
         .local .align 16 .b8 __local_depot0[128];\n\
         .extern .shared .align 16 .b8 more[];\n\
         mov.u64 %rd, __local_depot0;\n\
         mov.u64 %rd, s;\n\
         { .shared .b8 s[2]; mov.u64 %rd, s+1; }\n\
         { .shared .b8 s[4], t; mov.u64 %rd, s; { .shared .b8 t; ld.u8 %rd, [t+2]; } }\n\
         mov.u64 %rd, s;\n\
         }\n\
         .entry l() { .reg .b64 %rd; .shared .b8 t; mov.u64 %rd, t; }",
    );
    let function = &module.functions[0];
    let variables: Vec<_> = function
        .variables
        .iter()
        .map(|v| (v.name.as_str(), v.space, v.align, v.bytes, v.is_extern))
        .collect();
    assert_eq!(
        variables,
        [
            ("__local_depot0", Space::Local, 16, Some(128), false),
            ("more", Space::Shared, 16, None, true),
            ("s@1", Space::Shared, 1, Some(2), false),
            ("s@2", Space::Shared, 1, Some(4), false),
            ("t", Space::Shared, 1, Some(1), false),
            ("t@1", Space::Shared, 1, Some(1), false),
        ]
    );
    let sources: Vec<&Operand> = function.instructions.iter().map(|i| &i.operands[1]).collect();
    assert_eq!(
        sources,
        [
            &symbol("__local_depot0", 0),
            &symbol("s", 0),
            &symbol("s@1", 1),
            &symbol("s@2", 0),
            &at(symbol("t@1", 0), 2),
            &symbol("s", 0),
        ]
    );
    assert_eq!(module.functions[1].instructions[0].operands[1], symbol("t", 0));
}

#[test]
fn line_information() {
    let function = kernel(
        "add 0;\n\
         .loc 1 68 0\n\
         .loc 1 70 5\n\
         add 1;\n\
         .loc 1 54 5, function_name $L__info_string0, inlined_at 1 70 5\n\
         .loc 2 81 5, function_name $L__info_string1+4, inlined_at 1 54 5\n\
         add 2;\n\
         add 3;\n\
         .loc 1 70 5\n\
         add 4;\n\
         .loc 1 90 1\n\
         .loc 1 54 5, inlined_at 1 90 1, function_name $L__info_string0\n\
         .loc 2 81 5, function_name $L__info_string1, inlined_at 1 54 5\n\
         add 5;\n\
         .loc 3 7 7, function_name $L__info_string1, inlined_at 9 9 9\n\
         add 6;\n\
         .loc 1 54 5, function_name $L__info_string0, inlined_at 1 70 5\n\
         .loc 2 82 5, function_name $L__info_string1, inlined_at 1 54 5\n\
         add 7;",
    );
    // From the innermost call outwards.
    let stack = |instruction: &Instruction| {
        let mut lines = Vec::new();
        let mut next = instruction.at;
        while let Some(index) = next {
            let Place { file, line, column, inlined_at } = function.places[index as usize];
            assert!(inlined_at.is_none_or(|outer| outer < index));
            lines.push((file, line, column));
            next = inlined_at;
        }
        lines
    };
    let stacks: Vec<_> = function.instructions.iter().map(stack).collect();
    assert_eq!(
        stacks,
        [
            vec![],
            vec![(1, 70, 5)],
            vec![(2, 81, 5), (1, 54, 5), (1, 70, 5)],
            vec![(2, 81, 5), (1, 54, 5), (1, 70, 5)],
            vec![(1, 70, 5)],
            vec![(2, 81, 5), (1, 54, 5), (1, 90, 1)],
            vec![(3, 7, 7), (9, 9, 9)],
            vec![(2, 82, 5), (1, 54, 5), (1, 70, 5)],
        ]
    );
    // 68 0, 70 5, two chains of two, 90 1, 9 9 9, 3 7 7, 82 5: each once.
    assert_eq!(function.places.len(), 10);
    assert_eq!(function.instructions[2].at, function.instructions[3].at);
    assert_eq!(function.instructions[1].at, function.instructions[4].at);
}
