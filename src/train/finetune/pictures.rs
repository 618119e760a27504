//! A picture of a validation case: image, label and prediction in three planes.

use std::borrow::Cow;
use std::path::Path;

use crate::data::Prepared;
use crate::report::panel::{Column, Panel, robust_window};
use crate::{Error, Result, atomic};

/// Writes the picture; returns its size and bytes. `truth` and `labels` are `[d, h, w]`.
pub fn write(
    path: &Path,
    image: &Prepared,
    truth: &[u8],
    labels: &[u8],
    title: &str,
) -> Result<([usize; 2], Vec<u8>)> {
    let dims = image.dims();
    let n: usize = dims.iter().product();
    let voxels = image.voxels().get(..n).unwrap_or_default();
    let mut panel = Panel::new(dims, image.spacing_mm())?;
    panel.window = robust_window(voxels);
    panel.centre =
        centre(truth, dims).or_else(|| centre(labels, dims)).unwrap_or(dims.map(|n| n / 2));
    panel.caption = title.to_owned();
    for (title, labels) in [("image", None), ("label", Some(truth)), ("prediction", Some(labels))] {
        panel.push(Column {
            title: Cow::Borrowed(title),
            voxels: Cow::Borrowed(voxels),
            hidden: None,
            labels: labels.map(Cow::Borrowed),
        })?;
    }
    let canvas = panel.render()?;
    let png = canvas.png()?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
    }
    atomic::write_bytes(path, &png)?;
    Ok((canvas.size(), png))
}

/// The mean position of labelled voxels.
fn centre(labels: &[u8], dims: [usize; 3]) -> Option<[usize; 3]> {
    let (mut sum, mut count) = ([0usize; 3], 0usize);
    for (i, _) in labels.iter().enumerate().filter(|(_, l)| **l > 0) {
        let at = [i / (dims[1] * dims[2]), i / dims[2] % dims[1], i % dims[2]];
        (0..3).for_each(|a| sum[a] += at[a]);
        count += 1;
    }
    (count > 0).then(|| sum.map(|s| s / count))
}
