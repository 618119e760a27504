//! What is said on stderr beside the work: notes, warnings, errors, the log. When stderr is full or gone,
//! the work and its exit code stay what they are; `eprintln!` would end the program there.

use std::io::{self, Write};

/// Writes a line to stderr, if that can be done.
pub fn say(text: &str) {
    // One call, so that lines of several threads do not mix.
    let _ = io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

/// stderr as a writer that never fails.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().flush();
        Ok(())
    }
}
