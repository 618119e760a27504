//! PTX as text: from the file that nvcc wrote to a typed tree.

pub mod ast;
