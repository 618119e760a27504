//! That the harness finds what is wrong: each of these asks for something that does not happen.

use crate::run;

/// What fails of a file with this item before a kernel that stores the number of each thread, and loads it again.
fn failures(items: &str) -> Vec<String> {
    let text = format!(
        "//! Sections none\n{items}\n.version 9.0\n.target sm_80\n.address_size 64\n\
        .visible .entry k(.param .u64 out)\n{{\n.reg .b32 %r<4>; .reg .b64 %rd<4>;\n\
        mov.u32 %r1, %tid.x; mul.wide.u32 %rd1, %r1, 4; ld.param.u64 %rd2, [out];\n\
        add.u64 %rd2, %rd2, %rd1;\nst.global.u32 [%rd2], %r1; // @store\n\
        ld.global.u32 %r2, [%rd2]; // @load\nret;\n}}\n"
    );
    run::file("test.ptx", &text).failures
}

fn fails(items: &str, reason: &str) {
    let failures = failures(items);
    let is_told = failures.len() == 1 && failures[0].contains(reason);
    assert!(is_told, "'{items}' should fail with '{reason}': {failures:?}");
}

#[test]
fn what_is_right_passes() {
    for items in [
        "//! case: out u32 32 = i",
        "//! case: grid 1; block 16; out u32 32 = i < 16 ? i : _; count store lanes 16 bytes 64",
        "//! fault \"past the end\": raw u32 31; lanes 0x80000000; thread 31 0 0; at store",
        "//! op add.u32 : r r -> r\n//!   1 2 -> 3",
        "//! refused \"not implemented\": addc.u32 %r1, %r2, %r3;",
    ] {
        assert_eq!(failures(items), Vec::<String>::new(), "{items}");
    }
}

#[test]
fn what_is_wrong_fails() {
    fails("//! case: out u32 32 = i + 1", "element 0: 0x0, wanted 0x1");
    fails("//! case: out u32 32 = i == 31 ? _ : i", "element 31: 0x1f, wanted nothing");
    fails("//! case: out u32 33 = i", "never written");
    fails("//! case: out u32 32 = i; count load lanes 31", "lanes is 32, wanted 31");
    fails("//! case: out u32 32 = i; count load sectors 5", "sectors is 4, wanted 5");
    fails("//! case: raw u32 31", "past the end");
    let fault = "//! fault \"past the end\": raw u32 31";
    fails("//! fault \"past the end\": raw u32 32", "no fault");
    fails("//! fault \"before\": raw u32 31", "the message lacks");
    fails(&format!("{fault}; lanes 1"), "lanes");
    fails(&format!("{fault}; thread 30 0 0"), "thread");
    fails(&format!("{fault}; cta 1 0 0"), "block");
    fails(&format!("{fault}; at load"), "wanted one of");
    fails(&format!("{fault}; name st.global.f32"), "instruction");
    fails("//! error \"no\": raw u32 32", "it decodes");
    fails("//! refused \"no\": add.u32 %r1, %r2, %r3;", "decodes");
    fails("//! refused \"no such reason\": addc.u32 %r1, %r2, %r3;", "no such reason");
    let of_table = |rows: &str| failures(&format!("//! op div.u32 : r r -> r\n//!   {rows}"));
    // By registers, by a guard, and with a number as operand.
    assert_eq!(of_table("7 2 -> 4").len(), 3);
    assert_eq!(of_table("7 2 -> 3; 7 2 -> fault \"division\"").len(), 1);
    assert_eq!(of_table("7 2 -> 3; 7 0 -> fault \"other\"").len(), 1);
    assert_eq!(of_table("7 2 -> 3; 7 0 -> fault \"division\"").len(), 0);
}
