//! What a `dataset.json` says about classes and channels. Both forms are common: MSD maps numbers to
//! names (`"1": "liver"`), nnU-Net v2 names to numbers (`"liver": 1`) or to several of them
//! (`"whole tumour": [1, 2, 3]`).

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::data::text::read_text;
use crate::seg::{LabelRules, Region};
use crate::{Error, Result};

/// Classes, channels and size of a set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatasetInfo {
    pub name: Option<String>,
    /// What is judged: every declared label but the background, or every declared region.
    pub regions: Vec<Region>,
    /// Declared labels and their names, the background included. Regions have none.
    pub label_names: BTreeMap<u8, String>,
    /// Names of the channels in order (`modality` of MSD).
    pub channels: Vec<String>,
    pub num_training: Option<usize>,
    /// nnU-Net's `labels.ignore`: voxels of references that are not judged.
    pub ignore: Option<u8>,
}

#[derive(Deserialize)]
struct Raw {
    name: Option<Value>,
    labels: Option<serde_json::Map<String, Value>>,
    modality: Option<BTreeMap<String, Value>>,
    channel_names: Option<BTreeMap<String, Value>>,
    #[serde(rename = "numTraining")]
    num_training: Option<usize>,
}

impl DatasetInfo {
    /// Reads the file at `path`.
    ///
    /// Errors: [`Error::Io`]; [`Error::Data`] when it is no `dataset.json`, when a label is not a
    /// number from 0 to 255, or when a key is one we do not know the meaning of.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&read_text(path)?).map_err(|reason| Error::data(path, reason))
    }

    /// As [`DatasetInfo::read`], from text. Errors: the reason.
    pub fn parse(text: &str) -> Result<Self, String> {
        let raw: Raw = serde_json::from_str(text)
            .map_err(|e| format!("not a dataset.json we understand: {e}"))?;
        let mut info = Self {
            name: raw.name.as_ref().and_then(Value::as_str).map(str::to_owned),
            num_training: raw.num_training,
            channels: channels(raw.channel_names.or(raw.modality).unwrap_or_default())?,
            ..Self::default()
        };
        for (key, value) in raw.labels.unwrap_or_default() {
            info.label(&key, &value)?;
        }
        info.regions.sort_by(|a, b| a.labels().cmp(b.labels()));
        if let Some(pair) = info.regions.windows(2).find(|w| w[0].labels() == w[1].labels()) {
            return Err(format!("the label {} is declared twice", pair[0].key()));
        }
        if let Some(label) = info.ignore.filter(|l| info.label_names.contains_key(l)) {
            return Err(format!("the label {label} is declared twice, once as labels.ignore"));
        }
        Ok(info)
    }

    fn label(&mut self, key: &str, value: &Value) -> Result<(), String> {
        let number = |v: &Value| {
            let n = v.as_u64().or_else(|| v.as_str().and_then(|s| s.trim().parse().ok()));
            n.and_then(|n| u8::try_from(n).ok()).ok_or_else(|| {
                format!("labels.{key}: {v} is not a label from 0 to 255 (of 256 classes at most)")
            })
        };
        // `"1": "liver"` of MSD against `"liver": 1` of nnU-Net; a number for a number is MSD's.
        let is_msd = key.trim().parse::<u64>().is_ok() && value.is_string();
        if is_msd {
            let label = number(&Value::from(key))?;
            return self.class(label, value.as_str().unwrap_or_default());
        }
        if key == "ignore" {
            let label = number(value)?;
            if label == 0 {
                return Err("labels.ignore: 0 is the background".to_owned());
            }
            self.ignore = Some(label);
            return Ok(());
        }
        match value {
            Value::Array(members) => {
                let labels: Vec<u8> = members.iter().map(number).collect::<Result<_, _>>()?;
                if labels.is_empty() || labels.contains(&0) {
                    return Err(format!(
                        "labels.{key}: a region needs labels, and not the background"
                    ));
                }
                self.regions.push(Region::union(&labels, key));
                Ok(())
            }
            one => self.class(number(one)?, key),
        }
    }

    fn class(&mut self, label: u8, name: &str) -> Result<(), String> {
        if self.label_names.insert(label, name.to_owned()).is_some() {
            return Err(format!("the label {label} is declared twice"));
        }
        if label > 0 {
            self.regions.push(Region::class(label, name));
        }
        Ok(())
    }

    /// Classes with the background: the largest label and one. `None` when none is declared.
    pub fn classes(&self) -> Option<usize> {
        let labels = self.regions.iter().flat_map(Region::labels).chain(self.label_names.keys());
        labels.max().map(|&largest| usize::from(largest) + 1)
    }

    /// Stored values are classes, up to the largest that is declared.
    pub fn rules(&self) -> LabelRules {
        LabelRules { classes: self.classes(), map: None }
    }
}

/// Channel names in the order of their numbers.
fn channels(raw: BTreeMap<String, Value>) -> Result<Vec<String>, String> {
    let mut named = BTreeMap::new();
    for (key, value) in raw {
        let index: usize =
            key.trim().parse().map_err(|_| format!("channel {key:?} is not a number"))?;
        let name = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        named.insert(index, name);
    }
    match named.keys().copied().eq(0..named.len()) {
        true => Ok(named.into_values().collect()),
        false => Err("channels must be numbered 0, 1, 2, ...".to_owned()),
    }
}
