//! What is wrong with a PTX file, and where.

use std::fmt;

/// Why a file of PTX cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The name given to [`parse`](super::parse).
    pub file: String,
    /// Line of the PTX, from 1.
    pub line: u32,
    /// The kernel or function it is in.
    pub kernel: Option<String>,
    pub message: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if let Some(kernel) = &self.kernel {
            write!(f, "kernel {kernel}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ParseError {}

/// An error before the file and the kernel are added to it.
#[derive(Debug)]
pub(super) struct Fault {
    pub line: u32,
    pub message: String,
}

impl Fault {
    pub fn new(line: u32, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }
}
