//! Every tile of the product that compares, also those that the cases of the registry are too small
//! for.

use super::*;
use crate::device::DType;
use crate::device::emulated::{Mode, Schedule};
use crate::ops::gemm::hopper::Follows;
use crate::ops::gemm::{self, Choice};
use crate::ops::tolerance::{distance, within, within_bf16};
use crate::tape::Param;

/// More than one block of every tile, none of them full, groups that meet within a tile; depths that
/// no tile divides. 16-byte loads are possible all the same.
const GROUPS: [usize; 2] = [83, 67];
const WIDTH: usize = 200;
const IN: usize = 72;

#[test]
fn every_tile_compares() {
    let rows = GROUPS.iter().sum();
    let case = OpCase::new(&["tiles"], &[7]);
    // Values that bf16 holds.
    let values = |index: u32, len: usize, std: f64| -> Vec<f64> {
        let drawn = case.normal(index, len, 0.0, std);
        drawn.into_iter().map(|x| half::bf16::from_f64(x).to_f64()).collect()
    };
    let (x, w) = (values(0, rows * IN, 1.0), values(1, WIDTH * IN, 0.1));
    let (b, t) = (values(2, WIDTH, 0.5), values(3, rows * WIDTH, 1.0));
    let place = |device: &Device, dtype: DType, values: &[f64], shape: &[usize]| {
        Tensor::from_f64(device, dtype, values, shape).unwrap()
    };
    let run = |device: &Device, dtype: DType, norm_pix: bool, how: Option<(Choice, bool)>| {
        let param = |value| Param { value, half: None, slot: None };
        let head = Layer {
            weight: param(place(device, dtype, &w, &[WIDTH, IN])),
            bias: Some(param(place(device, dtype.master(), &b, &[WIDTH]))),
        };
        let x = place(device, dtype, &x, &[rows, IN]);
        let target = place(device, dtype, &t, &[rows, WIDTH]);
        let keeps = how.is_none_or(|(_, keeps)| keeps);
        let with =
            Comparison { target: &target, group_rows: &GROUPS, norm_pix, wants_prediction: keeps };
        let mut losses = Tensor::empty(device, dtype.master(), &[2]).unwrap();
        let mut gradient = Tensor::empty(device, dtype, &[rows, WIDTH]).unwrap();
        let mut pred = Tensor::empty(device, dtype, &[rows, WIDTH]).unwrap();
        match how {
            Some((choice, _)) => {
                let comparing = Comparing { choice: Some(choice), x: &x, head: &head };
                let kept = Some(&mut pred).filter(|_| keeps);
                comparing.run(&mut losses, &mut gradient, kept, &with).unwrap();
            }
            None => {
                pred = head.apply(&x, Activation::None, None).unwrap().0;
                let (losses, gradient) = (losses.host_mut().unwrap(), gradient.host_mut().unwrap());
                let (p, t) = (pred.host::<f64>().unwrap(), target.host().unwrap());
                reference(losses, gradient, p, t, &GROUPS, norm_pix);
            }
        }
        if !keeps {
            pred = Tensor::zeros(device, dtype, &[1]).unwrap();
        }
        [losses, gradient, pred].map(|t| t.to_f64_vec().unwrap())
    };
    for norm_pix in [false, true] {
        let expected = run(&Device::Cpu, DType::F64, norm_pix, None);
        for (device, dtype, variant, choice) in choices([rows, WIDTH, IN]) {
            // Hopper's large tiles keep no prediction.
            let keeps =
                !matches!(choice, Choice::Hopper(plan) if !plan.tile.can(Follows::CompareKeep));
            let ours = run(&device, dtype, norm_pix, Some((choice, keeps)));
            for (what, (a, b)) in
                ["losses", "gradient", "pred"].iter().zip(ours.iter().zip(&expected))
            {
                if *what == "pred" && !keeps {
                    continue;
                }
                let d = distance(a, b);
                // Losses and sums are f32 whatever the operands, which bf16 holds exactly.
                let close = match (dtype, *what) {
                    (DType::Bf16, "gradient" | "pred") => within_bf16(&d),
                    _ => within(&d, Tolerance::Products { k: IN }, 1.0),
                };
                assert!(close, "{what} {variant} {dtype} norm_pix {norm_pix}: {d:?}");
            }
        }
    }
}

/// Every tile there is, on a device that executes its kernel.
fn choices(size: [usize; 3]) -> Vec<(Device, DType, &'static str, Choice)> {
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::Bf16] {
        for tile in gemm::Plan::tiles(dtype) {
            let device = Device::emulated(Mode::Checked, Schedule::Shuffled(3));
            let choice = Choice::Portable(gemm::Plan::new(tile, size, 1));
            all.push((device, dtype, tile.variant, choice));
        }
    }
    #[cfg(feature = "cuda")]
    {
        use crate::device::ptx::Schedule;
        use crate::ops::gemm::hopper;
        use crate::ops::gemm::hopper::tests::hopper_device;
        for tile in hopper::TILES.into_iter().filter(|tile| tile.can(Follows::Compare)) {
            let Some(device) = hopper_device(Schedule::Shuffled(4)) else { break };
            let choice = Choice::Hopper(hopper::Plan::new(tile, size, 1));
            all.push((device, DType::Bf16, tile.variant, choice));
        }
    }
    all
}
