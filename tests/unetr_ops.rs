//! Ops of the segmentation network against MONAI's own: the reference cases `unetr_layers`, `unetr_window`
//! and `unetr_prep`, which `../shared/peer` holds.

use glmae::device::emulated::{Mode, Schedule};
use glmae::device::{DType, Device, Tensor};
use glmae::nn::params::ParamLayout;
use glmae::ops::Grid;
use glmae::ops::dice_ce::DiceOptions;
use glmae::ops::instance_norm::Shortcut;
use glmae::ops::resample::{AffineMap, Interpolation, resample};
use glmae::ops::window_blend::WindowBlend;
use glmae::tape::{ParamGrads, Tape, Var};
use safetensors::{Dtype, SafeTensors};

use crate::support::shared;

/// The file's bytes; `None`, and a line that says so, when it is not at hand.
fn bytes(name: &str) -> Option<Vec<u8>> {
    shared(&format!("peer/cases/{name}.safetensors")).map(|path| std::fs::read(path).unwrap())
}

struct Cases<'b>(SafeTensors<'b>);

impl<'b> Cases<'b> {
    fn new(bytes: &'b [u8]) -> Self {
        Self(SafeTensors::deserialize(bytes).unwrap())
    }

    /// Shape and values of a tensor.
    fn get(&self, name: &str) -> (Vec<usize>, Vec<f64>) {
        let view = self.0.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let bytes = view.data();
        let data = match view.dtype() {
            Dtype::F64 => bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
            Dtype::F32 => {
                bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b).into()).collect()
            }
            Dtype::I32 => {
                bytes.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b).into()).collect()
            }
            Dtype::I16 => {
                bytes.as_chunks().0.iter().map(|&b| i16::from_le_bytes(b).into()).collect()
            }
            Dtype::U8 => bytes.iter().map(|&b| b.into()).collect(),
            other => panic!("{name} is {other:?}"),
        };
        (view.shape().to_vec(), data)
    }

    /// `[B, C, d, h, w]` as rows of channels, and its grid.
    fn rows(&self, name: &str) -> (Grid, Vec<usize>, Vec<f64>) {
        let (shape, data) = self.get(name);
        let [b, c, d, h, w] = shape[..] else { panic!("{name} has shape {shape:?}") };
        let grid = Grid { batch: b, dims: [d, h, w] };
        let voxels = grid.voxels();
        let from = |i: usize| (i / c / voxels * c + i % c) * voxels + i / c % voxels;
        let rows = (0..data.len()).map(|i| data[from(i)]).collect();
        (grid, vec![b * voxels, c], rows)
    }

    /// First parts of the names of all tensors.
    fn names(&self) -> Vec<String> {
        let of = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
        let mut names: Vec<String> = self.0.names().into_iter().map(of).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// `|a - b| / |b|`
fn relative(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let gap = norm(&mut a.iter().zip(b).map(|(a, b)| a - b));
    gap / norm(&mut b.iter().copied()).max(f64::MIN_POSITIVE)
}

/// Devices and arithmetics, with the bound of `check_unetr.py` for f64 and of docs/numerics.md for f32.
fn places(exact: f64) -> [(Device, DType, f64); 3] {
    let kernels = Device::emulated(Mode::Checked, Schedule::Shuffled(3));
    [(Device::Cpu, DType::F64, exact), (Device::Cpu, DType::F32, 1e-5), (kernels, DType::F32, 1e-5)]
}

fn grads(device: &Device, dtype: DType) -> ParamGrads {
    ParamGrads::new(device, dtype, &ParamLayout::default()).unwrap()
}

#[test]
fn norms_and_activations_are_monais() {
    let Some(bytes) = bytes("unetr_layers") else { return };
    let cases = Cases::new(&bytes);
    let mut seen = 0;
    for name in cases.names() {
        let is_norm = name.starts_with("instance_norm");
        if !is_norm && name != "leaky_relu" {
            continue;
        }
        seen += 1;
        let [x, y, dy, dx] = ["x", "y", "dy", "dx"].map(|t| cases.rows(&format!("{name}.{t}")));
        let (grid, shape) = (x.0, &x.1);
        let run = |device: &Device, dtype, x: &[f64], dy: &[f64]| {
            let tensor = |data: &[f64]| Tensor::from_f64(device, dtype, data, shape).unwrap();
            let mut tape = Tape::new(device);
            let leaf = tape.leaf(tensor(x));
            let out = if is_norm {
                tape.instance_norm(&leaf, &grid).unwrap()
            } else {
                // The norm of a constant is 0: what is left is the activation of the shortcut.
                let zero = Var::constant(tensor(&vec![0.0; x.len()]));
                tape.instance_norm_residual(&zero, Shortcut::Plain(&leaf), &grid).unwrap()
            };
            let y = out.value().to_f64_vec().unwrap();
            let seeds = [(out, tensor(dy))];
            let mut found = tape.backward_from(&seeds, &mut grads(device, dtype)).unwrap();
            (y, found.take(&leaf).unwrap().to_f64_vec().unwrap())
        };
        // Values around 1000 are off by 3e-5 in f32 before anything is computed: f32 is held against what
        // f64 makes of the rounded input.
        let round = |x: &[f64]| x.iter().map(|&x| f64::from(x as f32)).collect::<Vec<_>>();
        let rounded = run(&Device::Cpu, DType::F64, &round(&x.2), &round(&dy.2));
        for (device, dtype, bound) in places(1e-10) {
            let ours = run(&device, dtype, &x.2, &dy.2);
            let (y, dx) = match dtype {
                DType::F64 => (&y.2, &dx.2),
                _ => (&rounded.0, &rounded.1),
            };
            let (forward, backward) = (relative(&ours.0, y), relative(&ours.1, dx));
            println!("{name:22} {dtype} {:10} y {forward:.1e} dx {backward:.1e}", device.name());
            assert!(forward <= bound && backward <= bound, "{name} {dtype} on {}", device.name());
            if !is_norm {
                // The first two entries are 0 and -0.
                for (ours, dy) in ours.1.iter().zip(&dy.2).take(2) {
                    assert!((ours - 0.01 * dy).abs() <= 1e-7 * dy.abs(), "{ours} of {dy}");
                }
            }
        }
    }
    assert_eq!(seen, 4);
}

#[test]
fn dice_and_cross_entropy_are_monais() {
    let Some(bytes) = bytes("unetr_layers") else { return };
    let cases = Cases::new(&bytes);
    for name in ["dice_ce", "dice_ce_sharp"] {
        let (grid, shape, x) = cases.rows(&format!("{name}.x"));
        let (_, _, dx) = cases.rows(&format!("{name}.dx"));
        let (_, _, labels) = cases.rows(&format!("{name}.label"));
        let expected = ["dice", "ce"].map(|t| cases.get(&format!("{name}.{t}")).1[0]);
        for (device, dtype, bound) in places(1e-12) {
            for label_dtype in [DType::U8, DType::I32] {
                let labels = Tensor::from_f64(&device, label_dtype, &labels, &[shape[0]]).unwrap();
                let mut tape = Tape::new(&device);
                let leaf = tape.leaf(Tensor::from_f64(&device, dtype, &x, &shape).unwrap());
                let terms = tape.dice_ce(&leaf, &labels, &grid, &DiceOptions::default()).unwrap();
                let ours = terms.value().to_f64_vec().unwrap();
                let total = tape.weighted_sum(&[(&terms, &[1.0, 1.0])]).unwrap();
                let mut found = tape.backward(&total, &mut grads(&device, dtype)).unwrap();
                let gradient = relative(&found.take(&leaf).unwrap().to_f64_vec().unwrap(), &dx);
                println!("{name:14} {dtype} {:10} {ours:?} dx {gradient:.1e}", device.name());
                for (a, b) in ours.iter().zip(expected) {
                    assert!((a - b).abs() <= bound * b.abs(), "{name} {dtype}: {a} and {b}");
                }
                // check_unetr.py: losses 1e-12, gradient 1e-11.
                let bound = if dtype == DType::F64 { 1e-11 } else { bound };
                assert!(gradient <= bound, "{name} {dtype} on {}: {gradient:e}", device.name());
            }
        }
    }
}

/// `conv3d(window, weight, bias, zero padding 1) + ramp`, the predictor of the window cases; rows of classes.
fn predict(
    window: &[f64],
    roi: [usize; 3],
    weight: &[f64],
    bias: &[f64],
    ramp: &[f64],
) -> Vec<f64> {
    let [d, h, w] = roi;
    let (voxels, classes) = (d * h * w, bias.len());
    let mut out = vec![0.0; voxels * classes];
    for (i, out) in out.iter_mut().enumerate() {
        let (v, k) = (i / classes, i % classes);
        let at = [v / (h * w), v / w % h, v % w];
        *out = bias[k] + ramp[k * voxels + v];
        for (tap, &weight) in weight[k * 27..][..27].iter().enumerate() {
            let near = [tap / 9, tap / 3 % 3, tap % 3];
            let from = [0, 1, 2].map(|a| at[a] + near[a]);
            if (0..3).all(|a| (1..=roi[a]).contains(&from[a])) {
                let [z, y, x] = from.map(|n| n - 1);
                *out += weight * window[(z * h + y) * w + x];
            }
        }
    }
    out
}

#[test]
fn blended_windows_are_monais() {
    let Some(bytes) = bytes("unetr_window") else { return };
    let cases = Cases::new(&bytes);
    let (weight, bias) = (cases.get("weight").1, cases.get("bias").1);
    let mut seen = 0;
    for name in cases.names().iter().filter(|n| !["weight", "bias"].contains(&n.as_str())) {
        let get = |part: &str| cases.get(&format!("{name}.{part}"));
        let ((shape, x), (_, ramp), (_, starts)) = (get("x"), get("ramp"), get("starts"));
        let (roi, importance) = get("importance");
        let roi = [roi[0], roi[1], roi[2]];
        let side = [shape[2], shape[3], shape[4]];
        let padded = [0, 1, 2].map(|a| side[a].max(roi[a]));
        let before = [0, 1, 2].map(|a| (padded[a] - side[a]) / 2);
        let inner = |v: usize| {
            let at = [v / (side[1] * side[2]), v / side[2] % side[1], v % side[2]];
            let [z, y, x] = [0, 1, 2].map(|a| at[a] + before[a]);
            (z * padded[1] + y) * padded[2] + x
        };
        let voxels: usize = side.iter().product();
        for (device, dtype, bound) in places(1e-12) {
            for mode in ["constant", "gaussian"] {
                let expected = get(mode).1;
                let map =
                    Tensor::from_f64(&device, dtype, &importance, &[importance.len()]).unwrap();
                for sample in 0..shape[0] {
                    let mut volume = vec![0.0; padded.iter().product()];
                    for v in 0..voxels {
                        volume[inner(v)] = x[sample * voxels + v];
                    }
                    let mut blend = WindowBlend::new(&device, dtype, padded, 2).unwrap();
                    for start in starts.chunks_exact(3) {
                        let start = [0, 1, 2].map(|a| start[a] as usize);
                        let window: Vec<f64> = (0..importance.len())
                            .map(|u| {
                                let at = [u / (roi[1] * roi[2]), u / roi[2] % roi[1], u % roi[2]];
                                let [z, y, x] = [0, 1, 2].map(|a| start[a] + at[a]);
                                volume[(z * padded[1] + y) * padded[2] + x]
                            })
                            .collect();
                        let scores = predict(&window, roi, &weight, &bias, &ramp);
                        let scores =
                            Tensor::from_f64(&device, dtype, &scores, &[importance.len(), 2])
                                .unwrap();
                        let map = (mode == "gaussian").then_some(&map);
                        blend.add(&scores, roi, start, map).unwrap();
                    }
                    let mean = blend.finish().unwrap().to_f64_vec().unwrap();
                    let ours: Vec<f64> =
                        (0..2 * voxels).map(|i| mean[2 * inner(i % voxels) + i / voxels]).collect();
                    let gap = relative(&ours, &expected[sample * 2 * voxels..][..2 * voxels]);
                    println!("{name:12} {mode:8} {dtype} {:10} {gap:.1e}", device.name());
                    assert!(gap <= bound, "{name} {mode} {dtype} on {}: {gap:e}", device.name());
                }
            }
        }
        seen += 1;
    }
    assert_eq!(seen, 5);
}

/// `from^-1 to` of two voxel-to-world affines `[4, 4]`.
fn index_map(from: &[f64], to: &[f64]) -> AffineMap {
    let m = |i: usize, j: usize| from[4 * i + j];
    let cofactor = |i: usize, j: usize| {
        let [a, b, c, d] = [(i + 1) % 3, (i + 2) % 3, (j + 1) % 3, (j + 2) % 3];
        m(a, c) * m(b, d) - m(a, d) * m(b, c)
    };
    let determinant: f64 = (0..3).map(|j| m(0, j) * cofactor(0, j)).sum();
    [0, 1, 2].map(|a| {
        [0, 1, 2, 3].map(|column| {
            let world = |i: usize| to[4 * i + column] - if column == 3 { m(i, 3) } else { 0.0 };
            (0..3).map(|i| cofactor(i, a) * world(i)).sum::<f64>() / determinant
        })
    })
}

#[test]
fn resampled_volumes_are_monais() {
    let Some(bytes) = bytes("unetr_prep") else { return };
    let cases = Cases::new(&bytes);
    let mut seen = 0;
    for name in cases.names() {
        let get = |part: &str| cases.get(&format!("{name}.{part}"));
        let map = index_map(&get("ras.affine").1, &get("spaced.affine").1);
        let ((from, image), (_, label), (_, ties)) =
            (get("ras.image"), get("ras.label"), get("spaced.ties"));
        let ((to, expected), (_, expected_label)) = (get("spaced.image"), get("spaced.label"));
        let from = [&[1], &from[from.len() - 3..]].concat();
        let to = [to[to.len() - 3], to[to.len() - 2], to[to.len() - 1]];
        for (device, dtype, _) in places(0.0) {
            // Scanners store int16: that must give what f32 gives.
            for dtype in
                if dtype == DType::F32 { vec![DType::F32, DType::I16] } else { vec![dtype] }
            {
                let image = Tensor::from_f64(&device, dtype, &image, &from).unwrap();
                let ours = resample(&image, to, &map, Interpolation::Linear).unwrap();
                let gap = relative(&ours.to_f64_vec().unwrap(), &expected);
                println!("{name:12} {dtype} {:10} {gap:.1e}", device.name());
                assert!(gap <= 1e-6, "{name} {dtype} on {}: {gap:e}", device.name());
            }
            let label = Tensor::from_f64(&device, DType::U8, &label, &from).unwrap();
            let ours = resample(&label, to, &map, Interpolation::Nearest).unwrap();
            let ours = ours.to_f64_vec().unwrap();
            let wrong = (0..ours.len()).filter(|&i| ties[i] == 0.0 && ours[i] != expected_label[i]);
            assert_eq!(wrong.count(), 0, "{name} on {}", device.name());
        }
        seen += 1;
    }
    assert_eq!(seen, 5);
}
