//! A stream of tokens with one in view, and the small pieces that everything is made of.

use super::ast::Type;
use super::error::Fault;
use super::lexer::{Lexer, Token};
use super::number::{self, Number};

pub(super) struct Tokens<'a> {
    lexer: Lexer<'a>,
    next: Token<'a>,
    line: u32,
}

impl<'a> Tokens<'a> {
    pub fn new(text: &'a str) -> Result<Self, Fault> {
        let mut lexer = Lexer::new(text);
        let (next, line) = lexer.next()?;
        Ok(Self { lexer, next, line })
    }

    /// The token in view.
    pub fn peek(&self) -> Token<'a> {
        self.next
    }

    /// The line of the token in view.
    pub fn line(&self) -> u32 {
        self.line
    }

    pub fn take(&mut self) -> Result<Token<'a>, Fault> {
        let taken = self.next;
        (self.next, self.line) = self.lexer.next()?;
        Ok(taken)
    }

    /// An error on the line of the token in view.
    pub fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::new(self.line, message)
    }

    /// The error that something else stands here.
    pub fn expected<T>(&self, what: &str) -> Result<T, Fault> {
        Err(self.fault(format!("expected {what}, found {}", self.next)))
    }

    pub fn eat(&mut self, mark: char) -> Result<bool, Fault> {
        let is_there = self.next == Token::Mark(mark);
        if is_there {
            self.take()?;
        }
        Ok(is_there)
    }

    pub fn expect(&mut self, mark: char) -> Result<(), Fault> {
        if self.eat(mark)? { Ok(()) } else { self.expected(&format!("`{mark}`")) }
    }

    pub fn eat_dot(&mut self, name: &str) -> Result<bool, Fault> {
        let is_there = self.next == Token::Dot(name);
        if is_there {
            self.take()?;
        }
        Ok(is_there)
    }

    pub fn eat_word(&mut self, word: &str) -> Result<bool, Fault> {
        let is_there = self.next == Token::Word(word);
        if is_there {
            self.take()?;
        }
        Ok(is_there)
    }

    pub fn word(&mut self, what: &str) -> Result<&'a str, Fault> {
        match self.next {
            Token::Word(word) => {
                self.take()?;
                Ok(word)
            }
            _ => self.expected(what),
        }
    }

    pub fn text(&mut self) -> Result<&'a str, Fault> {
        match self.next {
            Token::Text(text) => {
                self.take()?;
                Ok(text)
            }
            _ => self.expected("a text in quotation marks"),
        }
    }

    /// `.f32`.
    pub fn ty(&mut self) -> Result<Type, Fault> {
        let Token::Dot(name) = self.next else { return self.expected("a type") };
        if matches!(name, "v2" | "v4" | "v8") {
            return Err(self.fault(format!("vector variables (`.{name}`) are not supported")));
        }
        let Some(ty) = Type::parse(name) else {
            return Err(self.fault(format!("unknown type `.{name}`")));
        };
        self.take()?;
        Ok(ty)
    }

    /// A number without a sign. `what` says what it is for.
    pub fn number(&mut self, what: &str) -> Result<Number, Fault> {
        let value = match self.next {
            Token::Number(text) => number::parse(text),
            // `.05` starts like a directive.
            Token::Dot(digits) if digits.starts_with(|c: char| c.is_ascii_digit()) => {
                number::parse(&format!(".{digits}"))
            }
            _ => return self.expected(what),
        };
        let Some(value) = value else {
            return Err(self.fault(format!("{} is no number", self.next)));
        };
        self.take()?;
        Ok(value)
    }

    /// A whole number of 32 bits without a sign: a size, a line.
    pub fn count(&mut self, what: &str) -> Result<u32, Fault> {
        let (line, token) = (self.line, self.next);
        match self.number(what)? {
            Number::Integer(value) => u32::try_from(value)
                .map_err(|_| Fault::new(line, format!("{token} is too large for {what}"))),
            _ => Err(Fault::new(line, format!("expected {what}, found {token}"))),
        }
    }

    pub fn is_number(&self) -> bool {
        match self.next {
            Token::Number(_) | Token::Mark('-') => true,
            Token::Dot(name) => name.starts_with(|c: char| c.is_ascii_digit()),
            _ => false,
        }
    }

    /// A number with a sign or without, or a sum of whole numbers (section 4.5.4).
    pub fn constant(&mut self, what: &str) -> Result<Number, Fault> {
        match self.signed(what)? {
            Number::Integer(value) => {
                let sum = value.wrapping_add(self.offset()?.cast_unsigned());
                Ok(Number::Integer(sum))
            }
            float => self.end_of_expression().map(|()| float),
        }
    }

    fn signed(&mut self, what: &str) -> Result<Number, Fault> {
        if !self.eat('-')? {
            return self.number(what);
        }
        let line = self.line;
        // Section 4.5.4: unary minus works on 64 bits, modulo 2^64 for whole numbers.
        match self.number("a number behind `-`")? {
            Number::Integer(value) => Ok(Number::Integer(value.wrapping_neg())),
            Number::Float64(bits) => Ok(Number::Float64((-f64::from_bits(bits)).to_bits())),
            // Section 4.5.2: such values may not be used in constant expressions.
            Number::Float32(_) => Err(Fault::new(line, "a sign is not allowed before `0f...`")),
        }
    }

    /// `+16`, `+-16`, `-16`, or several: what is added to an address or a number; 0 if nothing is.
    pub fn offset(&mut self) -> Result<i64, Fault> {
        let mut sum = 0i64;
        loop {
            let is_minus = match self.next {
                Token::Mark('+') => false,
                Token::Mark('-') => true,
                _ => break,
            };
            self.take()?;
            let line = self.line;
            let Number::Integer(value) = self.signed("a whole number")? else {
                return Err(Fault::new(line, "only whole numbers can be added"));
            };
            let value = value.cast_signed();
            sum = sum.wrapping_add(if is_minus { value.wrapping_neg() } else { value });
        }
        self.end_of_expression()?;
        Ok(sum)
    }

    /// Refuses what would go on as an expression of section 4.5.4 that is more than a sum.
    fn end_of_expression(&self) -> Result<(), Fault> {
        match self.next {
            Token::Mark('*' | '/' | '<' | '>' | '&' | '|' | '^' | '?' | '=' | '!' | '+' | '-') => {
                Err(self.fault(format!(
                    "constant expressions other than sums of whole numbers are not supported, \
                     found {}",
                    self.next
                )))
            }
            _ => Ok(()),
        }
    }
}
