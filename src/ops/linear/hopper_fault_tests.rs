//! Faults put into the PTX of Hopper's products.

use super::hopper_tests::{hopper, inputs};
use super::launch::{Forward, InputGradient, ParamGradient};
use super::tests::{Operand, product};
use crate::Result;
use crate::device::{DType, Device, Tensor};
use crate::ops::Tolerance;
use crate::ops::gemm::hopper::fault_tests::*;
use crate::ops::gemm::hopper::{TILES, Tile};
use crate::ops::tolerance::{distance, within, within_bf16};
use crate::tape::GradMode;

const FAULTS: &[Fault] = &[
    fault(
        "a stage is given back a group early",
        |l| replaced(l, "wgmma.wait_group", " 1;", " 2;"),
        "",
    ),
    fault("B transposed", |l| replaced(l, "wgmma.mma_async", "1, 1, 0, 0;", "1, 1, 0, 1;"), ""),
    fault("B not transposed", |l| replaced(l, "wgmma.mma_async", "1, 1, 0, 1;", "1, 1, 0, 0;"), ""),
    fault("A not transposed", |l| replaced(l, "wgmma.mma_async", "1, 1, 1, 1;", "1, 1, 0, 1;"), ""),
    fault("descriptor: 64 columns are 4096 bytes", |l| descriptor(l, |d| d ^ 768 << 16), ""),
    fault("K-major: 16 k are 64 bytes", |l| replaced(l, "add.s64", ", 2;", ", 4;"), ""),
    fault("MN-major: 16 k are 32 bytes", |l| replaced(l, "add.s64", ", 128;", ", 2;"), ""),
    fault(
        "a stage is not given back to the others",
        |l| without(l, "mbarrier.arrive.shared::cluster"),
        "deadlock",
    ),
    fault("a stage is given back to one block only", |l| last(l, "mapa.", "0"), ""),
    fault(
        "an arrival of the block's own space",
        |l| replaced(l, "mbarrier.arrive.shared::cluster", "shared::cluster", "shared::cta"),
        "",
    ),
    fault(
        "the turn of the other warpgroup never comes",
        |l| without(l, "mbarrier.arrive.shared::cta"),
        "deadlock",
    ),
    // Copies.
    fault("a multicast for one block", |l| multicast(l, "1"), "deadlock"),
    fault(
        "both blocks load the same half",
        |l| replaced(l, "mov.u32", "%cluster_ctarank", "0"),
        "",
    ),
    fault("coordinates of loads exchanged", |l| exchanged(l, LOAD, 0, 1), ""),
    fault("coordinates of stores exchanged", |l| exchanged(l, STORE_2D, 0, 1), ""),
    fault("coordinates of parts exchanged", |l| exchanged(l, STORE_3D, 1, 2), ""),
    fault("no commit of stores", |l| without(l, "cp.async.bulk.commit_group"), ""),
    fault(
        "stores are not waited for before their buffers are written",
        |l| without(l, "cp.async.bulk.wait_group.read"),
        "",
    ),
    fault(
        "stores are not waited for at the end",
        |l| without(l, "cp.async.bulk.wait_group 0"),
        "wait_group",
    ),
    fault(
        "a sum is stored in place of added",
        |l| {
            let rest = l.strip_prefix("cp.reduce.async.bulk.tensor")?;
            Some(format!("cp.async.bulk.tensor{}", rest.replacen(".add.", ".", 1)))
        },
        "",
    ),
    // Warps.
    fault("no barrier of a warpgroup", |l| without(l, "bar.sync"), ""),
    fault("no barriers of the cluster", |l| without(l, "barrier.cluster"), ""),
    fault("more registers than there are", |l| replaced(l, "setmaxnreg.inc", "232", "240"), ""),
    // Panels.
    fault("stmatrix: matrices exchanged", |l| exchanged(l, "stmatrix", 0, 1), ""),
    fault("stmatrix: halves exchanged", |l| exchanged(l, "stmatrix", 0, 2), ""),
    fault("stmatrix: transposed", |l| replaced(l, "stmatrix", ".x4.", ".x4.trans."), ""),
    fault("ldmatrix: matrices exchanged", |l| exchanged(l, "ldmatrix", 1, 2), ""),
    fault("f32 panels: columns exchanged", |l| exchanged(l, "st.shared.v2.f32", 0, 1), ""),
];

fn multicast(line: &str, mask: &str) -> Option<String> {
    line.contains(".multicast::cluster").then(|| last(line, LOAD, mask)).flatten()
}

/// Everything that the kernels of a tile can do; the first thing that is wrong.
fn run(device: &Device, tile: Tile, expected: &Expected) -> Result<Option<String>> {
    let (dtype, [rows, out, fan_in]) = (DType::Bf16, SIZE);
    let upload = |operand: &Operand, dtype, shape: &[usize]| {
        Tensor::from_f64(device, dtype, &operand.host, shape)
    };
    let i = &expected.inputs;
    let (x, w) = (upload(&i.x, dtype, &[rows, fan_in])?, upload(&i.w, dtype, &[out, fan_in])?);
    let (dy, residual) =
        (upload(&i.dy, dtype, &[rows, out])?, upload(&i.residual, dtype, &[rows, out])?);
    let wrong = |what: &str, ours: &Tensor, reference: &[f64]| -> Result<Option<String>> {
        let d = distance(&ours.to_f64_vec()?, reference);
        let close = match ours.dtype() {
            DType::Bf16 => within_bf16(&d),
            _ => within(&d, Tolerance::Products { k: out }, 1.0),
        };
        Ok((!close).then(|| format!("{what}: {d:?}").lines().next().unwrap_or_default().to_owned()))
    };

    let mut forward = Forward::new(&x, &w)?;
    forward.choice = Some(hopper(tile, [rows, out, fan_in], 1));
    let mut y = Tensor::empty(device, dtype, &[rows, out])?;
    forward.run(&mut y, None, None, Some(&residual), false)?;
    if let Some(found) = wrong("y", &y, &expected.y)? {
        return Ok(Some(found));
    }
    let mut pre = Tensor::empty(device, dtype, &[rows, out])?;
    forward.run(&mut y, Some(&mut pre), None, None, true)?;
    if let Some(found) = wrong("pre", &pre, &expected.pre)? {
        return Ok(Some(found));
    }
    let mut gradient = InputGradient::new(&dy, &w)?;
    gradient.choice = Some(hopper(tile, [rows, fan_in, out], 1));
    let mut dx = Tensor::empty(device, dtype, &[rows, fan_in])?;
    gradient.run(&mut dx.as_mut(), None, GradMode::Overwrite)?;
    if let Some(found) = wrong("dx", &dx, &expected.dx)? {
        return Ok(Some(found));
    }
    let mut gradient = ParamGradient::new(&dy, &x)?;
    let mut dw = Tensor::empty(device, DType::F32, &[out, fan_in])?;
    let mut db = Tensor::empty(device, DType::F32, &[out])?;
    for (parts, mode) in [(2, GradMode::Overwrite), (1, GradMode::Accumulate)] {
        gradient.choice = hopper(tile, [out, fan_in, rows], parts);
        gradient.run(true, |call, place| {
            let call = place.append(call, &mut dw.as_mut())?;
            Ok((call.output(&mut db)?, [mode; 2]))
        })?;
    }
    match wrong("dw", &dw, &expected.dw)? {
        None => wrong("db", &db, &expected.db),
        found => Ok(found),
    }
}

/// Rows, out, in: several tiles, more stages than the ring has, tails of everything.
const SIZE: [usize; 3] = [330, 200, 328];

struct Expected {
    inputs: super::hopper_tests::Inputs,
    y: Vec<f64>,
    pre: Vec<f64>,
    dx: Vec<f64>,
    dw: Vec<f64>,
    db: Vec<f64>,
}

impl Expected {
    fn new() -> Self {
        let [rows, out, fan_in] = SIZE;
        let inputs = inputs(&Device::Cpu, DType::F32, SIZE);
        let (x, w, dy) = (&inputs.x.host, &inputs.w.host, &inputs.dy.host);
        let pre = product([rows, out, fan_in], |i, k| x[i * fan_in + k], |k, j| w[j * fan_in + k]);
        let y = pre.iter().zip(&inputs.residual.host).map(|(a, b)| a + b).collect();
        let dx = product([rows, fan_in, out], |i, k| dy[i * out + k], |k, j| w[k * fan_in + j]);
        let twice = |v: Vec<f64>| v.into_iter().map(|x| 2.0 * x).collect();
        let dw = product([out, fan_in, rows], |i, k| dy[k * out + i], |k, j| x[k * fan_in + j]);
        let db = product([out, 1, rows], |i, k| dy[k * out + i], |_, _| 1.0);
        Self { y, pre, dx, dw: twice(dw), db: twice(db), inputs }
    }
}

#[test]
fn faults_in_hoppers_products_are_noticed() {
    // Both blocks of a cluster on one tile of rows, and a warpgroup each.
    let tiles = [TILES[1], TILES[3]];
    let expected = Expected::new();
    expect_noticed(
        "hopper/linear",
        &tiles.map(|tile| tile.variant),
        &[COMMON, FAULTS],
        |device, i| run(device, tiles[i], &expected),
    );
}
