//! What the cases of the registry do not reach in the ops of segmentation: views that are not aligned, one
//! value in two places, gradients that nobody wants, volumes far from the origin, refusals.

use glmae::device::emulated::{Mode, Schedule};
use glmae::device::{DType, Device, Tensor};
use glmae::ops::VoxelGrid;
use glmae::ops::argmax::argmax;
use glmae::ops::attention::Packing;
use glmae::ops::instance_norm::Shortcut;
use glmae::ops::mean_pool::Pooled;
use glmae::ops::resample::{AffineMap, Interpolation, resample};
use glmae::ops::window_blend::{Part, WindowBlend};
use glmae::param_layout::ParamLayout;
use glmae::rng::{Purpose, Rng};
use glmae::tape::{ParamGrads, Tape, Var};

fn emulated() -> Device {
    Device::emulated(Mode::Checked, Schedule::Shuffled(9))
}

fn normal(stream: u32, n: usize) -> Vec<f64> {
    let mut rng = Rng::new(5, Purpose::Test, 0, stream, 0);
    (0..n).map(|_| f64::from(rng.normal() as f32)).collect()
}

fn grads(device: &Device, dtype: DType) -> ParamGrads {
    ParamGrads::new(device, dtype, &ParamLayout::default()).unwrap()
}

fn close(a: &[f64], b: &[f64], bound: f64, what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let scale = b.iter().fold(1.0f64, |m, x| m.max(x.abs()));
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= bound * scale, "{what} element {i}: {a} {b}");
    }
}

const GRID: VoxelGrid = VoxelGrid { batch: 2, dims: [3, 5, 4] };
const C: usize = 8;

/// y, dx and ds of a residual norm whose inputs begin `offset` elements into their memory.
fn residual(device: &Device, dtype: DType, offset: usize, normed: bool) -> [Vec<f64>; 3] {
    let n = GRID.rows() * C;
    let mut tape = Tape::new(device);
    let [x, s] = [0, 1].map(|i| {
        let data = [vec![0.0; offset], normal(i, n)].concat();
        let all = Tensor::from_f64(device, dtype, &data, &[offset + n]).unwrap();
        tape.leaf(all.view(offset, &[GRID.rows(), C]).unwrap())
    });
    let shortcut = if normed { Shortcut::Normed(&s) } else { Shortcut::Plain(&s) };
    let y = tape.instance_norm_residual(&x, shortcut, &GRID).unwrap();
    let value = y.value().to_f64_vec().unwrap();
    let data = [vec![0.0; offset], normal(2, n)].concat();
    let dy = Tensor::from_f64(device, dtype, &data, &[offset + n]).unwrap();
    let dy = dy.view(offset, &[GRID.rows(), C]).unwrap();
    let mut found = tape.backward_from(&[(y, dy)], &mut grads(device, dtype)).unwrap();
    [
        value,
        found.take(&x).unwrap().to_f64_vec().unwrap(),
        found.take(&s).unwrap().to_f64_vec().unwrap(),
    ]
}

#[test]
fn a_norm_takes_views_that_begin_anywhere() {
    for normed in [false, true] {
        let expected = residual(&Device::Cpu, DType::F64, 0, normed);
        for offset in [0, 1, 3, 4] {
            let ours = residual(&emulated(), DType::F32, offset, normed);
            for (i, (ours, expected)) in ours.iter().zip(&expected).enumerate() {
                close(ours, expected, 1e-5, &format!("offset {offset}, part {i}"));
            }
        }
    }
}

/// `leaky(norm(x) + x)`: both gradients arrive at one value.
#[test]
fn a_value_can_be_its_own_shortcut() {
    let run = |device: &Device, dtype| {
        let shape = [GRID.rows(), C];
        let tensor =
            |i| Tensor::from_f64(device, dtype, &normal(i, GRID.rows() * C), &shape).unwrap();
        let mut tape = Tape::new(device);
        let x = tape.leaf(tensor(0));
        let y = tape.instance_norm_residual(&x, Shortcut::Plain(&x), &GRID).unwrap();
        let mut found = tape.backward_from(&[(y, tensor(2))], &mut grads(device, dtype)).unwrap();
        found.take(&x).unwrap().to_f64_vec().unwrap()
    };
    let expected = run(&Device::Cpu, DType::F64);
    close(&run(&emulated(), DType::F32), &expected, 1e-5, "emulated");
    close(&run(&Device::Cpu, DType::F32), &expected, 1e-5, "cpu");
}

/// A constant branch or shortcut takes no gradient, and the other one's bits do not change.
#[test]
fn gradients_that_nobody_wants_are_not_computed() {
    let device = emulated();
    let both = residual(&device, DType::F32, 0, true);
    for wanted in [0, 1] {
        let n = GRID.rows() * C;
        let mut tape = Tape::new(&device);
        let [x, s] = [0, 1].map(|i: usize| {
            let data = normal(i as u32, n);
            let value = Tensor::from_f64(&device, DType::F32, &data, &[GRID.rows(), C]).unwrap();
            if i == wanted { tape.leaf(value) } else { Var::constant(value) }
        });
        let y = tape.instance_norm_residual(&x, Shortcut::Normed(&s), &GRID).unwrap();
        let dy = Tensor::from_f64(&device, DType::F32, &normal(2, n), y.shape()).unwrap();
        let mut found = tape.backward_from(&[(y, dy)], &mut grads(&device, DType::F32)).unwrap();
        let ours = found.take([&x, &s][wanted]).unwrap().to_f64_vec().unwrap();
        assert_eq!(ours, both[1 + wanted]);
        assert!(found.take([&x, &s][1 - wanted]).is_none());
    }
}

#[test]
fn windows_begin_anywhere_and_stay_inside() {
    for device in [Device::Cpu, emulated()] {
        let mut blend = WindowBlend::new(&device, DType::F32, [3, 4, 9], 4).unwrap();
        let scores = |i| Tensor::from_f64(&device, DType::F32, &normal(i, 96), &[24, 4]).unwrap();
        let whole = |start| Part::whole([2, 2, 6], start);
        for start in [[0, 3, 0], [0, 0, 7], [0, usize::MAX, 0]] {
            assert!(blend.add(&scores(0), [2, 2, 6], whole(start), None).is_err(), "{start:?}");
        }
        for part in [
            Part { skip: [0, 1, 0], ..whole([0; 3]) },
            Part { size: [4, 1, 1], ..whole([0; 3]) },
            Part { skip: [usize::MAX, 0, 0], ..whole([0; 3]) },
        ] {
            assert!(blend.add(&scores(0), [2, 2, 6], part, None).is_err(), "{part:?}");
        }
        let long = Tensor::zeros(&device, DType::F32, &[4, 4]).unwrap();
        assert!(blend.add(&long, [4, 1, 1], Part::whole([4, 1, 1], [0; 3]), None).is_err());
        assert!(blend.add(&scores(0), [2, 2, 5], whole([0; 3]), None).is_err());
        assert!(blend.restart([4, 10]).is_err() && blend.restart([usize::MAX, 2]).is_err());
        // Rows of the volume that are aligned and rows that are not.
        for (i, start) in [[0, 0, 0], [1, 2, 3], [1, 1, 1]].into_iter().enumerate() {
            blend.add(&scores(i as u32), [2, 2, 6], whole(start), None).unwrap();
        }
        blend.restart([4, 9]).unwrap();
        // The second slice of the window is slice 6, which lies where slice 0 would.
        blend.add(&scores(1), [2, 2, 6], whole([5, 2, 3]), None).unwrap();
        let expected = normal(1, 96);
        for d in 4..7 {
            let read = |mean: &Tensor| Ok((mean.to_f64_vec()?, argmax(mean)?.to_vec::<u8>()?));
            let (mean, labels) = blend.finish(d, read).unwrap();
            for (v, (row, label)) in mean.chunks_exact(4).zip(labels).enumerate() {
                let [z, y, x] =
                    [d.wrapping_sub(5), (v / 9).wrapping_sub(2), (v % 9).wrapping_sub(3)];
                if z < 2 && y < 2 && x < 6 {
                    let expected = &expected[((z * 2 + y) * 6 + x) * 4..][..4];
                    assert_eq!(row, expected, "voxel {v} of {d} on {}", device.name());
                    let largest = (0..4).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
                    assert_eq!(usize::from(label), largest);
                } else {
                    assert!(row.iter().all(|x| x.is_nan()), "voxel {v} of {d}: {row:?}");
                    assert_eq!(label, 0);
                }
            }
        }
    }
}

/// A volume of 0 and 1 in turn shows an error of position as it is.
#[test]
fn positions_are_exact_far_from_the_origin() {
    let width = 1_500_000;
    let data: Vec<f64> = (0..width).map(|i| f64::from(i % 2)).collect();
    let (step, start) = (1.0 / 3.0 + 1e-5, 1_400_000.123_456_789);
    let map: AffineMap =
        [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, step, start - 100.0 * step]];
    for device in [Device::Cpu, Device::emulated(Mode::Plain, Schedule::Ascending)] {
        let volume =
            Tensor::from_f64(&device, DType::F32, &data, &[1, 1, 1, width as usize]).unwrap();
        let ours = resample(&volume, [1, 1, 300], &map, Interpolation::Linear).unwrap();
        for (i, ours) in ours.to_f64_vec().unwrap().into_iter().enumerate() {
            let position = start + (i as f64 - 100.0) * step;
            let expected = 1.0 - (position.rem_euclid(2.0) - 1.0).abs();
            assert!((ours - expected).abs() <= 1e-6, "{i} on {}: {ours} {expected}", device.name());
        }
    }
}

#[test]
fn maps_and_sizes_that_cannot_be_are_refused() {
    let volume = Tensor::zeros(&Device::Cpu, DType::F32, &[1, 2, 2, 2]).unwrap();
    let unit: AffineMap = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
    assert!(resample(&volume, [2, 2, 2], &unit, Interpolation::Linear).is_ok());
    for bad in [f64::NAN, f64::INFINITY, 1e7, -5e6] {
        let mut map = unit;
        map[1][3] = bad;
        assert!(resample(&volume, [2, 2, 2], &map, Interpolation::Linear).is_err(), "{bad}");
    }
    let labels = Tensor::zeros(&Device::Cpu, DType::U8, &[1, 2, 2, 2]).unwrap();
    assert!(resample(&labels, [2, 2, 2], &unit, Interpolation::Linear).is_err());
    assert!(resample(&labels, [2, 2, 2], &unit, Interpolation::Nearest).is_ok());

    let scores = Tensor::zeros(&Device::Cpu, DType::F32, &[2, 257]).unwrap();
    assert!(argmax(&scores).unwrap_err().to_string().contains("256"));
    // A sequence that is nothing but a class token has no mean.
    let mut tape = Tape::inference(&Device::Cpu);
    let packing = Packing::new(&Device::Cpu, &[3, 1]).unwrap();
    let x = Var::constant(Tensor::zeros(&Device::Cpu, DType::F32, &[4, 5]).unwrap());
    assert!(tape.mean_pool(&x, &packing, Pooled::All).is_ok());
    assert!(tape.mean_pool(&x, &packing, Pooled::AllButFirst).is_err());
    // Rows that are not those of the grid.
    assert!(tape.instance_norm(&x, &VoxelGrid { batch: 1, dims: [1, 1, 3] }).is_err());
    assert!(tape.instance_norm(&x, &VoxelGrid { batch: 0, dims: [1, 1, 3] }).is_err());
}
