//! Special registers (chapter 10).

use super::cluster::Cluster;
use super::warp::Warp;
use crate::program::lanes::Lanes64;
use crate::program::op::Special;

impl Cluster<'_, '_> {
    /// A special register of all lanes.
    pub(super) fn special(&self, warp: &Warp, which: Special) -> Lanes64 {
        let launch = self.grid.launch;
        let axis = |all: [u32; 3], i: u8| u64::from(all[usize::from(i)]);
        let lane = |f: fn(u32) -> u32| std::array::from_fn(|l| u64::from(f(l as u32)));
        let one = |v: u64| [v; 32];
        match which {
            Special::Tid(i) => {
                std::array::from_fn(|l| axis(self.grid.thread(warp.index * 32 + l as u32), i))
            }
            Special::Ntid(i) => one(axis(launch.block, i)),
            Special::Ctaid(i) => one(axis(self.ctas[self.cta].index, i)),
            Special::Nctaid(i) => one(axis(launch.grid, i)),
            Special::LaneId => lane(|l| l),
            Special::WarpId => one(warp.index.into()),
            Special::NWarpId => one(self.threads.div_ceil(32).into()),
            Special::SmId | Special::GridId => one(0),
            Special::LaneMaskEq => lane(|l| 1 << l),
            Special::LaneMaskLt => lane(|l| (1 << l) - 1),
            Special::LaneMaskLe => lane(|l| (1u32 << l) | ((1 << l) - 1)),
            Special::LaneMaskGt => lane(|l| !((1u32 << l) | ((1 << l) - 1))),
            Special::LaneMaskGe => lane(|l| !((1 << l) - 1)),
            Special::DynamicShared => one(launch.shared_bytes.into()),
            Special::TotalShared => {
                one(u64::from(launch.shared_bytes) + u64::from(launch.program.static_shared()))
            }
            Special::ClusterRank => one(self.cta as u64),
            Special::ClusterSize => one(self.ctas.len() as u64),
            Special::ClusterCtaid(i) => {
                one(axis(self.ctas[self.cta].index, i) % axis(launch.cluster, i))
            }
            Special::ClusterNctaid(i) => one(axis(launch.cluster, i)),
            Special::ClusterId(i) => {
                one(axis(self.ctas[self.cta].index, i) / axis(launch.cluster, i))
            }
            Special::NClusterId(i) => one(axis(launch.grid, i) / axis(launch.cluster, i)),
            // A predicate: see `Op::ExplicitCluster`.
            Special::IsExplicitCluster => one(0),
            Special::Clock | Special::GlobalTimer => one(self.time),
        }
    }
}
