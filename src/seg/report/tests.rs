use std::path::PathBuf;

use super::*;
use crate::seg::Region;
use crate::seg::evaluate::CaseResult;
use crate::seg::metrics::{LabelPair, measure};

fn evaluation() -> Evaluation {
    let regions = vec![Region::class(1, "liver"), Region::union(&[2, 3], "tumour")];
    let case = |id: &str, pred: [u8; 4], reference: [u8; 4]| {
        let spacing_mm = [1.0, 1.0, 2.0];
        let pair = LabelPair { pred: &pred, reference: &reference, dims: [1, 1, 4], spacing_mm };
        CaseResult {
            id: id.to_owned(),
            prediction: PathBuf::from(format!("p/{id}.nii")),
            reference: PathBuf::from(format!("r/{id}.nii")),
            metrics: measure(&pair, &regions, &[2.0]).unwrap(),
            turned: None,
            ignored_voxels: 0,
        }
    };
    // a: liver half right, tumour missed. b: liver right, tumour invented.
    let cases = vec![case("a", [1, 0, 0, 0], [1, 1, 0, 3]), case("b", [1, 1, 2, 0], [1, 1, 0, 0])];
    Evaluation {
        regions,
        tolerances_mm: vec![2.0],
        cases,
        ignore: None,
        missed: MissedDistance::LeftOut,
        notes: vec![],
    }
}

#[test]
fn json_has_the_form_of_nnunet() {
    let json = evaluation().to_json();
    let first = &json["metric_per_case"][0];
    assert_eq!(
        (&first["prediction_file"], &first["reference_file"]),
        (&"p/a.nii".into(), &"r/a.nii".into())
    );
    let liver = &first["metrics"]["1"];
    assert!((liver["Dice"].as_f64().unwrap() - 2.0 / 3.0).abs() < 1e-15);
    assert_eq!(liver["IoU"], 0.5);
    assert_eq!((&liver["HD"], &liver["NSD_2mm"]), (&2.0.into(), &1.0.into()));
    for (key, count) in [("TP", 1), ("FP", 0), ("FN", 1), ("TN", 2), ("n_pred", 1), ("n_ref", 2)] {
        assert_eq!(liver[key], count, "{key}");
    }
    // Missed: Dice 0, distances undefined. Invented: Dice undefined. JSON has only null for both.
    let missed = &first["metrics"]["(2, 3)"];
    assert_eq!((&missed["Dice"], &missed["NSD_2mm"]), (&0.0.into(), &0.0.into()));
    assert!(missed["HD95"].is_null() && missed["HD"].is_null());
    let invented = &json["metric_per_case"][1]["metrics"]["(2, 3)"];
    assert!(invented["Dice"].is_null());
    assert_eq!(invented["Dice_counting_empty"], 0.0);
    // Means: liver 5/6, tumour 0 (one case); within cases 1/3 and 1, hence 2/3.
    let dice = |v: &Value| v["Dice"].as_f64().unwrap();
    assert!((dice(&json["mean"]["1"]) - 5.0 / 6.0).abs() < 1e-15);
    assert_eq!(dice(&json["mean"]["(2, 3)"]), 0.0);
    assert!((dice(&json["foreground_mean"]) - 5.0 / 12.0).abs() < 1e-15);
    assert!((dice(&json["case_mean"]) - 2.0 / 3.0).abs() < 1e-15);
    assert_eq!(evaluation().case_mean("Dice").unwrap(), dice(&json["case_mean"]));
    assert_eq!(evaluation().case_mean("dice"), None);
    // Strict JSON: reading it back works.
    assert_eq!(serde_json::from_str::<Value>(&json.to_string()).unwrap(), json);
}

#[test]
fn csv_has_a_line_per_case_and_class() {
    let text = String::from_utf8(evaluation().to_csv().unwrap()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "case,class,name,Dice,Dice_counting_empty,IoU,HD95,HD,NSD_2mm,TP,FP,FN,TN,n_pred,n_ref"
    );
    assert_eq!(lines.len(), 5);
    assert_eq!(lines[2], "a,\"(2, 3)\",tumour,0,0,0,nan,inf,0,0,0,1,3,0,1");
    assert_eq!(lines[3], "b,1,liver,1,1,1,0,0,1,2,0,0,2,2,2");
}

#[test]
fn table_lines_up_and_explains_what_means_hide() {
    // Liver of a: distances 0 one way, 0 and 2 mm the other; the 95th percentile of those is 1.9 mm.
    let mut evaluation = evaluation();
    let text = evaluation.to_text();
    let lines: Vec<&str> = text.lines().skip(2).take(5).collect();
    assert_eq!(
        lines,
        [
            "  class            cases  missed  extra    Dice     IoU  HD95 mm  HD mm  NSD 2mm",
            "  1 liver              2       0      0  0.8333  0.7500     0.95   1.00   1.0000",
            "  (2, 3) tumour        1       1      1  0.0000  0.0000        -    inf   0.0000",
            "  mean of classes                        0.4167  0.3750     0.95    inf   0.5000",
            "  mean of cases                          0.6667  0.6250     0.95    inf   0.5000",
        ],
        "{text}"
    );
    assert!(text.contains("missed: in the reference only"));
    evaluation.regions.truncate(1);
    evaluation.regions[0].name = "a\u{1b}[31m".to_owned();
    evaluation.cases.iter_mut().for_each(|c| c.metrics.truncate(1));
    let text = evaluation.to_text();
    assert!(!text.contains("missed:") && !text.contains('\u{1b}'));
}
