//! The kernels under AddressSanitizer and UndefinedBehaviorSanitizer (feature `sanitize`):
//! `scripts/test.sh` builds and runs these, and the tests of ops, primitives and edges beside them.

use std::process::Command;

use glmae::device::emulated::{Emulated, Mode, Schedule};
use glmae::device::launch::{Arg, KERNELS, LaunchConfig};
use glmae::device::{DType, Device};
use glmae::lab::opcheck::{Before, run_onto};
use glmae::ops::OPS;
use glmae::ops::tolerance::rounded;

use super::{device, out_of, upload};

/// Sides of a product: more than a block of the largest tile along both axes, none of them full.
const ROWS: usize = 150;
const OUT: usize = 200;
const IN: usize = 72;

/// The large tiles of the linear layer and of the pixel head, which a plan chooses only for products that
/// are too large for an emulator. That they compute the right numbers is tested in
/// `src/ops/linear/tests.rs` and `src/ops/masked_mse/tests.rs`.
fn large_tiles(device: &Emulated) {
    let shapes = [
        ("bf16", 2, "128x192", [128, 192], 256, 4 * (128 + 192) * 32 * 2),
        ("bf16", 2, "128x128", [128, 128], 128, 4 * (128 + 128) * 32 * 2),
        ("bf16", 2, "64x64", [64, 64], 128, 4 * (64 + 64) * 32 * 2),
        ("f32", 4, "128x128", [128, 128], 256, 2 * 16 * (128 + 128 + 8) * 4),
        ("f32", 4, "64x64", [64, 64], 256, 2 * 16 * (64 + 64 + 8) * 4),
    ];
    for (dtype, size, tile, [m, n], threads, shared) in shapes {
        let zeros = |name, elements: usize| upload(device, name, &vec![0u8; elements * size]);
        let floats = |name, elements: usize| upload(device, name, &vec![0.0f32; elements]);
        let (x, w) = (zeros("x", ROWS * IN), zeros("weight", OUT * IN));
        let (y, pre, residual) =
            (zeros("y", ROWS * OUT), zeros("pre", ROWS * OUT), zeros("residual", ROWS * OUT));
        let (dx, dw) = (zeros("dx", ROWS * IN), floats("dweight", OUT * IN));
        let (bias, db) = (floats("bias", OUT), floats("dbias", OUT));
        let sizes = [ROWS, OUT, IN].map(|side| Arg::I32(side as i32));
        let launch = |pass: &str, [tall, wide]: [usize; 2], first: &[Arg], last: &[Arg]| {
            let name = format!("linear_{pass}_{dtype}_{tile}");
            let blocks = tall.div_ceil(m) * wide.div_ceil(n);
            let config = LaunchConfig::linear(blocks as u32, threads).shared(shared as u32);
            device.allow_shared(&name, shared as u32).unwrap();
            device.launch(&name, &config, &[first, &sizes, last].concat()).unwrap();
        };
        let pointers = [y, pre, x, w, bias, residual].map(Arg::from);
        launch("fwd", [ROWS, OUT], &pointers, &[Arg::I32(1)]);
        launch("bwd_x", [ROWS, IN], &[dx, x, y, w].map(Arg::from), &[Arg::I32(1)]);
        let modes = [Arg::I32(ROWS.next_multiple_of(32) as i32), Arg::I32(1), Arg::I32(1)];
        launch("bwd_params", [OUT, IN], &[dw, db, y, x].map(Arg::from), &modes);

        // y as gradient, pre as prediction, residual as target.
        let (sums, statistics) = (floats("sums", 2 * ROWS * OUT), floats("statistics", 4 * ROWS));
        let name = format!("masked_mse_fwd_{dtype}_{tile}");
        let blocks = ROWS.div_ceil(m) * OUT.div_ceil(n);
        let config = LaunchConfig::linear(blocks as u32, threads).shared(shared as u32);
        device.allow_shared(&name, shared as u32).unwrap();
        let pointers = [y, pre, sums, x, w, bias, residual, statistics].map(Arg::from);
        let sizes = [ROWS, OUT, IN, 83].map(|side| Arg::I32(side as i32));
        let scales = [Arg::F32(0.5), Arg::F32(0.25)];
        device.launch(&name, &config, &[&pointers[..], &sizes, &scales].concat()).unwrap();
    }
    // Parts of a gradient, whose sizes no vector divides.
    let (out, fan_in, parts) = (13, 7, 3);
    let floats = |name, elements: usize| upload(device, name, &vec![0.0f32; elements]);
    let pointers = [
        floats("dweight", out * fan_in),
        floats("dbias", out),
        floats("weights", parts * out * fan_in),
        floats("biases", parts * out),
    ];
    let args = [
        &pointers.map(Arg::from)[..],
        &[Arg::I32(parts as i32), Arg::I64((out * fan_in) as i64), Arg::I32(out as i32)],
        &[Arg::I32(1), Arg::I32(0)],
    ];
    device.launch("linear_bwd_reduce_f32", &LaunchConfig::linear(1, 256), &args.concat()).unwrap();
}

/// The wide blocks of the convolution, as above; their numbers: `src/ops/conv3d/tests.rs`.
fn wide_convolutions(device: &Emulated) {
    // Several bricks, none of them full; a whole tile of output channels and a part of one.
    let ([d, h, w], halo) = ([5, 3, 11], 6 * 6 * 10 * 48);
    // Bricks of 4 x 4 x 8 voxels.
    let blocks = 2 * 2;
    let tiles: [(_, usize, _, _); 2] = [("", 64, [24, 8], [2, 9]), ("_few", 32, [2, 0], [1, 3])];
    for (dtype, size) in [("bf16", 2), ("f32", 4)] {
        for (few, tile, [first, second], [halos, taps]) in tiles {
            let zeros = |name, elements: usize| upload(device, name, &vec![0u8; elements * size]);
            let (voxels, out, chunk) = (d * h * w, tile + 8, 32 / size);
            let chunks = [first, second].map(|c: usize| c.div_ceil(chunk)).iter().sum::<usize>();
            let rows = if few.is_empty() { 27 * chunks } else { 9 };
            let packed = zeros("weight", out.next_multiple_of(tile) * rows * chunk);
            let inputs = [first, second].map(|c| zeros("x", (voxels * c).max(1)));
            let bias = upload(device, "bias", &vec![0.0f32; out]);
            let pointers = [zeros("y", voxels * out), inputs[0], inputs[1], packed, bias];
            let sizes = [d, h, w, first, second, out, 1].map(|n| Arg::I32(n as i32));
            let name = format!("conv3d_fwd_{dtype}{few}_n{tile}");
            let shared = (halos * halo + 3 * taps * 32 * tile) as u32;
            let config = LaunchConfig {
                grid: [blocks, out.div_ceil(tile) as u32, 1],
                block: [128, 1, 1],
                shared_bytes: shared,
            };
            device.allow_shared(&name, shared).unwrap();
            let args = [&pointers.map(Arg::from)[..], &sizes].concat();
            device.launch(&name, &config, &args).unwrap();
        }
    }
}

/// A volume as a scanner stores it.
fn int16_view(device: &Emulated) {
    let [y, volume] =
        [("y", 4), ("volume", 2)].map(|(n, size)| upload(device, n, &vec![0u8; 5 * 6 * 7 * size]));
    let rows: Vec<i32> = (0..5 * 6 * 7).rev().collect();
    let rows = upload(device, "rows", &rows);
    let view = [1i64 << 32, 0, 1 << 31, 1 << 32, 1 << 31, -(1 << 30)];
    // Patches of one voxel.
    let sizes = [5, 6, 7, 6, 7, 1].map(Arg::I32);
    let view = [Arg::Pod(bytemuck::bytes_of(&view))];
    let args = [&[y, volume, rows].map(Arg::from)[..], &view, &sizes].concat();
    let config = LaunchConfig { grid: [1, 5, 1], block: [256, 1, 1], shared_bytes: 0 };
    device.launch("view_cut_fwd_i16", &config, &args).unwrap();
    device.launch("view_cut_fwd_i16_half", &config, &args).unwrap();
}

#[test]
fn every_kernel_runs() {
    let device = Device::emulated(Mode::Plain, Schedule::Shuffled(5));
    let Device::Emulated(emulated) = &device else { unreachable!() };
    for op in OPS.iter().filter(|op| op.has_kernels()) {
        for (i, case) in op.cases().into_iter().enumerate() {
            for dtype in [DType::F32, DType::Bf16] {
                let inputs = rounded(op.inputs(&case), dtype);
                let adds = (i % 2 == 0) == (dtype == DType::F32);
                let before = if adds { Before::Gradients } else { Before::Nothing };
                run_onto(*op, &case, &inputs, &device, dtype, before)
                    .unwrap_or_else(|e| panic!("{} {} {dtype}: {e}", op.name(), case.label));
            }
        }
    }
    large_tiles(emulated);
    wide_convolutions(emulated);
    int16_view(emulated);
    let launched = emulated.launched();
    let missing: Vec<_> = KERNELS
        .iter()
        .filter(|k| !matches!(k.file, "faults" | "primitives") && !k.needs_hopper())
        .filter(|k| !launched.contains(&k.name))
        .map(|k| k.name)
        .collect();
    assert!(missing.is_empty(), "never launched: {missing:?}");
    println!("{} kernels ran", launched.len());
}

/// Runs a fault in a process of its own, which does nothing without this.
const CHILD: &str = "GLMAE_TEST_SANITIZED_CHILD";

#[test]
fn child() {
    let Ok(fault) = std::env::var(CHILD) else { return };
    let device = device(Mode::Plain, Schedule::Ascending);
    let y = out_of(&device, 100);
    let launch =
        |name: &str, config: LaunchConfig, args: &[Arg]| device.launch(name, &config, args);
    let one = LaunchConfig::linear(1, 64);
    let result = match fault.as_str() {
        "write" => {
            launch("fault_global_write_past_end", LaunchConfig::linear(2, 64), &[y, Arg::I32(100)])
        }
        "read" => {
            let x = upload(&device, "x", &[1.0f32; 64]);
            launch("fault_global_read_before_start", one, &[y, x.into()])
        }
        "copy" => {
            let (y, x) = (out_of(&device, 256), upload(&device, "x", &[1.0f32; 255]));
            launch("fault_async_copy", one, &[y, x.into(), Arg::I32(0)])
        }
        "shared" => launch("fault_dynamic_shared_past_end", one.shared(256), &[y, Arg::I32(1)]),
        "overflow" => {
            launch("fault_index_overflow", LaunchConfig::linear(1, 1), &[y, Arg::I32(50_000)])
        }
        "nothing" => launch("fault_global_write_past_end", one, &[y, Arg::I32(100)]),
        other => panic!("no fault '{other}'"),
    };
    if let Err(error) = result {
        eprintln!("launch failed: {error}");
        std::process::exit(9);
    }
}

/// The sanitizers see what they are there for, and name the kernel's line.
#[test]
fn faults_are_reported() {
    let address = "AddressSanitizer: use-after-poison";
    for (fault, parts) in [
        ("write", &[address, "WRITE of size 4", "faults.cu"][..]),
        ("read", &[address, "READ of size 4", "faults.cu"]),
        ("copy", &[address, "READ of size 16", "memcpy"]),
        ("shared", &[address, "WRITE of size 4", "faults.cu"]),
        ("overflow", &["integer overflow", "faults.cu"]),
        ("nothing", &[]),
    ] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "emulator::sanitized::child", "--nocapture"])
            .env(CHILD, fault)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), parts.is_empty(), "{fault}: {text}");
        for part in parts {
            assert!(text.contains(part), "{fault}: no '{part}' in: {text}");
        }
    }
}
