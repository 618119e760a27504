//! The words behind an opcode. Each must be taken by a decoder: what is left over is not understood.

use crate::program::op::{AtomicOp, BoolOp};
use crate::ptx::ast::{Instruction, Space, Type};

pub struct Modifiers<'a> {
    left: Vec<&'a str>,
}

impl<'a> Modifiers<'a> {
    pub fn new(inst: &'a Instruction) -> Self {
        Self { left: inst.modifiers.iter().map(String::as_str).collect() }
    }

    /// Errors: a modifier that no decoder took.
    pub fn done(&self) -> Result<(), String> {
        match self.left.first() {
            None => Ok(()),
            Some(word) => Err(format!("this instruction is not implemented with '.{word}'")),
        }
    }

    /// Whether the word is there; takes it.
    pub fn take(&mut self, word: &str) -> bool {
        let found = self.left.iter().position(|w| *w == word);
        found.map(|i| self.left.remove(i)).is_some()
    }

    /// Takes the words that only advise (caches, prefetching) or that say what holds anyway.
    pub fn ignore(&mut self, words: &[&str]) {
        self.left.retain(|w| !words.contains(w));
    }

    /// Takes every word that begins so.
    pub fn ignore_prefix(&mut self, prefix: &str) {
        self.left.retain(|w| !w.starts_with(prefix));
    }

    /// The word of the list that is there.
    pub fn one_of(&mut self, words: &[&str]) -> Option<&'a str> {
        let i = self.left.iter().position(|w| words.contains(w))?;
        Some(self.left.remove(i))
    }

    /// The first word, whatever it is.
    pub fn first(&mut self) -> Option<&'a str> {
        if self.left.is_empty() { None } else { Some(self.left.remove(0)) }
    }

    /// The last word that is a type.
    pub fn ty(&mut self) -> Result<Type, String> {
        let i = self.left.iter().rposition(|w| Type::parse(w).is_some());
        let i = i.ok_or("the instruction names no type")?;
        Type::parse(self.left.remove(i)).ok_or_else(|| "the instruction names no type".into())
    }

    /// The state space; generic when none is named.
    pub fn space(&mut self) -> Space {
        let words = [
            ("global", Space::Global),
            ("shared", Space::Shared),
            ("shared::cta", Space::Shared),
            ("shared::cluster", Space::Shared),
            ("local", Space::Local),
            ("param", Space::Param),
            ("param::entry", Space::Param),
            ("const", Space::Const),
        ];
        for (word, space) in words {
            if self.take(word) {
                return space;
            }
        }
        Space::Generic
    }

    /// `.v2` or `.v4`; 1 without.
    pub fn vector(&mut self) -> u8 {
        match self.one_of(&["v2", "v4"]) {
            Some("v2") => 2,
            Some(_) => 4,
            None => 1,
        }
    }

    pub fn bool_op(&mut self) -> Option<BoolOp> {
        Some(match self.one_of(&["and", "or", "xor"])? {
            "and" => BoolOp::And,
            "or" => BoolOp::Or,
            _ => BoolOp::Xor,
        })
    }

    /// The operation of an atomic, given its type.
    pub fn atomic_op(&mut self, ty: Type) -> Option<AtomicOp> {
        let words = ["add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"];
        Some(match (self.one_of(&words)?, ty.is_signed()) {
            ("add", _) => AtomicOp::Add,
            ("min", true) => AtomicOp::MinSigned,
            ("min", false) => AtomicOp::MinUnsigned,
            ("max", true) => AtomicOp::MaxSigned,
            ("max", false) => AtomicOp::MaxUnsigned,
            ("and", _) => AtomicOp::And,
            ("or", _) => AtomicOp::Or,
            ("xor", _) => AtomicOp::Xor,
            ("exch", _) => AtomicOp::Exchange,
            ("cas", _) => AtomicOp::CompareSwap,
            ("inc", _) => AtomicOp::Increment,
            _ => AtomicOp::Decrement,
        })
    }
}
