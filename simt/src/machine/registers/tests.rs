//! Registers at the start of a kernel, against what `ptxas -v` of CUDA 13.0 says of the same bounds.

use super::at_entry;
use crate::program::{Numerics, Program};
use crate::ptx;

fn entry(bounds: &str, increments: &[u32]) -> Option<u32> {
    let body: String =
        increments.iter().map(|n| format!("setmaxnreg.inc.sync.aligned.u32 {n};\n")).collect();
    let text = format!(
        ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry k()\n{bounds}\n{{\n{body}\
         setmaxnreg.dec.sync.aligned.u32 24;\nret;\n}}\n"
    );
    let module = ptx::parse("registers", &text).unwrap();
    at_entry(&Program::new(&module, "k", Numerics::default()).unwrap())
}

#[test]
fn launch_bounds() {
    for (threads, blocks, inc, wanted) in [
        (256, 1, 24, 24),
        (256, 1, 160, 160),
        (256, 1, 232, 232),
        (256, 1, 248, 248),
        // 255, which takes 256.
        (256, 1, 256, 256),
        (128, 1, 232, 232),
        (384, 1, 160, 160),
        (384, 1, 200, 168),
        (384, 1, 240, 168),
        (288, 1, 248, 168),
        (160, 1, 248, 248),
        (512, 1, 160, 128),
        (640, 1, 160, 96),
        (768, 1, 104, 80),
        (1024, 1, 72, 64),
        (384, 2, 104, 80),
        (128, 3, 248, 168),
        (256, 3, 248, 80),
        // Threads of all blocks are rounded up together.
        (96, 5, 240, 128),
        (160, 3, 240, 128),
        (288, 2, 240, 96),
        (32, 7, 240, 240),
        (32, 11, 240, 168),
        (416, 2, 240, 72),
        (224, 3, 240, 80),
        (352, 3, 240, 56),
        (1024, 2, 160, 32),
    ] {
        let bounds = format!(".maxntid {threads}\n.minnctapersm {blocks}");
        assert_eq!(entry(&bounds, &[inc]), Some(wanted), "{bounds}, {inc}");
        let bounds = format!(".reqntid {threads}\n.minnctapersm {blocks}");
        assert_eq!(entry(&bounds, &[24, inc, 24]), Some(wanted), "{bounds}, {inc}");
    }
    assert_eq!(entry(".maxntid 16, 16\n.minnctapersm 1", &[232]), Some(232));
    assert_eq!(entry(".maxntid 256\n.minnctapersm 1", &[]), Some(256));
    assert_eq!(entry(".maxntid 384\n.minnctapersm 1", &[]), Some(168));
}

#[test]
fn bounds_of_registers() {
    for (bounds, inc, wanted) in [
        (".maxnreg 128", 232, 128),
        (".maxnreg 100", 248, 104),
        (".maxntid 256\n.maxnreg 130", 248, 136),
        (".maxnreg 200", 160, 160),
        (".maxntid 384\n.maxnreg 200", 232, 200),
        (".maxntid 512\n.maxnreg 168", 232, 168),
        (".maxntid 384\n.minnctapersm 1\n.maxnreg 128", 232, 128),
        (".maxntid 384\n.minnctapersm 1\n.maxnreg 200", 232, 168),
        (".maxntid 384\n.minnctapersm 1\n.maxnreg 100", 40, 40),
        (".maxntid 384\n.minnctapersm 1\n.maxnreg 20", 232, 24),
        // Too many: as if they were not bounded.
        (".maxntid 384\n.minnctapersm 1\n.maxnreg 256", 232, 168),
        (".maxnreg 256", 248, 248),
    ] {
        assert_eq!(entry(bounds, &[inc]), Some(wanted), "{bounds}, {inc}");
    }
}

#[test]
fn bounds_that_say_too_little() {
    for bounds in [
        "",
        ".maxntid 256",
        ".reqntid 384",
        ".minnctapersm 1",
        ".maxntid 384\n.reqnctapercluster 2, 1, 1",
        ".maxntid 1024\n.minnctapersm 3",
        ".maxntid 256\n.minnctapersm 9",
    ] {
        assert_eq!(entry(bounds, &[232]), None, "{bounds}");
    }
}
