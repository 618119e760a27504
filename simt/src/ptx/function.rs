//! Kernels and functions (section 11.2): their heads and the directives between head and body.

use std::borrow::Cow;

use super::ast::Function;
use super::error::Fault;
use super::lexer::Token;
use super::module::Parser;
use super::names::Meaning;
use super::tokens::Tokens;
use super::variables;

impl<'a> Parser<'a> {
    /// Reads what follows `.entry` or `.func`.
    pub(super) fn function(
        &mut self,
        is_entry: bool,
        is_extern: bool,
        line: u32,
    ) -> Result<(), Fault> {
        let mut function = Function { is_entry, line, ..Function::default() };
        let scope = |message: String| Fault::new(line, message);
        self.names.enter().map_err(scope)?;
        if !is_entry && self.tokens.peek() == Token::Mark('(') {
            self.parameters(&mut function)?;
            // What a function gives back is no parameter that a caller fills.
            function.variables = std::mem::take(&mut function.params);
        }
        let name = self.tokens.word("the name of a function")?;
        self.kernel = Some(name);
        name.clone_into(&mut function.name);
        if self.tokens.peek() == Token::Mark('(') {
            self.parameters(&mut function)?;
        }
        while let Token::Dot(directive) = self.tokens.peek() {
            self.performance(directive, &mut function)?;
        }
        // A prototype announces a function. Nothing can call one, so nothing is lost.
        let is_prototype = !is_entry && self.tokens.eat(';')?;
        if is_prototype {
            self.names.leave();
        } else if is_extern {
            return Err(Fault::new(line, format!("`{name}` is external and can have no body")));
        } else {
            function = self.body(function)?;
        }
        self.announce(name, !is_prototype).map_err(scope)?;
        if !is_prototype {
            self.module.functions.push(function);
        }
        self.kernel = None;
        Ok(())
    }

    /// Gives the name of a function its meaning. It may be announced often but defined once.
    fn announce(&mut self, name: &'a str, is_definition: bool) -> Result<(), String> {
        let is_new = self.names.innermost().find(name) != Some(Meaning::Function);
        if is_new {
            self.names.declare(Cow::Borrowed(name), Meaning::Function)?;
        }
        if is_definition && !self.defined.insert(name) {
            return Err(format!("function `{name}` is defined twice"));
        }
        Ok(())
    }

    fn parameters(&mut self, function: &mut Function) -> Result<(), Fault> {
        self.tokens.expect('(')?;
        if self.tokens.eat(')')? {
            return Ok(());
        }
        loop {
            if self.tokens.peek() == Token::Dot("reg") {
                return Err(self.tokens.fault("parameters in registers are not supported"));
            }
            if !self.tokens.eat_dot("param")? {
                return self.tokens.expected("`.param`");
            }
            let line = self.tokens.line();
            let (name, variable) = variables::parameter(&mut self.tokens)?;
            self.names
                .declare(Cow::Borrowed(name), Meaning::Variable { nth: 0 })
                .map_err(|message| Fault::new(line, message))?;
            function.params.push(variable);
            if !self.tokens.eat(',')? {
                return self.tokens.expect(')');
            }
        }
    }

    /// Sections 11.4 and 11.7: what a kernel says about its launch.
    fn performance(&mut self, directive: &str, function: &mut Function) -> Result<(), Fault> {
        let line = self.tokens.line();
        self.tokens.take()?;
        let tokens = &mut self.tokens;
        match directive {
            "maxntid" => function.max_threads = Some(axes(tokens)?),
            "reqntid" => function.required_threads = Some(axes(tokens)?),
            "minnctapersm" => function.min_blocks = Some(tokens.count("a count of blocks")?),
            "reqnctapercluster" => function.cluster = Some(axes(tokens)?),
            "explicitcluster" => function.is_explicit_cluster = true,
            "maxnreg" => function.max_registers = Some(tokens.count("a count of registers")?),
            // These bound what a compiler may use; here nothing depends on them.
            "maxnctapersm" | "maxclusterrank" | "abi_preserve" | "abi_preserve_control" => {
                tokens.count("a limit")?;
            }
            "noreturn" => {}
            "pragma" => pragma(tokens)?,
            _ => return Err(Fault::new(line, format!("unknown directive `.{directive}`"))),
        }
        Ok(())
    }
}

/// `128`, `16, 8` or `16, 8, 2`: what is not given is 1 (sections 11.4.2 and 11.7.1).
fn axes(tokens: &mut Tokens) -> Result<[u32; 3], Fault> {
    let mut sizes = [1; 3];
    for (axis, size) in sizes.iter_mut().enumerate() {
        if axis > 0 && !tokens.eat(',')? {
            break;
        }
        let line = tokens.line();
        *size = tokens.count("a size")?;
        if *size == 0 {
            return Err(Fault::new(line, "a size of 0"));
        }
    }
    Ok(sizes)
}

/// What follows `.pragma`: texts for another compiler (section 11.4.7).
pub(super) fn pragma(tokens: &mut Tokens) -> Result<(), Fault> {
    loop {
        tokens.text()?;
        if !tokens.eat(',')? {
            return tokens.expect(';');
        }
    }
}
