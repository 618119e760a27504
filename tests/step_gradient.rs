//! Gradient check of a whole GL-MAE step: every parameter entry, every objective.

use glmae::config::Config;
use glmae::device::{DType, Device, Tensor};
use glmae::glmae::batch::{Batch, BatchShape};
use glmae::glmae::mask::Mask;
use glmae::glmae::model::{Networks, Weights};
use glmae::glmae::objective::{StepPlan, forward};
use glmae::glmae::plan::Predict;
use glmae::lab::opcheck::{GRAD_ATOL, GRAD_RTOL};
use glmae::rng::{Purpose, Rng};
use glmae::tape::{ParamGrads, Tape};

const MINI: &str = r#"
[model]
in_chans = 2
patch = 2
dim = 12
depth = 1
heads = 3
mlp_ratio = 1.5
dec_dim = 8
dec_depth = 1
dec_heads = 2
[head]
hidden = 6
bottleneck = 5
prototypes = 7
norm_last_layer = false
[views]
global_size = [4, 6, 4]
local_size = [4, 4, 2]
n_global = 2
n_local = 2
mask_ratio = 0.5
[loss]
beta1 = 0.7
beta2 = 0.4
gg_pairs = "all"
[train]
batch = 2
"#;

fn random(len: usize, stream: u32, mean: f64, std: f64) -> Vec<f64> {
    let mut rng = Rng::new(11, Purpose::Test, 0, stream, 0);
    (0..len).map(|_| mean + std * rng.normal()).collect()
}

fn check(settings: &[&str]) -> usize {
    let set: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
    let config = Config::parse(MINI, "mini", &set).unwrap();
    let (device, dtype) = (Device::Cpu, DType::F64);
    let nets = Networks::new(&device, dtype, &config).unwrap();
    let mut weights = Weights::init(&device, dtype, &config, &nets).unwrap();
    // No bias is zero, no scale is one, and the teacher is apart from the student.
    for (stream, params) in
        [Some(&mut weights.student), weights.teacher.as_mut()].into_iter().enumerate()
    {
        let Some(params) = params else { continue };
        let noise = random(params.flat().len(), stream as u32, 0.0, 0.05);
        let flat = params.flat_mut().host_mut::<f64>().unwrap();
        flat.iter_mut().zip(noise).for_each(|(x, n)| *x += n);
    }
    let shape = BatchShape::new(&config, 2);
    let masks = shape.kinds().enumerate().map(|(i, kind)| {
        let tokens = shape.tokens(kind);
        let mut rng = Rng::new(11, Purpose::Mask, 0, 0, i as u32);
        Mask::random(&mut rng, tokens, config.views.visible(tokens))
    });
    let voxels = random(shape.voxels(), 9, 0.3, 1.0);
    let voxels = Tensor::from_slice(&device, &voxels, &[voxels.len()]).unwrap();
    let batch = Batch::from_views(dtype, &shape, masks.collect(), &voxels).unwrap();
    let plan = StepPlan::new(&device, &config, &nets, &batch, Predict::Masked).unwrap();

    let inv_tau = Tensor::from_slice(&device, &[1.0 / 0.3], &[1]).unwrap();
    let mut grads = ParamGrads::new(&device, dtype, weights.student.layout()).unwrap();
    let mut tape = Tape::new(&device);
    let pass = forward(&mut tape, &config, &nets, &weights, &batch, &plan, &inv_tau).unwrap();
    let total = pass.total.clone();
    drop(pass);
    tape.backward(&total, &mut grads).unwrap();
    let analytic = grads.finish(weights.student.layout()).unwrap().to_f64_vec().unwrap();

    let entries = weights.student.layout().entries().to_vec();
    let mut checked = 0;
    for entry in entries.iter().filter(|e| e.trains) {
        for i in entry.range() {
            let mut loss = |h: f64| {
                let x = weights.student.flat_mut().host_mut::<f64>().unwrap();
                let old = x[i];
                x[i] += h;
                let mut tape = Tape::inference(&device);
                let pass =
                    forward(&mut tape, &config, &nets, &weights, &batch, &plan, &inv_tau).unwrap();
                let value = pass.losses.read().unwrap().total;
                drop(pass);
                drop(tape);
                weights.student.flat_mut().host_mut::<f64>().unwrap()[i] = old;
                value
            };
            let slope = |h: f64, loss: &mut dyn FnMut(f64) -> f64| (loss(h) - loss(-h)) / (2.0 * h);
            let h = 1e-3;
            let numeric = (4.0 * slope(h / 2.0, &mut loss) - slope(h, &mut loss)) / 3.0;
            let gap = (analytic[i] - numeric).abs();
            assert!(
                gap <= GRAD_ATOL + GRAD_RTOL * numeric.abs(),
                "{settings:?} {}[{}]: analytic {} numeric {numeric}",
                entry.name,
                i - entry.offset,
                analytic[i]
            );
            checked += 1;
        }
    }
    checked
}

#[test]
fn gradients_of_whole_steps() {
    let mut total = 0;
    for settings in [
        &["loss.objective=gl-mae"][..],
        &["loss.objective=mae3d", "loss.norm_pix=false"],
        &["loss.objective=+global", "model.shared_decoder=false"],
        &["loss.objective=+g2g", "loss.teacher_targets=standardise", "model.recompute=true"],
        &["loss.objective=+l2g", "loss.teacher_targets=sinkhorn"],
    ] {
        let checked = check(settings);
        println!("{settings:?}: {checked} parameter entries checked, 0 skipped");
        total += checked;
    }
    println!("{total} parameter entries of whole steps checked");
}
