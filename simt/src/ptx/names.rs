//! What a name means where it stands. Names of inner scopes hide those of outer ones (section 4.4).

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::ast::Reg;

/// The scopes of a module: its own, the parameters of a function, the body, and braces in the body.
const MODULE: usize = 1;
/// The module, the parameters and the body: the scope of a function's outermost braces.
pub(super) const BODY: usize = 3;
/// A name is looked for in every scope around it, so their count bounds the time that takes.
const MAX_SCOPES: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Register(Reg),
    /// The `nth` variable of this name in a function that was not the first; 0 for the first.
    Variable {
        nth: u32,
    },
    /// A label by its number before they are resolved.
    Label(u32),
    Function,
}

#[derive(Default)]
pub(super) struct Scope<'a> {
    meanings: HashMap<Cow<'a, str>, Meaning>,
    /// Labels that instructions of this scope name and that it has not defined so far.
    pub wanted: HashMap<&'a str, u32>,
}

pub(super) struct Names<'a> {
    scopes: Vec<Scope<'a>>,
    /// How often the running function has declared a variable of this name.
    variables: HashMap<&'a str, u32>,
}

impl<'a> Names<'a> {
    pub fn new() -> Self {
        Self { scopes: vec![Scope::default()], variables: HashMap::new() }
    }

    pub fn depth(&self) -> usize {
        self.scopes.len()
    }

    /// Opens a scope. An error message if there are too many.
    pub fn enter(&mut self) -> Result<(), String> {
        if self.scopes.len() == MAX_SCOPES {
            return Err(format!("more than {MAX_SCOPES} scopes inside one another"));
        }
        self.scopes.push(Scope::default());
        Ok(())
    }

    /// Closes the innermost scope. The module's own stays.
    pub fn leave(&mut self) -> Scope<'a> {
        if self.scopes.len() == MODULE {
            return Scope::default();
        }
        if self.scopes.len() == BODY {
            self.variables.clear();
        }
        self.scopes.pop().unwrap_or_default()
    }

    /// The innermost scope.
    pub fn innermost(&mut self) -> &mut Scope<'a> {
        let last = self.scopes.len() - 1;
        &mut self.scopes[last]
    }

    /// Makes room for so many names in the innermost scope.
    pub fn reserve(&mut self, count: usize) {
        self.innermost().meanings.reserve(count);
    }

    pub fn find(&self, name: &str) -> Option<Meaning> {
        self.scopes.iter().rev().find_map(|scope| scope.find(name))
    }

    /// Declares a name in the innermost scope. An error message if it has a meaning there.
    pub fn declare(&mut self, name: Cow<'a, str>, meaning: Meaning) -> Result<(), String> {
        if name == "_" {
            return Err("`_` cannot be declared".into());
        }
        match self.innermost().meanings.entry(name) {
            Entry::Occupied(known) => Err(match (known.get(), meaning) {
                (Meaning::Label(_), Meaning::Label(_)) => {
                    format!("label `{}` is defined twice", known.key())
                }
                _ => format!("`{}` is declared twice", known.key()),
            }),
            Entry::Vacant(free) => {
                free.insert(meaning);
                Ok(())
            }
        }
    }

    /// Declares a variable in a body, and gives the name by which the tree refers to it. A name that
    /// hides another variable, or that another scope of the function has used, gets a number behind an
    /// `@`, which no name of PTX contains.
    pub fn declare_in_body(&mut self, name: &'a str) -> Result<String, String> {
        let hides = matches!(self.find(name), Some(Meaning::Variable { .. }));
        let used = self.variables.get(name).copied();
        let nth = used.map_or(u32::from(hides), |last| last + 1);
        self.declare(Cow::Borrowed(name), Meaning::Variable { nth })?;
        self.variables.insert(name, nth);
        Ok(variable_name(name, nth))
    }
}

impl Scope<'_> {
    pub fn find(&self, name: &str) -> Option<Meaning> {
        // Most scopes of inline assembly declare nothing.
        if self.meanings.is_empty() { None } else { self.meanings.get(name).copied() }
    }
}

/// The name of a variable in the tree.
pub(super) fn variable_name(name: &str, nth: u32) -> String {
    if nth == 0 { name.to_owned() } else { format!("{name}@{nth}") }
}
