//! The table of a branch's parameters: which stands where in the flat buffer, and how it is trained.
//!
//! It knows no tensors: tape and optimiser use it as well as the networks ([`crate::nn`]) do.

use std::collections::HashMap;
use std::ops::Range;

/// One parameter in the flat buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamEntry {
    /// Checkpoint name, e.g. `blocks.0.attn.qkv.weight`.
    pub name: String,
    /// First element in the flat buffer.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// Weight decay applies (not for biases and 1-D parameters).
    pub decays: bool,
    /// A gradient is wanted.
    pub trains: bool,
}

impl ParamEntry {
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// Index of a parameter in its layout. Modules hold these, never tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamId(usize);

/// The layout table of a branch: names, offsets, shapes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParamLayout {
    entries: Vec<ParamEntry>,
    by_name: HashMap<String, usize>,
    len: usize,
}

impl ParamLayout {
    /// Appends a parameter. Offsets are multiples of 64 elements, so that every parameter can be
    /// read with the widest vector loads; the gaps stay zero.
    pub fn add(&mut self, name: impl Into<String>, shape: &[usize]) -> ParamId {
        let name = name.into();
        let decays = shape.len() > 1 && !name.ends_with(".bias");
        let index = self.entries.len();
        let entry =
            ParamEntry { offset: self.len, shape: shape.to_vec(), decays, trains: true, name };
        self.len = (self.len + entry.len()).next_multiple_of(64);
        self.by_name.insert(entry.name.clone(), index);
        self.entries.push(entry);
        ParamId(index)
    }

    /// Excludes a parameter from training; it keeps its value.
    pub fn freeze(&mut self, id: ParamId) {
        self.entries[id.0].trains = false;
    }

    /// As [`ParamLayout::freeze`], of all parameters with such a name.
    pub fn freeze_all(&mut self, which: impl Fn(&str) -> bool) {
        for entry in self.entries.iter_mut().filter(|e| which(&e.name)) {
            entry.trains = false;
        }
    }

    /// In order of their offsets.
    pub fn entries(&self) -> &[ParamEntry] {
        &self.entries
    }

    pub fn entry(&self, id: ParamId) -> &ParamEntry {
        &self.entries[id.0]
    }

    /// Where the gradient of a parameter stands.
    pub fn slot(&self, id: ParamId) -> ParamSlot {
        ParamSlot { index: id.0, offset: self.entries[id.0].offset }
    }

    pub fn find(&self, name: &str) -> Option<&ParamEntry> {
        self.by_name.get(name).map(|&i| &self.entries[i])
    }

    /// Elements of the flat buffer, padding included.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The piece of the flat buffer from the first parameter that trains to the last: what needs moments. A
    /// multiple of 64 elements, and empty when none trains.
    pub fn trained(&self) -> Range<usize> {
        let mut trained = self.entries.iter().filter(|e| e.trains);
        let Some(first) = trained.next() else { return 0..0 };
        let last = trained.next_back().unwrap_or(first);
        first.offset..last.range().end.next_multiple_of(64)
    }

    /// Elements of all parameters, without padding.
    pub fn count(&self) -> usize {
        self.entries.iter().map(ParamEntry::len).sum()
    }
}

/// The place of a parameter in the flat gradient buffer.
#[derive(Clone, Copy, Debug)]
pub struct ParamSlot {
    pub(crate) index: usize,
    pub(crate) offset: usize,
}
