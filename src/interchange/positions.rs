//! The table of positions of a file: whether its first row is the cls token's, and its grid.

use std::collections::BTreeMap;

use super::encoder::{EncoderConfig, ImportReport};
use super::file::{TensorSource, Values, shown};
use crate::{Error, Result};

/// Grids that a message offers.
const OFFERED: usize = 6;
/// How far a table may be from that of sines and cosines: half-precision files round by 0.002.
const ROUNDING: f64 = 5e-3;

/// A grid d h w, and whether the cls token has a row before it.
type Reading = ([usize; 3], bool);

/// Reads the table with its cls row, one of zeros where the file has none. Returns its grid, `None` without
/// a table. `known` is the grid that the user or the file tells.
///
/// Errors: [`Error::Data`] for a table that does not fit; [`Error::Config`] naming `--grid` and what it may
/// be when nothing tells the grid.
pub fn read(
    source: &mut TensorSource,
    found: &BTreeMap<String, String>,
    config: &EncoderConfig,
    known: Option<[usize; 3]>,
    tensors: &mut BTreeMap<String, Values>,
    report: &mut ImportReport,
) -> Result<Option<[usize; 3]>> {
    let ours = "pos_embed";
    let Some(name) = found.get(ours) else {
        report.missing.push(ours.into());
        return Ok(None);
    };
    let bad = |what: String| Error::data(source.path(), format!("tensor '{}' {what}", shown(name)));
    let dim = config.dim;
    let shape = source.shape(name).unwrap_or_default();
    let rows = match *shape {
        [1, rows, width] if width == dim && rows > 0 => rows,
        _ => return Err(bad(format!("is {shape:?}, [1, tokens, {dim}] is needed"))),
    };
    let has_cls = found.contains_key("cls_token");
    // MONAI adds the cls token after the positions, which have no row for it.
    let is_monai = name.ends_with("position_embeddings");
    if has_cls && !is_monai && rows == 1 {
        return Err(bad("has no row but the cls token's".into()));
    }
    if let Some(grid) = known {
        let tokens = grid.iter().try_fold(1usize, |n, &g| n.checked_mul(g));
        if tokens.is_none_or(|n| n == 0 || (rows != n && rows - 1 != n)) {
            return Err(bad(format!("has {rows} rows, the grid {grid:?} has others")));
        }
    }
    let path = source.path().to_owned();
    let (_, mut values) = source.read(name)?;
    let readings = [(rows, false), (rows - 1, true)];
    let (grid, has_cls_row) = match known {
        Some(grid) => (grid, rows != grid.iter().product::<usize>()),
        None => {
            let allowed = || readings.into_iter().filter(|&(n, cls)| n > 0 && !(cls && is_monai));
            let drawn = allowed().find_map(|(n, cls)| {
                let table = values.get(usize::from(cls) * dim..)?;
                grids(n).find(|&grid| is_sincos(table, dim, grid)).map(|grid| (grid, cls))
            });
            let cubic = || {
                let mut all: Vec<_> = allowed().collect();
                // With a cls token, a row of its own is the rule, and none the exception
                // (timm's `no_embed_class`).
                all.sort_by_key(|&(_, cls)| cls != has_cls);
                all.into_iter().find_map(|(n, cls)| Some(([cube(n)?; 3], cls)))
            };
            match (drawn, cubic()) {
                (Some((grid, cls)), _) => {
                    let what = format!("{} is that of its sines and cosines", text(grid));
                    report.assumed.push(format!("grid: {what}"));
                    (grid, cls)
                }
                (None, Some((grid, cls))) => {
                    report.assumed.push(told_cubic(rows, (grid, cls), has_cls));
                    (grid, cls)
                }
                (None, None) => {
                    let counts: Vec<usize> = allowed().map(|(n, _)| n).collect();
                    return Err(Error::Config(format!(
                        "{}: the grid of its table of positions is not in the file ({rows} rows; \
                         possible: {}, in the order of the image's axes): give --grid",
                        path.display(),
                        offers(&counts)
                    )));
                }
            }
        }
    };
    if !has_cls_row {
        values.splice(0..0, std::iter::repeat_n(0.0, dim));
        report.adapted.push("pos_embed: a row of zeros for the cls token".into());
    }
    let tokens = values.len() / dim;
    tensors.insert(ours.into(), (vec![1, tokens, dim], values));
    Ok(Some(grid))
}

fn told_cubic(rows: usize, (grid, cls_row): Reading, has_cls: bool) -> String {
    let rest = match (cls_row, has_cls) {
        (true, _) => "behind the cls token's row",
        (false, true) => "without a row for the cls token (as timm's no_embed_class)",
        (false, false) => "without a cls token",
    };
    let tokens = rows - usize::from(cls_row);
    format!(
        "grid: {tokens} rows of positions {rest} are taken for {}; --grid tells another",
        text(grid)
    )
}

fn text(grid: [usize; 3]) -> String {
    grid.map(|n| n.to_string()).join(" x ")
}

/// The grids nearest to a cube, as `--grid` takes them.
fn offers(counts: &[usize]) -> String {
    let mut all: Vec<[usize; 3]> = counts.iter().flat_map(|&n| grids(n)).collect();
    all.retain(|grid| grid.is_sorted());
    all.sort_by_key(|&[a, _, c]| c - a);
    let first: Vec<String> =
        all.iter().take(OFFERED).map(|grid| grid.map(|n| n.to_string()).join(",")).collect();
    first.join(" or ")
}

/// All grids of so many tokens.
fn grids(tokens: usize) -> impl Iterator<Item = [usize; 3]> {
    divisors(tokens).into_iter().flat_map(move |d| {
        let plane = tokens / d;
        divisors(plane).into_iter().map(move |h| [d, h, plane / h])
    })
}

/// In rising order.
fn divisors(n: usize) -> Vec<usize> {
    let small = || (1..).take_while(move |d: &usize| d.checked_mul(*d).is_some_and(|s| s <= n));
    let mut all: Vec<usize> =
        small().filter(|d| n.is_multiple_of(*d)).flat_map(|d| [d, n / d]).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The integer cube root, if there is one.
fn cube(n: usize) -> Option<usize> {
    (1..=n).take_while(|e| e.checked_pow(3).is_some_and(|c| c <= n)).find(|e| e.pow(3) == n)
}

/// Whether a table without cls row is [`crate::nn::pos_embed::sincos_3d`] of a grid. It reads no further
/// than to the first row that differs.
fn is_sincos(table: &[f32], dim: usize, grid: [usize; 3]) -> bool {
    let f = dim / 6;
    if f == 0 {
        return false;
    }
    let omega: Vec<f64> = (0..f).map(|k| libm::pow(10000.0, -(k as f64) / f as f64)).collect();
    table.chunks_exact(dim).enumerate().all(|(i, row)| {
        let at = [i / (grid[1] * grid[2]), i / grid[2] % grid[1], i % grid[2]];
        let (waves, rest) = row.split_at(6 * f);
        let near = |value: f32, expected: f64| (f64::from(value) - expected).abs() <= ROUNDING;
        let fits = waves.chunks_exact(2 * f).zip(at).all(|(axis, at)| {
            omega.iter().enumerate().all(|(k, w)| {
                let angle = at as f64 * w;
                near(axis[k], libm::sin(angle)) && near(axis[f + k], libm::cos(angle))
            })
        });
        fits && rest.iter().all(|&value| near(value, 0.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::pos_embed::sincos_3d;

    #[test]
    fn a_table_of_sines_and_cosines_tells_its_grid() {
        for grid in [[1, 2, 4], [2, 2, 2], [4, 2, 1], [2, 3, 4], [5, 1, 1]] {
            let table: Vec<f32> = sincos_3d(grid, 14)[14..].iter().map(|&v| v as f32).collect();
            let tokens = grid.iter().product();
            let found: Vec<_> = grids(tokens).filter(|&g| is_sincos(&table, 14, g)).collect();
            assert_eq!(found, [grid]);
        }
    }

    #[test]
    fn the_roundest_grids_are_offered_first() {
        assert_eq!(offers(&[24]), "2,3,4 or 2,2,6 or 1,4,6 or 1,3,8 or 1,2,12 or 1,1,24");
        assert_eq!(grids(8).count(), 10);
        assert_eq!((cube(27), cube(28), cube(1)), (Some(3), None, Some(1)));
    }
}
