//! The sizes that a checkpoint claims, against the tensors that it has.
//!
//! What a checkpoint says of itself is untrusted: its checksum finds damage, not intent. Here every
//! number that memory or a loop is made of is compared with the shapes in the header of the weights,
//! whose bytes are known to be there. Afterwards a network of these sizes takes a small multiple of the
//! file at most, and no product of sizes overflows. That the tensors are exactly those of the network is
//! compared later, when it is there.

use std::path::Path;

use super::classifier::ClassifierConfig;
use super::unetr::UnetrConfig;
use super::vit::VitConfig;
use crate::config::Config;
use crate::tensor_header::TensorHeader;
use crate::{Error, Result};

/// Key of the metadata of a checkpoint's weights with their step.
const STEP: &str = "glmae.step";
/// No run comes to as many steps; arithmetic on their numbers has room above it.
const MOST_STEPS: u64 = 1 << 48;

/// A size as it stands in the checkpoint (`model.dim = 768`), and the extent that follows from it.
type Size = (String, usize);

/// A checkpoint under test.
pub struct Claims<'a> {
    /// The file that makes the claims.
    state: &'a Path,
    /// The file with the weights, and its name.
    header: &'a TensorHeader,
}

impl<'a> Claims<'a> {
    /// Claims of the file `state` on the weights of `header`.
    pub fn new(state: &'a Path, header: &'a TensorHeader) -> Self {
        Self { state, header }
    }

    /// The sizes of a pre-training. Errors: [`Error::Data`] naming the key that does not fit.
    pub fn pretraining(&self, config: &Config) -> Result<()> {
        let m = &config.model;
        let size = |key: &str, value: usize| (format!("model.{key} = {value}"), value);
        let edge = size("patch", m.patch);
        let channels = size("in_chans", m.in_chans);
        let dim = size("dim", m.dim);
        let kernel = [&dim, &channels, &edge, &edge, &edge];
        self.shape("patch_embed.proj.weight", &kernel)?;
        let hidden = |width: usize| (format!("model.mlp_ratio = {}", m.mlp_ratio), width);
        self.blocks("blocks", &size("depth", m.depth), &dim, &hidden(m.mlp_hidden()))?;
        let dec_dim = size("dec_dim", m.dec_dim);
        self.shape("decoder_embed.weight", &[&dec_dim, &dim])?;
        let dec_hidden = hidden(m.dec_mlp_hidden());
        self.blocks("decoder_blocks", &size("dec_depth", m.dec_depth), &dec_dim, &dec_hidden)?;
        let view = config.views.local_size;
        let one = (format!("views.local_size = {view:?}"), 1);
        let rows = (one.0.clone(), rows(view, m.patch, 1));
        self.shape("pos_embed", &[&one, &rows, &dim])?;
        self.shape("decoder_pos_embed", &[&one, &rows, &dec_dim])?;
        if !config.loss.objective.has_head() {
            return Ok(());
        }
        let h = &config.head;
        let size = |key: &str, value: usize| (format!("head.{key} = {value}"), value);
        let (hidden, bottleneck) = (size("hidden", h.hidden), size("bottleneck", h.bottleneck));
        self.shape("head.mlp.0.weight", &[&hidden, &dim])?;
        self.shape("head.mlp.2.weight", &[&hidden, &hidden])?;
        self.shape("head.mlp.4.weight", &[&bottleneck, &hidden])?;
        let prototypes = size("prototypes", h.prototypes);
        self.shape("head.last_layer.weight_v", &[&prototypes, &bottleneck])
    }

    /// The sizes of a UNETR that [`UnetrConfig::check`] accepts, with position rows under the name
    /// `positions`. Errors: [`Error::Data`] naming the key that does not fit.
    pub fn unetr(&self, config: &UnetrConfig, positions: &str) -> Result<()> {
        self.vit(&config.vit(), positions)?;
        let (one, three) = (fixed(1), fixed(3));
        let size = |key: &str, value: usize| (format!("network.{key} = {value}"), value);
        let features = size("feature_size", config.feature_size);
        let outputs = size("outputs", config.outputs);
        self.shape("out.conv.conv.weight", &[&outputs, &features, &one, &one, &one])?;
        let channels = size("in_chans", config.in_chans);
        let kernel = [&features, &channels, &three, &three, &three];
        self.shape("encoder1.layer.conv1.conv.weight", &kernel)?;
        for level in 1..=config.levels() {
            let times = |n: usize| (features.0.clone(), features.1.saturating_mul(n));
            let (from, to) = (times(1 << level), times(1 << (level - 1)));
            let name = format!("decoder{}.conv_block.conv1.conv.weight", level + 1);
            self.shape(&name, &[&to, &from, &three, &three, &three])?;
        }
        Ok(())
    }

    /// As [`Claims::unetr`], of a classifier.
    pub fn classifier(&self, config: &ClassifierConfig, positions: &str) -> Result<()> {
        self.vit(&config.vit, positions)?;
        let outputs = (format!("network.outputs = {}", config.outputs), config.outputs);
        let (one, dim) = (fixed(1), (format!("network.dim = {}", config.vit.dim), config.vit.dim));
        self.shape("head.conv.weight", &[&outputs, &dim, &one, &one, &one])
    }

    fn vit(&self, c: &VitConfig, positions: &str) -> Result<()> {
        let size = |key: &str, value: usize| (format!("network.{key} = {value}"), value);
        let (dim, edge) = (size("dim", c.dim), size("patch", c.patch));
        let kernel = [&dim, &size("in_chans", c.in_chans), &edge, &edge, &edge];
        self.shape("vit.patch_embed.proj.weight", &kernel)?;
        let hidden = size("mlp_hidden", c.mlp_hidden);
        self.blocks("vit.blocks", &size("depth", c.depth), &dim, &hidden)?;
        let one = (format!("network.roi = {:?}", c.roi), 1);
        let rows = (one.0.clone(), rows(c.roi, c.patch, 0));
        self.shape(positions, &[&one, &rows, &dim])?;
        match c.norm_eps < 1.0 {
            true => Ok(()),
            false => Err(self.refusal(&format!("network.norm_eps = {} is no epsilon", c.norm_eps))),
        }
    }

    /// `depth` blocks, each with the two layers that all others of a block are no larger than.
    fn blocks(&self, name: &str, depth: &Size, dim: &Size, hidden: &Size) -> Result<()> {
        let three = (dim.0.clone(), dim.1.saturating_mul(3));
        let exists = |i: usize| self.header.shape(&format!("{name}.{i}.attn.qkv.weight")).is_some();
        // Ends at the first block that the file lacks, whatever the depth is said to be.
        let found = (0..depth.1).take_while(|&i| exists(i)).count();
        let other = match found < depth.1 {
            true => Some(format!("have no {name}.{found}")),
            false => exists(found).then(|| format!("have a {name}.{found}, too")),
        };
        if let Some(other) = other {
            return Err(
                self.refusal(&format!("{} does not fit the weights, which {other}", depth.0))
            );
        }
        for i in 0..depth.1 {
            self.shape(&format!("{name}.{i}.attn.qkv.weight"), &[&three, dim])?;
            self.shape(&format!("{name}.{i}.mlp.fc1.weight"), &[hidden, dim])?;
        }
        Ok(())
    }

    /// Steps of a run, and numbers that count along with them. Errors: [`Error::Data`] naming the number.
    pub fn steps(&self, step: u64, others: &[(&str, u64)]) -> Result<()> {
        let mut all = [("step", step)].into_iter().chain(others.iter().copied());
        if let Some((name, n)) = all.find(|(_, n)| *n > MOST_STEPS) {
            return Err(self.refusal(&format!("{name} = {n} is more than any run comes to")));
        }
        let said: Option<u64> = self.header.note(STEP).and_then(|note| note.parse().ok());
        match said.filter(|said| *said != step) {
            Some(said) => {
                Err(self.refusal(&format!("step = {step}, but the weights are of step {said}")))
            }
            None => Ok(()),
        }
    }

    /// Errors: the first extent that a tensor has not, or a tensor that is missing.
    fn shape(&self, name: &str, expected: &[&Size]) -> Result<()> {
        let Some(found) = self.header.shape(name) else {
            let claim = expected.first().map_or("", |(claim, _)| claim);
            return Err(self.refusal(&format!("{claim} needs a tensor '{name}', which is missing")));
        };
        let differs = |(have, size): (&usize, &&Size)| (*have != size.1).then(|| size.0.clone());
        let wrong = found.iter().zip(expected).find_map(differs);
        let wrong = wrong.or_else(|| {
            (found.len() != expected.len()).then(|| expected.first().map(|s| s.0.clone()))?
        });
        match wrong {
            None => Ok(()),
            Some(claim) => Err(self.refusal(&format!(
                "{claim} does not fit the weights, whose tensor '{name}' is {found:?}"
            ))),
        }
    }

    fn refusal(&self, what: &str) -> Error {
        let reason = format!("{what}: damaged or changed by hand; use another checkpoint");
        Error::data(self.state, reason)
    }
}

/// An extent that no key changes.
fn fixed(n: usize) -> Size {
    ("network.kind".into(), n)
}

/// Rows of a table for an image of `size`: more than any file has when their number overflows.
fn rows(size: [usize; 3], patch: usize, more: usize) -> usize {
    let grid = size.iter().try_fold(1usize, |n, side| n.checked_mul(side.checked_div(patch)?));
    grid.and_then(|n| n.checked_add(more)).unwrap_or(usize::MAX)
}
