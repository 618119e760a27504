//! Labels: branches name them before they are defined, and braces hide them. Until a function has
//! ended, its instructions name labels by a number of their own; then all are resolved.

use std::borrow::Cow;
use std::collections::hash_map::Entry;

use super::ast::{Function, Instruction, Label, LabelId, Operand};
use super::error::Fault;
use super::names::{BODY, Meaning, Names};

enum State {
    /// Named by a branch, not defined so far.
    Wanted,
    /// The same as this one, which a scope further out named.
    SameAs(u32),
    /// An index of [`Function::labels`].
    Defined(LabelId),
}

struct Pending<'a> {
    name: &'a str,
    /// Where it is first named.
    line: u32,
    state: State,
}

#[derive(Default)]
pub(super) struct Labels<'a> {
    pending: Vec<Pending<'a>>,
    /// Lines of the labels, in the order of [`Function::labels`].
    lines: Vec<u32>,
    /// Instructions that have a label as operand.
    branches: Vec<usize>,
}

impl<'a> Labels<'a> {
    /// The label of this name as seen from the innermost scope, defined or not.
    pub fn refer(
        &mut self,
        names: &mut Names<'a>,
        name: &'a str,
        line: u32,
    ) -> Result<LabelId, Fault> {
        let scope = names.innermost();
        match scope.find(name) {
            Some(Meaning::Label(number)) => return Ok(LabelId(number)),
            Some(_) => return Err(Fault::new(line, format!("`{name}` is not a label"))),
            None => {}
        }
        let number = match scope.wanted.entry(name) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(free) => *free.insert(self.add(name, line)),
        };
        Ok(LabelId(number))
    }

    fn add(&mut self, name: &'a str, line: u32) -> u32 {
        self.pending.push(Pending { name, line, state: State::Wanted });
        (self.pending.len() - 1) as u32
    }

    /// Defines a label before the next instruction of `function`.
    pub fn define(
        &mut self,
        names: &mut Names<'a>,
        function: &mut Function,
        name: &'a str,
        line: u32,
    ) -> Result<(), Fault> {
        let wanted = names.innermost().wanted.remove(name);
        let number = wanted.unwrap_or_else(|| self.add(name, line));
        names
            .declare(Cow::Borrowed(name), Meaning::Label(number))
            .map_err(|message| Fault::new(line, message))?;
        self.pending[number as usize].state = State::Defined(LabelId(self.lines.len() as u32));
        self.lines.push(line);
        let at = function.instructions.len() as u32;
        function.labels.push(Label { name: name.to_owned(), at, targets: Vec::new() });
        Ok(())
    }

    /// The next instruction has a label as operand.
    pub fn note_branch(&mut self, instruction: usize) {
        self.branches.push(instruction);
    }

    /// Closes the innermost scope. What it did not define is looked for further out.
    pub fn leave(&mut self, names: &mut Names<'a>) -> Result<(), Fault> {
        let is_body = names.depth() == BODY;
        let mut wanted: Vec<(&'a str, u32)> = names.leave().wanted.into_iter().collect();
        // A map has no order, but the first error should always be the same.
        wanted.sort_unstable_by_key(|&(_, number)| number);
        for (name, number) in wanted {
            let line = self.pending[number as usize].line;
            if is_body {
                return Err(Fault::new(line, format!("label `{name}` is not defined")));
            }
            let outer = self.refer_outwards(names, name, number, line)?;
            if outer != number {
                self.pending[number as usize].state = State::SameAs(outer);
            }
        }
        Ok(())
    }

    fn refer_outwards(
        &self,
        names: &mut Names<'a>,
        name: &'a str,
        number: u32,
        line: u32,
    ) -> Result<u32, Fault> {
        let scope = names.innermost();
        match scope.find(name) {
            Some(Meaning::Label(outer)) => Ok(outer),
            Some(_) => Err(Fault::new(line, format!("`{name}` is not a label"))),
            None => Ok(*scope.wanted.entry(name).or_insert(number)),
        }
    }

    fn resolve(&self, id: LabelId) -> Result<LabelId, Fault> {
        let mut number = id.0;
        loop {
            let pending = &self.pending[number as usize];
            match pending.state {
                State::Defined(label) => return Ok(label),
                State::SameAs(outer) => number = outer,
                State::Wanted => {
                    let message = format!("label `{}` is not defined", pending.name);
                    return Err(Fault::new(pending.line, message));
                }
            }
        }
    }

    /// Puts indices of [`Function::labels`] where numbers of this table are.
    pub fn finish(self, function: &mut Function) -> Result<(), Fault> {
        for index in 0..function.labels.len() {
            let mut targets = std::mem::take(&mut function.labels[index].targets);
            for target in &mut targets {
                *target = self.resolve(*target)?;
                let label = &function.labels[target.0 as usize];
                // A label is a table if it has targets, or is the one whose targets these are.
                if !label.targets.is_empty() || target.0 as usize == index {
                    let message = format!("`{}` is a table of labels, not a label", label.name);
                    return Err(Fault::new(self.lines[index], message));
                }
            }
            function.labels[index].targets = targets;
        }
        for &index in &self.branches {
            let instruction = &mut function.instructions[index];
            self.finish_branch(instruction, &function.labels)?;
        }
        Ok(())
    }

    fn finish_branch(&self, branch: &mut Instruction, labels: &[Label]) -> Result<(), Fault> {
        let wants_table = branch.opcode == "brx";
        for operand in &mut branch.operands {
            let Operand::Label(id) = operand else { continue };
            *id = self.resolve(*id)?;
            let label = &labels[id.0 as usize];
            if label.targets.is_empty() == wants_table {
                let name = &label.name;
                let message = if wants_table {
                    format!("`{name}` is no table of `.branchtargets`")
                } else {
                    format!("`{name}` is a table of labels, not a label")
                };
                return Err(Fault::new(branch.line, message));
            }
        }
        Ok(())
    }
}
