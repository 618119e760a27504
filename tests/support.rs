//! What several test modules need.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use glmae::rng::{Purpose, Rng};

/// The folder of shared reference data (cases, volumes), when this checkout has it beside it.
/// `GLMAE_SHARED` names another place.
pub fn shared(part: &str) -> Option<PathBuf> {
    let root = std::env::var_os("GLMAE_SHARED")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"));
    let path = root.join(part);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not there", path.display());
    None
}

/// Random numbers that are others every time. `GLMAE_TEST_SEED` repeats those of a test that failed.
pub fn fresh_rng() -> Rng {
    let given = std::env::var("GLMAE_TEST_SEED").ok().map(|seed| seed.parse().unwrap());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = given.unwrap_or_else(now);
    println!("GLMAE_TEST_SEED={seed}");
    Rng::new(seed, Purpose::Test, 0, 0, 0)
}

/// Every file below a folder, with its bytes: what a refusal must leave as it was. Not the lock, which names
/// the process that looked last.
pub fn files_under(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut open) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.file_name().is_some_and(|name| name != "run.lock") {
                found.insert(path.clone(), fs::read(path).unwrap());
            }
        }
    }
    found
}

/// Copies a folder with all that is in it.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy_folder(&path, &target),
            false => drop(fs::copy(&path, target).unwrap()),
        }
    }
}
