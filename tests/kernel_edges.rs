//! What the cases of the registry do not reach: unaligned views, repeated rows, bf16 copies, a clip
//! factor and a refusal that stay on the device, segments with gaps.

use glmae::device::emulated::{Mode, Schedule};
use glmae::device::{DType, Device, Tensor, TensorMut};
use glmae::ops::adamw_ema::{AdamW, Buffers, Segment, UpdateTable, adamw_ema};
use glmae::ops::attention::Packing;
use glmae::ops::center_update::center_update;
use glmae::ops::grad_norm::grad_norm;
use glmae::ops::patch_gather::{PatchPlan, VolumeAt, VoxelOrder};
use glmae::ops::row_gather::GatherPlan;
use glmae::ops::tolerance::{distance, within_bf16};
use glmae::ops::view_cut::{PatchRows, ViewBox, view_cut};
use glmae::param_layout::ParamLayout;
use glmae::rng::{Purpose, Rng};
use glmae::tape::accumulate;
use glmae::tape::{ParamGrads, Tape, Var};

fn emulated() -> Device {
    Device::emulated(Mode::Checked, Schedule::Shuffled(5))
}

fn normal(stream: u32, n: usize) -> Vec<f64> {
    let mut rng = Rng::new(3, Purpose::Test, 0, stream, 0);
    (0..n).map(|_| f64::from(rng.normal() as f32)).collect()
}

/// Views start anywhere, so that no pointer is 16-byte aligned.
#[test]
fn unaligned_views_take_the_scalar_path() {
    for dtype in [DType::F32, DType::Bf16] {
        let device = emulated();
        let (a, b) = (normal(0, 5001), normal(1, 5001));
        let mut target = Tensor::from_f64(&device, dtype, &a, &[5001]).unwrap();
        let source = Tensor::from_f64(&device, dtype, &b, &[5001]).unwrap();
        let (was, add) = (target.to_f64_vec().unwrap(), source.to_f64_vec().unwrap());
        let piece = source.view(3, &[4500]).unwrap();
        accumulate(&mut TensorMut::new(&mut target, 1, &[4500]).unwrap(), &piece).unwrap();
        let now = target.to_f64_vec().unwrap();
        for i in 0..5001 {
            let sum = if (1..4501).contains(&i) { was[i] + add[i + 2] } else { was[i] };
            let sum = Tensor::from_f64(&Device::Cpu, dtype, &[sum], &[1]).unwrap();
            assert_eq!(now[i], sum.to_f64_vec().unwrap()[0], "{dtype} element {i}");
        }
        // Rows of 8 elements that start one element late.
        let x = source.view(1, &[600, 8]).unwrap();
        let index: Vec<usize> = (0..600).step_by(7).collect();
        let plan = GatherPlan::new(&device, 600, &index).unwrap();
        let y = Tape::inference(&device).row_gather(&Var::constant(x), &plan).unwrap();
        let y = y.value().to_f64_vec().unwrap();
        for (row, &i) in y.chunks_exact(8).zip(&index) {
            assert_eq!(row, &add[1 + i * 8..][..8], "{dtype} row {i}");
        }
    }
}

/// The tensor-core kernels read 16 bytes at a time: a view that begins elsewhere takes the others, forward
/// and backward, and so does a gradient that does.
#[test]
fn attention_takes_views_that_begin_anywhere() {
    let (heads, d, lengths) = (2, 32, [37, 5]);
    let rows: usize = lengths.iter().sum();
    let width = 3 * heads * d;
    let round =
        |v: Vec<f64>| v.iter().map(|&x| half::bf16::from_f64(x).to_f64()).collect::<Vec<_>>();
    let (data, weights) = (round(normal(20, rows * width)), round(normal(21, rows * heads * d)));
    let run = |device: &Device, dtype, [x_at, g_at]: [usize; 2]| {
        let moved = |data: &[f64], at: usize, columns: usize| {
            let padded = [&vec![0.0; at][..], data].concat();
            let whole = Tensor::from_f64(device, dtype, &padded, &[padded.len()]).unwrap();
            whole.view(at, &[rows, columns]).unwrap()
        };
        let mut tape = Tape::new(device);
        let qkv = tape.leaf(moved(&data, x_at, width));
        let packing = Packing::new(device, &lengths).unwrap();
        let y = tape.attention(&qkv, &packing, heads).unwrap();
        let seeds = [(y.clone(), moved(&weights, g_at, heads * d))];
        let layout = ParamLayout::default();
        let mut grads = ParamGrads::new(device, DType::F32, &layout).unwrap();
        let mut values = tape.backward_from(&seeds, &mut grads).unwrap();
        let gradient = values.take(&qkv).unwrap().to_f64_vec().unwrap();
        [y.value().to_f64_vec().unwrap(), gradient]
    };
    let reference = run(&Device::Cpu, DType::F64, [0, 0]);
    for at in [[0, 0], [1, 0], [0, 3], [5, 1]] {
        let device = emulated();
        for (ours, reference) in run(&device, DType::Bf16, at).iter().zip(&reference) {
            let d = distance(ours, reference);
            assert!(within_bf16(&d), "{at:?}: {d:?}");
        }
        let Device::Emulated(emulated) = &device else { unreachable!() };
        let kernels = emulated.launched().join(" ");
        let on_tensor_cores = |pass: &str| kernels.contains(&format!("attention_{pass}_bf16_d32"));
        assert_eq!(on_tensor_cores("fwd"), at[0] == 0, "{at:?}: {kernels}");
        assert_eq!(on_tensor_cores("bwd"), at == [0, 0], "{at:?}: {kernels}");
    }
}

/// A patch that several rows name gets their sum, on every device.
#[test]
fn repeated_patches_are_summed_in_order() {
    let volume = |offset| VolumeAt { offset, channels: 2, dims: [4, 8, 4] };
    let rows = [(0, 1), (1, 0), (0, 1), (1, 1), (0, 1)];
    for order in [VoxelOrder::ChannelsFirst, VoxelOrder::ChannelsLast] {
        let run = |device: &Device| {
            let plan = PatchPlan::new(device, 4, &[volume(4), volume(260)], &rows).unwrap();
            let data = normal(2, plan.rows() * plan.width());
            let shape = [plan.rows(), plan.width()];
            let x = Tensor::from_f64(device, DType::F32, &data, &shape).unwrap();
            let mut tape = Tape::inference(device);
            let out = tape.unpatchify(&Var::constant(x), &plan, order, plan.voxels() + 3).unwrap();
            out.value().to_f64_vec().unwrap()
        };
        assert_eq!(run(&emulated()), run(&Device::Cpu), "{order:?}");
    }
    let overlap = [volume(0), volume(100)];
    assert!(PatchPlan::new(&Device::Cpu, 4, &overlap, &[(0, 0)]).is_err());
}

/// A volume of int16 gives the view that the same values in f32 give.
#[test]
fn int16_volumes_are_cut_as_they_are() {
    let shape = [2, 9, 12, 37];
    let data: Vec<f64> =
        normal(4, shape.iter().product()).iter().map(|x| (x * 900.0).round()).collect();
    let native = ViewBox { mirrored: [true; 3], ..ViewBox::native([1, 2, 3], [4, 5, 33]) };
    let resized = ViewBox { start: [0.3, 1.0, 0.0], size: [8.5, 9.75, 37.0], mirrored: [false; 3] };
    for (view, size, patch) in [(native, [4, 5, 33], 1), (resized, [6, 4, 40], 2)] {
        let patches = size.iter().product::<usize>() / (patch * patch * patch);
        let order: Vec<i32> = (0..patches as i32).rev().collect();
        let cut = |device: &Device, from, dtype| {
            let volume = Tensor::from_f64(device, from, &data, &shape).unwrap();
            let rows = Tensor::from_slice(device, &order, &[patches]).unwrap();
            let to = PatchRows { size, patch, rows: &rows };
            let shape = [patches, 2 * patch * patch * patch];
            let mut out = Tensor::empty(device, dtype, &shape).unwrap();
            view_cut(&mut out.as_mut(), &volume, &view, &to).unwrap();
            out.to_f64_vec().unwrap()
        };
        let device = emulated();
        let ours = cut(&device, DType::I16, DType::F32);
        assert_eq!(ours, cut(&device, DType::F32, DType::F32));
        for (a, b) in ours.iter().zip(cut(&Device::Cpu, DType::I16, DType::F32)) {
            assert!((a - b).abs() <= 1e-3, "{a} {b}");
        }
        // A view in bf16 is the f32 view, rounded once.
        let half: Vec<f64> =
            ours.iter().map(|&x| half::bf16::from_f32(x as f32).to_f64()).collect();
        assert_eq!(half, cut(&device, DType::I16, DType::Bf16));
        assert_eq!(half, cut(&device, DType::F32, DType::Bf16));
    }
}

const SETTINGS: AdamW = AdamW {
    lr: 0.02,
    weight_decay: 0.1,
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    grad_scale: 0.25,
    ema: 0.99,
};

/// Out of order, with gaps, over several chunks, with update numbers of their own, one frozen.
fn segments() -> Vec<Segment> {
    let segment = |offset, len, decays, update| Segment { offset, len, decays, update };
    vec![
        segment(9001, 11_003, true, 3),
        segment(0, 5, false, 3),
        segment(64, 8000, true, 3),
        segment(8100, 700, true, 0),
        segment(20_032, 129, false, 1),
    ]
}
const N: usize = 20_224;
const TEACHER: usize = 9999;

struct Flat {
    params: Tensor,
    m: Tensor,
    v: Tensor,
    teacher: Tensor,
    half: Option<Tensor>,
    teacher_half: Option<Tensor>,
}

impl Flat {
    fn new(device: &Device, half: bool) -> Self {
        let tensor = |i, n| Tensor::from_f64(device, DType::F32, &normal(i, n), &[n]).unwrap();
        let squares: Vec<f64> = normal(12, N).iter().map(|x| x * x).collect();
        let copy = |t: &Tensor| {
            let data = t.to_f64_vec().unwrap();
            half.then(|| Tensor::from_f64(device, DType::Bf16, &data, t.shape()).unwrap())
        };
        let (params, teacher) = (tensor(10, N), tensor(13, TEACHER));
        let (half, teacher_half) = (copy(&params), copy(&teacher));
        let v = Tensor::from_f64(device, DType::F32, &squares, &[N]).unwrap();
        Self { params, m: tensor(11, N), v, teacher, half, teacher_half }
    }

    fn buffers<'b>(&'b mut self, grads: &'b Tensor) -> Buffers<'b> {
        Buffers {
            params: self.params.as_mut(),
            grads,
            m: &mut self.m,
            v: &mut self.v,
            teacher: Some(&mut self.teacher),
            half: self.half.as_mut().map(Tensor::as_mut),
            teacher_half: self.teacher_half.as_mut(),
        }
    }

    fn values(&self) -> Vec<Vec<f64>> {
        let all = [&self.params, &self.m, &self.v, &self.teacher];
        all.map(|t| t.to_f64_vec().unwrap()).to_vec()
    }
}

fn grads(device: &Device) -> Tensor {
    Tensor::from_f64(device, DType::F32, &normal(14, N), &[N]).unwrap()
}

#[test]
fn the_update_follows_the_cpu_and_writes_the_copies() {
    let mut ours = Flat::new(&emulated(), true);
    let device = ours.params.device().clone();
    let g = grads(&device);
    update(&SETTINGS, &mut ours, &g);
    let mut theirs = Flat::new(&Device::Cpu, false);
    let g = grads(&Device::Cpu);
    update(&SETTINGS, &mut theirs, &g);
    for (a, b) in ours.values().iter().zip(theirs.values()) {
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            assert!((a - b).abs() <= 1e-6 * (1.0 + b.abs()), "element {i}: {a} {b}");
        }
    }
    for (wide, half) in [(&ours.params, &ours.half), (&ours.teacher, &ours.teacher_half)] {
        let half = half.as_ref().unwrap().to_vec::<half::bf16>().unwrap();
        for (i, (wide, half)) in wide.to_vec::<f32>().unwrap().iter().zip(half).enumerate() {
            assert_eq!(half, half::bf16::from_f32(*wide), "element {i}");
        }
    }
    let twice = [segments()[0], Segment { offset: 9050, ..segments()[4] }];
    assert!(UpdateTable::new(&device, &SETTINGS, &twice, N, TEACHER).is_err());
}

fn update(settings: &AdamW, flat: &mut Flat, grads: &Tensor) {
    let table = UpdateTable::new(grads.device(), settings, &segments(), N, TEACHER).unwrap();
    adamw_ema(&table, None, flat.buffers(grads)).unwrap();
}

/// The factor of `grad_norm` reaches the optimiser without the host, and so does its refusal.
#[test]
fn the_clip_factor_stays_on_the_device() {
    for device in [Device::Cpu, emulated()] {
        let g = grads(&device);
        let clip = grad_norm(&g, None, 0.25, 3.0).unwrap();
        let factor = clip.to_f64_vec().unwrap()[1];
        assert!(factor > 0.0 && factor < 0.25, "{factor}");
        let mut table = UpdateTable::new(&device, &SETTINGS, &segments(), N, TEACHER).unwrap();
        let mut ours = Flat::new(&device, false);
        adamw_ema(&table, Some(&clip), ours.buffers(&g)).unwrap();
        let mut theirs = Flat::new(&device, false);
        let settings = AdamW { grad_scale: factor, ..SETTINGS };
        update(&settings, &mut theirs, &g);
        assert_eq!(ours.values(), theirs.values());

        // The same table with the numbers of another step.
        let next = AdamW { lr: 0.5, ..settings };
        table.set(&next, &segments()).unwrap();
        let (mut ours, mut theirs) = (Flat::new(&device, false), Flat::new(&device, false));
        adamw_ema(&table, None, ours.buffers(&g)).unwrap();
        update(&next, &mut theirs, &g);
        assert_eq!(ours.values(), theirs.values());
    }
}

/// One number that is not finite, in the gradients or in the loss, and nothing is updated.
#[test]
fn what_is_not_finite_changes_nothing() {
    for device in [Device::Cpu, emulated()] {
        let tensor = |x: &[f64]| Tensor::from_f64(&device, DType::F32, x, &[x.len()]).unwrap();
        let table = UpdateTable::new(&device, &SETTINGS, &segments(), N, TEACHER).unwrap();
        let good = (normal(14, N), 2.5);
        let mut cases = vec![good.clone()];
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut broken = good.clone();
            broken.0[777] = bad;
            cases.extend([broken, (good.0.clone(), bad)]);
        }
        for (i, (g, loss)) in cases.iter().enumerate() {
            let g = tensor(g);
            let clip = grad_norm(&g, Some(&tensor(&[*loss])), 0.25, 3.0).unwrap();
            assert_eq!(clip.to_f64_vec().unwrap()[0].is_finite(), i == 0, "{loss}");
            let mut kept = Flat::new(&device, device != Device::Cpu);
            let before = kept.values();
            adamw_ema(&table, Some(&clip), kept.buffers(&g)).unwrap();
            assert_eq!(kept.values() == before, i > 0, "case {i} on {device:?}");
            let mut center = tensor(&normal(3, 300));
            let logits = tensor(&normal(4, 600)).reshape(&[2, 300]).unwrap();
            center_update(&mut center, &[logits], 0.9, Some(&clip)).unwrap();
            let before = tensor(&normal(3, 300)).to_f64_vec().unwrap();
            assert_eq!(center.to_f64_vec().unwrap() == before, i > 0, "case {i} on {device:?}");
        }
    }
}
