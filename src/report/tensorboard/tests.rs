use proptest::prelude::*;

use super::*;

/// (step, tags) of every summary in a folder, in the order in which readers see them.
fn summaries(dir: &Path) -> Vec<u64> {
    let mut steps = Vec::new();
    for path in event_files(dir).unwrap() {
        let bytes = fs::read(path).unwrap();
        let heads = record::records(&bytes).map(|r| protobuf::event_head(r.data));
        steps.extend(heads.filter(|h| h.has_summary).map(|h| h.step));
    }
    steps
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Bytes made with the protobuf classes of tensorboard 2.21.0 (`SerializeToString`) and framed with
/// its `crc32c` and mask; see `scripts/check-tensorboard.py --golden`.
#[test]
fn golden_records() {
    let scalar = scalars_event(1.7e9, 300, &[("loss/total", 0.5), ("lr", 0.0)]);
    assert_eq!(hex(&record::frame(scalar.as_bytes())), include_str!("golden_scalar.hex").trim());
    let mut version = Message::default();
    version.double(1, 1.7e9);
    version.bytes(3, FILE_VERSION.as_bytes());
    assert_eq!(hex(&record::frame(version.as_bytes())), include_str!("golden_version.hex").trim());
}

#[test]
fn a_file_begins_with_version_and_start() {
    let dir = tempfile::tempdir().unwrap();
    let writer = EventWriter::open(dir.path(), Some(41)).unwrap();
    let bytes = fs::read(writer.path()).unwrap();
    let heads: Vec<_> = record::records(&bytes).map(|r| protobuf::event_head(r.data)).collect();
    assert_eq!(heads.len(), 2);
    assert!(heads[0].is_version && !heads[1].is_version);
    assert_eq!((heads[1].step, heads[1].has_summary, heads[1].is_session), (42, false, true));
}

#[test]
fn restarts_within_a_second_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for (run, clock) in [100.0, 100.0, 50.0].into_iter().enumerate() {
        let mut writer = EventWriter::open_at(dir.path(), Some(run as u64), clock).unwrap();
        writer.scalars(run as u64 + 1, &[("a", 1.0)]).unwrap();
        paths.push(writer.path().to_owned());
    }
    assert_eq!(event_files(dir.path()).unwrap(), paths);
    assert_eq!(summaries(dir.path()), [1, 2, 3]);
}

#[test]
fn a_fresh_start_keeps_nothing_and_touches_no_other_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    EventWriter::open(dir.path(), None).unwrap().scalars(0, &[("a", 1.0)]).unwrap();
    EventWriter::open(dir.path(), None).unwrap();
    assert_eq!(event_files(dir.path()).unwrap().len(), 1);
    assert!(summaries(dir.path()).is_empty());
    assert!(dir.path().join("notes.txt").exists());
}

#[test]
fn damage_in_the_middle_costs_one_record() {
    let mut bytes = Vec::new();
    for step in 1..=3 {
        bytes.extend(record::frame(scalars_event(0.0, step, &[("a", 1.0)]).as_bytes()));
    }
    let one = bytes.len() / 3;
    let steps = |b: &[u8]| -> Vec<u64> {
        record::records(b).map(|r| protobuf::event_head(r.data).step).collect()
    };
    assert_eq!(steps(&bytes), [1, 2, 3]);
    let mut flipped = bytes.clone();
    flipped[one + 20] ^= 1;
    assert_eq!(steps(&flipped), [1, 3]);
    // A damaged length cannot be passed over, and must not be believed.
    let mut flipped = bytes.clone();
    flipped[one + 6] ^= 1;
    assert_eq!(steps(&flipped), [1]);
    bytes.extend([0; 64]);
    assert_eq!(steps(&bytes), [1, 2, 3]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Kill with the file cut at any byte, resume from any step: no step twice, steps increase,
    /// and the whole records up to the checkpoint survive.
    #[test]
    fn kill_anywhere_resume_anywhere(n in 1u64..20, cut in 0.0f64..=1.0, resume in 0u64..20) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::open(dir.path(), None).unwrap();
        for step in 1..=n {
            writer.scalars(step, &[("loss", step as f64)]).unwrap();
        }
        let bytes = fs::read(writer.path()).unwrap();
        let bytes = &bytes[..(bytes.len() as f64 * cut) as usize];
        fs::write(writer.path(), bytes).unwrap();
        let left = summaries(dir.path()).len() as u64;
        let mut writer = EventWriter::open(dir.path(), Some(resume)).unwrap();
        for step in resume + 1..=resume + 3 {
            writer.scalars(step, &[("loss", step as f64)]).unwrap();
        }
        let wanted: Vec<u64> = (1..=left.min(resume)).chain(resume + 1..=resume + 3).collect();
        prop_assert_eq!(summaries(dir.path()), wanted);
    }

    /// No bytes make the readers panic or loop.
    #[test]
    fn garbage_is_harmless(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        protobuf::event_head(&bytes);
        prop_assert!(record::records(&bytes).count() <= bytes.len() / 16);
        let mut framed = record::frame(&bytes);
        framed.extend_from_slice(&bytes);
        prop_assert!(record::records(&framed).next().is_some_and(|r| r.data == bytes));
    }
}

/// TensorBoard ignores the first START it sees; were it cut off, the next one would purge nothing.
#[test]
fn the_start_of_a_kept_file_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = EventWriter::open(dir.path(), None).unwrap();
    first.scalars(1, &[("a", 1.0)]).unwrap();
    first.scalars(2, &[("a", 1.0)]).unwrap();
    EventWriter::open(dir.path(), Some(1)).unwrap();
    let bytes = fs::read(first.path()).unwrap();
    let heads: Vec<_> = record::records(&bytes).map(|r| protobuf::event_head(r.data)).collect();
    let starts: Vec<u64> = heads.iter().filter(|h| h.is_session).map(|h| h.step).collect();
    assert_eq!((starts, summaries(dir.path())), (vec![0], vec![1]));
}

/// Leaves an event folder for `scripts/check-tensorboard.py` where `GLMAE_REPORT_OUT` points to.
#[test]
fn folder_for_tensorboard() {
    let temp = tempfile::tempdir().unwrap();
    let out = std::env::var_os("GLMAE_REPORT_OUT").map(PathBuf::from);
    let dir = out.as_deref().unwrap_or(temp.path()).join("tb");
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, 3, 2);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(&[200; 18]).unwrap();
    let mut killed = EventWriter::open(&dir, None).unwrap();
    killed.text(0, "config", "    seed = 1").unwrap();
    for step in 1..=8 {
        killed.scalars(step, &[("loss/total", 1.0 / step as f64), ("lr", 1e-4)]).unwrap();
    }
    killed.image(8, "recon", [3, 2], 3, &png).unwrap();
    let mut resumed = EventWriter::open(&dir, Some(5)).unwrap();
    for step in 6..=10 {
        resumed.scalars(step, &[("loss/total", 2.0 / step as f64), ("lr", 1e-4)]).unwrap();
    }
    resumed.image(10, "recon", [3, 2], 3, &png).unwrap();
    resumed.sync().unwrap();
    assert_eq!(summaries(&dir), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10]);
}
