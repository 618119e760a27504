//! What is judged as one structure: a label, or several labels together (BraTS' whole tumour).

use std::fmt;

/// A named set of label values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    pub name: String,
    /// The labels that belong to it, ascending, each once.
    labels: Vec<u8>,
}

impl Region {
    /// The structure of a single label.
    pub fn class(label: u8, name: impl Into<String>) -> Self {
        Self { name: name.into(), labels: vec![label] }
    }

    /// A structure of several labels; their order does not matter.
    pub fn union(labels: &[u8], name: impl Into<String>) -> Self {
        let mut labels = labels.to_vec();
        labels.sort_unstable();
        labels.dedup();
        Self { name: name.into(), labels }
    }

    /// Classes `1..count`, named by their numbers. Class 0, the background, is not judged.
    pub fn foreground(count: usize) -> Vec<Self> {
        (1..count.min(256)).map(|c| Self::class(c as u8, c.to_string())).collect()
    }

    /// Its labels, ascending.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// Which of the 256 label values belong to it.
    pub fn members(&self) -> [bool; 256] {
        let mut members = [false; 256];
        for &label in &self.labels {
            members[usize::from(label)] = true;
        }
        members
    }

    /// nnU-Net's key of a label or region in `summary.json`: `3`, or `(1, 2, 3)`.
    pub fn key(&self) -> String {
        match self.labels.as_slice() {
            [one] => one.to_string(),
            many => {
                let parts: Vec<String> = many.iter().map(u8::to_string).collect();
                format!("({})", parts.join(", "))
            }
        }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.name == self.key() {
            true => f.write_str(&self.name),
            false => write!(f, "{} {}", self.key(), self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_nnunet() {
        assert_eq!(Region::class(3, "liver").key(), "3");
        let whole = Region::union(&[3, 1, 2, 1], "whole tumour");
        assert_eq!((whole.key().as_str(), whole.labels()), ("(1, 2, 3)", &[1, 2, 3][..]));
        assert_eq!(whole.to_string(), "(1, 2, 3) whole tumour");
        let classes = Region::foreground(3);
        assert_eq!(classes.iter().map(Region::to_string).collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(whole.members().iter().filter(|&&m| m).count(), 3);
        assert_eq!(Region::foreground(0).len() + Region::foreground(1).len(), 0);
    }
}
