//! Declarations of variables in memory (section 5.4), with their initial values.

use super::ast::{Space, Type, Variable};
use super::error::Fault;
use super::lexer::Token;
use super::number::Number;
use super::tokens::Tokens;

/// The largest variable.
const MAX_BYTES: u64 = 1 << 30;
/// The largest alignment.
const MAX_ALIGN: u32 = 1 << 20;

/// The space of a directive that declares variables.
pub(super) fn space(directive: &str) -> Option<Space> {
    Some(match directive {
        "global" => Space::Global,
        "const" => Space::Const,
        "shared" => Space::Shared,
        "local" => Space::Local,
        "param" => Space::Param,
        _ => return None,
    })
}

/// Reads what follows the space, up to the semicolon: `.align 16 .b8 x[64], y[64];`.
pub(super) fn declaration<'a>(
    tokens: &mut Tokens<'a>,
    space: Space,
    is_extern: bool,
) -> Result<Vec<(&'a str, u32, Variable)>, Fault> {
    let (ty, align) = head(tokens)?;
    let mut variables = Vec::new();
    loop {
        let line = tokens.line();
        let (name, mut variable, dimensions) = declarator(tokens, space, ty, align)?;
        variable.is_extern = is_extern;
        if tokens.eat('=')? {
            initialise(tokens, &mut variable, dimensions)?;
        }
        if variable.bytes.is_none() && !is_extern {
            return Err(Fault::new(line, format!("`{name}[]` has no size")));
        }
        variables.push((name, line, variable));
        if !tokens.eat(',')? {
            tokens.expect(';')?;
            return Ok(variables);
        }
    }
}

/// Reads a parameter: what follows `.param` up to the comma or the parenthesis.
pub(super) fn parameter<'a>(tokens: &mut Tokens<'a>) -> Result<(&'a str, Variable), Fault> {
    let (ty, align) = head(tokens)?;
    // What a pointer points to says nothing about the parameter itself (section 5.1.6.2).
    if tokens.eat_dot("ptr")? {
        if let Token::Dot("const" | "global" | "local" | "shared") = tokens.peek() {
            tokens.take()?;
        }
        if tokens.eat_dot("align")? {
            alignment(tokens)?;
        }
    }
    let line = tokens.line();
    let (name, variable, _) = declarator(tokens, Space::Param, ty, align)?;
    if variable.bytes.is_none() {
        return Err(Fault::new(line, format!("parameter `{name}[]` has no size")));
    }
    Ok((name, variable))
}

/// `.align 16 .b8`: the type, and an alignment that is at least the type's.
fn head(tokens: &mut Tokens) -> Result<(Type, u32), Fault> {
    let align = if tokens.eat_dot("align")? { alignment(tokens)? } else { 1 };
    let line = tokens.line();
    let ty = tokens.ty()?;
    if ty == Type::Pred {
        return Err(Fault::new(line, "predicates are in no memory"));
    }
    Ok((ty, align.max(ty.bytes())))
}

fn alignment(tokens: &mut Tokens) -> Result<u32, Fault> {
    let line = tokens.line();
    let align = tokens.count("an alignment")?;
    if align.is_power_of_two() && align <= MAX_ALIGN {
        return Ok(align);
    }
    let message = format!("an alignment is a power of two of at most {MAX_ALIGN}, not {align}");
    Err(Fault::new(line, message))
}

/// `name`, `name[4][16]`, `name[]`, with the count of dimensions.
fn declarator<'a>(
    tokens: &mut Tokens<'a>,
    space: Space,
    ty: Type,
    align: u32,
) -> Result<(&'a str, Variable, u32), Fault> {
    let name = tokens.word("the name of a variable")?;
    if tokens.peek() == Token::Mark('<') {
        return Err(tokens.fault(format!("`{name}<...>` is supported for registers only")));
    }
    let mut bytes = Some(u64::from(ty.bytes()));
    let mut dimensions = 0u32;
    while tokens.eat('[')? {
        dimensions += 1;
        if tokens.eat(']')? {
            bytes = None;
            if dimensions > 1 || tokens.peek() == Token::Mark('[') {
                return Err(tokens.fault("only an array of one dimension can leave its size open"));
            }
            break;
        }
        let line = tokens.line();
        let Number::Integer(count) = tokens.constant("a count of elements")? else {
            return Err(Fault::new(line, "a count of elements is a whole number"));
        };
        tokens.expect(']')?;
        let total = bytes.and_then(|bytes| bytes.checked_mul(count));
        bytes = match total {
            Some(total) if total > 0 && total <= MAX_BYTES => Some(total),
            _ => {
                let message = format!("`{name}` must have 1 to {MAX_BYTES} bytes");
                return Err(Fault::new(line, message));
            }
        };
    }
    let variable = Variable {
        name: name.to_owned(),
        space,
        ty,
        align,
        bytes,
        init: Vec::new(),
        is_extern: false,
    };
    Ok((name, variable, dimensions))
}

/// Section 5.4.4: `5`, or `{1, 2, 0x3}`.
fn initialise(tokens: &mut Tokens, variable: &mut Variable, dimensions: u32) -> Result<(), Fault> {
    let name = variable.name.clone();
    if variable.is_extern {
        return Err(tokens.fault(format!("`{name}` is external and can have no initial value")));
    }
    if !matches!(variable.space, Space::Global | Space::Const) {
        let message = format!("`{name}` can have no initial value: only .global and .const can");
        return Err(tokens.fault(message));
    }
    if dimensions > 1 {
        let message = format!("`{name}`: initial values of several dimensions are not supported");
        return Err(tokens.fault(message));
    }
    let limit = variable.bytes.unwrap_or(MAX_BYTES);
    let element = u64::from(variable.ty.bytes());
    let is_array = dimensions > 0;
    if is_array {
        tokens.expect('{')?;
    }
    loop {
        if variable.init.len() as u64 + element > limit {
            let message = format!("`{name}` has more initial values than elements");
            return Err(tokens.fault(message));
        }
        initial_value(tokens, variable.ty, &mut variable.init)?;
        if !is_array {
            break;
        }
        if !tokens.eat(',')? {
            tokens.expect('}')?;
            break;
        }
    }
    variable.bytes.get_or_insert(variable.init.len() as u64);
    Ok(())
}

fn initial_value(tokens: &mut Tokens, ty: Type, bytes: &mut Vec<u8>) -> Result<(), Fault> {
    if let Token::Word(name) = tokens.peek() {
        let message = format!("the address of `{name}` as initial value is not supported");
        return Err(tokens.fault(message));
    }
    let line = tokens.line();
    let value = tokens.constant("an initial value")?;
    if tokens.peek() == Token::Mark('(') {
        return Err(tokens.fault("masks (`0xff(name)`) as initial values are not supported"));
    }
    match (ty, value) {
        (Type::F32, Number::Float32(bits)) => bytes.extend(bits.to_le_bytes()),
        // Section 4.5.2: a constant of 64 bits is converted to the type of the variable.
        (Type::F32, Number::Float64(bits)) => {
            bytes.extend((f64::from_bits(bits) as f32).to_le_bytes());
        }
        (Type::F64, Number::Float32(bits)) => {
            bytes.extend(f64::from(f32::from_bits(bits)).to_le_bytes());
        }
        (Type::F64, Number::Float64(bits)) => bytes.extend(bits.to_le_bytes()),
        (_, Number::Integer(value)) if !ty.is_float() && ty != Type::B128 => {
            // Section 4.5.1: a constant is converted to the size of the variable.
            bytes.extend(&value.to_le_bytes()[..ty.bytes() as usize]);
        }
        _ => {
            let message = format!("a variable of type .{ty} cannot have this initial value");
            return Err(Fault::new(line, message));
        }
    }
    Ok(())
}
