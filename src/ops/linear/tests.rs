//! Every tile of every pass, also those that the cases of the registry are too small for.

use super::launch::{Forward, InputGradient, ParamGradient, gelu_backward};
use super::product::{gelu, gelu_derivative};
use crate::device::emulated::{Mode, Schedule};
use crate::device::{DType, Device, Tensor};
use crate::ops::gemm::{Choice, Plan};
use crate::ops::tolerance::{distance, within, within_bf16};
use crate::ops::{OpCase, Tolerance};
use crate::tape::GradMode;

/// More than one block of every tile, none of them full; depths that no tile divides. 16-byte loads
/// are possible all the same.
const ROWS: usize = 150;
const OUT: usize = 200;
const IN: usize = 136;

/// Values that bf16 holds, on the host and on the device.
pub(in crate::ops) struct Operand {
    pub host: Vec<f64>,
    pub device: Tensor,
}

pub(in crate::ops) fn operand(
    device: &Device,
    dtype: DType,
    index: u32,
    shape: &[usize],
    std: f64,
) -> Operand {
    let case = OpCase::new(&["tiles"], &[7]);
    let values = case.normal(index, shape.iter().product(), 0.0, std);
    let host: Vec<f64> = values.into_iter().map(|x| half::bf16::from_f64(x).to_f64()).collect();
    Operand { device: Tensor::from_f64(device, dtype, &host, shape).unwrap(), host }
}

/// `sum_k a(i, k) b(k, j)`.
pub(in crate::ops) fn product(
    [m, n, k]: [usize; 3],
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
) -> Vec<f64> {
    let at = |x: usize| (0..k).map(|l| a(x / n, l) * b(l, x % n)).sum();
    (0..m * n).map(at).collect()
}

pub(in crate::ops) fn expect(name: &str, dtype: DType, ours: &Tensor, reference: &[f64]) {
    let d = distance(&ours.to_f64_vec().unwrap(), reference);
    let close = match dtype {
        DType::Bf16 => within_bf16(&d),
        _ => within(&d, Tolerance::Products { k: OUT }, 1.0),
    };
    assert!(close, "{name} {dtype}: {d:?}");
}

/// How a tile cuts a product of this size and number of parts.
pub(super) type Cut<'a> = &'a dyn Fn([usize; 3], usize) -> Choice;

fn for_every_tile(check: impl Fn(&Device, DType, &str, Cut)) {
    for dtype in [DType::F32, DType::Bf16] {
        for tile in Plan::tiles(dtype) {
            let device = Device::emulated(Mode::Checked, Schedule::Shuffled(3));
            let cut = |size, parts| Choice::Portable(Plan::new(tile, size, parts));
            check(&device, dtype, tile.variant, &cut);
        }
    }
}

#[test]
fn forward_with_all_that_can_follow() {
    for_every_tile(|device, dtype, name, plan| {
        let x = operand(device, dtype, 0, &[ROWS, IN], 1.0);
        let w = operand(device, dtype, 1, &[OUT, IN], 0.1);
        let bias = operand(device, DType::F32, 2, &[OUT], 1.0);
        let residual = operand(device, dtype, 3, &[ROWS, OUT], 1.0);
        let mut pre = Tensor::empty(device, dtype, &[ROWS, OUT]).unwrap();
        let mut y = Tensor::empty(device, dtype, &[ROWS, OUT]).unwrap();
        let mut forward = Forward::new(&x.device, &w.device).unwrap();
        forward.choice = Some(plan([ROWS, OUT, IN], 1));
        let (b, r) = (Some(&bias.device), Some(&residual.device));
        forward.run(&mut y, Some(&mut pre), b, r, true).unwrap();
        let size = [ROWS, OUT, IN];
        let mut sum = product(size, |i, k| x.host[i * IN + k], |k, j| w.host[j * IN + k]);
        sum.iter_mut().enumerate().for_each(|(i, s)| *s += bias.host[i % OUT]);
        expect(&format!("pre {name}"), dtype, &pre, &sum);
        let end: Vec<f64> = sum.iter().zip(&residual.host).map(|(&u, r)| gelu(u) + r).collect();
        expect(&format!("y {name}"), dtype, &y, &end);
    });
}

#[test]
fn gradient_of_x_with_a_fused_gelu_overwrites_and_adds() {
    for_every_tile(|device, dtype, name, plan| {
        let dy = operand(device, dtype, 4, &[ROWS, OUT], 1.0);
        let w = operand(device, dtype, 1, &[OUT, IN], 0.1);
        let pre = operand(device, dtype, 5, &[ROWS, IN], 1.0);
        let mut gradient = InputGradient::new(&dy.device, &w.device).unwrap();
        gradient.choice = Some(plan([ROWS, IN, OUT], 1));
        let size = [ROWS, IN, OUT];
        let sum = product(size, |i, k| dy.host[i * OUT + k], |k, j| w.host[k * IN + j]);
        let mut dx = Tensor::empty(device, dtype, &[ROWS, IN]).unwrap();
        gradient.run(&mut dx.as_mut(), None, GradMode::Overwrite).unwrap();
        expect(&format!("dx {name}"), dtype, &dx, &sum);
        let held = dx.to_f64_vec().unwrap();
        gradient.run(&mut dx.as_mut(), Some(&pre.device), GradMode::Accumulate).unwrap();
        let fused = sum.iter().zip(&pre.host).map(|(s, &u)| s * gelu_derivative(u));
        let both: Vec<f64> = fused.zip(&held).map(|(a, b)| a + b).collect();
        expect(&format!("dx += {name}"), dtype, &dx, &both);
    });
}

#[test]
fn gradients_of_parameters_in_one_and_in_several_parts() {
    for_every_tile(|device, dtype, name, plan| {
        let cut = |size, parts| {
            let choice = plan(size, parts);
            assert_eq!(choice.parts(), parts);
            choice
        };
        expect_param_gradients(device, dtype, name, [ROWS, OUT, IN], &cut);
    });
}

/// Gradients of weight and bias in one part and in three, written and added.
pub(super) fn expect_param_gradients(
    device: &Device,
    dtype: DType,
    name: &str,
    [rows, out, fan_in]: [usize; 3],
    cut: Cut,
) {
    let dy = operand(device, dtype, 4, &[rows, out], 1.0);
    let x = operand(device, dtype, 0, &[rows, fan_in], 1.0);
    let size = [out, fan_in, rows];
    let dw = product(size, |i, k| dy.host[k * out + i], |k, j| x.host[k * fan_in + j]);
    let db = product([out, 1, rows], |i, k| dy.host[k * out + i], |_, _| 1.0);
    for parts in [1, 3] {
        let mut gradient = ParamGradient::new(&dy.device, &x.device).unwrap();
        gradient.choice = cut(size, parts);
        let name = format!("{name} {size:?} in {}", gradient.choice.parts());
        let mut weight = Tensor::empty(device, DType::F32, &[out, fan_in]).unwrap();
        let mut bias = Tensor::empty(device, DType::F32, &[out]).unwrap();
        for (times, mode) in [(1.0, GradMode::Overwrite), (2.0, GradMode::Accumulate)] {
            gradient
                .run(true, |call, place| {
                    let call = place.append(call, &mut weight.as_mut())?;
                    Ok((call.output(&mut bias)?, [mode; 2]))
                })
                .unwrap();
            let scaled = |v: &[f64]| v.iter().map(|x| x * times).collect::<Vec<f64>>();
            // f32 whatever the operands, which bf16 holds exactly.
            expect(&format!("dw {name} {mode:?}"), DType::F32, &weight, &scaled(&dw));
            expect(&format!("db {name} {mode:?}"), DType::F32, &bias, &scaled(&db));
        }
    }
}

#[test]
fn gelu_backward_writes_in_place_only_what_nobody_else_holds() {
    for dtype in [DType::F32, DType::Bf16] {
        let device = Device::emulated(Mode::Checked, Schedule::Ascending);
        // Whole vectors and a remainder.
        let dy = operand(&device, dtype, 0, &[13, 31], 1.0);
        let pre = operand(&device, dtype, 1, &[13, 31], 1.5);
        let expected: Vec<f64> =
            dy.host.iter().zip(&pre.host).map(|(d, &u)| d * gelu_derivative(u)).collect();
        let du = gelu_backward(dy.device.clone(), &pre.device).unwrap();
        assert_eq!(dy.device.to_f64_vec().unwrap(), dy.host, "a shared gradient was written");
        expect("du", dtype, &du, &expected);
        let du = gelu_backward(dy.device, &pre.device).unwrap();
        expect("du in place", dtype, &du, &expected);
    }
}
