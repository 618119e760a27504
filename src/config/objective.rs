//! Which loss terms a run has.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

impl Objective {
    /// Masked global views are encoded and reconstructed.
    pub fn has_global_views(self) -> bool {
        self != Self::Mae3d
    }

    /// There is an EMA teacher and a projection head.
    pub fn has_teacher(self) -> bool {
        self.has_g2g() || self.has_l2g()
    }

    pub fn has_g2g(self) -> bool {
        matches!(self, Self::GlobalToGlobal | Self::GlMae)
    }

    pub fn has_l2g(self) -> bool {
        matches!(self, Self::LocalToGlobal | Self::GlMae)
    }
}
