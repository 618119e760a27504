//! The teacher's targets as a configuration names them, for the op that makes them: neither knows the other.

use crate::config::TeacherTargets;
use crate::ops::teacher_targets::TargetKind;

impl From<TeacherTargets> for TargetKind {
    fn from(targets: TeacherTargets) -> Self {
        match targets {
            TeacherTargets::Center => Self::Center,
            TeacherTargets::Standardise => Self::Standardise,
            TeacherTargets::Sinkhorn => Self::Sinkhorn,
        }
    }
}
