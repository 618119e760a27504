//! Operands (chapter 6).

use super::ast::{Operand, Reg};
use super::error::Fault;
use super::lexer::Token;
use super::names::{Meaning, Names, variable_name};
use super::number::Number;
use super::special::{self, Kind};
use super::tokens::Tokens;

/// Threads of a warp: `WARP_SZ` (section 4.5.1).
const WARP_SIZE: u64 = 32;

pub(super) fn operand<'a>(tokens: &mut Tokens<'a>, names: &Names<'a>) -> Result<Operand, Fault> {
    match tokens.peek() {
        Token::Mark('{') => Ok(Operand::Vector(vector(tokens, names)?)),
        Token::Mark('[') => address(tokens, names),
        Token::Mark('!') => {
            tokens.take()?;
            Ok(Operand::Negated(register(tokens, names)?))
        }
        Token::Mark('(') => {
            Err(tokens.fault("expressions and lists in parentheses are not supported"))
        }
        _ => {
            let line = tokens.line();
            let first = value(tokens, names)?;
            if tokens.peek() != Token::Mark('|') {
                return Ok(first);
            }
            tokens.take()?;
            let second = value(tokens, names)?;
            if is_result(&first) && is_result(&second) {
                Ok(Operand::Pair(Box::new(first), Box::new(second)))
            } else {
                Err(Fault::new(line, "only registers and `_` can stand beside a `|`"))
            }
        }
    }
}

fn is_result(operand: &Operand) -> bool {
    matches!(operand, Operand::Register(_) | Operand::Sink)
}

/// A register that has to be one.
pub(super) fn register<'a>(tokens: &mut Tokens<'a>, names: &Names<'a>) -> Result<Reg, Fault> {
    let line = tokens.line();
    let name = tokens.word("a register")?;
    match names.find(name) {
        Some(Meaning::Register(register)) => Ok(register),
        Some(_) => Err(Fault::new(line, format!("`{name}` is not a register"))),
        None => Err(undeclared(name, line)),
    }
}

fn undeclared(name: &str, line: u32) -> Fault {
    let kind = if name.starts_with('%') { "register " } else { "" };
    Fault::new(line, format!("{kind}`{name}` is not declared"))
}

/// A register, a special register, a number, the address of a variable, or `_`.
fn value<'a>(tokens: &mut Tokens<'a>, names: &Names<'a>) -> Result<Operand, Fault> {
    if tokens.is_number() {
        return constant(tokens);
    }
    let line = tokens.line();
    let name = tokens.word("an operand")?;
    match names.find(name) {
        Some(Meaning::Register(register)) => match tokens.peek() {
            Token::Dot(part) => {
                Err(tokens.fault(format!("parts of registers (`{name}.{part}`) are not supported")))
            }
            _ => Ok(Operand::Register(register)),
        },
        Some(Meaning::Variable { nth }) => {
            if tokens.peek() == Token::Mark('[') {
                let message = format!("elements of arrays (`{name}[...]`) are not supported");
                return Err(tokens.fault(message));
            }
            Ok(Operand::Symbol(variable_name(name, nth), tokens.offset()?))
        }
        Some(Meaning::Label(_)) => {
            Err(Fault::new(line, format!("label `{name}` cannot be an operand here")))
        }
        Some(Meaning::Function) => {
            Err(Fault::new(line, format!("the address of a function (`{name}`) is not supported")))
        }
        None => predefined(tokens, name, line),
    }
}

fn constant(tokens: &mut Tokens) -> Result<Operand, Fault> {
    Ok(match tokens.constant("an operand")? {
        Number::Integer(value) => Operand::Integer(value.cast_signed()),
        Number::Float32(bits) => Operand::Float32(bits),
        Number::Float64(bits) => Operand::Float64(bits),
    })
}

/// Names that PTX gives (table 3 of section 4.4), and the sink.
fn predefined(tokens: &mut Tokens, name: &str, line: u32) -> Result<Operand, Fault> {
    if name == "_" {
        return Ok(Operand::Sink);
    }
    if name == "WARP_SZ" {
        let sum = WARP_SIZE.cast_signed().wrapping_add(tokens.offset()?);
        return Ok(Operand::Integer(sum));
    }
    let special = name.strip_prefix('%').and_then(|bare| Some((bare, special::kind(bare)?)));
    let Some((bare, kind)) = special else { return Err(undeclared(name, line)) };
    let axis = match (kind, tokens.peek()) {
        (Kind::Scalar, Token::Dot(part)) => {
            return Err(tokens.fault(format!("`{name}` has no part `.{part}`")));
        }
        (Kind::Scalar, _) => None,
        (Kind::Vector, Token::Dot(part)) => {
            let Some(axis) = special::axis(part) else {
                return Err(tokens.fault(format!("`{name}.{part}`: the parts are .x, .y and .z")));
            };
            tokens.take()?;
            Some(axis)
        }
        (Kind::Vector, _) => {
            return Err(Fault::new(line, format!("`{name}` needs a part: .x, .y or .z")));
        }
    };
    Ok(Operand::Special(bare.to_owned(), axis))
}

/// `{%f1, %f2}` (section 6.4.2).
fn vector<'a>(tokens: &mut Tokens<'a>, names: &Names<'a>) -> Result<Vec<Operand>, Fault> {
    tokens.expect('{')?;
    let mut elements = Vec::new();
    loop {
        let line = tokens.line();
        let element = value(tokens, names)?;
        match element {
            Operand::Register(_)
            | Operand::Integer(_)
            | Operand::Float32(_)
            | Operand::Float64(_)
            | Operand::Sink => elements.push(element),
            _ => {
                let message = "elements of `{...}` are registers, numbers or `_`";
                return Err(Fault::new(line, message));
            }
        }
        if !tokens.eat(',')? {
            tokens.expect('}')?;
            return Ok(elements);
        }
    }
}

/// `[%rd1+16]`, `[name+4]`, `[16]`, `[%rd1, {%r1, %r2}]` (section 6.4.1).
fn address<'a>(tokens: &mut Tokens<'a>, names: &Names<'a>) -> Result<Operand, Fault> {
    tokens.expect('[')?;
    let line = tokens.line();
    let (base, offset) = match value(tokens, names)? {
        base @ Operand::Register(_) => (base, tokens.offset()?),
        Operand::Symbol(name, offset) => (Operand::Symbol(name, 0), offset),
        base @ Operand::Integer(_) => (base, 0),
        _ => {
            let message = "an address is a register, a variable or a whole number";
            return Err(Fault::new(line, message));
        }
    };
    let operand = if tokens.eat(',')? {
        if offset != 0 || matches!(base, Operand::Integer(_)) {
            let message = "a tensor map is a register or a variable, without an offset";
            return Err(Fault::new(line, message));
        }
        Operand::Tensor(Box::new(base), vector(tokens, names)?)
    } else {
        Operand::Address(Box::new(base), offset)
    };
    tokens.expect(']')?;
    Ok(operand)
}
