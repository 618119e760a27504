use super::*;
use crate::config::finetune::FinetuneConfig;
use crate::config::{Config, preset};

fn refused(text: &str, set: &[&str]) -> String {
    let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
    Config::parse(text, "run.toml", &set).unwrap_err().to_string()
}

#[test]
fn unknown_keys_get_a_suggestion() {
    let e = refused("[model]\npatch = 8\n[loss]\nbeta_1 = 0.1\n", &[]);
    assert!(e.contains("run.toml, line 4: ") && e.contains("did you mean 'loss.beta1'"), "{e}");
    let e = Config::load("tiny", &["train.step=5".into()]).unwrap_err().to_string();
    assert!(e.contains("--set: unknown key 'train.step'; did you mean 'train.steps'"), "{e}");
    assert!(refused("batch = 3", &[]).contains("line 1: unknown key 'batch'"));
    assert!(refused("model = 3", &[]).contains("'model' is a section"));
    assert!(refused("", &["model=3"]).contains("'model' is a section"));
    assert!(refused("[model]\ndim = = 3\n", &[]).contains("run.toml, line 2: "));
}

#[test]
fn overrides_are_typed() {
    let set = ["loss.beta1=1", "loss.gg_pairs=all", "views.local_size=8,16,16", "train.steps=7"];
    let config = Config::load("tiny", &set.map(String::from)).unwrap();
    assert_eq!((config.loss.beta1, config.train.steps), (1.0, 7));
    assert_eq!(config.views.local_size, [8, 16, 16]);
    assert!(Config::load("tiny", &["train.steps=-3".into()]).is_err());
    assert!(Config::load("tiny", &["optim.lr=nan".into()]).is_err());
    assert!(Config::load("tiny", &["views.local_size=8,8,9".into()]).is_err());
}

#[test]
fn whole_numbers_are_welcome_in_files_where_a_key_holds_a_number() {
    let text = "[optim]\nlr = 1\n[data]\nwindow_hu = [-100, 400]\npercentiles = [1, 99.5]\n";
    let config = Config::parse(text, "x", &[]).unwrap();
    assert_eq!((config.optim.lr, config.data.window_hu), (1.0, [-100.0, 400.0]));
}

#[test]
fn a_value_that_cannot_be_read_names_its_key_and_its_place() {
    for (line, words) in [
        (
            "[optim]\nlr = \"1e-3\"",
            "line 2: optim.lr = \"1e-3\": expected a number; write it without",
        ),
        ("[model]\npatch = 8.0", "line 2: model.patch = 8.0: expected a whole number"),
        ("[model]\npatch = 8.0", "; write 8"),
        ("[model]\npatch = -8", "line 2: model.patch = -8: expected a whole number, not negative"),
        ("[model]\nrecompute = 1", "line 2: model.recompute = 1: expected true or false"),
        ("[views]\nlocal_size = [8, 8]", "views.local_size = [8, 8]: expected a list of 3 whole"),
        ("[loss]\nobjective = \"mae\"", "expected one of mae3d, +global, +g2g, +l2g, gl-mae"),
        ("[data]\npath = 3", "data.path = 3: expected a text; write it in quotes: \"3\""),
        ("optim = { lr = [] }", "line 1: optim.lr = []: expected a number"),
        ("\n\noptim.lr = true", "line 3: optim.lr = true: expected a number"),
    ] {
        let e = refused(line, &[]);
        assert!(e.contains("run.toml, ") && e.contains(words), "{line}: {e}");
    }
    for (set, words) in [
        ("optim.lr=0,001", "--set optim.lr=0,001: expected a number; decimals have a point: 0.001"),
        ("optim.lr=", "--set optim.lr=: expected a number"),
        (
            "model.patch=8.0",
            "--set model.patch=8.0: expected a whole number, not negative; write 8",
        ),
        ("train.steps=ten", "--set train.steps=ten: expected a whole number"),
        ("train.seed=18446744073709551615", "at most 9223372036854775807"),
        ("model.recompute=yes", "--set model.recompute=yes: expected true or false"),
        ("loss.gg_pairs=some", "--set loss.gg_pairs=some: expected one of same, cross, all"),
        ("views.local_size=8", "--set views.local_size=8: expected a list of 3 whole numbers"),
    ] {
        let e = refused("[train]\nsteps = 5\n", &[set]);
        assert!(e.contains(words) && !e.contains("run.toml"), "{set}: {e}");
    }
    let flag = [Change::flag("--lr", "optim.lr", "0,001")];
    let e = Config::load_with("tiny", &flag).unwrap_err().to_string();
    assert!(e.contains("--lr 0,001 (optim.lr): expected a number; decimals have a point"), "{e}");
}

#[test]
fn flags_and_set_read_the_same_forms() {
    let lr = |text: &str| {
        let by_flag = Config::load_with("tiny", &[Change::flag("--lr", "optim.lr", text)]).ok();
        let by_set = Config::load("tiny", &[format!("optim.lr={text}")]).ok();
        assert_eq!(by_flag.as_ref().map(|l| &l.config), by_set.as_ref(), "{text}");
        by_set.map(|c| c.optim.lr)
    };
    let good = [
        ("1e19", 1e19),
        ("1e-3", 1e-3),
        (".001", 0.001),
        ("1.", 1.0),
        ("10000000000000000000", 1e19),
        ("1_000", 1e3),
        ("+2E-3", 2e-3),
    ];
    for (text, value) in good {
        assert_eq!(lr(text), Some(value), "{text}");
    }
    for text in ["nan", "NaN", "inf", "-1", "1e400", "", "a", "1 2", "0,5", "[1]", "1\nv2 = 3"] {
        assert_eq!(lr(text), None, "{text}");
    }
}

#[test]
fn texts_are_taken_as_they_are() {
    let path = |text: &str| Config::load("tiny", &[format!("data.path={text}")]).unwrap().data.path;
    assert_eq!(
        (path("123"), path("true"), path("\"a b\"")),
        ("123".into(), "true".into(), "a b".into())
    );
    // As a flag has it, even if it looks like TOML or has accents of their own.
    for text in ["\"quoted\"", "[1]", "e\u{301}te\u{301}", "a\\b", "3.nii"] {
        let change = [Change::literal("--data", "data.path", text)];
        assert_eq!(Config::load_with("tiny", &change).unwrap().config.data.path, text);
    }
    let listed = Config::load("tiny", &["data.exclude=a,b c".into()]).unwrap();
    assert_eq!(listed.data.exclude, ["a", "b c"]);
}

#[test]
fn a_file_may_begin_with_a_byte_order_mark() {
    let config = Config::parse("\u{feff}[train]\r\nsteps = 5\r\n", "x", &[]).unwrap();
    assert_eq!(config.train.steps, 5);
}

#[test]
fn explicit_is_what_a_user_wrote() {
    let set = Change::set("model.dim=192").unwrap();
    let flag = Change::flag("--frozen", "model.frozen_encoder", "true");
    let loaded = FinetuneConfig::load_with("hippocampus", &[set.clone(), flag]).unwrap();
    let written = loaded.explicit.written_at("model.dim");
    assert_eq!(written, Some(&WrittenAt::CommandLine(set)));
    assert!(loaded.explicit.written_at("model.frozen_encoder").is_some());
    // The preset sets it, the user did not.
    assert_eq!(loaded.explicit.written_at("model.patch"), None);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.toml");
    std::fs::write(&file, "[train]\nepochs = 3\n[model]\ndepth = 2\n").unwrap();
    let loaded = FinetuneConfig::load_with(file.to_str().unwrap(), &[]).unwrap();
    let written = loaded.explicit.written_at("model.depth").unwrap().to_string();
    assert!(written.ends_with("mine.toml, line 4"), "{written}");
    assert_eq!(loaded.explicit.written_at("model.dim"), None);
}

#[test]
fn a_change_over_a_preset_leaves_the_rest() {
    let changed = Config::load("hippocampus", &["optim.lr=0.5".into()]).unwrap();
    let mut expected = preset("hippocampus").unwrap();
    expected.optim.lr = 0.5;
    assert_eq!(changed, expected);
}
