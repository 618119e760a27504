//! What was measured in place of what the model expects: a table from product to tile, read from a file that `glmae tune`
//! wrote for a card. And one tile for everything, to check each.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use super::hopper::{Follows, Plan, TILES, Tile};
use crate::{Error, Result};

/// The file's most bytes: thousands of products.
const LARGEST: u64 = 1 << 20;

/// A file of measurements.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuning {
    /// The product name of the card.
    pub card: String,
    #[serde(rename = "product")]
    pub products: Vec<Tuned>,
}

/// The fastest kernel of a product.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// The name of the kernel without its type and tile, e.g. `linear_fwd`.
    pub stem: String,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// What happens to the sums.
    pub follows: Follows,
    /// E.g. `128x256`, and into how many parts the sums are split.
    pub tile: String,
    pub parts: usize,
    /// Microseconds of it, and of what the model would have chosen.
    pub us: f64,
    pub model_us: f64,
}

type Key = (String, [usize; 3], Follows);

#[derive(Default)]
struct Table {
    tuned: HashMap<Key, (Tile, usize)>,
    forced: Option<Tile>,
}

static TABLE: RwLock<Option<Table>> = RwLock::new(None);

/// The tile of a name such as `128x256`.
///
/// Errors: `Config` for one that there is not.
pub(super) fn tile(name: &str) -> Result<Tile> {
    let of = |tile: &&Tile| tile.name() == name;
    TILES.iter().find(of).copied().ok_or_else(|| {
        let known: Vec<&str> = TILES.iter().map(Tile::name).collect();
        Error::Config(format!("no tile '{name}'; known are {}", known.join(", ")))
    })
}

impl Tuning {
    /// Errors: `Config` with file and reason for what is no such file, names unknown tiles, or has a product twice.
    pub fn read(path: &Path) -> Result<Self> {
        let wrong = |why: String| Error::Config(format!("tuning file {}: {why}", path.display()));
        let about = fs::metadata(path).map_err(|e| wrong(e.to_string()))?;
        if !about.is_file() || about.len() > LARGEST {
            return Err(wrong(format!("no regular file of at most {LARGEST} bytes")));
        }
        let text = fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
        let tuning: Self = toml::from_str(&text).map_err(|e| wrong(e.message().to_owned()))?;
        tuning.table().map_err(|e| wrong(e.to_string()))?;
        Ok(tuning)
    }

    fn table(&self) -> Result<HashMap<Key, (Tile, usize)>> {
        let mut table = HashMap::new();
        for tuned in &self.products {
            let Tuned { stem, m, n, k, follows, parts, .. } = tuned;
            let (size, tile) = ([*m, *n, *k], tile(&tuned.tile)?);
            let what = format!("{stem} {m} x {n} x {k} {follows:?}");
            let splits = *follows == Follows::Parts;
            if size.contains(&0) || size.iter().any(|n| i32::try_from(*n).is_err()) {
                return Err(Error::Config(format!("{what}: sizes are 1 to 2^31 - 1")));
            }
            if *parts == 0 || *parts > 1 && !splits || Plan::new(tile, size, *parts).parts != *parts
            {
                return Err(Error::Config(format!("{what}: its sums cannot have {parts} parts")));
            }
            if !tile.can(*follows) {
                return Err(Error::Config(format!("{what}: the tile {} cannot do it", tuned.tile)));
            }
            if table.insert((stem.clone(), size, *follows), (tile, *parts)).is_some() {
                return Err(Error::Config(format!("{what} is there twice")));
            }
        }
        Ok(table)
    }

    /// From now on, choices of this process follow the file. They decide the order of sums: the same file, the same bits.
    ///
    /// Errors: those of [`Tuning::read`] but for the file.
    pub fn apply(&self) -> Result<()> {
        let tuned = self.table()?;
        TABLE.write().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().tuned = tuned;
        Ok(())
    }
}

/// Does what the environment asks for: `GLMAE_TUNING` names a file of measurements, `GLMAE_KERNELS=hopper:128x256` one tile
/// for everything that it can do.
///
/// Errors: those of [`Tuning::read`]; `Config` for an unknown tile.
pub fn apply_env() -> Result<()> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = set("GLMAE_TUNING") {
        Tuning::read(Path::new(&path))?.apply()?;
    }
    match set("GLMAE_KERNELS").as_ref().and_then(|value| value.to_str()?.strip_prefix("hopper:")) {
        Some(name) => force(name),
        None => Ok(()),
    }
}

/// From now on every product of this process that the tile of this name can do is done by it: to check each tile.
fn force(name: &str) -> Result<()> {
    let tile = tile(name)?;
    TABLE.write().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().forced =
        Some(tile);
    Ok(())
}

/// What is to be taken in place of the model's choice; of small ops only `tiles` have kernels.
pub(super) fn find(stem: &str, size: [usize; 3], follows: Follows, tiles: &[Tile]) -> Option<Plan> {
    let table = TABLE.read().unwrap_or_else(PoisonError::into_inner);
    let table = table.as_ref()?;
    let can = |tile: &Tile| tile.can(follows) && tiles.contains(tile);
    if let Some(tile) = table.forced.filter(can) {
        return Some(Plan::new(tile, size, if follows == Follows::Parts { 2 } else { 1 }));
    }
    let (tile, parts) = *table.tuned.get(&(stem.to_owned(), size, follows))?;
    can(&tile).then(|| Plan::new(tile, size, parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuned() -> Tuned {
        Tuned {
            stem: "linear_fwd".into(),
            m: 3768,
            n: 3072,
            k: 768,
            follows: Follows::GeluKeep,
            tile: "128x128".into(),
            parts: 1,
            us: 30.5,
            model_us: 31.0,
        }
    }

    fn written(tuning: &Tuning) -> Result<Tuning> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("card.toml");
        fs::write(&path, toml::to_string(tuning).unwrap()).unwrap();
        Tuning::read(&path)
    }

    #[test]
    fn a_file_comes_back_as_it_was_written() {
        let tuning = Tuning { card: "NVIDIA H200".into(), products: vec![tuned()] };
        assert_eq!(written(&tuning).unwrap(), tuning);
    }

    #[test]
    fn what_cannot_be_is_an_error_with_its_product() {
        let with = |change: fn(&mut Tuned)| {
            let mut tuned = tuned();
            change(&mut tuned);
            written(&Tuning { card: String::new(), products: vec![tuned] }).unwrap_err().to_string()
        };
        for (message, expected) in [
            (with(|t| t.tile = "1x1".into()), "no tile '1x1'; known are 128x256"),
            (with(|t| t.m = 0), "sizes are 1 to 2^31 - 1"),
            (with(|t| t.k = usize::MAX >> 1), "sizes are 1 to 2^31 - 1"),
            (with(|t| t.parts = 0), "cannot have 0 parts"),
            (with(|t| t.parts = 2), "cannot have 2 parts"),
            (
                with(|t| (t.follows, t.tile) = (Follows::Add, "128x256".into())),
                "the tile 128x256 cannot do it",
            ),
        ] {
            assert!(message.contains("card.toml") && message.contains(expected), "{message}");
        }
        let twice = Tuning { card: String::new(), products: vec![tuned(), tuned()] };
        assert!(written(&twice).unwrap_err().to_string().contains("is there twice"));
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in
            [("empty", ""), ("odd", "card = 3"), ("more", "card = \"a\"\nx = 1\nproduct = []")]
        {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            let message = Tuning::read(&path).unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        }
        assert!(Tuning::read(folder.path()).is_err(), "a folder");
    }
}
