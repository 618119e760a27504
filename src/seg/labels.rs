//! From stored values to class indices, with an error for every value that is no class.

use std::collections::BTreeMap;
use std::path::Path;

use crate::data::label::{LabelImage, check_label_grid, read_labels};
use crate::data::{Affine, CaseRecord, ReadLimits};
use crate::{Error, Result};

/// Which stored values are which classes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelRules {
    /// Classes with the background, so that indices run from 0 to `classes - 1`. `None`: whatever
    /// the file holds, up to 255.
    pub classes: Option<usize>,
    /// Class of a stored value, such as 205 to 1 in MM-WHS. 0 stays 0. With a map every other value
    /// is an error; without one stored values are classes as they are.
    pub map: Option<BTreeMap<u16, u8>>,
}

/// A label map as class indices.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassImage {
    /// `[d, h, w]`, `w` fastest.
    pub classes: Vec<u8>,
    pub dims: [usize; 3],
    /// Voxel indices to millimetres in RAS+ world space.
    pub affine: Affine,
    pub space_code: i16,
}

impl LabelRules {
    /// Stored values are classes `0..count`.
    pub fn classes(count: usize) -> Self {
        Self { classes: Some(count), map: None }
    }

    /// The class of every stored value, or `None` where it is refused.
    fn table(&self) -> Vec<Option<u8>> {
        let count = self.classes.unwrap_or(256).min(256);
        let class = |value: u16| {
            let class = match &self.map {
                None => u8::try_from(value).ok(),
                Some(_) if value == 0 => Some(0),
                Some(map) => map.get(&value).copied(),
            };
            class.filter(|&c| usize::from(c) < count)
        };
        (0..=u16::MAX).map(class).collect()
    }

    /// Class indices of a label map; `path` is for messages.
    ///
    /// Errors: [`Error::Data`] with the first voxel whose value is no class.
    pub fn apply(&self, path: &Path, label: &LabelImage) -> Result<Vec<u8>> {
        let table = self.table();
        let mut classes = Vec::with_capacity(label.values.len());
        for (at, &value) in label.values.iter().enumerate() {
            match table[usize::from(value)] {
                Some(class) => classes.push(class),
                None => return Err(self.refuse(path, label, at, value)),
            }
        }
        Ok(classes)
    }

    fn refuse(&self, path: &Path, label: &LabelImage, at: usize, value: u16) -> Error {
        let why = match (&self.map, self.classes) {
            (Some(map), _) => {
                let known: Vec<String> = map.keys().take(20).map(u16::to_string).collect();
                format!("the label map knows 0, {}", known.join(", "))
            }
            (None, Some(count)) => {
                format!("{count} classes with the background are 0 to {}", count.saturating_sub(1))
            }
            (None, None) => "classes end at 255; larger values need a label map".to_owned(),
        };
        let voxel = label.voxel(at);
        let hint = match value {
            255 => "; 255 is how many sets mark voxels to be ignored (nnU-Net: labels.ignore)",
            _ => "",
        };
        Error::data(path, format!("the label at voxel {voxel:?} is {value}, but {why}{hint}"))
    }

    /// Reads a label map as class indices on the grid of the file.
    ///
    /// Errors: as [`read_labels`] and [`LabelRules::apply`].
    pub fn read(&self, path: &Path, limits: &ReadLimits) -> Result<ClassImage> {
        self.of_stored(path, read_labels(path, limits)?)
    }

    /// As [`LabelRules::read`], of a map that was read before.
    ///
    /// Errors: as [`LabelRules::apply`].
    pub fn of_stored(&self, path: &Path, stored: LabelImage) -> Result<ClassImage> {
        let classes = self.apply(path, &stored)?;
        let LabelImage { dims, affine, space_code, .. } = stored;
        Ok(ClassImage { classes, dims, affine, space_code })
    }

    /// Reads the label map of a prepared case: class indices on the prepared grid.
    ///
    /// Errors: as [`LabelRules::read`]; [`Error::Data`] when the map lies on another grid than the
    /// image.
    pub fn prepare(
        &self,
        path: &Path,
        record: &CaseRecord,
        limits: &ReadLimits,
    ) -> Result<Vec<u8>> {
        let image = self.read(path, limits)?;
        check_label_grid(path, image.dims, &image.affine, record)?;
        record.place_labels(&image.classes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(values: &[u16]) -> LabelImage {
        let mut affine = [[0.0; 4]; 4];
        for i in 0..4 {
            affine[i][i] = 1.0;
        }
        LabelImage {
            values: values.to_vec(),
            dims: [1, 2, values.len() / 2],
            affine,
            space_code: 1,
        }
    }

    #[test]
    fn values_become_classes_or_errors() {
        let path = Path::new("case_7.nii.gz");
        let map = BTreeMap::from([(205, 1), (420, 2), (421, 2)]);
        let rules = LabelRules { classes: Some(3), map: Some(map) };
        assert_eq!(rules.apply(path, &image(&[0, 205, 421, 420])).unwrap(), [0, 1, 2, 2]);
        for (rules, bad, words) in [
            (rules.clone(), 1, "205"),
            (LabelRules { classes: Some(2), ..rules }, 420, "205"),
            (LabelRules::classes(3), 3, "0 to 2"),
            (LabelRules::default(), 256, "label map"),
        ] {
            let error = rules.apply(path, &image(&[0, 0, bad, 0])).unwrap_err().to_string();
            for word in ["case_7", "[0, 1, 0]", &format!("is {bad}"), words] {
                assert!(error.contains(word), "{word} is not in: {error}");
            }
        }
        assert_eq!(LabelRules::default().apply(path, &image(&[255, 1])).unwrap(), [255, 1]);
    }
}
