use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::prepare::prepare_volume;
use super::super::volume::Volume;
use super::*;
use crate::rng::{Purpose, Rng};

const VOXELS: usize = 64;

fn cases(n: usize) -> Vec<Case> {
    let images = |i: usize| vec![format!("{i}.nii").into()];
    (0..n).map(|i| Case { id: i.to_string(), images: images(i), label: None }).collect()
}

/// A case of its number and a half, in turns, prepared after a time that differs from case to case.
fn make(case: &Case) -> Result<Prepared> {
    let number: u64 = case.id.parse().unwrap();
    std::thread::sleep(Duration::from_micros(number * 7919 % 13 * 100));
    let affine = [[1., 0., 0., 0.], [0., 1., 0., 0.], [0., 0., 1., 0.], [0., 0., 0., 1.]];
    let data = (0..VOXELS).map(|i| number as f32 + 0.5 * (i % 2) as f32).collect();
    let volume = Volume::new(data, 1, [4, 4, 4], affine, 0)?;
    let config = PrepareConfig {
        intensity: crate::data::Intensity::Identity,
        foreground_threshold: None,
        ..PrepareConfig::default()
    };
    prepare_volume(&case.id, volume, Path::new("memory"), &config)
}

fn make_or_fail(bad: &'static [usize]) -> impl Fn(&Case) -> Result<Prepared> + Send + Sync {
    move |case| match bad.iter().position(|b| b.to_string() == case.id) {
        Some(i) if i % 2 == 1 => panic!("made to panic"),
        Some(_) => Err(Error::data(&case.id, "made to fail")),
        None => make(case),
    }
}

/// Three random cases a step.
fn plan(n: u64) -> impl Fn(u64) -> Vec<usize> + Send {
    move |step| {
        let mut rng = Rng::new(4, Purpose::Test, step, 0, 0);
        (0..3).map(|_| rng.below(n) as usize).collect()
    }
}

fn config(threads: usize, cases: usize) -> LoaderConfig {
    LoaderConfig { threads, cache_bytes: cases * VOXELS * 4, ..LoaderConfig::default() }
}

fn served(loader: &mut Loader, steps: std::ops::Range<u64>) -> Vec<Vec<String>> {
    let ids = |batch: Vec<Arc<Prepared>>| batch.iter().map(|p| p.id.clone()).collect();
    steps.map(|step| ids(loader.get(step).unwrap())).collect()
}

#[test]
fn order_depends_on_neither_threads_nor_cache() {
    let bad: &[usize] = &[3, 4, 17];
    let mut seen = Vec::new();
    for (threads, cache) in [(1, 0), (2, 5), (8, 7), (3, 400)] {
        let config = LoaderConfig { max_bad_share: 0.2, ..config(threads, cache) };
        let mut loader =
            Loader::with_prepare(cases(40), make_or_fail(bad), plan(40), config).unwrap();
        let batches = served(&mut loader, 0..60);
        seen.push((batches, loader.quarantined().to_vec()));
    }
    assert!(seen.iter().all(|s| *s == seen[0]));
    let (batches, quarantined) = &seen[0];
    // Case 3 and the panicking case 4 are replaced by 5, case 17 by 18.
    let planned: Vec<Vec<String>> = (0..60)
        .map(|s| {
            let good = |i| match i {
                3 | 4 => 5,
                17 => 18,
                i => i,
            };
            plan(40)(s).into_iter().map(|i| good(i).to_string()).collect()
        })
        .collect();
    assert_eq!(*batches, planned);
    assert_eq!(quarantined.len(), 3);
    let reason = |i| &quarantined.iter().find(|q| q.index == i).unwrap().reason;
    assert!(reason(4).contains("made to panic") && reason(3).contains("made to fail"));
}

#[test]
fn a_later_start_serves_the_same_steps() {
    let mut whole = Loader::with_prepare(cases(9), make, plan(9), config(2, 4)).unwrap();
    let mut resumed = Loader::with_prepare(cases(9), make, plan(9), config(2, 4)).unwrap();
    assert_eq!(served(&mut whole, 0..20)[12..], served(&mut resumed, 12..20)[..]);
}

#[test]
fn cache_saves_decoding_and_keeps_its_budget() {
    let all = |_| (0..6).collect::<Vec<usize>>();
    let mut loader = Loader::with_prepare(cases(6), make, all, config(2, 6)).unwrap();
    served(&mut loader, 0..5);
    let stats = loader.stats();
    assert_eq!((stats.decoded, stats.served), (6, 30));
    assert!(stats.wait > Duration::ZERO);

    // Room for four: what a step needs, and what fits ahead.
    let mut loader = Loader::with_prepare(cases(50), make, plan(50), config(4, 4)).unwrap();
    for step in 0..50 {
        loader.get(step).unwrap();
        let bytes = loader.stats().cached_bytes;
        assert!(bytes <= 4 * VOXELS * 4, "step {step}: {bytes} bytes");
    }
}

#[test]
fn too_many_bad_cases_end_the_run() {
    let all = |n: usize| move |_| (0..n).collect::<Vec<usize>>();
    let run = |n: usize, bad: &'static [usize], share: f64| {
        let config = LoaderConfig { max_bad_share: share, ..config(2, 1000) };
        Loader::with_prepare(cases(n), make_or_fail(bad), all(n), config).unwrap().get(0)
    };
    // One is tolerated in a small set, two are not; 1 % of 200 are two, not three.
    assert!(run(6, &[2], 0.01).is_ok());
    assert!(run(6, &[2, 5], 0.01).is_err());
    assert!(run(200, &[2, 5], 0.01).is_ok());
    assert!(run(200, &[2, 5, 9], 0.01).is_err());
    // A strict set, a set of one, a set without any good case.
    assert!(run(6, &[2], 0.0).is_err());
    assert!(run(1, &[0], 1.0).is_err());
    let error = run(4, &[0, 1, 2, 3], 1.0).unwrap_err();
    assert_eq!(error.exit_code(), crate::error::exit::DATA);
    assert!(error.to_string().contains("4 of 4 cases"), "{error}");
}

#[test]
fn errors_that_are_not_the_file_s_fault_come_through() {
    let prepare = |_: &Case| Err(Error::OutOfMemory("made up".to_owned()));
    let mut loader: Loader =
        Loader::with_prepare(cases(3), prepare, |_| vec![1], config(2, 3)).unwrap();
    assert!(matches!(loader.get(0), Err(Error::OutOfMemory(_))));
    assert!(loader.quarantined().is_empty());
    let mut loader = Loader::with_prepare(cases(3), make, |_| vec![3], config(2, 3)).unwrap();
    assert!(matches!(loader.get(0), Err(Error::Config(_))));
}

#[test]
fn dropping_ends_the_threads() {
    static RUNNING: AtomicUsize = AtomicUsize::new(0);
    let prepare = |case: &Case| {
        RUNNING.fetch_add(1, Ordering::SeqCst);
        let made = make(case);
        RUNNING.fetch_sub(1, Ordering::SeqCst);
        made
    };
    let mut loader = Loader::with_prepare(cases(30), prepare, plan(30), config(8, 100)).unwrap();
    loader.get(0).unwrap();
    let shared = Arc::downgrade(&loader.shared);
    drop(loader);
    assert_eq!(RUNNING.load(Ordering::SeqCst), 0);
    assert!(shared.upgrade().is_none());
}
