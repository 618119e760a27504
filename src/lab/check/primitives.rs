//! The primitives that kernels are made of (tensor cores, their loads, asynchronous copies, shuffles,
//! votes, roundings), one kernel each, against the emulated device, which the tests hold against the
//! definitions of the PTX ISA. The emulated device has C++ in the place of each line of PTX: here the
//! PTX itself runs.

use crate::device::emulated::{Mode, Schedule};
use crate::device::launch::LaunchConfig;
use crate::device::{DType, Device, KernelCall, Tensor};
use crate::rng::{Purpose, Rng};
use crate::{Error, Result};

/// A kernel of `kernels/emulate/primitives.cu`, one block of it.
struct Primitive {
    name: &'static str,
    threads: u32,
    outputs: Vec<(DType, usize)>,
    inputs: Vec<(DType, Vec<f64>)>,
    sizes: Vec<i32>,
    /// By how much an output may differ: tensor cores do not say how they round.
    tolerance: f64,
}

impl Primitive {
    fn new(name: &'static str, threads: u32) -> Self {
        let (outputs, inputs, sizes) = (Vec::new(), Vec::new(), Vec::new());
        Self { name, threads, outputs, inputs, sizes, tolerance: 0.0 }
    }

    fn output(mut self, dtype: DType, len: usize) -> Self {
        self.outputs.push((dtype, len));
        self
    }

    fn input(mut self, dtype: DType, values: Vec<f64>) -> Self {
        self.inputs.push((dtype, values));
        self
    }

    fn size(mut self, size: i32) -> Self {
        self.sizes.push(size);
        self
    }

    fn within(self, tolerance: f64) -> Self {
        Self { tolerance, ..self }
    }

    fn run(&self, device: &Device) -> Result<Vec<f64>> {
        let mut outputs = Vec::new();
        for &(dtype, len) in &self.outputs {
            outputs.push(Tensor::zeros(device, dtype, &[len])?);
        }
        let mut inputs = Vec::new();
        for (dtype, values) in &self.inputs {
            inputs.push(Tensor::from_f64(device, *dtype, values, &[values.len()])?);
        }
        let mut call = KernelCall::new(device, self.name);
        for output in &mut outputs {
            call = call.output(output)?;
        }
        for input in &inputs {
            call = call.input(input)?;
        }
        for &size in &self.sizes {
            call = call.value(size);
        }
        call.launch(LaunchConfig::linear(1, self.threads))?;
        let mut values = Vec::new();
        for output in &outputs {
            values.extend(output.to_f64_vec()?);
        }
        Ok(values)
    }
}

fn primitives() -> Vec<Primitive> {
    use DType::{Bf16, F32, I32};
    let normal = |seed, n| Rng::new(seed, Purpose::Test, 0, 0, 0).normals(n);
    let product = |name| {
        // 17 terms of about 1: some units in the last place of the largest.
        let d = Primitive::new(name, 32).output(F32, 128).within(2e-5);
        d.input(Bf16, normal(1, 256)).input(Bf16, normal(2, 128)).input(F32, normal(3, 128))
    };
    // Ties of the rounding to bf16, and values of many sizes.
    let ties = (0..128u32).map(|i| f64::from(f32::from_bits(0x3f80_8000 + (i << 15))));
    let sizes = normal(4, 128).into_iter().zip(0..).map(|(x, i)| x * 2f64.powi(i - 64));
    let rounded: Vec<f64> = ties.chain(sizes).collect();
    let copied = |n: i32, valid: i32| {
        let x = normal(5, (n as usize - 1) * 4 + valid as usize / 4);
        Primitive::new("primitive_cp_async", 32).output(F32, 256).input(F32, x).size(n).size(valid)
    };
    vec![
        product("primitive_mma"),
        product("primitive_mma_ldmatrix"),
        Primitive::new("primitive_ldmatrix", 32).output(I32, 512).input(Bf16, normal(6, 256)),
        copied(64, 16),
        copied(33, 8),
        Primitive::new("primitive_shuffle", 64).output(I32, 8 * 64),
        Primitive::new("primitive_vote", 64).output(I32, 7 * 64),
        Primitive::new("primitive_bf16", 256)
            .output(Bf16, 256)
            .output(F32, 256)
            .input(F32, rounded)
            .size(256),
        Primitive::new("primitive_block_sum", 1024).output(F32, 1).input(F32, normal(7, 1024)),
    ]
}

/// Runs each on `device` and on the host.
pub fn check(device: &Device) -> Result<String> {
    if *device == Device::Cpu {
        return Ok("the CPU has no kernels".into());
    }
    let host = Device::emulated(Mode::Plain, Schedule::Ascending);
    let primitives = primitives();
    for primitive in &primitives {
        let (got, expected) = (primitive.run(device)?, primitive.run(&host)?);
        let differs = |(_, (a, b)): &(usize, (&f64, &f64))| {
            let distance = (*a - *b).abs();
            a.to_bits() != b.to_bits() && (distance.is_nan() || distance > primitive.tolerance)
        };
        if let Some((i, (a, b))) = got.iter().zip(&expected).enumerate().find(differs) {
            return Err(Error::Device(format!(
                "{}: element {i} of its outputs is {a:?}, expected {b:?}",
                primitive.name
            )));
        }
    }
    Ok(format!("{} kernels of one primitive each", primitives.len()))
}
