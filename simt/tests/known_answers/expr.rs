//! Small expressions over whole numbers, for what buffers hold: `i*3+1`, `l < 16 ? l : _`, `sum(k, 8, f32(k))`.
//!
//! Operators are those of Rust with its precedences, and `?:`. `_` stands for bytes that nobody writes.

use std::collections::HashMap;

pub type Env = HashMap<String, i128>;

#[derive(Clone, Debug)]
pub enum Expr {
    Number(i128),
    Nothing,
    Name(String),
    Unary(char, Box<Expr>),
    Binary(&'static str, Box<Expr>, Box<Expr>),
    Choice(Box<Expr>, Box<Expr>, Box<Expr>),
    Call(String, Vec<Expr>),
}

/// Binary operators from the loosest to the tightest.
const LEVELS: [&[&str]; 9] = [
    &["||"],
    &["&&"],
    &["==", "!=", "<=", ">=", "<", ">"],
    &["|"],
    &["^"],
    &["&"],
    &["<<", ">>"],
    &["+", "-"],
    &["*", "/", "%"],
];

struct Reader<'a> {
    text: &'a str,
}

/// Reads a list of expressions, with commas between.
pub fn parse_list(text: &str) -> Vec<Expr> {
    let mut reader = Reader { text: text.trim_start() };
    let mut all = vec![reader.choice()];
    while reader.eat(",") {
        all.push(reader.choice());
    }
    assert!(reader.text.is_empty(), "cannot read '{}' of '{text}'", reader.text);
    all
}

impl Reader<'_> {
    fn eat(&mut self, mark: &str) -> bool {
        match self.text.strip_prefix(mark) {
            Some(rest) => {
                self.text = rest.trim_start();
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, mark: &str) {
        assert!(self.eat(mark), "'{mark}' is missing before '{}'", self.text);
    }

    fn choice(&mut self) -> Expr {
        let condition = self.level(0);
        if !self.eat("?") {
            return condition;
        }
        let yes = self.choice();
        self.expect(":");
        let no = self.choice();
        Expr::Choice(Box::new(condition), Box::new(yes), Box::new(no))
    }

    /// The operator of this level that comes next, unless it is the beginning of a longer one.
    fn operator(&mut self, level: usize) -> Option<&'static str> {
        let found = LEVELS[level].iter().copied().find(|op| self.text.starts_with(op))?;
        let longer = LEVELS.iter().flat_map(|l| l.iter());
        let is_longer = |op: &&&str| op.len() > found.len() && self.text.starts_with(**op);
        if longer.filter(is_longer).count() > 0 {
            return None;
        }
        self.expect(found);
        Some(found)
    }

    fn level(&mut self, level: usize) -> Expr {
        if level == LEVELS.len() {
            return self.unary();
        }
        let mut left = self.level(level + 1);
        while let Some(op) = self.operator(level) {
            left = Expr::Binary(op, Box::new(left), Box::new(self.level(level + 1)));
        }
        left
    }

    fn unary(&mut self) -> Expr {
        for sign in ['-', '~', '!'] {
            if self.eat(&sign.to_string()) {
                return Expr::Unary(sign, Box::new(self.unary()));
            }
        }
        if self.eat("(") {
            let inner = self.choice();
            self.expect(")");
            return inner;
        }
        let end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
        let word = &self.text[..self.text.find(end).unwrap_or(self.text.len())];
        self.text = self.text[word.len()..].trim_start();
        if word == "_" {
            return Expr::Nothing;
        }
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            return Expr::Number(number(word).unwrap_or_else(|| panic!("'{word}' is no number")));
        }
        assert!(!word.is_empty(), "a value is missing before '{}'", self.text);
        let name = word.to_owned();
        if !self.eat("(") {
            return Expr::Name(name);
        }
        let mut arguments = vec![self.choice()];
        while self.eat(",") {
            arguments.push(self.choice());
        }
        self.expect(")");
        Expr::Call(name, arguments)
    }
}

/// A whole number without a sign, decimal, `0x` or `0b`.
pub fn number(word: &str) -> Option<i128> {
    let word = word.replace('_', "");
    match (word.strip_prefix("0x"), word.strip_prefix("0b")) {
        (Some(hex), _) => i128::from_str_radix(hex, 16).ok(),
        (_, Some(bits)) => i128::from_str_radix(bits, 2).ok(),
        _ => word.parse().ok(),
    }
}

impl Expr {
    /// The value; `None` where nobody writes.
    pub fn value(&self, env: &mut Env) -> Option<i128> {
        Some(match self {
            Self::Number(v) => *v,
            Self::Nothing => return None,
            Self::Name(name) => *env.get(name).unwrap_or_else(|| panic!("what is '{name}'?")),
            Self::Unary(sign, a) => {
                let a = a.value(env)?;
                match sign {
                    '-' => -a,
                    '~' => !a,
                    _ => i128::from(a == 0),
                }
            }
            Self::Binary(op, a, b) => {
                let (a, b) = (a.value(env)?, b.value(env)?);
                match *op {
                    "||" => i128::from(a != 0 || b != 0),
                    "&&" => i128::from(a != 0 && b != 0),
                    "==" => i128::from(a == b),
                    "!=" => i128::from(a != b),
                    "<=" => i128::from(a <= b),
                    ">=" => i128::from(a >= b),
                    "<" => i128::from(a < b),
                    ">" => i128::from(a > b),
                    "|" => a | b,
                    "^" => a ^ b,
                    "&" => a & b,
                    "<<" => a << b,
                    ">>" => a >> b,
                    "+" => a + b,
                    "-" => a - b,
                    "*" => a * b,
                    "/" => a / b,
                    _ => a % b,
                }
            }
            Self::Choice(condition, yes, no) => {
                let taken = if condition.value(env)? != 0 { yes } else { no };
                return taken.value(env);
            }
            Self::Call(name, arguments) => return call(name, arguments, env),
        })
    }
}

fn call(name: &str, arguments: &[Expr], env: &mut Env) -> Option<i128> {
    if name == "sum" {
        // `sum(k, n, f)`: of f for k from 0 to n - 1.
        let [Expr::Name(k), n, f] = arguments else { panic!("sum(name, count, value)") };
        let n = n.value(env)?;
        let mut sum = 0;
        for i in 0..n {
            env.insert(k.clone(), i);
            sum += f.value(env)?;
        }
        env.remove(k);
        return Some(sum);
    }
    let values: Option<Vec<i128>> = arguments.iter().map(|a| a.value(env)).collect();
    let values = values?;
    let ratio = || match values[..] {
        [a] => a as f64,
        [a, b] => a as f64 / b as f64,
        _ => panic!("{name}(number, divisor)"),
    };
    Some(match (name, &values[..]) {
        ("min", [a, b]) => *a.min(b),
        ("max", [a, b]) => *a.max(b),
        ("popc", [a]) => i128::from((*a as u64).count_ones()),
        // The bits of numbers of these formats, exactly or rounded to nearest.
        ("f32", _) => (ratio() as f32).to_bits().into(),
        ("f64", _) => ratio().to_bits().into(),
        ("f16", _) => half::f16::from_f64(ratio()).to_bits().into(),
        ("bf16", _) => half::bf16::from_f64(ratio()).to_bits().into(),
        _ => panic!("there is no function {name} of {} values", values.len()),
    })
}

#[test]
fn expressions_mean_what_they_do_elsewhere() {
    let mut env = Env::from([("i".into(), 5)]);
    let mut value = |text: &str| parse_list(text)[0].value(&mut env);
    assert_eq!(value("1 + i*3 << 1"), Some(32));
    assert_eq!(value("i < 5 ? 1 : i == 5 && i != 4 ? 2 : 3"), Some(2));
    assert_eq!(value("-(~i) - !0 & 7"), Some(5));
    assert_eq!(value("sum(k, i, k*k)"), Some(30));
    assert_eq!(value("i >= 5 ? _ : 1"), None);
    assert_eq!(value("f32(1, 2)"), Some(0x3f00_0000));
    assert_eq!(value("max(2, popc(0xff)) % 5 ^ 1"), Some(2));
    assert_eq!(parse_list("1, 2, 0b11").len(), 3);
}
