//! Text to tokens (sections 4.1 to 4.5). Tokens borrow from the text.

use std::fmt;

use super::error::Fault;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// An identifier, an opcode, or `_`: `%r1`, `add`, `$L__BB0_3`.
    Word(&'a str),
    /// `.name` without its dot; `::` belongs to it: `shared::cluster`.
    Dot(&'a str),
    /// A number as it is written, without a sign.
    Number(&'a str),
    /// What is between two quotation marks.
    Text(&'a str),
    Mark(char),
    End,
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(text) | Self::Number(text) => write!(f, "`{text}`"),
            Self::Dot(text) => write!(f, "`.{text}`"),
            Self::Text(text) => write!(f, "`\"{text}\"`"),
            Self::Mark(mark) => write!(f, "`{mark}`"),
            Self::End => f.write_str("the end of the file"),
        }
    }
}

/// `followsym` of section 4.4.
fn follows(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}

pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0, line: 1 }
    }

    /// The next token and its line.
    pub fn next(&mut self) -> Result<(Token<'a>, u32), Fault> {
        self.skip_blanks()?;
        let start = self.at;
        let Some(first) = self.byte(0) else {
            return Ok((Token::End, self.line));
        };
        let token = match first {
            b'_' | b'$' | b'%' | b'a'..=b'z' | b'A'..=b'Z' => self.word()?,
            b'0'..=b'9' => {
                self.skip_number();
                Token::Number(&self.text[start..self.at])
            }
            b'.' => self.dot()?,
            b'"' => return self.quoted(),
            b',' | b';' | b':' | b'{' | b'}' | b'[' | b']' | b'(' | b')' | b'<' | b'>' | b'+'
            | b'-' | b'*' | b'/' | b'@' | b'!' | b'|' | b'=' | b'&' | b'^' | b'~' | b'?' => {
                self.at += 1;
                Token::Mark(char::from(first))
            }
            _ => {
                let found = self.text[start..].chars().next().unwrap_or_default();
                return Err(self.fault(format!("unexpected character {found:?}")));
            }
        };
        Ok((token, self.line))
    }

    fn byte(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::new(self.line, message)
    }

    fn skip_while(&mut self, belongs: impl Fn(u8) -> bool) {
        while self.byte(0).is_some_and(&belongs) {
            self.at += 1;
        }
    }

    /// Blanks and comments (section 4.2).
    fn skip_blanks(&mut self) -> Result<(), Fault> {
        loop {
            match self.byte(0) {
                Some(b'\n') => {
                    self.line = self.line.saturating_add(1);
                    self.at += 1;
                }
                Some(b' ' | b'\t' | b'\r' | 0x0b | 0x0c) => self.at += 1,
                Some(b'/') if self.byte(1) == Some(b'/') => self.skip_while(|byte| byte != b'\n'),
                Some(b'/') if self.byte(1) == Some(b'*') => {
                    let rest = &self.text[self.at + 2..];
                    let Some(length) = rest.find("*/") else {
                        return Err(self.fault("the comment that starts here has no end"));
                    };
                    let breaks = rest[..length].bytes().filter(|&byte| byte == b'\n').count();
                    self.line = self.line.saturating_add(u32::try_from(breaks).unwrap_or(u32::MAX));
                    self.at += length + 4;
                }
                _ => return Ok(()),
            }
        }
    }

    fn word(&mut self) -> Result<Token<'a>, Fault> {
        let start = self.at;
        self.at += 1;
        self.skip_while(follows);
        let word = &self.text[start..self.at];
        if matches!(word, "%" | "$") {
            return Err(self.fault(format!("`{word}` alone is no name")));
        }
        Ok(Token::Word(word))
    }

    fn dot(&mut self) -> Result<Token<'a>, Fault> {
        let start = self.at + 1;
        self.at = start;
        self.skip_while(follows);
        if self.at == start {
            return Err(self.fault("a dot without a name behind it"));
        }
        while self.byte(0) == Some(b':')
            && self.byte(1) == Some(b':')
            && self.byte(2).is_some_and(follows)
        {
            self.at += 2;
            self.skip_while(follows);
        }
        Ok(Token::Dot(&self.text[start..self.at]))
    }

    /// Everything that belongs to a number; whether it is one is decided where it is read.
    fn skip_number(&mut self) {
        let has_prefix =
            self.byte(0) == Some(b'0') && self.byte(1).is_some_and(|b| b.is_ascii_alphabetic());
        if !has_prefix || matches!(self.byte(1), Some(b'e' | b'E')) {
            self.skip_while(|byte| byte.is_ascii_digit());
            if self.byte(0) == Some(b'.') {
                self.at += 1;
                self.skip_while(|byte| byte.is_ascii_digit());
            }
            let is_exponent = matches!(self.byte(0), Some(b'e' | b'E'));
            if is_exponent && matches!(self.byte(1), Some(b'+' | b'-')) {
                self.at += 2;
            }
        }
        // Letters stay with it, so that `12ab` is one wrong number and not two tokens.
        self.skip_while(follows);
    }

    fn quoted(&mut self) -> Result<(Token<'a>, u32), Fault> {
        let line = self.line;
        let rest = &self.text[self.at + 1..];
        match rest.find(['"', '\n']) {
            Some(length) if rest.as_bytes()[length] == b'"' => {
                self.at += length + 2;
                Ok((Token::Text(&rest[..length]), line))
            }
            _ => Err(self.fault("the text that starts here has no closing quotation mark")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Result<Vec<(Token<'_>, u32)>, Fault> {
        let mut lexer = Lexer::new(text);
        let mut all = Vec::new();
        loop {
            match lexer.next()? {
                (Token::End, _) => return Ok(all),
                token => all.push(token),
            }
        }
    }

    fn kinds(text: &str) -> Vec<Token<'_>> {
        tokens(text).unwrap().into_iter().map(|(token, _)| token).collect()
    }

    #[test]
    fn words_dots_and_marks() {
        use Token::{Dot, Mark, Word};
        assert_eq!(
            kinds("ld.shared::cluster.v4 %r1|_, [$L_2+a$b];"),
            [
                Word("ld"),
                Dot("shared::cluster"),
                Dot("v4"),
                Word("%r1"),
                Mark('|'),
                Word("_"),
                Mark(','),
                Mark('['),
                Word("$L_2"),
                Mark('+'),
                Word("a$b"),
                Mark(']'),
                Mark(';'),
            ]
        );
        assert_eq!(kinds("%a%b"), [Word("%a"), Word("%b")]);
        assert_eq!(kinds("L: :"), [Word("L"), Mark(':'), Mark(':')]);
        assert_eq!(kinds(".mbarrier::complete_tx::bytes"), [Dot("mbarrier::complete_tx::bytes")]);
    }

    #[test]
    fn numbers_keep_their_letters_and_exponents() {
        let numbers = ["0", "9.0", "0x1fU", "0f3F800000", "1.5e-3", "1e+5", "0e1", "12ab", "5."];
        for number in numbers {
            assert_eq!(kinds(number), [Token::Number(number)]);
        }
        use Token::{Mark, Number};
        assert_eq!(kinds("1-2"), [Number("1"), Mark('-'), Number("2")]);
        assert_eq!(kinds("0x1e-2"), [Number("0x1e"), Mark('-'), Number("2")]);
    }

    #[test]
    fn comments_and_lines() {
        let all = tokens("a // b\n/* c\n d */ e\n\n\"f // g\"").unwrap();
        assert_eq!(all, [(Token::Word("a"), 1), (Token::Word("e"), 3), (Token::Text("f // g"), 5)]);
    }

    #[test]
    fn what_is_no_token() {
        for (text, line, message) in [
            ("\n/* a", 2, "the comment that starts here has no end"),
            ("\"a\n\"", 1, "the text that starts here has no closing quotation mark"),
            ("\"", 1, "the text that starts here has no closing quotation mark"),
            ("a\n\u{e9}", 2, "unexpected character '\u{e9}'"),
            ("#", 1, "unexpected character '#'"),
            ("%", 1, "`%` alone is no name"),
            ("$ ", 1, "`$` alone is no name"),
            (". a", 1, "a dot without a name behind it"),
        ] {
            let fault = tokens(text).unwrap_err();
            assert_eq!((fault.line, fault.message.as_str()), (line, message));
        }
    }
}
