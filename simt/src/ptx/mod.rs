//! PTX as text: from the file that nvcc wrote to a typed tree.

pub mod ast;
mod body;
mod error;
mod function;
mod labels;
mod lexer;
mod module;
mod names;
mod number;
mod operands;
mod places;
mod special;
mod tokens;
mod variables;

pub use error::ParseError;
pub use module::parse;
