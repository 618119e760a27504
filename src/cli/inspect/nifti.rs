//! NIfTI files: geometry, storage, intensities. Free text only when asked for.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Result;
use flate2::read::MultiGzDecoder;
use glmae::Error;
use glmae::data::nifti::{
    Channels, Header, ReadLimits, ReadOptions, Version, header_path, read_header, read_volume,
};
use glmae::data::{Orientation, Volume, geometry};

use crate::cli::term::{self, Table};

/// Everything about a NIfTI file that is not free text.
pub fn file(path: &Path, show_identifiers: bool, header_only: bool) -> Result<String> {
    let header = read_header(path, &ReadLimits::default())?;
    let mut table = Table::new(&["<", "<"]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    let version = match header.version {
        Version::Nifti1 => "NIfTI-1",
        Version::Nifti2 => "NIfTI-2",
    };
    let order = if header.big_endian { "big endian" } else { "little endian" };
    let pair = if header.is_pair { ", header and voxels in two files" } else { "" };
    row("format", format!("{version}, {order}{pair}"));
    row("shape", format!("{} (d h w, axes of the file)", term::dims(&header.shape)));
    if header.channels() > 1 {
        row("channels", header.channels().to_string());
    }
    row("stored as", stored(&header));
    geometry_rows(&header, &mut row);
    let mut text = format!("{}\n{}", path.display(), table.render("  "));
    if let Some(warning) = header.forms_disagree() {
        text += &format!("\nwarning: {warning}\n");
    }
    if !header_only {
        let options = ReadOptions { channels: Channels::UpTo(usize::MAX), ..Default::default() };
        text += &format!("\n{}", intensities(&read_volume(path, &options)?));
    }
    match show_identifiers {
        true => text += &format!("\n{}", free_text(path, header.version)?),
        false => text += "\nfree-text header fields are not shown (--show-identifiers)\n",
    }
    Ok(text)
}

fn stored(header: &Header) -> String {
    let name = header.dtype.name();
    match header.scaling {
        Some((slope, intercept)) => format!("{name}, value = {slope} x stored + {intercept}"),
        None => format!("{name}, not scaled"),
    }
}

fn geometry_rows(header: &Header, row: &mut impl FnMut(&str, String)) {
    let spacing = geometry::spacing_mm(&header.affine);
    let dims = header.spatial_dims();
    let extent = [0, 1, 2].map(|a| format!("{:.1}", spacing[a] * dims[a] as f64));
    row("spacing", format!("{} mm", spacing.map(|s| format!("{s:.4}")).join(" x ")));
    row("extent", format!("{} mm", extent.join(" x ")));
    match Orientation::from_affine(&header.affine) {
        Ok(o) if o.is_ras() => row("axes", format!("{} (as glmae uses them)", o.codes())),
        Ok(o) => row("axes", format!("{} (turned to RAS when read for training)", o.codes())),
        Err(e) => row("axes", format!("unusable: {e}")),
    }
    let space = match header.space_code {
        0 => "none: made of the spacing alone, orientation is a guess",
        1 => "scanner",
        2 => "aligned to another image",
        3 => "Talairach",
        4 => "MNI 152",
        _ => "another template",
    };
    row("world space", format!("{space} (code {})", header.space_code));
    for (i, line) in header.affine.iter().take(3).enumerate() {
        let cells: Vec<String> = line.iter().map(|x| format!("{x:>10.4}")).collect();
        row(if i == 0 { "affine" } else { " " }, cells.join(" "));
    }
}

/// Statistics over all voxels and channels.
fn intensities(volume: &Volume) -> String {
    let mut finite: Vec<f32> = volume.data.iter().copied().filter(|x| x.is_finite()).collect();
    let bad = volume.data.len() - finite.len();
    let mut table = Table::new(&["<", ">"]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("voxels", term::count(volume.data.len()));
    if bad > 0 {
        row("not finite", format!("{} (NaN or infinity)", term::count(bad)));
    }
    finite.sort_by(f32::total_cmp);
    if let (Some(least), Some(most)) = (finite.first(), finite.last()) {
        let n = finite.len() as f64;
        let mean = finite.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let variance = finite.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
        let at = |share: f64| finite[((n - 1.0) * share).round() as usize];
        row("least", format!("{least}"));
        for (name, share) in [("0.5 %", 0.005), ("median", 0.5), ("99.5 %", 0.995)] {
            row(name, format!("{}", at(share)));
        }
        row("most", format!("{most}"));
        row("mean", format!("{mean:.4}"));
        row("deviation", format!("{:.4}", variance.sqrt()));
        let zeros = finite.iter().filter(|x| **x == 0.0).count();
        row("zeros", format!("{:.1} %", 100.0 * zeros as f64 / n));
    }
    format!("intensities\n{}", table.render("  "))
}

/// The free-text fields of the header: name, offset and length in NIfTI-1 and NIfTI-2.
fn free_text(path: &Path, version: Version) -> Result<String> {
    let fields: &[(&str, usize, usize)] = match version {
        Version::Nifti1 => &[
            ("data_type", 4, 10),
            ("db_name", 14, 18),
            ("descrip", 148, 80),
            ("aux_file", 228, 24),
            ("intent_name", 328, 16),
        ],
        Version::Nifti2 => &[("descrip", 240, 80), ("aux_file", 320, 24), ("intent_name", 508, 16)],
    };
    let bytes = header_bytes(path)?;
    let mut table = Table::new(&["<", "<"]);
    for &(name, at, length) in fields {
        let raw = bytes.get(at..at + length).unwrap_or_default();
        let end = raw.iter().position(|b| *b == 0).unwrap_or(raw.len());
        let text = String::from_utf8_lossy(raw.get(..end).unwrap_or_default());
        table.row([name.to_owned(), format!("\"{}\"", term::clean(&text))]);
    }
    Ok(format!("free text of the header\n{}", table.render("  ")))
}

/// The first 540 bytes of the file that has the header, unzipped.
fn header_bytes(path: &Path) -> Result<Vec<u8>> {
    let header = header_path(path)?;
    let path = header.as_path();
    let mut file = File::open(path).map_err(Error::io(path, "open"))?;
    let mut magic = [0; 2];
    file.read_exact(&mut magic).map_err(Error::io(path, "read"))?;
    let rest = (&magic[..]).chain(file);
    let mut bytes = Vec::new();
    let done = match magic {
        [0x1f, 0x8b] => MultiGzDecoder::new(rest).take(540).read_to_end(&mut bytes),
        _ => rest.take(540).read_to_end(&mut bytes),
    };
    done.map_err(Error::io(path, "read"))?;
    Ok(bytes)
}
