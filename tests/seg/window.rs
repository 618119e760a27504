//! Sliding windows with a naive convolution as predictor, against MONAI 1.6.1.

use glmae::seg::window::{Blender, Blending, WindowGrid};

use super::{Reference, distance};

/// `conv3d(x, weight, bias, zero padding 1) + ramp` on a window: `[2, roi]` from `[roi]`.
fn predict(x: &[f64], roi: [usize; 3], weight: &[f64], bias: &[f64], ramp: &[f64]) -> Vec<f64> {
    let [nd, nh, nw] = roi;
    let count = nd * nh * nw;
    let at = |v: [isize; 3]| -> f64 {
        let inside = (0..3).all(|a| (0..roi[a] as isize).contains(&v[a]));
        if inside { x[(v[0] as usize * nh + v[1] as usize) * nw + v[2] as usize] } else { 0.0 }
    };
    let mut out = ramp.to_vec();
    for (i, y) in out.iter_mut().enumerate() {
        let (c, p) = (i / count, i % count);
        let here = [p / (nh * nw), p / nw % nh, p % nw].map(|v| v as isize);
        *y += bias[c];
        for k in 0..27 {
            let tap = [k / 9, k / 3 % 3, k % 3].map(|v| v as isize - 1);
            *y += weight[c * 27 + k] * at([0, 1, 2].map(|a| here[a] + tap[a]));
        }
    }
    out
}

#[test]
fn windows_equal_monai() {
    let Some(file) = Reference::open("window") else { return };
    let (weight, bias) = (file.values("weight"), file.values("bias"));
    let sigma_scale = file.json("sigma_scale").as_f64().unwrap();
    let mut cases = 0;
    for (name, about) in file.cases() {
        let get = |part: &str| file.values(&format!("{name}.{part}"));
        let (dims, roi) = (file.dims(&format!("{name}.x")), file.dims(&format!("{name}.ramp")));
        let grid = WindowGrid::new(dims, roi, about["overlap"].as_f64().unwrap()).unwrap();
        let starts: Vec<f64> = grid.windows().flatten().map(|v| v as f64).collect();
        assert_eq!(starts, get("starts"), "{name}");
        assert_eq!(
            grid.pad_before.map(|n| n as u64).to_vec(),
            serde_json::from_value::<Vec<u64>>(about["pad_before"].clone()).unwrap()
        );
        let stored: Vec<f32> = get("importance").iter().map(|&v| v as f32).collect();
        let ours = Blending::Gaussian { sigma_scale }.importance(roi);
        let as_f64 = |v: &[f32]| v.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        assert!(distance(&as_f64(&ours), &as_f64(&stored)) <= 1e-6, "{name}");
        let constant = Blending::Constant.importance(roi);
        let count: usize = dims.iter().product();
        // With MONAI's own map the numbers are the same; with ours they are within its rounding.
        for (mode, importance, bound) in [
            ("constant", &constant, 1e-12),
            ("gaussian", &stored, 1e-12),
            ("gaussian", &ours, 1e-6),
        ] {
            let mut result = Vec::new();
            for x in get("x").chunks_exact(count) {
                let mut scores = vec![0.0; 2 * count];
                let slab = dims[1] * dims[2];
                let mut blender = Blender::<f64>::new(&grid, 2, importance).unwrap();
                let mut window = vec![0.0; roi.iter().product()];
                for start in grid.windows() {
                    grid.cut(x, start, &mut window).unwrap();
                    let predicted = predict(&window, roi, &weight, &bias, &get("ramp"));
                    let mut keep = |d: usize, values: &[f64]| {
                        for (c, channel) in values.chunks_exact(slab).enumerate() {
                            scores[c * count + d * slab..][..slab].copy_from_slice(channel);
                        }
                        Ok(())
                    };
                    blender.add(&predicted, &mut keep).unwrap();
                }
                result.append(&mut scores);
            }
            let gap = distance(&result, &get(mode));
            println!("{name:8} {mode:8} {gap:9.2e} of {bound:.0e}");
            assert!(gap <= bound, "{name} {mode}: {gap:e}");
        }
        cases += 1;
    }
    assert_eq!(cases, 5);
}
