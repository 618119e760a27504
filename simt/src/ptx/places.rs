//! Line information (section 11.5.4): where in the CUDA source an instruction comes from.

use std::collections::HashMap;

use super::ast::Place;
use super::error::Fault;
use super::tokens::Tokens;

/// File, line and column.
type Position = (u32, u32, u32);

#[derive(Default)]
pub(super) struct Places {
    places: Vec<Place>,
    known: HashMap<Place, u32>,
    /// The place that the latest `.loc` of this position set.
    latest: HashMap<Position, u32>,
    /// The place of the instructions that follow.
    pub current: Option<u32>,
}

impl Places {
    /// Reads what follows `.loc`.
    pub fn read(&mut self, tokens: &mut Tokens) -> Result<(), Fault> {
        let position = read_position(tokens)?;
        let mut inlined_at = None;
        let mut has_name = false;
        while tokens.eat(',')? {
            if !has_name && tokens.eat_word("function_name")? {
                has_name = true;
                tokens.word("a label of `.debug_str`")?;
                tokens.offset()?;
            } else if inlined_at.is_none() && tokens.eat_word("inlined_at")? {
                inlined_at = Some(read_position(tokens)?);
            } else {
                return tokens.expected("`function_name` or `inlined_at`");
            }
        }
        let caller = inlined_at.map(|call| match self.latest.get(&call) {
            Some(&index) => index,
            None => self.set(call, None),
        });
        self.current = Some(self.set(position, caller));
        Ok(())
    }

    fn set(&mut self, position: Position, inlined_at: Option<u32>) -> u32 {
        let (file, line, column) = position;
        let place = Place { file, line, column, inlined_at };
        let index = *self.known.entry(place).or_insert_with_key(|place| {
            self.places.push(place.clone());
            (self.places.len() - 1) as u32
        });
        self.latest.insert(position, index);
        index
    }

    pub fn finish(self) -> Vec<Place> {
        self.places
    }
}

fn read_position(tokens: &mut Tokens) -> Result<Position, Fault> {
    let file = tokens.count("the number of a file")?;
    let line = tokens.count("a line")?;
    let column = tokens.count("a column")?;
    Ok((file, line, column))
}
