//! What a file says of its encoder in its own metadata: the values that no shape tells. It is text
//! that anyone can write, so what it says is checked against the tensors.

use std::fmt::Debug;

use super::encoder::EncoderConfig;
use super::file::{TensorSource, shown};
use crate::{Error, Result};

/// `format` of the metadata of `encoder.safetensors`.
pub const FORMAT: &str = "glmae-encoder-1";
/// Key of the metadata of `encoder.safetensors` with a [`Note`].
pub const CONFIG: &str = "config";
/// Key of the metadata of exports with a [`Note`].
pub const EXPORTED: &str = "glmae.encoder";
/// Key of the metadata of exports with the Python that builds the network.
pub const CONSTRUCT: &str = "glmae.construct";

/// Sizes in JSON.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    #[serde(flatten)]
    pub config: EncoderConfig,
    pub grid: Option<[usize; 3]>,
}

impl Note {
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::Config(format!("encoder: {e}")))
    }
}

/// What a file says; nothing of a foreign one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    /// The key that says it, empty when none does.
    pub key: &'static str,
    /// All sizes, if they are there.
    pub config: Option<EncoderConfig>,
    pub heads: Option<usize>,
    pub patch: Option<usize>,
    pub norm_eps: Option<f64>,
    pub grid: Option<[usize; 3]>,
    /// The image, where that is said instead of the grid.
    pub image: Option<[usize; 3]>,
}

impl Said {
    /// Reads the metadata. Errors: [`Error::Data`] for a note that is none.
    pub fn of(source: &TensorSource) -> Result<Self> {
        let key = match (source.note("format"), source.note(EXPORTED)) {
            (Some(FORMAT), _) => CONFIG,
            (_, Some(_)) => EXPORTED,
            _ => return Ok(source.note(CONSTRUCT).map(Self::of_python).unwrap_or_default()),
        };
        let text = source.note(key).unwrap_or_default();
        let Note { config, grid } = serde_json::from_str(text)
            .map_err(|e| Error::data(source.path(), format!("its metadata '{key}': {e}")))?;
        Ok(Self {
            key,
            heads: Some(config.heads),
            patch: Some(config.patch),
            norm_eps: Some(config.norm_eps),
            grid,
            image: None,
            config: Some(config),
        })
    }

    /// Of the line that older exports have alone: `monai.networks.nets.ViT(in_channels=1, ...)`.
    fn of_python(text: &str) -> Self {
        let is_unetr = text.contains("nets.UNETR(") || text.contains(": UNETR(");
        let patch = triple(text, "patch_size=(").map(|[edge, ..]| edge);
        let patch = patch.or(number(text, " patch=")).or(is_unetr.then_some(16));
        Self {
            key: CONSTRUCT,
            heads: number(text, "num_heads="),
            patch,
            norm_eps: after(text, "norm eps ").and_then(|rest| {
                let end = |c: char| c == ',' || c == ')' || c.is_whitespace();
                rest.split(end).next()?.parse().ok()
            }),
            image: triple(text, "img_size=("),
            ..Self::default()
        }
    }

    /// The grid of the table of positions. Errors: [`Error::Data`] for an image that patches do not fill.
    pub fn grid(&self, source: &TensorSource, patch: usize) -> Result<Option<[usize; 3]>> {
        let Some(image) = self.image else { return Ok(self.grid) };
        if patch == 0 || !image.iter().all(|n| n.is_multiple_of(patch)) {
            return Err(self.contradicts(
                source,
                &format!("an image of {image:?} voxels"),
                &format!("the patches are of edge {patch}"),
            ));
        }
        Ok(Some(image.map(|n| n / patch)))
    }

    /// The error of a file that says one thing and holds another.
    pub fn contradicts(&self, source: &TensorSource, says: &str, holds: &str) -> Error {
        let reason = format!(
            "its metadata '{}' says {}, but {holds}: one of the two was changed; export it again",
            self.key,
            shown(says)
        );
        Error::data(source.path(), reason)
    }

    /// What the user tells or the file says. Errors: [`Error::Config`] when the two differ.
    pub fn agreed<T: Copy + PartialEq + Debug>(
        &self,
        source: &TensorSource,
        flag: &str,
        told: Option<T>,
        says: Option<T>,
    ) -> Result<Option<T>> {
        match (told, says) {
            (Some(told), Some(says)) if told != says => Err(Error::Config(format!(
                "{}: {flag} is {told:?}, but the metadata '{}' of the file says {says:?}; leave \
                 {flag} out",
                source.path().display(),
                self.key
            ))),
            _ => Ok(told.or(says)),
        }
    }
}

/// What follows `key` in a text.
fn after<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.split_once(key).map(|(_, rest)| rest)
}

fn number(text: &str, key: &str) -> Option<usize> {
    let rest = after(text, key)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

fn triple(text: &str, key: &str) -> Option<[usize; 3]> {
    let inner = after(text, key)?.split_once(')')?.0;
    let numbers: Option<Vec<usize>> = inner.split(',').map(|n| n.trim().parse().ok()).collect();
    numbers?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_older_exports_are_understood() {
        let vit = "monai.networks.nets.ViT(in_channels=1, img_size=(8, 16, 32), \
                   patch_size=(8, 8, 8), hidden_size=128, mlp_dim=512, num_layers=2, num_heads=4, \
                   proj_type=\"conv\", qkv_bias=True)";
        let said = Said::of_python(vit);
        assert_eq!((said.heads, said.patch, said.norm_eps), (Some(4), Some(8), None));
        assert_eq!(said.image, Some([8, 16, 32]));
        let timm = "# a ViT as in timm, over 3-D patches: embed_dim=128, depth=2, num_heads=4, \
                    mlp_hidden=512, patch=8, in_chans=1, num_classes=0, norm eps 1e-6";
        let said = Said::of_python(timm);
        assert_eq!((said.heads, said.patch, said.norm_eps), (Some(4), Some(8), Some(1e-6)));
        assert_eq!(said.image, None);
        let unetr = "monai.networks.nets.UNETR(in_channels=2, out_channels=3, img_size=(32, 16, 48), \
                     feature_size=4, hidden_size=24, mlp_dim=40, num_heads=3)";
        let said = Said::of_python(unetr);
        assert_eq!((said.heads, said.patch, said.image), (Some(3), Some(16), Some([32, 16, 48])));
    }

    #[test]
    fn nonsense_says_nothing() {
        for text in ["", "num_heads=", "num_heads=x", "img_size=(1, 2)", "img_size=(1, 2, -3)"] {
            let said = Said::of_python(text);
            assert_eq!(said, Said { key: CONSTRUCT, ..Said::default() }, "{text}");
        }
        let many = format!("num_heads={}", "9".repeat(400));
        assert_eq!(Said::of_python(&many).heads, None);
    }
}
