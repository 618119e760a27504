//! A recorded sequence of launches that is started as one: a CUDA graph on a GPU, a list of launches
//! on a device that is executed on the host, so that what a captured step relies on (addresses that stay, scalars in
//! device memory) is tested without a GPU.

use super::emulated::Fibres;
use super::{Device, dry, on_host};
use crate::{Error, Result};

/// Launches, copies and fills on one device, recorded once. While it lives, the memory that they use
/// is not given to other tensors.
pub enum Graph {
    Emulated(on_host::Graph<Fibres>),
    Dry(dry::Graph),
    #[cfg(feature = "cuda")]
    Ptx(on_host::Graph<super::ptx::Executor>),
    #[cfg(feature = "cuda")]
    Cuda(super::cuda::Graph),
}

impl Graph {
    /// Starts everything that was recorded, in its order.
    pub fn replay(&mut self) -> Result<()> {
        match self {
            Self::Emulated(graph) => graph.replay(),
            Self::Dry(graph) => graph.replay(),
            #[cfg(feature = "cuda")]
            Self::Ptx(graph) => graph.replay(),
            #[cfg(feature = "cuda")]
            Self::Cuda(graph) => graph.replay(),
        }
    }
}

impl Device {
    /// Whether [`Device::capture`] works here.
    pub fn captures(&self) -> bool {
        *self != Self::Cpu
    }

    /// Records what `record` starts, without running it. Tensors that `record` returns get their
    /// values at each [`Graph::replay`]. On a GPU, run the same once before: modules load then.
    ///
    /// Errors: `Unsupported` on the CPU; those of `record`, among them `Unsupported`
    /// when it uploads, downloads or waits.
    pub fn capture<T>(&self, record: impl FnOnce() -> Result<T>) -> Result<(Graph, T)> {
        match self {
            Self::Cpu => Err(Error::Unsupported("capturing a graph on the CPU".into())),
            Self::Dry(dry) => {
                let (graph, value) = dry.capture(record)?;
                Ok((Graph::Dry(graph), value))
            }
            Self::Emulated(emulated) => {
                let (graph, value) = emulated.capture(record)?;
                Ok((Graph::Emulated(graph), value))
            }
            #[cfg(feature = "cuda")]
            Self::Ptx(ptx) => {
                let (graph, value) = ptx.capture(record)?;
                Ok((Graph::Ptx(graph), value))
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => {
                let (graph, value) = cuda.capture(record)?;
                Ok((Graph::Cuda(graph), value))
            }
        }
    }
}
