//! A kernel that is ready to be executed.

mod decode;
pub mod flow;
mod kinds;
pub mod lanes;
pub mod layout;
pub mod op;
mod operand;
pub mod own;
mod product;

use std::collections::HashMap;

pub use decode::{DecodeError, OPCODES};

use self::layout::{Layout, Param, SlotCounts};
use self::op::{Inst, Product, Touch};
use self::own::OwnAddress;
pub use crate::arith::mma::SumOrder;
use crate::ptx::ast::{Module, Place};

/// Freedoms of the hardware that a kernel must not depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Numerics {
    /// Approximate functions are off by what the manual allows, instead of rounded to nearest.
    pub is_perturbed: bool,
    /// How matrix products add up.
    pub sums: SumOrder,
}

/// A decoded kernel.
pub struct Program {
    pub name: String,
    /// `.target`, such as `sm_90a`.
    pub target: String,
    pub numerics: Numerics,
    pub instructions: Vec<Inst>,
    /// Where lanes meet again that disagree about a branch.
    pub(crate) meets: Vec<u32>,
    pub(crate) tables: Vec<Vec<u32>>,
    pub(crate) layout: Layout,
    pub(crate) counts: SlotCounts,
    /// Addresses of shared memory that every warp has in slots.
    pub(crate) own: Vec<OwnAddress>,
    /// Threads of a block at most, by axis.
    pub max_threads: Option<[u32; 3]>,
    pub(crate) required_threads: Option<[u32; 3]>,
    pub(crate) min_blocks: Option<u32>,
    pub(crate) max_registers: Option<u32>,
    /// Of all its `setmaxnreg.inc`.
    pub(crate) largest_inc: Option<u32>,
    /// Whether it has a `griddepcontrol.wait`: it may start before the kernel before has ended.
    pub awaits_grids: bool,
    pub(crate) products: Vec<Product>,
    /// Who else touches registers that products use.
    pub(crate) touches: HashMap<u32, Touch>,
    register_names: Vec<String>,
    /// `.reqnctapercluster`.
    pub cluster: Option<[u32; 3]>,
    places: Vec<Place>,
    files: Vec<(u32, String)>,
    /// Instructions as written. The end that every kernel has behind its last one has no name.
    names: Vec<String>,
}

impl Program {
    /// Decodes a kernel.
    ///
    /// Errors: [`DecodeError`] for a name that is not there and for whatever is not implemented, by line.
    pub fn new(module: &Module, kernel: &str, numerics: Numerics) -> Result<Self, DecodeError> {
        decode::decode(module, kernel, numerics)
    }

    /// Bytes of the buffer of parameters.
    pub fn param_bytes(&self) -> u32 {
        self.layout.param_bytes
    }

    /// Threads of a block at most, where the kernel says so.
    pub fn most_threads(&self) -> Option<u32> {
        self.max_threads.map(|axes| axes.iter().product())
    }

    /// The parameters with their places in the buffer.
    pub fn params(&self) -> &[Param] {
        &self.layout.params
    }

    /// Bytes of static shared memory, as the hardware counts them.
    pub fn static_shared(&self) -> u32 {
        self.layout.static_shared
    }

    /// The name of a register of 32 bits.
    pub(crate) fn register_name(&self, slot: u32) -> &str {
        self.register_names.get(slot as usize).map_or("?", String::as_str)
    }

    /// An instruction with its modifiers.
    pub fn name_of(&self, pc: u32) -> String {
        self.names.get(pc as usize).cloned().unwrap_or_default()
    }

    /// Where an instruction comes from: `kernels/gemm.cuh:31, inlined at kernels/linear.cu:12`.
    pub fn place(&self, pc: u32) -> String {
        let mut at = self.instructions.get(pc as usize).and_then(|i| i.at);
        let mut text = String::new();
        while let Some(place) = at.and_then(|i| self.places.get(i as usize)) {
            if !text.is_empty() {
                text.push_str(", inlined at ");
            }
            let file = self.files.iter().find(|f| f.0 == place.file);
            text.push_str(file.map_or("?", |f| f.1.as_str()));
            text.push_str(&format!(":{}", place.line));
            // A place is only ever inlined at an earlier one.
            at = place.inlined_at.filter(|&outer| Some(outer) < at);
        }
        text
    }

    /// The file and line that an instruction counts for: the innermost in a file of the program's own. Headers of the
    /// toolkit, which have no folder in their path, are passed over where something called them.
    pub fn line_of(&self, pc: u32) -> Option<(&str, u32)> {
        let mut at = self.instructions.get(pc as usize)?.at;
        let mut found = None;
        while let Some(place) = at.and_then(|i| self.places.get(i as usize)) {
            if let Some(file) = self.files.iter().find(|f| f.0 == place.file) {
                found = found.or(Some((file.1.as_str(), place.line)));
                if file.1.contains('/') {
                    return Some((file.1.as_str(), place.line));
                }
            }
            at = place.inlined_at.filter(|&outer| Some(outer) < at);
        }
        found
    }
}
