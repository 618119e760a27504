//! Nothing that a run made is lost to another one: folders of another kind or another beginning are refused and
//! left as they are, pruning takes only what the run wrote itself.

use std::cell::Cell;
use std::fs;
use std::io;
use std::path::Path;

use glmae::atomic::{Disk, Storage, SyncWrite};
use glmae::checkpoint::segmenter::{self, FinetuneSnapshot};
use glmae::device::{DType, Device};
use glmae::train::finetune::encoder::Origin;
use glmae::train::run::Resume;

use super::tiny::{Bench, EVERY, KINDS, Kind, step_folder, steps};
use crate::support::{copy_folder, files_under};

/// Runs the program, which must refuse with code 2 and these words, and change nothing in `out`.
#[track_caller]
fn refused(bench: &Bench, kind: Kind, out: &Path, more: &[&str], words: &[&str]) {
    let before = files_under(out);
    let (code, said) = bench.said(kind, out, more);
    assert_eq!(code, 2, "{more:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{more:?}: '{word}' is not in: {said}");
    }
    assert!(files_under(out) == before, "{more:?}: a refusal changed {}", out.display());
}

#[test]
fn a_run_never_begins_in_the_folder_of_another_kind() {
    let bench = Bench::new();
    for kind in KINDS {
        let (name, other) = (kind.of().to_string(), kind.other());
        let out = bench.at(kind.verb());
        bench.run(kind, &out, &[&kind.steps(4)]).unwrap();
        let checkpoint = step_folder(&out, 4).to_str().unwrap().to_owned();
        let begin: &[&str] = match other {
            Kind::Pretrain => &[],
            Kind::Finetune => &["--encoder", &checkpoint],
        };
        let with = |more: &[&'static str]| [begin, more].concat();
        let words = [&*name, "checkpoints up to step 4", "choose another --out"];
        for more in [&[][..], &["--resume", "never"], &["--dry-run"]] {
            refused(&bench, other, &out, &with(more), &words);
        }
        let from = [begin, &["--resume", &checkpoint]].concat();
        refused(&bench, other, &out, &from, &words);
        // Without `run.json`, as older versions left it; then without checkpoints, too, as a person may leave it.
        fs::remove_file(out.join("run.json")).unwrap();
        let copy = bench.at("copy");
        copy_folder(&step_folder(&out, 4), &copy);
        let copied = copy.to_str().unwrap();
        let begin: &[&str] = if other == Kind::Finetune { &["--encoder", copied] } else { &[] };
        refused(&bench, other, &out, begin, &words);
        fs::remove_dir_all(out.join("checkpoints")).unwrap();
        refused(&bench, other, &out, begin, &[&name, "choose another --out"]);
        fs::remove_dir_all(&copy).unwrap();
    }
}

#[test]
fn a_fine_tuning_goes_on_only_as_it_began() {
    let bench = Bench::new();
    for (name, seed) in [("a", "train.seed=1"), ("b", "train.seed=2")] {
        bench.run(Kind::Pretrain, &bench.at(name), &["train.steps=2", seed]).unwrap();
    }
    let [a, b] = ["a", "b"].map(|name| bench.at(name));
    let encoder = |path: &Path| Origin::Encoder { path: path.to_owned(), partial: false };
    let tuning = Kind::Finetune;
    let eight = tuning.steps(8);
    let more = ["--set", &eight];
    let whole = bench.at("whole");
    bench.tune(&whole, encoder(&a), &[&eight]).unwrap();

    // As a kill in the middle leaves it.
    let [out, crossed] = ["out", "crossed"].map(|name| bench.at(name));
    copy_folder(&whole, &out);
    for step in [6, 8] {
        fs::remove_dir_all(step_folder(&out, step)).unwrap();
    }
    bench.tune(&crossed, Origin::Scratch, &["train.epochs=2"]).unwrap();
    let [a_text, b_text] = [&a, &b].map(|path| path.to_str().unwrap());
    let as_begun = ["began with the encoder", a_text, "Leave --encoder and --scratch out"];
    let with = |begin: &[&'static str], path: &str| {
        let args: Vec<String> = begin.iter().map(|s| s.to_string()).chain([path.into()]).collect();
        [args, more.map(str::to_owned).to_vec()].concat()
    };
    let encoder_b = with(&["--encoder"], b_text);
    let encoder_b: Vec<&str> = encoder_b.iter().map(String::as_str).collect();
    refused(&bench, tuning, &out, &encoder_b, &[&as_begun[..], &[b_text]].concat());
    refused(&bench, tuning, &out, &[&["--scratch"], &more[..]].concat(), &as_begun);
    let encoder_a = with(&["--encoder"], a_text);
    let encoder_a: Vec<&str> = encoder_a.iter().map(String::as_str).collect();
    let words = ["began with no encoder (--scratch)", a_text, "Leave --encoder and --scratch out"];
    refused(&bench, tuning, &crossed, &encoder_a, &words);

    // Another copy of the same encoder is the same; without a word the run goes on as it began.
    let moved = bench.at("moved");
    fs::rename(&a, &moved).unwrap();
    let third = bench.at("third");
    copy_folder(&out, &third);
    bench.tune(&third, encoder(&moved), &[&eight]).unwrap();
    let (code, said) = bench.said(tuning, &out, &more);
    assert_eq!(code, 0, "{said}");
    for run in [&out, &third] {
        assert!(tuning.weights(run, 8) == tuning.weights(&whole, 8), "{}", run.display());
        let info = segmenter::read_info(&step_folder(run, 8)).unwrap();
        assert!(info.start.unwrap().to_string().contains("the encoder"));
    }
    // And the encoder that it began with is looked for where it was: the way out is named.
    refused(&bench, tuning, &crossed, &["--scratch", "--resume", "never"], &["--resume auto"]);
    let (code, said) = bench.said(tuning, &out, &["--encoder", a_text]);
    assert!(code != 0 && said.contains("leave --encoder out to go on as it began"), "{said}");
    // Nothing to go on from.
    let (code, said) = bench.said(tuning, &bench.at("new"), &[]);
    assert!(code == 2 && said.contains("--encoder PATH, or --scratch"), "{said}");
    assert!(!bench.at("new").exists());
}

/// Keys that the encoder's file decides cannot be set beside it, from scratch they can.
#[test]
fn a_key_that_the_encoder_fixes_is_an_error_by_its_name() {
    let bench = Bench::new();
    bench.run(Kind::Pretrain, &bench.at("pre"), &["train.steps=2"]).unwrap();
    let (pre, out) = (bench.text("pre"), bench.at("out"));
    for (key, set) in [
        ("model.dim", "model.dim=96"),
        ("model.depth", "model.depth=2"),
        ("model.heads", "model.heads=1"),
        ("model.patch", "model.patch=4"),
        ("model.mlp_ratio", "model.mlp_ratio=3"),
        ("model.norm_eps", "model.norm_eps=1e-3"),
    ] {
        let (code, said) = bench.said(Kind::Finetune, &out, &["--encoder", &pre, "--set", set]);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(key) && said.contains("encoder"), "{set}: {said}");
        assert!(!out.exists(), "{set}");
    }
    let same = ["--encoder", &pre, "--set", "model.dim=12", "--dry-run"];
    let (code, said) = bench.said(Kind::Finetune, &out, &same);
    assert_eq!(code, 0, "what the file says, too, is no contradiction: {said}");
    let (code, said) =
        bench.said(Kind::Finetune, &out, &["--scratch", "--set", "model.dim=24", "--dry-run"]);
    assert_eq!(code, 0, "{said}");
}

/// Whatever can be changed is said when it is, with both values, and nothing else is.
#[test]
fn every_key_that_changed_since_is_said() {
    let bench = Bench::new();
    let shared = [
        "optim.lr=0.00125",
        "optim.weight_decay=0.0625",
        "optim.beta1=0.75",
        "optim.eps=0.0005",
        "optim.clip_grad=0.5",
        "train.seed=99",
        "train.batch=3",
        "train.accumulation=2",
        "train.log_every=2",
        "train.max_bad_steps=5",
        "train.keep_last=4",
    ];
    let own = [
        (
            Kind::Pretrain,
            &["views.mask_ratio=0.5", "loss.beta1=0.375", "optim.warmup=1", "train.steps=6"][..],
        ),
        (
            Kind::Finetune,
            &[
                "model.frozen_encoder=true",
                "augment.flip=0.75",
                "data.positive=2.0",
                "train.crops=2",
                "infer.overlap=0.25",
                "train.epochs=3",
            ],
        ),
    ];
    for (kind, own) in own {
        let out = bench.at(kind.verb());
        bench.run(kind, &out, &[&kind.steps(4)]).unwrap();
        let said = |set: &[&str]| -> Vec<String> {
            let warnings = bench.run(kind, &out, set).unwrap();
            let of = |line: &String| line.strip_prefix("changed since: ").map(str::to_owned);
            warnings.iter().filter_map(of).collect()
        };
        assert_eq!(said(&[&kind.steps(4)]), [""; 0], "{kind:?}");
        let set = [&shared[..], own].concat();
        let lines = said(&set);
        assert_eq!(lines.len(), set.len(), "{kind:?}: {lines:#?}");
        for item in set {
            let (key, value) = item.split_once('=').unwrap();
            let line = lines.iter().find(|line| line.starts_with(&format!("{key}: ")));
            let line = line.unwrap_or_else(|| panic!("{key} is not in {lines:?}"));
            assert!(line.ends_with(&format!(" -> {value}")), "{line}");
        }
        // The log keeps it.
        let log = fs::read_to_string(out.join("log.jsonl")).unwrap();
        assert!(log.contains("changed since: train.seed: "), "{log}");
    }
}

/// A checkpoint that this run did not write stays, and no number of them counts for one of its own.
#[test]
fn pruning_takes_only_what_the_run_wrote() {
    let bench = Bench::new();
    for kind in KINDS {
        let at = |name: &str| bench.at(&format!("{}_{name}", kind.verb()));
        let (out, other, alien) = (at("out"), at("other"), at("alien"));
        bench.run(kind, &other, &[&kind.steps(6)]).unwrap();
        bench.run(kind.other(), &alien, &[&kind.other().steps(4)]).unwrap();
        bench.run(kind, &out, &[&kind.steps(8)]).unwrap();
        // By hand: of another run, of another kind (earlier and later), and what is no checkpoint at all.
        let place = |from: &Path, step: u64, to: u64| {
            let target = step_folder(&out, to);
            copy_folder(&step_folder(from, step), &target);
            (target.clone(), files_under(&target))
        };
        let kept = [place(&other, 6, 1), place(&alien, 4, 3), place(&alien, 4, 1000)];
        fs::create_dir(step_folder(&out, 5)).unwrap();
        // One that is damaged counts for nothing: the three below it are not safe without it.
        fs::write(step_folder(&out, 8).join("model.safetensors"), b"").unwrap();
        bench.run(kind, &out, &[&kind.steps(12), "train.keep_last=1"]).unwrap();
        for (folder, before) in &kept {
            assert!(files_under(folder) == *before, "{kind:?}: {} went", folder.display());
        }
        assert_eq!(steps(&out), [1, 3, 5, 12, 1000], "{kind:?}");
        let (step, _) = bench.newest_sound(kind, &out).unwrap().unwrap();
        assert_eq!(step, 12);
    }
}

/// A run that fell back past a damaged checkpoint keeps the one it fell back to until there is a newer sound one.
#[test]
fn the_last_sound_checkpoint_is_never_pruned() {
    let bench = Bench::new();
    for kind in KINDS {
        let out = bench.at(kind.verb());
        bench.run(kind, &out, &[&kind.steps(8)]).unwrap();
        // Two damaged ones whose sizes are right: what a glance does not show.
        for step in [6, 8] {
            let file = step_folder(&out, step).join("model.safetensors");
            let mut bytes = fs::read(&file).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(&file, bytes).unwrap();
        }
        // The run ends at once: nothing is written, so nothing may go.
        let before = steps(&out);
        bench.run(kind, &out, &[&kind.steps(4), "train.keep_last=1"]).unwrap();
        assert_eq!(steps(&out), before, "{kind:?}");
        assert_eq!(bench.newest_sound(kind, &out).unwrap().unwrap().0, 4);
        // One more is written, in the place of a damaged one.
        bench.run(kind, &out, &[&kind.steps(6), "train.keep_last=2"]).unwrap();
        let left = steps(&out);
        assert!(left.contains(&4) && left.contains(&6), "{kind:?}: {left:?}");
        assert_eq!(bench.newest_sound(kind, &out).unwrap().unwrap().0, 6);
    }
}

/// A checkpoint of another run or kind in the place of one that is to be written is put aside, where it is seen.
#[test]
fn what_stands_in_the_place_of_a_checkpoint_is_put_aside() {
    let bench = Bench::new();
    for kind in KINDS {
        let alien = bench.at(&format!("{}_alien", kind.verb()));
        let out = bench.at(kind.verb());
        bench.run(kind.other(), &alien, &[&kind.other().steps(EVERY)]).unwrap();
        bench.run(kind, &out, &[&kind.steps(4)]).unwrap();
        let place = step_folder(&out, 6);
        copy_folder(&step_folder(&alien, EVERY), &place);
        let theirs: Vec<Vec<u8>> = files_under(&place).into_values().collect();
        bench.run(kind, &out, &[&kind.steps(8)]).unwrap();
        assert_eq!(steps(&out), [2, 4, 6, 8], "{kind:?}");
        let aside = out.join("checkpoints/step_00000006.of-another-run");
        let found: Vec<Vec<u8>> = files_under(&aside).into_values().collect();
        assert!(found == theirs, "{kind:?}: the other checkpoint is gone");
    }
}

/// `--resume PATH` beside later checkpoints would have the next run go on from those.
#[test]
fn going_back_is_refused_where_later_checkpoints_are() {
    let bench = Bench::new();
    for kind in KINDS {
        let out = bench.at(kind.verb());
        bench.run(kind, &out, &[&kind.steps(4)]).unwrap();
        let before = files_under(&out);
        let from = Resume::From(step_folder(&out, 2));
        let error = bench.run_from(kind, &out, from, &[&kind.steps(8)]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("a checkpoint of step 4, later than step 2"), "{error}");
        assert!(files_under(&out) == before, "{kind:?}");
    }
}

/// A disk that refuses once to give a checkpoint the name `best`.
struct Refusing(Cell<bool>);

impl Storage for Refusing {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn SyncWrite>> {
        Disk.create_new(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match to.ends_with("best") && self.0.replace(false) {
            true => Err(io::ErrorKind::PermissionDenied.into()),
            false => Disk.rename(from, to),
        }
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        Disk.sync_dir(dir)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        Disk.remove(path)
    }
}

/// Its place is taken by a better one in two renames; whatever happens between them, one of the two is there.
#[test]
fn the_best_network_outlives_kills_and_failing_disks() {
    let bench = Bench::new();
    let out = bench.at("out");
    bench.run(Kind::Finetune, &out, &["train.epochs=2"]).unwrap();
    let best = out.join("checkpoints/best");
    let before = files_under(&best);
    let (info, state) =
        segmenter::load_state(&step_folder(&out, 4), &Device::Cpu, DType::F32, false).unwrap();
    let config = info.config().unwrap();
    let snapshot = FinetuneSnapshot {
        config: &config,
        task: info.task_text(),
        data: info.data,
        best: info.best(),
        run: info.run.as_deref().unwrap(),
        start: info.start.as_ref().unwrap(),
    };
    let disk = Refusing(Cell::new(true));
    let error = segmenter::save_to(&disk, &out, &state, &snapshot, true).unwrap_err();
    assert!(error.to_string().contains("best"), "{error}");
    assert!(files_under(&best) == before, "the best network is gone");

    // As a kill between the renames leaves them, with one that was killed earlier.
    let hidden = |name: &str| out.join("checkpoints").join(name);
    fs::rename(&best, hidden(".best.tmp-7-1")).unwrap();
    fs::create_dir(hidden(".best.tmp-7-0")).unwrap();
    fs::write(hidden(".best.tmp-7-0/model.safetensors"), b"half").unwrap();
    copy_folder(&step_folder(&out, 2), &hidden(".step_00000006.tmp-7-0"));
    bench.run(Kind::Finetune, &out, &["train.epochs=2"]).unwrap();
    assert!(files_under(&best) == before, "the best network is gone");
    let entries = fs::read_dir(out.join("checkpoints")).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["best", "step_00000002", "step_00000004"]);
    // Where somebody removed the rest, a run begins anew: it is another one, and leaves the network there.
    for step in [2, 4] {
        fs::remove_dir_all(step_folder(&out, step)).unwrap();
    }
    bench.run(Kind::Finetune, &out, &["train.epochs=1"]).unwrap();
    let aside = files_under(&hidden("best.of-another-run"));
    assert!(aside.values().eq(before.values()), "the best network is gone");
    assert!(best.is_dir() && files_under(&best) != before);
}
