//! Faults put into the PTX of Hopper's convolutions.

use super::hopper::{BACKWARD, FORWARD, Forward};
use super::hopper_tests::Inputs;
use crate::Result;
use crate::device::{DType, Device, Tensor};
use crate::ops::gemm::hopper::fault_tests::*;
use crate::ops::grid::VoxelGrid;
use crate::ops::tolerance::{Tolerance, distance, within, within_bf16};

const LOAD_5D: &str = "cp.async.bulk.tensor.5d.shared::cluster";
const LOAD_BYTES: &str = "cp.async.bulk.shared::cluster";

const FAULTS: &[Fault] = &[
    // Core matrices: the next 8 channels, the next line of voxels, the next 8 output channels, the next tap.
    fault("descriptor: both offsets exchanged", |l| core_matrices(l, |k, rows| (rows, k)), ""),
    fault("descriptor: the next line is 8 voxels away", |l| core_matrices(l, eight_voxels), ""),
    fault("descriptor: a halo of one voxel less", |l| core_matrices(l, |k, r| (k - 1, r)), ""),
    fault("a plane of 8 x 8 voxels", |l| replaced(l, "add.s64", ", 100;", ", 64;"), ""),
    fault(
        "the next line of taps is 8 voxels away",
        |l| replaced(l, "add.s64", ", 10;", ", 8;"),
        "",
    ),
    fault("the next tap is two voxels away", |l| replaced(l, "add.s64", ", 1;", ", 2;"), ""),
    fault("A transposed", |l| replaced(l, "wgmma.mma_async", "1, 1, 0, 0;", "1, 1, 1, 0;"), ""),
    fault("B transposed", |l| replaced(l, "wgmma.mma_async", "1, 1, 0, 0;", "1, 1, 0, 1;"), ""),
    fault("dy not transposed", |l| replaced(l, "wgmma.mma_async", "1, 1, 1;", "1, 1, 0;"), ""),
    // Boxes.
    fault("width and height of boxes exchanged", |l| exchanged(l, LOAD_5D, 1, 2), ""),
    fault("height and depth of boxes exchanged", |l| exchanged(l, LOAD_5D, 2, 3), ""),
    fault("depth and volume of boxes exchanged", |l| exchanged(l, LOAD_5D, 3, 4), ""),
    fault("halos that begin with the brick", |l| replaced(l, "add.s32", ", -1;", ", 0;"), ""),
    fault("both halves of a chunk are the first", |l| replaced(l, "or.b32", ", 8;", ", 0;"), ""),
    fault("the other input", |l| exchanged_sources(l, "selp.b64"), ""),
    fault("weights of one step only", |l| replaced(l, "add.s64", ", 13824;", ", 0;"), ""),
    fault("fewer bytes of weights than expected", fewer_bytes, "deadlock"),
    // Registers of A.
    fault("ldmatrix: not transposed", |l| replaced(l, "ldmatrix", ".trans", ""), ""),
    // Ways out.
    fault("voxels outside of the volume are written", inside_everywhere, ""),
    fault("two sums of a thread exchanged", |l| replaced(l, "st.global.f32", "+32]", "]"), ""),
];

/// A descriptor of core matrices with other distances, in rows of 16 bytes, of the next 8 k and of the next 8 rows.
fn core_matrices(line: &str, change: fn(u64, u64) -> (u64, u64)) -> Option<String> {
    let (head, constant) = line.strip_prefix(DESCRIPTOR)?.trim_end_matches(';').rsplit_once(',')?;
    let constant: u64 =
        constant.trim().parse().ok().filter(|d: &u64| d >> 32 > 0 && d >> 62 == 0)?;
    let (k, rows) = change(constant >> 16 & 0x3fff, constant >> 32);
    (k << 16 | rows << 32 != constant)
        .then(|| format!("{DESCRIPTOR}{head}, {};", rows << 32 | k << 16))
}

fn eight_voxels(k: u64, rows: u64) -> (u64, u64) {
    (k, if rows == 10 { 8 } else { rows })
}

/// The line of a copy of bytes that copies 16 fewer than the barrier expects.
fn fewer_bytes(line: &str) -> Option<String> {
    let operands = line.strip_prefix(LOAD_BYTES)?;
    let (head, rest) = operands.rsplit_once("],")?;
    let (bytes, barrier) = rest.split_once(',')?;
    Some(format!(
        "{{\n.reg .b32 fewer;\nsub.s32 fewer, {bytes}, 16;\n{LOAD_BYTES}{head}], fewer, {barrier}\n}}"
    ))
}

/// No voxel has the element -1.
fn inside_everywhere(line: &str) -> Option<String> {
    let operands: Vec<&str> =
        line.strip_prefix("selp.b64")?.trim_end_matches(';').split(',').map(str::trim).collect();
    let [d, a, "-1", _] = operands[..] else { return None };
    Some(format!("mov.b64 {d}, {a};"))
}

/// More bricks a block than stages, none of them full; whole chunks and a half of one.
const CASES: [(VoxelGrid, &[usize]); 2] = [
    (VoxelGrid { batch: 1, dims: [9, 3, 18] }, &[16, 8]),
    (VoxelGrid { batch: 3, dims: [2, 9, 3] }, &[8, 16]),
];

fn run(
    device: &Device,
    n: usize,
    (grid, channels): (VoxelGrid, &[usize]),
) -> Result<Option<String>> {
    let wrong = |what: &str, (ours, reference): (Tensor, Vec<f64>)| -> Result<Option<String>> {
        let d = distance(&ours.to_f64_vec()?, &reference);
        let is_close = match ours.dtype() {
            DType::Bf16 => within_bf16(&d),
            _ => within(&d, Tolerance::Products { k: grid.rows() }, 1.0),
        };
        Ok((!is_close).then(|| format!("{what}: {d:?}")))
    };
    let inputs = Inputs::new(device, grid, channels, n);
    for tile in FORWARD.into_iter().filter(|tile| tile.n == n) {
        let found = wrong("y", inputs.forward(Forward { most_blocks: 1, ..tile })?)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    for tile in BACKWARD.into_iter().filter(|tile| tile.n == n) {
        let found = wrong("dw", inputs.backward_weight(tile, 100)?)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

#[test]
fn faults_in_hoppers_convolutions_are_noticed() {
    // The weights are packed by a kernel that has none of this.
    let endings = ["_n16|_hopper", "_n48|_hopper"];
    expect_noticed("hopper/conv3d", &endings, &[COMMON, ROWS_OUT, FAULTS], |device, i| {
        run(device, [16, 48][i], CASES[i])
    });
}
