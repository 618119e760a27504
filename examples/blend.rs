//! Overlapping windows of a large volume become labels in bounded memory: their sums are held for as many
//! slices as a window is deep, on the device that blends. A table stands in for the network, so that every voxel
//! and class can be compared: the CPU and the CUDA kernels, on the emulated device, must give the same bits.
//!
//! `cargo run --release --example blend -- 512 512 600 96` is a CT of the whole body with 14 classes, in windows of
//! 96 voxels (minutes); without numbers it is a small one.

use glmae::device::emulated::{Mode, Schedule};
use glmae::device::{DType, Device, Tensor, memory};
use glmae::infer::segment::{Decision, decide};
use glmae::infer::window::{Blender, Blending, Importance, WindowGrid};
use glmae::{Error, Result};

const CLASSES: usize = 14;
/// Rows of the table beyond those of a window, so that windows differ.
const SPARE: usize = 4099;

pub fn main() -> Result<()> {
    let number = |n: &String| n.parse::<usize>();
    let numbers = std::env::args().skip(1).collect::<Vec<_>>();
    let numbers = numbers.iter().map(number).collect::<std::result::Result<Vec<_>, _>>();
    match numbers.as_deref() {
        Ok([]) => run([60, 36, 45], 16, 1 << 20),
        Ok(&[d, h, w, side]) => run([d, h, w], side, 512 << 20),
        _ => Err(Error::Config("give nothing, or three sizes and the side of a window".into())),
    }
}

/// Blends windows of `side` over `dims` voxels, in columns whose sums take at most `bytes`.
pub fn run(dims: [usize; 3], side: usize, bytes: u64) -> Result<()> {
    let grid = WindowGrid::new(dims, [side; 3], 0.5)?;
    let columns = grid.columns(CLASSES, bytes);
    let map = Blending::Gaussian { sigma_scale: 0.125 }.importance(grid.roi);
    let table: Vec<f32> = (0..(grid.window() + SPARE) * CLASSES).map(score).collect();
    let emulated = Device::emulated(Mode::Plain, Schedule::Ascending);
    let devices = [Device::Cpu, emulated.clone()];
    let on_each = |device: &Device| -> Result<_> {
        let shape = [table.len() / CLASSES, CLASSES];
        let scores = Tensor::from_slice(device, &table, &shape)?;
        Ok((scores, Importance::new(device, DType::F32, grid.roi, &map)?))
    };
    let [cpu, kernels] = devices.each_ref().map(on_each);
    let (cpu, kernels) = (cpu?, kernels?);
    memory::reset_peak();
    let before = memory::live_and_peak_bytes().0;
    let mut blenders = [
        Blender::new(&grid, &columns, CLASSES, &cpu.1)?,
        Blender::new(&grid, &columns, CLASSES, &kernels.1)?,
    ];
    let (mut windows, mut voxels, mut of_class) = (0, 0, [0u64; CLASSES]);
    for &column in &columns {
        blenders.iter_mut().try_for_each(|blender| blender.begin(column))?;
        for start in grid.windows_of(column) {
            let first = (start[0] * 31 + start[1] * 17 + start[2]) % SPARE;
            // Slabs that this window finished: bits of their scores, and labels.
            let mut finished = [Vec::new(), Vec::new()];
            for ((blender, (scores, _)), found) in
                blenders.iter_mut().zip([&cpu, &kernels]).zip(&mut finished)
            {
                let window = scores.view(first * CLASSES, &[grid.window(), CLASSES])?;
                blender.add(&window, &mut |d, means| {
                    let bits = means.to_vec::<f32>()?.into_iter();
                    let hash =
                        bits.fold(0, |hash, x| (hash ^ x.to_bits()).wrapping_mul(0x0100_0193));
                    found.push((d, hash, decide(means, Decision::Classes)?));
                    Ok(())
                })?;
            }
            let [ours, theirs] = finished;
            assert!(ours == theirs, "the slabs before {start:?} differ");
            for (_, _, labels) in &ours {
                voxels += labels.len();
                labels.iter().for_each(|&label| of_class[usize::from(label)] += 1);
            }
            windows += 1;
        }
    }
    assert_eq!(voxels, dims.iter().product::<usize>());
    println!(
        "{dims:?} voxels, {CLASSES} classes: {windows} windows of {side} in {} columns",
        columns.len()
    );
    println!("the same bits on both devices; voxels of each class {of_class:?}");
    let mb = |bytes: usize| bytes as f64 / 1e6;
    let on_cpu = memory::live_and_peak_bytes().1 - before;
    println!("peak on the CPU {:.1} MB beside the table", mb(on_cpu));
    if let Device::Emulated(device) = &emulated {
        let table = mb(4 * table.len());
        println!(
            "peak on the device {:.1} MB, {table:.1} MB of it the table",
            mb(device.usage().peak)
        );
    }
    println!("scores of all voxels {:.1} MB", mb(4 * CLASSES * voxels));
    Ok(())
}

/// A number of the table: any will do that is not the same everywhere.
fn score(i: usize) -> f32 {
    let mixed = (i as u32).wrapping_mul(2_654_435_761) >> 8;
    mixed as f32 / 65_536.0 - 128.0
}
