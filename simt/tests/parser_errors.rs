//! What the parser refuses: where, and in which words. Nothing makes it panic or take much memory.

use glmae_simt::ptx::{ParseError, parse};

/// Three lines, so that what follows starts on line 4.
const HEAD: &str = ".version 9.0\n.target sm_80\n.address_size 64\n";

fn error(text: &str) -> ParseError {
    match parse("bad.ptx", text) {
        Ok(_) => panic!("accepted: {}", &text[..text.len().min(200)]),
        Err(error) => error,
    }
}

/// An error on line `line` of `text`, outside of functions.
#[track_caller]
fn refuse_module(text: &str, line: u32, message: &str) {
    let error = error(&format!("{HEAD}{text}"));
    assert_eq!(error.to_string(), format!("bad.ptx:{}: {message}", line + 3));
}

/// An error in a body, whose first line is line 1. It has some registers and a variable.
#[track_caller]
fn refuse(body: &str, line: u32, message: &str) {
    let text = format!(
        "{HEAD}.shared .b8 tile[4]; .func f() {{}} .entry k(.param .u64 a) {{ .reg .b32 %r<4>; \
         .reg .pred %p<4>; .reg .b64 %rd<4>;\n{body}\n}}\n"
    );
    let error = error(&text);
    assert_eq!(error.to_string(), format!("bad.ptx:{}: kernel k: {message}", line + 4));
    assert_eq!(error.kernel.as_deref(), Some("k"));
}

#[test]
fn names() {
    refuse("ret;\nadd.s32 %r1, %r2, %r4;", 2, "register `%r4` is not declared");
    refuse("add.s32 %r1, %r01, 1;", 1, "register `%r01` is not declared");
    refuse("@%p4 ret;", 1, "register `%p4` is not declared");
    refuse("ld.b32 %r1, [%rd4];", 1, "register `%rd4` is not declared");
    refuse("ld.b32 %r1, [b];", 1, "`b` is not declared");
    refuse("{ .reg .b32 x; }\nmov.b32 x, 1;", 2, "`x` is not declared");
    refuse("@%r1 ret;", 1, "the guard `%r1` is no predicate");
    refuse("@tile ret;", 1, "`tile` is not a register");
    refuse(".reg .b32 x;\n.reg .f32 x;", 2, "`x` is declared twice");
    refuse(".reg .b32 %r3;", 1, "`%r3` is declared twice");
    refuse(".reg .b32 x;\n.shared .b8 x;", 2, "`x` is declared twice");
    refuse(".reg .b32 _;", 1, "`_` cannot be declared");
    refuse("mov.u64 %rd1, f;", 1, "the address of a function (`f`) is not supported");
    refuse_module(".shared .b8 x;\n.global .b8 x;", 2, "`x` is declared twice");
    refuse_module(".entry k() {}\n.entry k() {}", 2, "kernel k: function `k` is defined twice");
    refuse_module(".entry k(.param .b8 a,\n.param .b8 a) {}", 2, "kernel k: `a` is declared twice");
}

#[test]
fn labels() {
    refuse("ret;\nbra LAB;\nbra LAB;", 2, "label `LAB` is not defined");
    refuse("{ LAB: }\nbra LAB;", 2, "label `LAB` is not defined");
    refuse("{\n{ bra A; bra B; }\nB: }", 2, "label `A` is not defined");
    refuse("LAB: ret;\nLAB:", 2, "label `LAB` is defined twice");
    refuse("bra %r1;", 1, "`%r1` is not a label");
    refuse("{ bra %r1; }", 1, "`%r1` is not a label");
    refuse("L: mov.u64 %rd1, L;", 1, "label `L` cannot be an operand here");
    refuse("L:\n.reg .b32 L;", 2, "`L` is declared twice");
    refuse(".branchtargets L;", 1, "`.branchtargets` has no label before it");
    refuse("t:\n.branchtargets L;\nret;", 2, "label `L` is not defined");
    refuse("L: ret;\nbrx.idx %r1, L;", 2, "`L` is no table of `.branchtargets`");
    refuse("L: t: .branchtargets L;\nbra t;", 2, "`t` is a table of labels, not a label");
    refuse("t: .branchtargets t;", 1, "`t` is a table of labels, not a label");
    refuse(
        "L:\nt: .branchtargets u;\nu: .branchtargets L;",
        2,
        "`u` is a table of labels, not a label",
    );
    refuse("t: .branchtargets ;", 1, "expected a label, found `;`");
    refuse("L: bra L, L;", 1, "expected `;`, found `,`");
}

#[test]
fn statements() {
    refuse(".mystery 1;", 1, "unknown directive `.mystery`");
    refuse("p: .callprototype _;", 1, "unknown directive `.callprototype`");
    refuse("call f;", 1, "calls are not supported: functions have to be inlined");
    refuse(
        "@%p1 call.uni (a), f, (b);",
        1,
        "calls are not supported: functions have to be inlined",
    );
    refuse("%r1 = 2;", 1, "expected an instruction, found `%r1`");
    refuse("12;", 1, "expected a statement or `}`, found `12`");
    refuse("add %r1\nadd %r2;", 2, "expected `;`, found `add`");
    refuse(".reg .b32 x\n.reg .b32 y;", 2, "expected `;`, found `.reg`");
    refuse(".reg .b33 x;", 1, "unknown type `.b33`");
    refuse(".reg .v2 .b32 x;", 1, "vector variables (`.v2`) are not supported");
    refuse(".reg .b32 x<-1>;", 1, "expected a count of registers, found `-`");
    refuse(".reg .b32 x<1.0>;", 1, "expected a count of registers, found `1.0`");
    refuse(".loc 1 2;", 1, "expected a column, found `;`");
    refuse(".loc 1 2 99999999999", 1, "`99999999999` is too large for a column");
    refuse(
        ".loc 1 2 3, inlined 1 2 3",
        1,
        "expected `function_name` or `inlined_at`, found `inlined`",
    );
    refuse(".pragma nounroll;", 1, "expected a text in quotation marks, found `nounroll`");
    refuse(".extern .local .b8 x[];", 1, "expected `.shared`, found `.local`");
    refuse("ret; #", 1, "unexpected character '#'");
    refuse("ret; /*\n", 1, "the comment that starts here has no end");
}

#[test]
fn operands() {
    refuse("x 08;", 1, "`08` is no number");
    refuse("x 18446744073709551616;", 1, "`18446744073709551616` is no number");
    refuse("x 0f3F80;", 1, "`0f3F80` is no number");
    refuse("x 1, .5e;", 1, "`.5e` is no number");
    refuse("x -%r1;", 1, "expected a number behind `-`, found `%r1`");
    refuse("x -0f3F800000;", 1, "a sign is not allowed before `0f...`");
    let sums = "constant expressions other than sums of whole numbers are not supported, found";
    refuse("x 2*3;", 1, &format!("{sums} `*`"));
    refuse("x 1.5+2;", 1, &format!("{sums} `+`"));
    refuse("mov.u64 %rd1, tile<<2;", 1, &format!("{sums} `<`"));
    refuse("ld.b8 %r1, [%rd1+4*2];", 1, &format!("{sums} `*`"));
    refuse("ld.b8 %r1, [%rd1+%r2];", 1, "expected a whole number, found `%r2`");
    refuse("ld.b8 %r1, [%rd1+1.5];", 1, "only whole numbers can be added");
    refuse("x (1+2);", 1, "expressions and lists in parentheses are not supported");
    refuse("x tile[2];", 1, "elements of arrays (`tile[...]`) are not supported");
    refuse("x %r1.x;", 1, "parts of registers (`%r1.x`) are not supported");
    refuse("x %tid;", 1, "`%tid` needs a part: .x, .y or .z");
    refuse("x %tid.w;", 1, "`%tid.w`: the parts are .x, .y and .z");
    refuse("x %laneid.x;", 1, "`%laneid` has no part `.x`");
    refuse("x %envreg32;", 1, "register `%envreg32` is not declared");
    refuse("x %r1|2;", 1, "only registers and `_` can stand beside a `|`");
    refuse("x !2;", 1, "expected a register, found `2`");
    refuse("x %r1,;", 1, "expected an operand, found `;`");
    refuse("x {};", 1, "expected an operand, found `}`");
    refuse("x {%r1, {%r2}};", 1, "expected an operand, found `{`");
    refuse("x {%r1, %tid.x};", 1, "elements of `{...}` are registers, numbers or `_`");
    refuse("x {%r1 %r2};", 1, "expected `}`, found `%r2`");
    refuse("x [[%rd1]];", 1, "expected an operand, found `[`");
    refuse("x [1.5];", 1, "an address is a register, a variable or a whole number");
    refuse("x [%rd1, %r1];", 1, "expected `{`, found `%r1`");
    let map = "a tensor map is a register or a variable, without an offset";
    refuse("x [%rd1+8, {%r1}];", 1, map);
    refuse("x [16, {%r1}];", 1, map);
}

#[test]
fn modules() {
    let refuse_all = |text: &str, line: u32, message: &str| {
        assert_eq!(error(text).to_string(), format!("bad.ptx:{line}: {message}"));
    };
    let begin = "expected `.version`, with which a module begins, found";
    refuse_all("", 1, &format!("{begin} the end of the file"));
    refuse_all("\n.target sm_80", 2, &format!("{begin} `.target`"));
    refuse_all(".version 9", 1, "`9` is no version");
    refuse_all(".version 9.0\n.address_size 64", 2, "expected `.target`, found `.address_size`");
    refuse_all(".version 9.0 .target gfx900", 1, "unknown architecture `gfx900`");
    refuse_all(
        ".version 9.0 .target sm_80, map_f64_to_f32",
        1,
        "the option `map_f64_to_f32` of .target is not supported",
    );
    refuse_all(
        ".version 9.0 .target sm_80 .entry k {}",
        1,
        "expected `.address_size 64`, found `.entry`",
    );
    refuse_all(
        ".version 9.0 .target sm_80 .address_size 32",
        1,
        "addresses of 32 bits are not supported",
    );
    refuse_module("\n.version 9.0", 2, "unknown directive `.version`");
    refuse_module(".alias a, b;", 1, "unknown directive `.alias`");
    refuse_module(".visible .file 1 \"a\"", 1, "unknown directive `.file`");
    refuse_module("ret;", 1, "expected a directive, found `ret`");
    refuse_module(".file 1 \"a\"\n.file 1 \"b\"", 2, "file 1 has two paths");
    refuse_module(".file 1 \"a\n\"", 1, "the text that starts here has no closing quotation mark");
    refuse_module(".section .text {}", 1, "unknown section `.text`");
    refuse_module(".section .debug_str {\n{", 2, "expected `}`, found `{`");
    refuse_module(".section .debug_str {\n", 2, "expected `}`, found the end of the file");
    refuse_module(".entry k .maxntid 0 {}", 1, "kernel k: a size of 0");
    refuse_module(".entry k .mystery 1 {}", 1, "kernel k: unknown directive `.mystery`");
    refuse_module(".entry k(.param .b8 a);", 1, "kernel k: expected `{`, found `;`");
    refuse_module(".extern .func f {}", 1, "kernel f: `f` is external and can have no body");
    refuse_module(
        ".func f(.reg .b32 x) {}",
        1,
        "kernel f: parameters in registers are not supported",
    );
    refuse_module(".entry k(.param .b8 a[]) {}", 1, "kernel k: parameter `a[]` has no size");
    refuse_module(
        ".entry k {\nret;\n",
        3,
        "kernel k: expected a statement or `}`, found the end of the file",
    );
}

#[test]
fn variables() {
    refuse_module(".shared .pred x;", 1, "predicates are in no memory");
    refuse_module(".shared .b8 x[];", 1, "`x[]` has no size");
    refuse_module(".shared .b8 x[0];", 1, "`x` must have 1 to 1073741824 bytes");
    refuse_module(".shared .b8 x[-1];", 1, "`x` must have 1 to 1073741824 bytes");
    refuse_module(".shared .b16 x[536870913];", 1, "`x` must have 1 to 1073741824 bytes");
    refuse_module(
        ".shared .b8 x[65536][65536]\n[65536][65536];",
        1,
        "`x` must have 1 to 1073741824 bytes",
    );
    let open = "only an array of one dimension can leave its size open";
    refuse_module(".global .b8 x[2][];", 1, open);
    refuse_module(".global .b8 x[][2] = {{1,2}};", 1, open);
    refuse_module(".shared .b8 x<4>;", 1, "`x<...>` is supported for registers only");
    let align = "an alignment is a power of two of at most 1048576, not";
    refuse_module(".shared .align 12 .b8 x;", 1, &format!("{align} 12"));
    refuse_module(".shared .align 0 .b8 x;", 1, &format!("{align} 0"));
    refuse_module(".shared .align 2097152 .b8 x;", 1, &format!("{align} 2097152"));
    refuse_module(
        ".shared .b8 x = 1;",
        1,
        "`x` can have no initial value: only .global and .const can",
    );
    refuse_module(".extern .global .b8 x = 1;", 1, "`x` is external and can have no initial value");
    refuse_module(
        ".global .b8 x[2] = {1,\n2,\n3};",
        3,
        "`x` has more initial values than elements",
    );
    refuse_module(".global .b8 x[2] = 1;", 1, "expected `{`, found `1`");
    refuse_module(".global .b8 x = {1};", 1, "expected an initial value, found `{`");
    refuse_module(".global .b8 x[1] = {};", 1, "expected an initial value, found `}`");
    refuse_module(
        ".global .b8 x[1][1] = {{1}};",
        1,
        "`x`: initial values of several dimensions are not supported",
    );
    let address = "as initial value is not supported";
    refuse_module(
        ".global .b64 x;\n.global .b64 y = x+4;",
        2,
        &format!("the address of `x` {address}"),
    );
    refuse_module(
        ".global .b64 y = generic(x);",
        1,
        &format!("the address of `generic` {address}"),
    );
    refuse_module(
        ".global .b8 y = 0xff(x);",
        1,
        "masks (`0xff(name)`) as initial values are not supported",
    );
    for (ty, value) in [("f32", "1"), ("b32", "0f3F800000"), ("f16", "1.0"), ("b128", "1")] {
        let message = format!("a variable of type .{ty} cannot have this initial value");
        refuse_module(&format!(".global .{ty} x = {value};"), 1, &message);
    }
}

#[test]
fn a_few_bytes_cannot_ask_for_much() {
    let many = "more than 1000000 registers in a function";
    refuse(".reg .b32 x<1000001>;", 1, many);
    refuse(".reg .b32 x<4294967295>;", 1, many);
    refuse(".reg .b32 x<4294967296>;", 1, "`4294967296` is too large for a count of registers");
    // 12 registers are there already.
    refuse(".reg .b32 x<500000>;\n.reg .b32 y<499989>;", 2, many);
    let function = |name: &str| format!(".func {name}() {{ .reg .b32 %r<1000000>; }}\n");
    refuse_module(
        &format!("{}{}.func h() {{ .reg .b32 x; }}", function("f"), function("g")),
        3,
        "kernel h: too many registers in one module",
    );
    // The module, the parameters, and 62 pairs of braces.
    let deep = |depth: usize| format!("{HEAD}.entry k\n{}{}", "{".repeat(depth), "}".repeat(depth));
    assert!(parse("deep.ptx", &deep(62)).is_ok());
    for depth in [63, 1_000_000] {
        assert_eq!(
            error(&deep(depth)).to_string(),
            "bad.ptx:5: kernel k: more than 64 scopes inside one another"
        );
    }
    for mark in ["{", "[", "(", "!", "-", "@", "<", "/"] {
        error(&format!("{HEAD}.entry k {{ x {}", mark.repeat(1_000_000)));
        error(&format!("{HEAD}.global .b8 x {}", mark.repeat(1_000_000)));
    }
}

/// A module with a bit of everything, for changes at every byte.
const SMALL: &str = r#".version 9.0
.target sm_90a
.address_size 64
.extern .shared .align 128 .b8 dyn[];
.const .f32 c[2] = {0f3F800000, -1.5e-1};
.visible .entry k(
	.param .u64 .ptr .global .align 8 a,
	.param .align 64 .b8 m[128]
)
.maxntid 128, 1, 1
{
	.reg .pred %p<3>;
	.reg .b32 %r<5>;
	.reg .b64 %rd<3>;
	.local .align 16 .b8 depot[16];
	.loc 1 78 5
	.loc 2 81 5, function_name $L__i0+1, inlined_at 1 78 5
	@!%p1 bra $L_1;
	mov.u32 %r1, %tid.x; /* lane */
	{ .reg .b32 t; mov.b32 t, 0x10U; $L_1: }
	mov.b64 %rd1, {%r1, %r2};
	shfl.sync.bfly.b32 %r1|%p1, %r2, 16, 31, -1;
	cp.x.shared::cluster [%r1+-16], [%rd1, {%r2, _}], !%p2, dyn+4;
	ts: .branchtargets $L_1, E;
	brx.idx %r1, ts;
	.pragma "nounroll";
E:	ret;
$L_1:
}
.file 1 "a.cu"
.section .debug_str
{
$L__i0:
.b8 95,0
}
"#;

/// Errors have to point into the text.
fn try_parse(text: &str) -> bool {
    let lines = text.matches('\n').count() as u32 + 1;
    match parse("bad.ptx", text) {
        Ok(_) => true,
        Err(error) => {
            assert!((1..=lines).contains(&error.line) && !error.message.is_empty(), "{error}");
            false
        }
    }
}

#[test]
fn cut_at_every_byte() {
    assert!(try_parse(SMALL));
    let body = SMALL.find("\n{").unwrap()..SMALL.find("\n}").unwrap() + 2;
    let head = SMALL.find("64\n.extern").unwrap() + 2;
    for end in 0..SMALL.len() {
        let is_whole = try_parse(&SMALL[..end]);
        assert!(!is_whole || (end >= head && !body.contains(&end)), "cut at {end}");
        // Two halves that do not belong together.
        try_parse(&SMALL[end..]);
        try_parse(&format!("{}{}", &SMALL[..end], &SMALL[end + 1..]));
    }
}

#[test]
fn another_character_at_every_byte() {
    let others = "{}[]()<>;:,.|+-!@\"/*%_$09fxUe \n\0\u{e9}\u{1f600}";
    for at in 0..SMALL.len() {
        for other in others.chars() {
            try_parse(&format!("{}{other}{}", &SMALL[..at], &SMALL[at + 1..]));
        }
    }
}
