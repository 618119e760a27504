//! Damaged checkpoints, of both kinds of run: a run never starts anew over one, falls back to a sound one where
//! there is one, and then makes the bits of a run that nothing befell.

use std::fs;
use std::path::Path;

use glmae::rng::Rng;

use super::log;
use super::tiny::{Bench, KINDS, Kind, step_folder, steps};
use crate::support::{copy_folder, files_under, fresh_rng};

/// Changes one byte of a file anywhere.
fn flip(path: &Path, rng: &mut Rng) {
    let mut bytes = fs::read(path).unwrap();
    let at = rng.below(bytes.len() as u64) as usize;
    bytes[at] ^= 1 + rng.below(255) as u8;
    println!("byte {at} of {}", path.display());
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_run_never_starts_anew_over_a_damaged_checkpoint() {
    let bench = Bench::new();
    let mut rng = fresh_rng();
    for kind in KINDS {
        let sound = bench.at(kind.verb());
        bench.run(kind, &sound, &[&kind.steps(2)]).unwrap();
        for (i, name) in kind.files().iter().enumerate() {
            for damage in ["flip", "cut", "gone", "{}"] {
                let out = bench.at(&format!("{}_{i}_{damage}", kind.verb()));
                copy_folder(&sound, &out);
                let file = step_folder(&out, 2).join(name);
                match damage {
                    "flip" => flip(&file, &mut rng),
                    "cut" => fs::write(&file, &fs::read(&file).unwrap()[1..]).unwrap(),
                    "gone" => fs::remove_file(&file).unwrap(),
                    text => fs::write(&file, text).unwrap(),
                }
                let before = files_under(&out);
                let error = bench.run(kind, &out, &[&kind.steps(4)]).unwrap_err();
                let text = error.to_string();
                assert_eq!(error.exit_code(), 3, "{kind:?}, {name}, {damage}: {text}");
                for word in ["none of its 1 checkpoints can be used", name, "another --out"] {
                    assert!(text.contains(word), "{kind:?}, {name}, {damage}: {text}");
                }
                assert!(files_under(&out) == before, "{kind:?}, {name}, {damage}");
            }
        }
    }
}

/// A flip in the header of the weights can say other sizes than `state.json`: the weights are to blame.
#[test]
fn sizes_that_damage_changed_are_told_as_damage() {
    let bench = Bench::new();
    for kind in KINDS {
        let out = bench.at(kind.verb());
        bench.run(kind, &out, &[&kind.steps(2)]).unwrap();
        let file = step_folder(&out, 2).join("model.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        let sizes = br#""shape":[12]"#;
        let at = bytes.windows(sizes.len()).position(|w| w == sizes).unwrap();
        bytes[at + sizes.len() - 2] ^= 1;
        fs::write(&file, bytes).unwrap();
        let text = bench.run(kind, &out, &[&kind.steps(4)]).unwrap_err().to_string();
        for word in ["model.safetensors", "damaged"] {
            assert!(text.contains(word), "{kind:?}: {text}");
        }
    }
}

/// As above, by the program, which is not told how the run began.
#[test]
fn a_fine_tuning_that_cannot_go_on_says_what_is_damaged() {
    let bench = Bench::new();
    let out = bench.at("out");
    bench.run(Kind::Finetune, &out, &["train.epochs=1"]).unwrap();
    fs::write(step_folder(&out, 2).join("state.json"), "").unwrap();
    let before = files_under(&out);
    for more in [&[][..], &["--scratch"]] {
        let (code, said) = bench.said(Kind::Finetune, &out, more);
        assert_eq!(code, 3, "{more:?}: {said}");
        for word in ["none of its 1 checkpoints can be used", "state.json", "damaged"] {
            assert!(said.contains(word), "{more:?}: '{word}' is not in: {said}");
        }
        assert!(files_under(&out) == before, "{more:?}");
    }
}

#[test]
fn after_damage_the_rest_of_the_run_has_the_bits_of_a_whole_one() {
    let bench = Bench::new();
    let mut rng = fresh_rng();
    for kind in KINDS {
        let whole = bench.at(&format!("{}_whole", kind.verb()));
        bench.run(kind, &whole, &[&kind.steps(8)]).unwrap();
        let (weights, lines) = (kind.weights(&whole, 8), log(&whole));
        assert_eq!(lines.len(), 8);
        // As a kill during step 7 leaves it.
        let part = bench.at(&format!("{}_part", kind.verb()));
        copy_folder(&whole, &part);
        fs::remove_dir_all(step_folder(&part, 8)).unwrap();
        for (i, name) in kind.files().iter().enumerate() {
            let out = bench.at(&format!("{}_{i}", kind.verb()));
            copy_folder(&part, &out);
            flip(&step_folder(&out, 6).join(name), &mut rng);
            let warnings = bench.run(kind, &out, &[&kind.steps(8)]).unwrap();
            let said: Vec<_> = warnings.iter().filter(|w| w.contains("not used")).collect();
            assert_eq!(said.len(), 1, "{kind:?}, {name}: {warnings:?}");
            let [line] = said[..] else { unreachable!() };
            for word in ["step_00000006", name, "damaged"] {
                assert!(line.contains(word), "{kind:?}, {name}: {line}");
            }
            assert!(kind.weights(&out, 8) == weights, "{kind:?}, {name}: other weights");
            assert!(kind.weights(&out, 6) == kind.weights(&whole, 6), "{kind:?}, {name}");
            assert_eq!(log(&out), lines, "{kind:?}, {name}");
            assert_eq!(steps(&out), [2, 4, 6, 8], "{kind:?}, {name}");
        }
    }
}
