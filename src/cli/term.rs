//! Text on a terminal: printing, aligned tables, numbers with units.

use std::io::{ErrorKind, Write};

pub use glmae::limits::bytes;
pub use glmae::report::stderr::say;
use glmae::{Error, Result};

/// Writes results to stdout. A reader that closed its end of a pipe (`glmae inspect x | head`) has read what
/// it wanted.
///
/// Errors: [`Error::Io`] when stdout takes nothing more.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::io("stdout", "write")(e)),
        _ => Ok(()),
    }
}

/// Side on which a column is flush.
#[derive(Clone, Copy, PartialEq)]
pub enum Align {
    Left,
    Right,
}

/// Rows of cells, printed with columns as wide as they need to be.
pub struct Table {
    align: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a line of headings; `<` before a heading: flush left, `>`: flush right.
    pub fn new(headings: &[&str]) -> Self {
        let side = |h: &&str| if h.starts_with('>') { Align::Right } else { Align::Left };
        let names = headings.iter().map(|h| h.trim_start_matches(['<', '>']).to_owned());
        Self { align: headings.iter().map(side).collect(), rows: vec![names.collect()] }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table as lines, each after `indent`. Empty headings print no heading line.
    pub fn render(&self, indent: &str) -> String {
        let columns = self.align.len();
        let width = |c: usize| {
            self.rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in self.rows.iter().filter(|r| r.iter().any(|cell| !cell.is_empty())) {
            let mut line = indent.to_owned();
            for ((cell, &width), align) in row.iter().zip(&widths).zip(&self.align) {
                let gap = " ".repeat(width - cell.chars().count());
                match align {
                    Align::Left => line += &format!("{cell}{gap}  "),
                    Align::Right => line += &format!("{gap}{cell}  "),
                }
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// A count with groups of three digits: `1,234,567`.
pub fn count(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `[1, 2, 3]` as `1 x 2 x 3`.
pub fn dims(shape: &[usize]) -> String {
    match shape {
        [] => "scalar".to_owned(),
        _ => shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" x "),
    }
}

/// A line that must not contain control characters: text from files goes through here.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["<name", ">ms"]);
        table.row(["a".into(), "1.5".into()]);
        table.row(["longer".into(), "12.25".into()]);
        assert_eq!(table.render("  "), "  name       ms\n  a         1.5\n  longer  12.25\n");
    }

    #[test]
    fn numbers_have_units() {
        assert_eq!((bytes(831), bytes(1 << 20)), ("831 B".into(), "1.0 MiB".into()));
        assert_eq!((count(7), count(1234567)), ("7".into(), "1,234,567".into()));
        assert_eq!((dims(&[]), dims(&[2, 3])), ("scalar".into(), "2 x 3".into()));
        assert_eq!(clean("a\u{1b}[31mb"), "a\u{fffd}[31mb");
    }
}
