//! The body of a function: statements (section 4.3) in scopes.

use std::borrow::Cow;

use super::ast::{Function, Guard, Instruction, Operand, Reg, Register, Space, Type};
use super::error::Fault;
use super::function::pragma;
use super::labels::Labels;
use super::lexer::Token;
use super::module::Parser;
use super::names::{BODY, Meaning};
use super::operands;
use super::places::Places;
use super::variables;

/// Registers of a function at most. `.reg .b32 %r<N>` asks for many in a few bytes.
const MAX_REGISTERS: u32 = 1_000_000;

pub(super) struct Body<'a> {
    function: Function,
    labels: Labels<'a>,
    places: Places,
}

impl<'a> Parser<'a> {
    /// Reads a body with its braces. The scope of the parameters is open, and is closed.
    pub(super) fn body(&mut self, function: Function) -> Result<Function, Fault> {
        let mut body = Body { function, labels: Labels::default(), places: Places::default() };
        self.open_scope()?;
        while self.names.depth() >= BODY {
            match self.tokens.peek() {
                Token::Mark('{') => self.open_scope()?,
                Token::Mark('}') => {
                    self.tokens.take()?;
                    body.labels.leave(&mut self.names)?;
                }
                // Inline assembly ends its lines as it likes.
                Token::Mark(';') => {
                    self.tokens.take()?;
                }
                _ => self.statement(&mut body)?,
            }
        }
        self.names.leave();
        let Body { mut function, labels, places } = body;
        labels.finish(&mut function)?;
        function.places = places.finish();
        Ok(function)
    }

    fn open_scope(&mut self) -> Result<(), Fault> {
        let line = self.tokens.line();
        self.tokens.expect('{')?;
        self.names.enter().map_err(|message| Fault::new(line, message))
    }

    fn statement(&mut self, body: &mut Body<'a>) -> Result<(), Fault> {
        let line = self.tokens.line();
        match self.tokens.peek() {
            Token::Dot(name) => {
                self.tokens.take()?;
                self.body_directive(body, name, line)
            }
            Token::Mark('@') => {
                let guard = self.guard(body)?;
                let line = self.tokens.line();
                let opcode = self.tokens.word("an instruction")?;
                self.instruction(body, Some(guard), opcode, line)
            }
            Token::Word(word) => {
                self.tokens.take()?;
                if self.tokens.eat(':')? {
                    self.label(body, word, line)
                } else {
                    self.instruction(body, None, word, line)
                }
            }
            _ => self.tokens.expected("a statement or `}`"),
        }
    }

    fn body_directive(&mut self, body: &mut Body<'a>, name: &str, line: u32) -> Result<(), Fault> {
        match name {
            "loc" => body.places.read(&mut self.tokens),
            "reg" => self.registers(body),
            "pragma" => pragma(&mut self.tokens),
            "extern" => match self.tokens.peek() {
                Token::Dot("shared") => {
                    self.tokens.take()?;
                    self.body_variables(body, Space::Shared, true)
                }
                _ => self.tokens.expected("`.shared`"),
            },
            "branchtargets" => Err(Fault::new(line, "`.branchtargets` has no label before it")),
            _ => match variables::space(name) {
                Some(space) => self.body_variables(body, space, false),
                None => Err(Fault::new(line, format!("unknown directive `.{name}`"))),
            },
        }
    }

    /// What follows `.reg`: `.b32 %r<10>, %x;` (section 5.4.6).
    fn registers(&mut self, body: &mut Body<'a>) -> Result<(), Fault> {
        let ty = self.tokens.ty()?;
        loop {
            let line = self.tokens.line();
            let name = self.tokens.word("the name of a register")?;
            if self.tokens.eat('<')? {
                let count = self.tokens.count("a count of registers")?;
                self.tokens.expect('>')?;
                self.reserve(body, count, line)?;
                body.function.registers.reserve(count as usize);
                self.names.reserve(count as usize);
                for number in 0..count {
                    self.register(body, Cow::Owned(format!("{name}{number}")), ty, line)?;
                }
            } else {
                self.reserve(body, 1, line)?;
                self.register(body, Cow::Borrowed(name), ty, line)?;
            }
            if !self.tokens.eat(',')? {
                return self.tokens.expect(';');
            }
        }
    }

    /// Refuses too many registers before they take memory.
    fn reserve(&mut self, body: &Body, count: u32, line: u32) -> Result<(), Fault> {
        if body.function.registers.len() as u64 + u64::from(count) > u64::from(MAX_REGISTERS) {
            let message = format!("more than {MAX_REGISTERS} registers in a function");
            return Err(Fault::new(line, message));
        }
        match self.registers_left.checked_sub(count) {
            Some(left) => self.registers_left = left,
            None => return Err(Fault::new(line, "too many registers in one module")),
        }
        Ok(())
    }

    fn register(
        &mut self,
        body: &mut Body<'a>,
        name: Cow<'a, str>,
        ty: Type,
        line: u32,
    ) -> Result<(), Fault> {
        let registers = &mut body.function.registers;
        let meaning = Meaning::Register(Reg(registers.len() as u32));
        registers.push(Register { name: name.clone().into_owned(), ty });
        self.names.declare(name, meaning).map_err(|message| Fault::new(line, message))
    }

    fn body_variables(
        &mut self,
        body: &mut Body<'a>,
        space: Space,
        is_extern: bool,
    ) -> Result<(), Fault> {
        for (name, line, mut variable) in
            variables::declaration(&mut self.tokens, space, is_extern)?
        {
            variable.name =
                self.names.declare_in_body(name).map_err(|message| Fault::new(line, message))?;
            body.function.variables.push(variable);
        }
        Ok(())
    }

    /// A label whose colon has been read.
    fn label(&mut self, body: &mut Body<'a>, name: &'a str, line: u32) -> Result<(), Fault> {
        body.labels.define(&mut self.names, &mut body.function, name, line)?;
        if !self.tokens.eat_dot("branchtargets")? {
            return Ok(());
        }
        let mut targets = Vec::new();
        loop {
            let line = self.tokens.line();
            let target = self.tokens.word("a label")?;
            targets.push(body.labels.refer(&mut self.names, target, line)?);
            if !self.tokens.eat(',')? {
                break;
            }
        }
        if let Some(label) = body.function.labels.last_mut() {
            label.targets = targets;
        }
        self.tokens.expect(';')
    }

    /// `@%p1`, `@!%p1` (section 9.3).
    fn guard(&mut self, body: &Body) -> Result<Guard, Fault> {
        self.tokens.expect('@')?;
        let negated = self.tokens.eat('!')?;
        let line = self.tokens.line();
        let register = operands::register(&mut self.tokens, &self.names)?;
        let Register { name, ty } = &body.function.registers[register.0 as usize];
        if *ty != Type::Pred {
            return Err(Fault::new(line, format!("the guard `{name}` is no predicate")));
        }
        Ok(Guard { register, negated })
    }

    /// An instruction whose opcode has been read.
    fn instruction(
        &mut self,
        body: &mut Body<'a>,
        guard: Option<Guard>,
        opcode: &'a str,
        line: u32,
    ) -> Result<(), Fault> {
        if !opcode.starts_with(|c: char| c.is_ascii_lowercase()) {
            return Err(Fault::new(line, format!("expected an instruction, found `{opcode}`")));
        }
        if opcode == "call" {
            return Err(Fault::new(line, "calls are not supported: functions have to be inlined"));
        }
        let mut modifiers = Vec::new();
        while let Token::Dot(modifier) = self.tokens.peek() {
            modifiers.push(modifier.to_owned());
            self.tokens.take()?;
        }
        let operands = match opcode {
            "bra" => vec![self.branch_target(body)?],
            "brx" => {
                let index = operands::operand(&mut self.tokens, &self.names)?;
                self.tokens.expect(',')?;
                vec![index, self.branch_target(body)?]
            }
            _ => self.operands()?,
        };
        self.tokens.expect(';')?;
        let opcode = opcode.to_owned();
        let at = body.places.current;
        let instruction = Instruction { guard, opcode, modifiers, operands, line, at };
        body.function.instructions.push(instruction);
        Ok(())
    }

    fn operands(&mut self) -> Result<Vec<Operand>, Fault> {
        let mut operands = Vec::new();
        if self.tokens.peek() == Token::Mark(';') {
            return Ok(operands);
        }
        loop {
            operands.push(operands::operand(&mut self.tokens, &self.names)?);
            if !self.tokens.eat(',')? {
                return Ok(operands);
            }
        }
    }

    /// The label that the next instruction branches to.
    fn branch_target(&mut self, body: &mut Body<'a>) -> Result<Operand, Fault> {
        let line = self.tokens.line();
        let name = self.tokens.word("a label")?;
        body.labels.note_branch(body.function.instructions.len());
        body.labels.refer(&mut self.names, name, line).map(Operand::Label)
    }
}
