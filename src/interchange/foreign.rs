//! The encoder of a safetensors file, whoever wrote it.

use std::collections::BTreeMap;
use std::path::Path;

use super::encoder::{Encoder, EncoderConfig, ImportOptions, ImportReport};
use super::file::{TensorSource, Values, shown};
use super::names::{self, Role};
use super::said::{CONFIG, CONSTRUCT, FORMAT, Said};
use super::{patch, positions};
use crate::nn::NORM_EPS;
use crate::{Error, Result};

/// Names in a message.
const SHOWN: usize = 5;
/// Of the layer norms that MONAI builds: it has no argument for another.
const MONAI_EPS: f64 = 1e-5;
/// Channels that an image may have when the edge of a patch is concluded from a row of weights. Up to 7
/// there is never more than one edge, since no ratio of two such numbers is a cube.
const MOST_CHANNELS: usize = 7;

/// See [`super::encoder::read_encoder`].
pub fn read(path: &Path, options: &ImportOptions) -> Result<Encoder> {
    let mut source = TensorSource::open(path)?;
    let mut report = ImportReport::default();
    let prefix = choose_prefix(&source, options)?;
    let found = sort_names(&source, &prefix, &mut report)?;
    let said = Said::of(&source)?;
    let is_monai = found.values().any(|name| name.contains("patch_embedding."));
    let naming = if is_monai { "MONAI" } else { "official" };
    report.source = match said.key {
        CONFIG => FORMAT.into(),
        "" => format!("{naming} names, prefix '{prefix}'"),
        _ => format!("an export of glmae, {naming} names, prefix '{prefix}'"),
    };
    let config = configure(&source, &found, options, &said, is_monai, &mut report)?;
    let grid = said.grid(&source, config.patch)?;
    let grid = said.agreed(&source, "--grid", options.grid, grid)?;
    let mut tensors = BTreeMap::new();
    read_patch(&mut source, &found, &config, &mut tensors)?;
    read_layers(&mut source, &found, &config, &mut tensors, &mut report)?;
    let grid = positions::read(&mut source, &found, &config, grid, &mut tensors, &mut report)?;
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

/// Where the encoder is: under the prefix that the user names, a chain of known wrappers, or the only prefix
/// that there is.
fn choose_prefix(source: &TensorSource, options: &ImportOptions) -> Result<String> {
    let names = source.names();
    let all = names::prefixes(names.iter().map(String::as_str));
    let listed = |some: &[&String]| {
        let first: Vec<String> =
            some.iter().take(SHOWN).map(|p| format!("'{}'", shown(p))).collect();
        first.join(", ") + if some.len() > SHOWN { ", ..." } else { "" }
    };
    let bad = |reason: String| Error::data(source.path(), reason);
    let every: Vec<&String> = all.iter().collect();
    if every.is_empty() {
        let first: Vec<String> = names.iter().take(SHOWN).map(|n| shown(n)).collect();
        return Err(bad(format!(
            "holds no ViT encoder: no tensor is called patch_embed.proj.weight or \
             patch_embedding.patch_embeddings.weight, under no prefix (--prefix) at all ({} tensors: \
             {})",
            names.len(),
            first.join(", ")
        )));
    }
    if let Some(wanted) = &options.prefix {
        // `image_encoder` means the same as `image_encoder.`.
        let dotted = format!("{wanted}.");
        let found = [wanted, &dotted].into_iter().find(|prefix| all.contains(*prefix));
        return found.cloned().ok_or_else(|| {
            Error::Config(format!(
                "{}: no encoder is under --prefix '{}', only under {}",
                source.path().display(),
                shown(wanted),
                listed(&every)
            ))
        });
    }
    let known: Vec<&String> = all.iter().filter(|prefix| names::is_wrapped(prefix)).collect();
    let is_student = |prefix: &&&String| prefix.split('.').any(|part| part == "student");
    let students: Vec<&&String> = known.iter().filter(is_student).collect();
    match (known.as_slice(), every.as_slice(), students.as_slice()) {
        ([one], ..) | ([], [one], _) => Ok((*one).clone()),
        (_, _, [student]) => Ok((**student).clone()),
        _ => Err(bad(format!("holds several encoders ({}): give --prefix", listed(&every)))),
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

/// The sizes, from shapes; what these do not tell from the user, from the file's metadata, or from what
/// every program does alike.
fn configure(
    source: &TensorSource,
    found: &BTreeMap<String, String>,
    options: &ImportOptions,
    said: &Said,
    is_monai: bool,
    report: &mut ImportReport,
) -> Result<EncoderConfig> {
    let bad = |reason: String| Error::data(source.path(), reason);
    let shape = |ours: &str| found.get(ours).and_then(|name| source.shape(name));
    let kernel = shape("patch_embed.proj.weight").unwrap_or_default();
    if kernel.contains(&0) {
        return Err(bad(format!("its patch kernel {kernel:?} is empty")));
    }
    let told = said.agreed(source, "--patch", options.patch, said.patch)?;
    let (dim, in_chans, patch) = match *kernel {
        [dim, c, a, b, e] if a == b && b == e => (dim, c, a),
        [dim, n] => {
            let (c, patch) = perceptron(source, n, told)?;
            if told.is_none() {
                report.assumed.push(format!(
                    "patch: {n} weights a row are taken for edge {patch} and {c} channels; --patch \
                     tells another"
                ));
            }
            (dim, c, patch)
        }
        [_, _, _, _] => return Err(bad("its patch embedding is that of 2-D images".into())),
        _ => return Err(bad(format!("its patch kernel {kernel:?} is no [dim, C, p, p, p]"))),
    };
    if let Some(told) = told.filter(|&told| told != patch) {
        let holds = format!("the file's patches are of edge {patch}");
        return Err(match options.patch {
            Some(_) => Error::Config(format!("--patch {told}: {holds}")),
            None => said.contradicts(source, &format!("patches of edge {told}"), &holds),
        });
    }
    let index = |name: &String| name.strip_prefix("blocks.")?.split('.').next()?.parse().ok();
    let last: Option<usize> = found.keys().filter_map(index).max();
    let last = last.ok_or_else(|| bad("has no block (blocks.0.norm1.weight, ...)".into()))?;
    if last >= found.len() {
        return Err(bad(format!("has a block {last} and {} tensors", found.len())));
    }
    let hidden = (0..=last).find_map(|i| shape(&format!("blocks.{i}.mlp.fc1.weight"))?.first());
    let mlp_hidden = hidden.copied().unwrap_or(dim.saturating_mul(4));
    let depth = last + 1;
    if let Some(config) = &said.config {
        let EncoderConfig { heads, norm_eps, .. } = *config;
        let holds = EncoderConfig { in_chans, patch, dim, depth, heads, mlp_hidden, norm_eps };
        if *config != holds {
            let (says, holds) = (format!("{config:?}"), format!("its tensors are of {holds:?}"));
            return Err(said.contradicts(source, &says, &holds));
        }
    }
    let heads = said.agreed(source, "--heads", options.heads, said.heads)?;
    let heads = heads.ok_or_else(|| {
        Error::Config(format!(
            "{}: the number of attention heads is not in the file (width {dim}; {}): give --heads",
            source.path().display(),
            offered_heads(dim)
        ))
    })?;
    if heads == 0 || !dim.is_multiple_of(heads) {
        let what = format!("the width {dim} is no multiple of {heads} heads");
        return Err(match options.heads {
            Some(_) => Error::Config(format!("--heads: {what}")),
            None => said.contradicts(source, &format!("{heads} heads"), &what),
        });
    }
    let norm_eps = said.agreed(source, "--norm-eps", options.norm_eps, said.norm_eps)?;
    let norm_eps = norm_eps.unwrap_or_else(|| {
        // Exports that do not say it are older ones of networks trained here.
        let (eps, whose) = match (said.key, is_monai) {
            (CONSTRUCT, _) => (NORM_EPS, "glmae trains with"),
            (_, true) => (MONAI_EPS, "MONAI builds its layer norms with"),
            (_, false) => (NORM_EPS, "timm and the official code have"),
        };
        report.assumed.push(format!("norm eps: {eps:e}, which {whose}; --norm-eps tells another"));
        eps
    });
    match norm_eps > 0.0 && norm_eps < 1.0 {
        true => Ok(EncoderConfig { in_chans, patch, dim, depth, heads, mlp_hidden, norm_eps }),
        false if options.norm_eps.is_some() => {
            Err(Error::Config(format!("--norm-eps {norm_eps}: it lies between 0 and 1")))
        }
        false => Err(bad(format!("its metadata '{}' says norm_eps = {norm_eps}", said.key))),
    }
}

/// Numbers of heads that a width allows: those of usual head widths, else all small ones. Which of them it
/// was cannot be seen, and another one gives other features without an error.
fn offered_heads(dim: usize) -> String {
    let usual = (16..=128).rev().filter(|c| dim.is_multiple_of(*c)).map(|c| dim / c);
    let mut heads: Vec<usize> = usual.collect();
    if heads.is_empty() {
        heads = (1..=64).filter(|h| dim.is_multiple_of(*h)).collect();
    }
    let heads: Vec<String> = heads.iter().take(2 * SHOWN).map(ToString::to_string).collect();
    let ours = match dim.is_multiple_of(64) {
        true => format!("; timm's usual 64 channels a head would be {}", dim / 64),
        false => String::new(),
    };
    format!("possible: {}{ours}", heads.join(", "))
}

/// Channels and patch edge of a row of `n` weights.
fn perceptron(source: &TensorSource, n: usize, told: Option<usize>) -> Result<(usize, usize)> {
    let channels = |edge: usize| match edge.checked_pow(3) {
        Some(voxels) if voxels > 0 && n > 0 && n.is_multiple_of(voxels) => Some(n / voxels),
        _ => None,
    };
    let found = match told {
        Some(edge) => channels(edge).map(|c| (c, edge)),
        None => (2..=64).rev().find_map(|edge| {
            Some((channels(edge).filter(|c| (1..=MOST_CHANNELS).contains(c))?, edge))
        }),
    };
    found.ok_or_else(|| {
        let edges: Vec<String> = (2..=64)
            .filter_map(|edge| Some(format!("{edge} with {} channels", channels(edge)?)))
            .collect();
        let possible = match edges.is_empty() {
            true => "none is possible".into(),
            false => format!("possible: {}", edges.join(", ")),
        };
        let told = told.map(|edge| format!(" of edge {edge}")).unwrap_or_default();
        Error::Config(format!(
            "{}: a patch embedding of {n} weights per row is not made of patches{told} as they are \
             usual ({possible}): give --patch",
            source.path().display()
        ))
    })
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
