//! In which order the patches of a batch lie in memory: so that whoever reads some of them reads neighbours.
//!
//! ```text
//! | visible, local views | visible, global views | masked, global views | masked, local views |
//! |<------------- the student sees ------------->|<----------- are predicted ------------>|
//!                        |<------------ the teacher sees ---------->|
//! ```
//!
//! Within a part patches are ordered by view, then visible ones as they enter the encoder, masked ones in raster
//! order. Views are cut into this order, so no pass gathers patches.

use std::ops::Range;

use super::mask::Mask;
use crate::config::ViewKind;

/// The row of every patch of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct PatchOrder {
    /// View and token of every row.
    patches: Vec<(usize, usize)>,
    /// By view and token.
    rows: Vec<Vec<usize>>,
    /// Where the four parts begin, and the end.
    bounds: [usize; 5],
}

impl PatchOrder {
    /// The order for views of these kinds with these masks.
    pub fn new(kinds: &[ViewKind], masks: &[Mask]) -> Self {
        let mut patches = Vec::new();
        let mut bounds = [0; 5];
        let parts = [
            (ViewKind::Local, Mask::keep as fn(&Mask) -> &[usize]),
            (ViewKind::Global, Mask::keep),
            (ViewKind::Global, Mask::masked),
            (ViewKind::Local, Mask::masked),
        ];
        for (i, (kind, tokens)) in parts.into_iter().enumerate() {
            let views = kinds.iter().zip(masks).enumerate().filter(|(_, (k, _))| **k == kind);
            for (view, (_, mask)) in views {
                patches.extend(tokens(mask).iter().map(|&token| (view, token)));
            }
            bounds[i + 1] = patches.len();
        }
        let mut rows: Vec<Vec<usize>> = masks.iter().map(|mask| vec![0; mask.tokens()]).collect();
        for (row, &(view, token)) in patches.iter().enumerate() {
            rows[view][token] = row;
        }
        Self { patches, rows, bounds }
    }

    /// View and token of every row.
    pub fn patches(&self) -> &[(usize, usize)] {
        &self.patches
    }

    /// The row of every token of a view; none for a view that does not exist.
    pub fn rows(&self, view: usize) -> &[usize] {
        self.rows.get(view).map_or(&[], Vec::as_slice)
    }

    /// Rows that the student's encoder sees.
    pub fn student(&self) -> Range<usize> {
        self.bounds[0]..self.bounds[2]
    }

    /// Rows that the teacher's encoder sees: all of the global views.
    pub fn teacher(&self) -> Range<usize> {
        self.bounds[1]..self.bounds[3]
    }

    /// Masked rows of a kind.
    pub fn masked(&self, kind: ViewKind) -> Range<usize> {
        match kind {
            ViewKind::Global => self.bounds[2]..self.bounds[3],
            ViewKind::Local => self.bounds[3]..self.bounds[4],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reader_finds_its_patches_side_by_side() {
        let kinds = [ViewKind::Global, ViewKind::Global, ViewKind::Local];
        let keep: [&[usize]; 3] = [&[4, 1], &[0, 3], &[2]];
        let tokens = [6, 6, 3];
        let masks: Vec<Mask> =
            (0..3).map(|v| Mask::from_keep(tokens[v], keep[v]).unwrap()).collect();
        let order = PatchOrder::new(&kinds, &masks);
        let at = |range: Range<usize>| &order.patches()[range];
        assert_eq!(at(order.student()), [(2, 2), (0, 4), (0, 1), (1, 0), (1, 3)]);
        let mut seen = at(order.teacher()).to_vec();
        seen.sort_unstable();
        let whole: Vec<(usize, usize)> = (0..12).map(|i| (i / 6, i % 6)).collect();
        assert_eq!(seen, whole);
        let [global, local] = ViewKind::ALL.map(|kind| order.masked(kind));
        assert_eq!(global.end, local.start);
        assert_eq!(at(local), [(2, 0), (2, 1)]);
        assert_eq!(at(global)[..4], [(0, 0), (0, 2), (0, 3), (0, 5)]);
        for (row, &(view, token)) in order.patches().iter().enumerate() {
            assert_eq!(order.rows(view)[token], row);
        }
    }
}
