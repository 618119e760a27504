//! The encoder of a safetensors file, whoever wrote it.

use std::collections::BTreeMap;
use std::path::Path;

use super::encoder::{Encoder, EncoderConfig, ImportOptions, ImportReport};
use super::file::{TensorSource, Values, shown};
use super::names::{self, Role};
use super::patch;
use crate::nn::NORM_EPS;
use crate::{Error, Result};

/// `format` of the metadata of `encoder.safetensors`.
pub const FORMAT: &str = "glmae-encoder-1";
/// Names in a message.
const SHOWN: usize = 5;
/// Of MONAI's layer norms.
const MONAI_EPS: f64 = 1e-5;

/// What `encoder.safetensors` says of itself, key `config` of its metadata.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    #[serde(flatten)]
    pub config: EncoderConfig,
    pub grid: Option<[usize; 3]>,
}

/// See [`super::encoder::read_encoder`].
pub fn read(path: &Path, options: &ImportOptions) -> Result<Encoder> {
    let mut source = TensorSource::open(path)?;
    let mut report = ImportReport::default();
    let prefix = choose_prefix(&source, options)?;
    let found = sort_names(&source, &prefix, &mut report)?;
    let note = match source.note("format") {
        Some(FORMAT) => {
            let text = source.note("config").unwrap_or_default();
            let note = serde_json::from_str::<Note>(text);
            Some(note.map_err(|e| Error::data(path, format!("its metadata 'config': {e}")))?)
        }
        _ => None,
    };
    let is_monai = found.values().any(|name| name.contains("patch_embedding."));
    report.source = match (&note, is_monai) {
        (Some(_), _) => FORMAT.into(),
        (None, true) => format!("MONAI names, prefix '{prefix}'"),
        (None, false) => format!("official names, prefix '{prefix}'"),
    };
    let config = configure(&source, &found, options, note.as_ref(), is_monai)?;
    let mut tensors = BTreeMap::new();
    read_patch(&mut source, &found, &config, &mut tensors)?;
    read_layers(&mut source, &found, &config, &mut tensors, &mut report)?;
    let grid = options.grid.or(note.and_then(|n| n.grid));
    let grid = read_positions(&mut source, &found, &config, grid, &mut tensors, &mut report)?;
    if !options.partial {
        refuse(path, "lacks parameters of an encoder", &report.missing)?;
        refuse(path, "has tensors that no encoder of glmae has", &report.unexpected)?;
    }
    report.loaded = tensors.keys().cloned().collect();
    Ok(Encoder { config, grid, tensors, report })
}

fn refuse(path: &Path, what: &str, names: &[String]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let first: Vec<String> = names.iter().take(SHOWN).map(|n| shown(n)).collect();
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    Err(Error::data(
        path,
        format!(
            "{what} ({}: {}{more}); a partial load (--partial) takes the rest",
            names.len(),
            first.join(", ")
        ),
    ))
}

fn choose_prefix(source: &TensorSource, options: &ImportOptions) -> Result<String> {
    let names = source.names();
    let all = names::prefixes(names.iter().map(String::as_str));
    let listed = || all.iter().map(|p| format!("'{p}'")).collect::<Vec<_>>().join(", ");
    let bad = |reason: String| Error::data(source.path(), reason);
    if all.is_empty() {
        let first: Vec<String> = names.iter().take(SHOWN).map(|n| shown(n)).collect();
        return Err(bad(format!(
            "holds no ViT encoder: no tensor is called patch_embed.proj.weight or \
             patch_embedding.patch_embeddings.weight, with or without a prefix such as \
             module.backbone. or vit. ({} tensors: {})",
            names.len(),
            first.join(", ")
        )));
    }
    if let Some(wanted) = &options.prefix {
        let found = all.get(wanted).cloned();
        return found.ok_or_else(|| {
            Error::Config(format!(
                "no encoder is under '{}', only under {}",
                shown(wanted),
                listed()
            ))
        });
    }
    let students: Vec<&String> =
        all.iter().filter(|p| p.split('.').any(|part| part == "student")).collect();
    match (all.len(), students.as_slice()) {
        (1, _) => Ok(all.into_iter().next().unwrap_or_default()),
        (_, [student]) => Ok((*student).clone()),
        _ => Err(bad(format!("holds several encoders; choose one with --prefix: {}", listed()))),
    }
}

/// Our names of the encoder's tensors and the file's; what else there is goes into the report.
fn sort_names(
    source: &TensorSource,
    prefix: &str,
    report: &mut ImportReport,
) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for name in source.names() {
        match name.strip_prefix(prefix).map(names::role) {
            None | Some(Role::Other) => report.ignored.push(name),
            Some(Role::Unknown) => report.unexpected.push(name),
            Some(Role::Encoder(ours)) => {
                if let Some(twin) = found.insert(ours, name.clone()) {
                    let what =
                        format!("'{}' and '{}' are the same tensor", shown(&twin), shown(&name));
                    return Err(Error::data(source.path(), what));
                }
            }
        }
    }
    Ok(found)
}

/// The sizes, from shapes.
fn configure(
    source: &TensorSource,
    found: &BTreeMap<String, String>,
    options: &ImportOptions,
    note: Option<&Note>,
    is_monai: bool,
) -> Result<EncoderConfig> {
    let bad = |reason: String| Error::data(source.path(), reason);
    let shape = |ours: &str| found.get(ours).and_then(|name| source.shape(name));
    let kernel = shape("patch_embed.proj.weight").unwrap_or_default();
    if kernel.contains(&0) {
        return Err(bad(format!("its patch kernel {kernel:?} is empty")));
    }
    let (dim, in_chans, patch) = match *kernel {
        [dim, c, a, b, e] if a == b && b == e => (dim, c, a),
        [dim, n] => {
            let (c, patch) = perceptron(n, options.patch)?;
            (dim, c, patch)
        }
        [_, _, _, _] => return Err(bad("its patch embedding is that of 2-D images".into())),
        _ => return Err(bad(format!("its patch kernel {kernel:?} is no [dim, C, p, p, p]"))),
    };
    if let Some(told) = options.patch.filter(|&told| told != patch) {
        return Err(Error::Config(format!(
            "--patch {told}: the file's patches are of edge {patch}"
        )));
    }
    let index = |name: &String| name.strip_prefix("blocks.")?.split('.').next()?.parse().ok();
    let last: Option<usize> = found.keys().filter_map(index).max();
    let last = last.ok_or_else(|| bad("has no block (blocks.0.norm1.weight, ...)".into()))?;
    if last >= found.len() {
        return Err(bad(format!("has a block {last} and {} tensors", found.len())));
    }
    let hidden = (0..=last).find_map(|i| shape(&format!("blocks.{i}.mlp.fc1.weight"))?.first());
    let heads = match options.heads.or(note.map(|n| n.config.heads)) {
        Some(heads) => heads,
        None if dim % 64 == 0 => dim / 64,
        None => {
            return Err(Error::Config(format!(
                "{}: the number of heads is not in the weights, and the width {dim} is no multiple \
                 of 64: give --heads",
                source.path().display()
            )));
        }
    };
    if heads == 0 || dim % heads != 0 {
        return Err(Error::Config(format!("the width {dim} is no multiple of {heads} heads")));
    }
    let norm_eps = note.map(|n| n.config.norm_eps);
    let norm_eps = norm_eps.unwrap_or(if is_monai { MONAI_EPS } else { NORM_EPS });
    let config = EncoderConfig {
        in_chans,
        patch,
        dim,
        depth: last + 1,
        heads,
        mlp_hidden: hidden.copied().unwrap_or(dim.saturating_mul(4)),
        norm_eps,
    };
    match note {
        Some(n) if EncoderConfig { heads, ..n.config.clone() } != config => {
            Err(bad(format!("its metadata says {:?}, its tensors {config:?}", n.config)))
        }
        _ if norm_eps > 0.0 && norm_eps < 1.0 => Ok(config),
        _ => Err(bad(format!("its metadata says norm_eps = {norm_eps}"))),
    }
}

/// Channels and patch edge of a row of `n` weights.
fn perceptron(n: usize, patch: Option<usize>) -> Result<(usize, usize)> {
    let edge = patch.unwrap_or(16);
    match edge.checked_pow(3) {
        Some(voxels) if voxels > 0 && n > 0 && n.is_multiple_of(voxels) => Ok((n / voxels, edge)),
        _ => Err(Error::Config(format!(
            "a patch embedding of {n} weights per row is not made of patches of edge {edge}: give \
             --patch"
        ))),
    }
}

fn read_patch(
    source: &mut TensorSource,
    found: &BTreeMap<String, String>,
    config: &EncoderConfig,
    tensors: &mut BTreeMap<String, Values>,
) -> Result<()> {
    let EncoderConfig { in_chans, patch: p, dim, .. } = *config;
    let ours = "patch_embed.proj.weight";
    let Some(name) = found.get(ours) else { return Ok(()) };
    let (shape, mut values) = source.read(name)?;
    if shape.len() == 2 {
        values = patch::from_perceptron(&values, in_chans, p);
    }
    tensors.insert(ours.into(), (vec![dim, in_chans, p, p, p], values));
    Ok(())
}

/// Everything but the patch kernel and the positions.
fn read_layers(
    source: &mut TensorSource,
    found: &BTreeMap<String, String>,
    config: &EncoderConfig,
    tensors: &mut BTreeMap<String, Values>,
    report: &mut ImportReport,
) -> Result<()> {
    let EncoderConfig { dim, depth, mlp_hidden, .. } = *config;
    let mut wanted = vec![
        ("cls_token".to_owned(), vec![1, 1, dim]),
        ("patch_embed.proj.bias".to_owned(), vec![dim]),
    ];
    for i in 0..depth {
        let named = |(name, shape)| (format!("blocks.{i}.{name}"), shape);
        wanted.extend(names::block(dim, mlp_hidden).map(named));
    }
    wanted.extend(["weight", "bias"].map(|kind| (format!("norm.{kind}"), vec![dim])));
    let has_qkv_bias = found.keys().any(|name| name.ends_with(".attn.qkv.bias"));
    for (ours, shape) in wanted {
        match found.get(&ours) {
            Some(name) => {
                let (read, values) = source.read(name)?;
                if read != shape {
                    let what = format!("tensor '{}' is {read:?}, {shape:?} is needed", shown(name));
                    return Err(Error::data(source.path(), what));
                }
                tensors.insert(ours, (shape, values));
            }
            // It is of no use in a segmentation network, and MONAI makes none.
            None if ours == "cls_token" => {}
            None if !has_qkv_bias && ours.ends_with(".attn.qkv.bias") => {
                tensors.insert(ours, (shape, vec![0.0; 3 * dim]));
            }
            None => report.missing.push(ours),
        }
    }
    if !has_qkv_bias {
        report.adapted.push("blocks.*.attn.qkv.bias: zeros, for the file has none".into());
    }
    Ok(())
}

/// The table of positions with its cls row. Returns its grid.
fn read_positions(
    source: &mut TensorSource,
    found: &BTreeMap<String, String>,
    config: &EncoderConfig,
    grid: Option<[usize; 3]>,
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
    let given = match grid {
        Some(grid) => {
            let tokens = grid.iter().try_fold(1usize, |n, &g| n.checked_mul(g));
            let fits = tokens.filter(|&n| n > 0 && (rows == n || rows - 1 == n));
            Some(fits.ok_or_else(|| bad(format!("has {rows} rows, the grid {grid:?} has others")))?)
        }
        None => None,
    };
    let has_cls_row = match given {
        Some(tokens) => rows != tokens,
        None if name.ends_with("position_embeddings") => false,
        None => {
            found.contains_key("cls_token") || (cube(rows).is_none() && cube(rows - 1).is_some())
        }
    };
    let tokens = if has_cls_row { rows - 1 } else { rows };
    if tokens == 0 {
        return Err(bad("has no row but the cls token's".into()));
    }
    let (_, mut values) = source.read(name)?;
    if !has_cls_row {
        values.splice(0..0, std::iter::repeat_n(0.0, dim));
        report.adapted.push("pos_embed: a row of zeros for the cls token".into());
    }
    tensors.insert(ours.into(), (vec![1, 1 + tokens, dim], values));
    let grid = grid.or_else(|| cube(tokens).map(|n| [n; 3]));
    if given.is_none() && grid.is_some() {
        report.adapted.push(format!("pos_embed: its {tokens} rows are taken for a cubic grid"));
    }
    Ok(grid)
}

/// The cube root, if it is a whole number.
fn cube(n: usize) -> Option<usize> {
    (1..=n).take_while(|e| e.checked_pow(3).is_some_and(|c| c <= n)).find(|e| e.pow(3) == n)
}
