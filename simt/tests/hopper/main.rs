//! What sm_90 added, executed: small kernels by hand, in `tests/ptx/hopper_*.ptx`, and what they have to give. Every
//! case runs under all schedules, checked and unchecked; expected values are computed here, naively, from the text of
//! the PTX ISA manual, version 9.0.
//!
//! Faults are made by changing one marked line of a kernel that is right (`// @mark`).

mod bulk;
mod cluster;
mod gemm;
mod gemm_faults;
mod griddep;
mod im2col;
mod launch;
mod mbarrier;
mod product;
mod product_faults;
mod proxy;
mod reduce;
mod registers;
mod tensor;

use launch::{Arg, Job, Source};
