//! A module: what stands outside of functions (sections 11.1, 11.5 and 11.6).

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::ast::{Module, Space};
use super::error::{Fault, ParseError};
use super::function::pragma;
use super::lexer::Token;
use super::names::{Meaning, Names};
use super::tokens::Tokens;
use super::variables;

/// Registers of all functions at most, so that a small file cannot ask for much memory.
const MAX_MODULE_REGISTERS: u32 = 2_000_000;

/// Reads a module of PTX. `name` is the file's name in errors.
///
/// Names are resolved: registers and labels to indices; variables to names that are unique if they are
/// looked for among the parameters and variables of the function first and those of the module then. For
/// that, a variable of a body that hides another one, or that has the name of one in another scope of that
/// body, is called `name@1`, `name@2` and so on. What a `.func` gives back is found among its variables, in
/// the space of parameters. Prototypes of functions are read and forgotten: calls are refused.
pub fn parse(name: &str, text: &str) -> Result<Module, ParseError> {
    let located = |fault: Fault, kernel: Option<&str>| ParseError {
        file: name.to_owned(),
        line: fault.line,
        kernel: kernel.map(str::to_owned),
        message: fault.message,
    };
    let tokens = Tokens::new(text).map_err(|fault| located(fault, None))?;
    let mut parser = Parser {
        tokens,
        names: Names::new(),
        module: Module::default(),
        kernel: None,
        defined: HashSet::new(),
        files: HashMap::new(),
        registers_left: MAX_MODULE_REGISTERS,
    };
    match parser.module() {
        Ok(()) => Ok(parser.module),
        Err(fault) => Err(located(fault, parser.kernel)),
    }
}

pub(super) struct Parser<'a> {
    pub tokens: Tokens<'a>,
    pub names: Names<'a>,
    pub module: Module,
    /// The kernel or function that is being read.
    pub kernel: Option<&'a str>,
    /// Functions that have a body.
    pub defined: HashSet<&'a str>,
    /// Indices of [`Module::files`] by number.
    files: HashMap<u32, usize>,
    pub registers_left: u32,
}

impl Parser<'_> {
    fn module(&mut self) -> Result<(), Fault> {
        self.version()?;
        self.target()?;
        self.address_size()?;
        loop {
            match self.tokens.peek() {
                Token::End => return Ok(()),
                Token::Dot(_) => self.directive()?,
                _ => return self.tokens.expected("a directive"),
            }
        }
    }

    /// `.version 9.0` (section 11.1.1).
    fn version(&mut self) -> Result<(), Fault> {
        if !self.tokens.eat_dot("version")? {
            return self.tokens.expected("`.version`, with which a module begins");
        }
        let Token::Number(text) = self.tokens.peek() else {
            return self.tokens.expected("a version");
        };
        let numbers = text.split_once('.').map(|(a, b)| (a.parse::<u32>(), b.parse::<u32>()));
        let Some((Ok(major), Ok(minor))) = numbers else {
            return Err(self.tokens.fault(format!("`{text}` is no version")));
        };
        self.module.version = (major, minor);
        self.tokens.take().map(|_| ())
    }

    /// `.target sm_90a` (section 11.1.2).
    fn target(&mut self) -> Result<(), Fault> {
        if !self.tokens.eat_dot("target")? {
            return self.tokens.expected("`.target`");
        }
        let line = self.tokens.line();
        let target = self.tokens.word("an architecture")?;
        if !target.starts_with("sm_") && !target.starts_with("compute_") {
            return Err(Fault::new(line, format!("unknown architecture `{target}`")));
        }
        target.clone_into(&mut self.module.target);
        while self.tokens.eat(',')? {
            let line = self.tokens.line();
            match self.tokens.word("an option of the target")? {
                "debug" | "texmode_unified" | "texmode_independent" => {}
                option => {
                    let message = format!("the option `{option}` of .target is not supported");
                    return Err(Fault::new(line, message));
                }
            }
        }
        Ok(())
    }

    /// `.address_size 64` (section 11.1.3). Without it addresses would have 32 bits.
    fn address_size(&mut self) -> Result<(), Fault> {
        if !self.tokens.eat_dot("address_size")? {
            return self.tokens.expected("`.address_size 64`");
        }
        let line = self.tokens.line();
        match self.tokens.count("a size of addresses")? {
            64 => Ok(()),
            size => Err(Fault::new(line, format!("addresses of {size} bits are not supported"))),
        }
    }

    fn directive(&mut self) -> Result<(), Fault> {
        let mut is_extern = false;
        let mut has_linking = false;
        loop {
            let line = self.tokens.line();
            let Token::Dot(directive) = self.tokens.take()? else {
                return Err(Fault::new(line, "expected a directive behind a linking directive"));
            };
            match directive {
                "extern" | "visible" | "weak" | "common" => {
                    is_extern |= directive == "extern";
                    has_linking = true;
                }
                "entry" => return self.function(true, is_extern, line),
                "func" => return self.function(false, is_extern, line),
                "global" => return self.variables(Space::Global, is_extern),
                "const" => return self.variables(Space::Const, is_extern),
                "shared" => return self.variables(Space::Shared, is_extern),
                "file" if !has_linking => return self.file(),
                "section" if !has_linking => return self.section(),
                "pragma" if !has_linking => return pragma(&mut self.tokens),
                _ => return Err(Fault::new(line, format!("unknown directive `.{directive}`"))),
            }
        }
    }

    fn variables(&mut self, space: Space, is_extern: bool) -> Result<(), Fault> {
        for (name, line, variable) in variables::declaration(&mut self.tokens, space, is_extern)? {
            self.names
                .declare(Cow::Borrowed(name), Meaning::Variable { nth: 0 })
                .map_err(|message| Fault::new(line, message))?;
            self.module.variables.push(variable);
        }
        Ok(())
    }

    /// What follows `.file`: `1 "path"`, and perhaps a time and a size (section 11.5.3).
    fn file(&mut self) -> Result<(), Fault> {
        let line = self.tokens.line();
        let number = self.tokens.count("the number of a file")?;
        let path = self.tokens.text()?;
        if self.tokens.eat(',')? {
            self.tokens.number("a time")?;
            self.tokens.expect(',')?;
            self.tokens.number("a size")?;
        }
        let files = &mut self.module.files;
        let index = *self.files.entry(number).or_insert(files.len());
        if index == files.len() {
            files.push((number, path.to_owned()));
        } else if files[index].1 != path {
            return Err(Fault::new(line, format!("file {number} has two paths")));
        }
        Ok(())
    }

    /// Skips what follows `.section`: DWARF for a debugger (section 11.5.2).
    fn section(&mut self) -> Result<(), Fault> {
        match self.tokens.peek() {
            Token::Dot(name) if name.starts_with("debug_") => self.tokens.take()?,
            Token::Dot(name) => {
                return Err(self.tokens.fault(format!("unknown section `.{name}`")));
            }
            _ => return self.tokens.expected("the name of a section"),
        };
        self.tokens.expect('{')?;
        loop {
            match self.tokens.peek() {
                Token::Mark('}') => return self.tokens.take().map(|_| ()),
                Token::Mark('{') | Token::End => return self.tokens.expected("`}`"),
                _ => self.tokens.take()?,
            };
        }
    }
}
