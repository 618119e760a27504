use proptest::prelude::*;

use super::*;

const COLUMNS: [&str; 2] = ["loss", "lr"];

/// Steps and their losses in a CSV file, read by an independent reader.
fn csv_rows(path: &Path) -> Vec<(u64, f64)> {
    let mut reader = csv::Reader::from_path(path).unwrap();
    reader
        .records()
        .map(|r| r.unwrap())
        .map(|r| (r[0].parse().unwrap(), r[1].parse().unwrap()))
        .collect()
}

fn json_steps(path: &Path) -> Vec<u64> {
    let parse = |l: &str| serde_json::from_str::<Value>(l).unwrap()["step"].as_u64().unwrap();
    fs::read_to_string(path).unwrap().lines().map(parse).collect()
}

#[test]
fn rows_read_as_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.csv");
    let mut log = CsvLog::open(&path, None, &COLUMNS).unwrap();
    log.log(1, &[("lr", 1e-300), ("loss", 0.1)]).unwrap();
    log.log(2, &[("loss", f64::NAN)]).unwrap();
    log.log(5, &[("loss", f64::NEG_INFINITY), ("lr", 1.5e-4)]).unwrap();
    log.sync().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text, "step,loss,lr\n1,0.1,1e-300\n2,NaN,\n5,-inf,0.00015\n");
    for (step, values) in [(5, ("loss", 1.0)), (4, ("loss", 1.0)), (6, ("no", 1.0))] {
        assert!(matches!(log.log(step, &[values]), Err(Error::Data { .. })));
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), text, "a refused row left a trace");
    for bad in [&["a,b"][..], &["step"], &[""], &["a", "a"], &["a\nb"], &["\""]] {
        assert!(matches!(CsvLog::open(&path, Some(9), bad), Err(Error::Config(_))), "{bad:?}");
    }
}

#[test]
fn json_has_no_bare_nan() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.jsonl");
    let mut log = JsonLog::open(&path, None).unwrap();
    log.log(3, &[("loss", f64::NAN), ("a\"b", f64::INFINITY), ("lr", 1e-300)]).unwrap();
    let fields = Map::from_iter([("path".to_owned(), Value::from("x\ny"))]);
    log.event(3, "checkpoint", fields.clone()).unwrap();
    assert!(log.event(2, "late", fields).is_err());
    assert!(log.event(4, "x", Map::from_iter([("step".to_owned(), Value::from(1))])).is_err());
    let text = fs::read_to_string(&path).unwrap();
    let records: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(records.len(), 2);
    assert!(text.starts_with("{\"step\":3,\"kind\":\"step\","));
    assert_eq!((&records[0]["loss"], &records[0]["a\"b"]), (&"NaN".into(), &"Infinity".into()));
    assert_eq!(records[0]["lr"], 1e-300);
    assert_eq!((&records[1]["kind"], &records[1]["path"]), (&"checkpoint".into(), &"x\ny".into()));
}

#[test]
fn new_columns_are_added_to_an_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.csv");
    CsvLog::open(&path, None, &[]).unwrap().log(1, &[]).unwrap();
    CsvLog::open(&path, Some(1), &["b"]).unwrap().log(2, &[("b", 2.0)]).unwrap();
    CsvLog::open(&path, Some(2), &["a", "b"]).unwrap().log(3, &[("a", 3.0)]).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "step,b,a\n1,,\n2,2,\n3,,3\n");
}

#[test]
fn a_foreign_file_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.csv");
    for text in ["my,thesis\n1,2\n", "steps,loss\n1,2\n"] {
        fs::write(&path, text).unwrap();
        for keep in [None, Some(3)] {
            assert!(matches!(CsvLog::open(&path, keep, &COLUMNS), Err(Error::Data { .. })));
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}

#[test]
fn damaged_lines_are_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.csv");
    fs::write(&path, b"step,loss,lr\n1,1,1\n2,2\n\0\0\0\0,,\n3,\xff,1\n3,3,3\n3,9,9\n4,4,4\n5,5,5")
        .unwrap();
    CsvLog::open(&path, Some(4), &COLUMNS).unwrap();
    assert_eq!(csv_rows(&path), [(1, 1.0), (3, 3.0), (4, 4.0)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// A run of `n` steps is killed with the file cut at any byte, then resumed from any step and
    /// finished: every surviving row of a step up to the checkpoint is there once, with its value,
    /// steps increase, and nothing of the dead future is left.
    #[test]
    fn kill_anywhere_resume_anywhere(n in 1u64..30, cut in 0.0f64..=1.0, resume in 0u64..30) {
        let dir = tempfile::tempdir().unwrap();
        let (csv, json) = (dir.path().join("m.csv"), dir.path().join("l.jsonl"));
        let value = |run: u64, step: u64| (run * 1000 + step) as f64 / 7.0;
        {
            let mut c = CsvLog::open(&csv, None, &COLUMNS).unwrap();
            let mut j = JsonLog::open(&json, None).unwrap();
            for step in 1..=n {
                c.log(step, &[("loss", value(1, step))]).unwrap();
                j.log(step, &[("loss", value(1, step))]).unwrap();
            }
        }
        let mut survivors = Vec::new();
        for path in [&csv, &json] {
            let bytes = fs::read(path).unwrap();
            let bytes = &bytes[..(bytes.len() as f64 * cut) as usize];
            survivors.push(bytes.iter().filter(|b| **b == b'\n').count() as u64);
            fs::write(path, bytes).unwrap();
        }
        let (csv_rows_left, json_rows_left) = (survivors[0].saturating_sub(1), survivors[1]);
        let mut c = CsvLog::open(&csv, Some(resume), &COLUMNS).unwrap();
        let mut j = JsonLog::open(&json, Some(resume)).unwrap();
        for step in resume + 1..=resume + 3 {
            c.log(step, &[("loss", value(2, step))]).unwrap();
            j.log(step, &[("loss", value(2, step))]).unwrap();
        }
        let wanted = |left: u64| -> Vec<(u64, f64)> {
            let old = (1..=left.min(resume)).map(|s| (s, value(1, s)));
            old.chain((resume + 1..=resume + 3).map(|s| (s, value(2, s)))).collect()
        };
        prop_assert_eq!(csv_rows(&csv), wanted(csv_rows_left));
        let steps: Vec<u64> = wanted(json_rows_left).iter().map(|r| r.0).collect();
        prop_assert_eq!(json_steps(&json), steps);
    }

    /// Any finite or infinite f64 comes back with the same bits.
    #[test]
    fn numbers_round_trip(bits in any::<u64>()) {
        let x = f64::from_bits(bits);
        prop_assume!(!x.is_nan());
        prop_assert_eq!(number(x).parse::<f64>().unwrap().to_bits(), bits);
        prop_assert!(number(x).len() <= 25);
    }
}
