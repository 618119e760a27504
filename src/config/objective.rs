//! The terms that a loss can have, and which of them each objective has. Both are tables: columns of the
//! logs, summaries, studies and the comparison with reference cases are made from them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{LossConfig, ViewKind};

/// The total loss, as logs and reports call it.
pub const TOTAL: &str = "loss";

/// What a term compares the student with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The hidden voxels of the view itself.
    Voxels,
    /// What the EMA teacher and its projection head make of intact global views.
    Teacher,
}

/// A term of the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    RecGlobal,
    RecLocal,
    /// Global-to-global consistency.
    G2g,
    /// Local-to-global consistency.
    L2g,
}

/// A row of [`TERMS`].
#[derive(Debug)]
pub struct TermRow {
    pub term: Term,
    /// As logs and reports call it.
    pub name: &'static str,
    /// For people who see the number for the first time.
    pub meaning: &'static str,
    /// The student's views that it is about, and what they are compared with: no two terms have both alike.
    pub views: ViewKind,
    pub target: Target,
    /// The key of its weight, and the weight.
    pub weight_key: &'static str,
    pub weight: fn(&LossConfig) -> f64,
    /// As the reference cases call it (docs/verification.md).
    pub case_name: &'static str,
}

/// Every term, in the order of the columns and of the sum.
pub static TERMS: [TermRow; 4] = [
    TermRow {
        term: Term::RecGlobal,
        name: "rec_global",
        meaning: "squared error of hidden voxels, global views",
        views: ViewKind::Global,
        target: Target::Voxels,
        weight_key: "loss.rec_global",
        weight: |loss| loss.rec_global,
        case_name: "rec_g",
    },
    TermRow {
        term: Term::RecLocal,
        name: "rec_local",
        meaning: "squared error of hidden voxels, local views",
        views: ViewKind::Local,
        target: Target::Voxels,
        weight_key: "loss.rec_local",
        weight: |loss| loss.rec_local,
        case_name: "rec_l",
    },
    TermRow {
        term: Term::G2g,
        name: "g2g",
        meaning: "cross-entropy, masked global view against intact one",
        views: ViewKind::Global,
        target: Target::Teacher,
        weight_key: "loss.beta1",
        weight: |loss| loss.beta1,
        case_name: "gg",
    },
    TermRow {
        term: Term::L2g,
        name: "l2g",
        meaning: "cross-entropy, local view against intact global one",
        views: ViewKind::Local,
        target: Target::Teacher,
        weight_key: "loss.beta2",
        weight: |loss| loss.beta2,
        case_name: "lg",
    },
];

impl Term {
    /// What is known of it.
    pub fn row(self) -> &'static TermRow {
        &TERMS[self as usize]
    }

    /// As logs and reports call it.
    pub fn name(self) -> &'static str {
        self.row().name
    }
}

/// Which loss terms a run has. Fewer terms are ablations of the full method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Objective {
    /// Reconstruction of local views only: MAE in 3D.
    #[serde(rename = "mae3d")]
    Mae3d,
    /// And reconstruction of global views.
    #[serde(rename = "+global")]
    Global,
    /// And global-to-global consistency.
    #[serde(rename = "+g2g")]
    GlobalToGlobal,
    /// Both reconstructions and local-to-global consistency.
    #[serde(rename = "+l2g")]
    LocalToGlobal,
    /// All four terms.
    #[default]
    #[serde(rename = "gl-mae")]
    GlMae,
}

/// A row of [`OBJECTIVES`].
#[derive(Debug)]
pub struct ObjectiveRow {
    pub objective: Objective,
    /// As `loss.objective` has it.
    pub name: &'static str,
    /// Its terms, in the order of [`TERMS`].
    pub terms: &'static [Term],
}

/// Every objective.
pub static OBJECTIVES: [ObjectiveRow; 5] = [
    ObjectiveRow { objective: Objective::Mae3d, name: "mae3d", terms: &[Term::RecLocal] },
    ObjectiveRow {
        objective: Objective::Global,
        name: "+global",
        terms: &[Term::RecGlobal, Term::RecLocal],
    },
    ObjectiveRow {
        objective: Objective::GlobalToGlobal,
        name: "+g2g",
        terms: &[Term::RecGlobal, Term::RecLocal, Term::G2g],
    },
    ObjectiveRow {
        objective: Objective::LocalToGlobal,
        name: "+l2g",
        terms: &[Term::RecGlobal, Term::RecLocal, Term::L2g],
    },
    ObjectiveRow {
        objective: Objective::GlMae,
        name: "gl-mae",
        terms: &[Term::RecGlobal, Term::RecLocal, Term::G2g, Term::L2g],
    },
];

impl Objective {
    /// The objective that `loss.objective` calls so.
    pub fn named(name: &str) -> Option<Self> {
        OBJECTIVES.iter().find(|row| row.name == name).map(|row| row.objective)
    }

    fn row(self) -> &'static ObjectiveRow {
        &OBJECTIVES[self as usize]
    }

    /// As `loss.objective` has it.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Its terms that compare with `target`.
    pub fn terms(self, target: Target) -> impl Iterator<Item = Term> {
        self.row().terms.iter().copied().filter(move |term| term.row().target == target)
    }

    /// Its place among the terms with the same target, where the objective has it.
    pub fn place(self, term: Term) -> Option<usize> {
        self.terms(term.row().target).position(|other| other == term)
    }

    /// Masked global views are encoded and reconstructed.
    pub fn has_global_views(self) -> bool {
        self.row().terms.iter().any(|term| term.row().views == ViewKind::Global)
    }

    /// There is an EMA teacher.
    pub fn has_teacher(self) -> bool {
        self.row().terms.iter().any(|term| term.row().target != Target::Voxels)
    }

    /// There are projection heads, whose outputs are compared.
    pub fn has_head(self) -> bool {
        self.terms(Target::Teacher).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::schema::{Kind, keys};

    #[test]
    fn every_term_has_a_row_with_a_weight_of_its_own() {
        let known = keys::<Config>();
        for (i, row) in TERMS.iter().enumerate() {
            assert!(row.term as usize == i && std::ptr::eq(row.term.row(), row), "{}", row.name);
            let kind = known.iter().find(|(key, _)| key == row.weight_key).map(|(_, kind)| kind);
            assert_eq!(kind, Some(&Kind::Number), "{}: {}", row.name, row.weight_key);
            // The key sets this weight and no other.
            let config = Config::load("tiny", &[format!("{}=0.625", row.weight_key)]).unwrap();
            let weights = TERMS.iter().map(|other| (other.weight)(&config.loss) == 0.625);
            assert!(weights.enumerate().all(|(j, is_set)| is_set == (i == j)), "{}", row.name);
            for other in &TERMS[..i] {
                assert!((row.name, row.case_name) != (other.name, other.case_name));
                assert!((row.views, row.target) != (other.views, other.target), "{}", row.name);
            }
            assert!(row.name != TOTAL && !row.meaning.is_empty());
        }
    }

    #[test]
    fn objectives_are_the_words_of_their_key() {
        let known = keys::<Config>();
        let (_, kind) = known.iter().find(|(key, _)| key == "loss.objective").unwrap();
        let Kind::Choice(words) = kind else { panic!("{kind:?}") };
        let words: Vec<&str> = words.iter().map(|(word, _)| word.as_str()).collect();
        assert_eq!(words, OBJECTIVES.each_ref().map(|row| row.name));
        for (i, row) in OBJECTIVES.iter().enumerate() {
            assert_eq!(row.objective as usize, i, "{}", row.name);
            let set = [format!("loss.objective={}", row.name)];
            assert_eq!(Config::load("tiny", &set).unwrap().loss.objective, row.objective);
            assert_eq!(Objective::named(row.name), Some(row.objective));
            assert!(row.terms.is_sorted_by_key(|term| *term as usize), "{}", row.name);
            // Every run reconstructs local views: views.n_local is at least 1 for that.
            assert!(row.objective.place(Term::RecLocal).is_some(), "{}", row.name);
        }
        assert!(OBJECTIVES[1..].iter().all(|row| row.objective.has_global_views()));
        assert!(!Objective::Mae3d.has_global_views() && !Objective::Global.has_teacher());
        for row in &OBJECTIVES[2..] {
            assert!(row.objective.has_teacher() && row.objective.has_head(), "{}", row.name);
        }
        assert_eq!(Objective::LocalToGlobal.place(Term::L2g), Some(0));
        assert_eq!(Objective::LocalToGlobal.place(Term::G2g), None);
        assert_eq!(Objective::GlMae.place(Term::L2g), Some(1));
    }
}
