//! Helpers of this folder's tests: random inputs and the bounds of the numerics table.

use crate::rng::{Purpose, Rng};

/// Normal numbers named by a seed.
pub(crate) fn normal(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = Rng::new(seed, Purpose::Test, 0, 0, 0);
    (0..n).map(|_| (rng.normal()) as f32).collect()
}

/// Fails unless NMSE <= 1e-10 and every |got - want| <= bound(i), naming the worst element.
pub(crate) fn assert_close(what: &str, got: &[f32], want: &[f64], bound: impl Fn(usize) -> f64) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    let (mut error, mut power, mut worst, mut at) = (0.0f64, 0.0f64, 0.0f64, 0);
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(g.is_finite(), "{what}[{i}] is {g}, expected {w}");
        let e = f64::from(*g) - w;
        error += e * e;
        power += w * w;
        let r = e.abs() / bound(i).max(1e-30);
        if r > worst {
            (worst, at) = (r, i);
        }
    }
    assert!(
        worst <= 1.0,
        "{what}[{at}]: got {}, expected {}, {worst:.2} times the bound",
        got[at],
        want[at]
    );
    assert!(error <= 1e-10 * power + 1e-60, "{what}: NMSE {}", error / power);
}

/// Runs `f` in pools of 1, 2 and 3 threads and checks that its result has the same bits.
pub(crate) fn same_bits_for_any_threads(f: impl Fn() -> Vec<f32> + Sync) {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(&f).iter().map(|x| x.to_bits()).collect::<Vec<_>>()
    };
    let one = run(1);
    assert!(one == run(2), "2 threads differ from 1");
    assert!(one == run(3), "3 threads differ from 1");
}
