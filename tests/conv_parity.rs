//! The convolutions against PyTorch's results (`unetr_layers.safetensors`), f64, forward and all
//! gradients.

use std::sync::Arc;

use glmae::device::{DType, Device, Tensor};
use glmae::nn::params::{ParamLayout, Params};
use glmae::ops::Grid;
use glmae::tape::{ParamGrads, Tape};
use safetensors::SafeTensors;

use crate::support::shared;

/// Judged so by the reference's own page: f64 at 1e-9, relative L2 of a tensor.
const BOUND: f64 = 1e-9;

struct File(Vec<u8>);

impl File {
    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }

    fn get(&self, name: &str) -> (Vec<usize>, Vec<f64>) {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let data = tensor.data().chunks_exact(8);
        let data = data.map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect();
        (tensor.shape().to_vec(), data)
    }

    /// A `[B, C, d0, d1, d2]` tensor as the matrix of its voxels, with their grid.
    fn rows(&self, name: &str) -> (Grid, usize, Vec<f64>) {
        let (shape, data) = self.get(name);
        let [batch, c, d, h, w] = shape[..] else { panic!("{name}: {shape:?}") };
        let grid = Grid { batch, dims: [d, h, w] };
        let voxels = grid.voxels();
        let at = |i: usize| {
            let (row, channel) = (i / c, i % c);
            data[(row / voxels * c + channel) * voxels + row % voxels]
        };
        (grid, c, (0..data.len()).map(at).collect())
    }
}

fn check(what: &str, ours: &Tensor, want: &[f64]) {
    let ours = ours.to_f64_vec().unwrap();
    assert_eq!(ours.len(), want.len(), "{what}");
    let square = |x: f64| x * x;
    let error: f64 = ours.iter().zip(want).map(|(a, b)| square(a - b)).sum();
    let norm: f64 = want.iter().map(|&b| square(b)).sum();
    let distance = (error / norm).sqrt();
    println!("{what:24} {distance:9.2e} of {BOUND:.0e}");
    assert!(distance <= BOUND, "{what}: {distance:e}");
}

#[test]
fn convolutions_agree_with_pytorch() {
    let Some(path) = shared("peer/cases/unetr_layers.safetensors") else { return };
    let file = File(std::fs::read(path).unwrap());
    let device = Device::Cpu;
    for (case, inputs) in [
        ("conv3", 1),
        ("conv3", 2),
        ("conv3_thin", 1),
        ("conv3_thin", 2),
        ("conv1", 1),
        ("conv1", 2),
        ("conv1_bias", 1),
        ("conv1_bias", 2),
        ("up2", 1),
    ] {
        let (grid, c, x) = file.rows(&format!("{case}.x"));
        let (_, _, y) = file.rows(&format!("{case}.y"));
        let (_, out, dy) = file.rows(&format!("{case}.dy"));
        let (_, _, dx) = file.rows(&format!("{case}.dx"));
        let (shape, weight) = file.get(&format!("{case}.param.weight"));
        let (_, dw) = file.get(&format!("{case}.dparam.weight"));
        let bias = file.tensors().tensor(&format!("{case}.param.bias")).is_ok();

        let mut layout = ParamLayout::default();
        let w = layout.add("weight", &shape);
        let b = bias.then(|| layout.add("bias", &[out]));
        let layout = Arc::new(layout);
        let mut flat = vec![0.0; layout.len()];
        flat[layout.entry(w).range()].copy_from_slice(&weight);
        if let Some(b) = b {
            flat[layout.entry(b).range()].copy_from_slice(&file.get("conv1_bias.param.bias").1);
        }
        let mut params = Params::zeros(&device, DType::F64, layout.clone(), true).unwrap();
        *params.flat_mut() = Tensor::from_slice(&device, &flat, &[flat.len()]).unwrap();

        // The channels of x in one or two inputs.
        let mut tape = Tape::new(&device);
        let cut = |x: &[f64], range: std::ops::Range<usize>| -> Vec<f64> {
            x.chunks_exact(c).flat_map(|row| row[range.clone()].to_vec()).collect()
        };
        let middle = if inputs == 1 { c } else { c / 2 };
        let ranges = [0..middle, middle..c];
        let vars: Vec<_> = ranges[..inputs]
            .iter()
            .map(|range| {
                let part = cut(&x, range.clone());
                tape.leaf(Tensor::from_slice(&device, &part, &[grid.rows(), range.len()]).unwrap())
            })
            .collect();
        let weight = params.get(w).unwrap();
        let result = if case == "up2" {
            tape.conv_transpose(&vars[0], grid, &weight).unwrap()
        } else {
            let bias = b.map(|b| params.get(b).unwrap());
            tape.conv3d(&vars.iter().collect::<Vec<_>>(), grid, &weight, bias.as_ref()).unwrap()
        };
        drop(weight);
        check(&format!("{case} y"), result.value(), &y);
        let seed = Tensor::from_slice(&device, &dy, result.shape()).unwrap();
        let mut grads = ParamGrads::new(&device, DType::F64, &layout).unwrap();
        let mut values = tape.backward_from(&[(result, seed)], &mut grads).unwrap();
        for (var, range) in vars.iter().zip(&ranges) {
            let name = format!("{case} dx {range:?}");
            check(&name, &values.take(var).unwrap(), &cut(&dx, range.clone()));
        }
        let flat = grads.finish(&layout).unwrap();
        let of = |id| flat.view(layout.entry(id).range().start, &layout.entry(id).shape).unwrap();
        check(&format!("{case} dweight"), &of(w), &dw);
        if let Some(b) = b {
            check(&format!("{case} dbias"), &of(b), &file.get("conv1_bias.dparam.bias").1);
        }
    }
}
