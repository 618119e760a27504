//! The command line: parses, runs one verb, and turns its result into an exit code.

mod cli;

use std::process::ExitCode;

/// Memory that is refused ends the program with code 4, not with an abort.
#[global_allocator]
static ALLOCATOR: glmae::limits::Checked = glmae::limits::Checked;

fn main() -> ExitCode {
    ExitCode::from(cli::main())
}
