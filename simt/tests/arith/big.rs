//! Numbers without rounding: an integer of any length times a power of two.

use std::cmp::Ordering;

/// `magnitude * 2^exponent`, negative or not. The magnitude's least part comes first.
#[derive(Clone, Debug)]
pub struct Big {
    is_negative: bool,
    magnitude: Vec<u64>,
    exponent: i32,
}

impl Big {
    /// The value of a finite number.
    pub fn new(x: f64) -> Big {
        assert!(x.is_finite());
        let bits = x.to_bits();
        let field = (bits >> 52 & 0x7ff) as i32;
        let fraction = bits & ((1 << 52) - 1);
        let magnitude = if field == 0 { fraction } else { fraction + (1 << 52) };
        Big {
            is_negative: x.is_sign_negative(),
            magnitude: vec![magnitude],
            exponent: field.max(1) - 1075,
        }
    }

    pub fn mul(&self, other: &Big) -> Big {
        let mut magnitude = vec![0; self.magnitude.len() + other.magnitude.len()];
        for (i, &a) in self.magnitude.iter().enumerate() {
            let mut carry = 0;
            for (j, &b) in other.magnitude.iter().enumerate() {
                let sum = u128::from(a) * u128::from(b) + u128::from(magnitude[i + j]) + carry;
                magnitude[i + j] = sum as u64;
                carry = sum >> 64;
            }
            magnitude[i + other.magnitude.len()] = carry as u64;
        }
        Big {
            is_negative: self.is_negative != other.is_negative,
            magnitude,
            exponent: self.exponent + other.exponent,
        }
    }

    pub fn add(&self, other: &Big) -> Big {
        let exponent = self.exponent.min(other.exponent);
        let (a, b) = (self.shifted_to(exponent), other.shifted_to(exponent));
        if self.is_negative == other.is_negative {
            return Big { is_negative: self.is_negative, magnitude: sum(&a, &b), exponent };
        }
        let (is_negative, magnitude) = match compare(&a, &b) {
            Ordering::Less => (other.is_negative, difference(&b, &a)),
            _ => (self.is_negative, difference(&a, &b)),
        };
        Big { is_negative, magnitude, exponent }
    }

    pub fn neg(&self) -> Big {
        Big { is_negative: !self.is_negative, ..self.clone() }
    }

    pub fn abs(&self) -> Big {
        Big { is_negative: false, ..self.clone() }
    }

    pub fn is_zero(&self) -> bool {
        self.magnitude.iter().all(|&part| part == 0)
    }

    pub fn compare(&self, other: &Big) -> Ordering {
        let difference = self.add(&other.neg());
        if difference.is_zero() {
            Ordering::Equal
        } else if difference.is_negative {
            Ordering::Less
        } else {
            Ordering::Greater
        }
    }

    fn shifted_to(&self, exponent: i32) -> Vec<u64> {
        let shift = (self.exponent - exponent) as usize;
        let mut parts = vec![0; shift / 64];
        let rest = shift % 64;
        let mut carry = 0;
        for &part in &self.magnitude {
            let wide = u128::from(part) << rest;
            parts.push(wide as u64 | carry);
            carry = (wide >> 64) as u64;
        }
        parts.push(carry);
        parts
    }
}

fn part(parts: &[u64], index: usize) -> u64 {
    parts.get(index).copied().unwrap_or(0)
}

fn compare(a: &[u64], b: &[u64]) -> Ordering {
    let length = a.len().max(b.len());
    let mut pairs = (0..length).rev().map(|i| part(a, i).cmp(&part(b, i)));
    pairs.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

fn sum(a: &[u64], b: &[u64]) -> Vec<u64> {
    let mut carry = 0;
    (0..=a.len().max(b.len()))
        .map(|i| {
            let sum = u128::from(part(a, i)) + u128::from(part(b, i)) + carry;
            carry = sum >> 64;
            sum as u64
        })
        .collect()
}

fn difference(a: &[u64], b: &[u64]) -> Vec<u64> {
    let mut borrow = 0;
    (0..a.len().max(b.len()))
        .map(|i| {
            let difference = i128::from(part(a, i)) - i128::from(part(b, i)) - borrow;
            borrow = i128::from(difference < 0);
            difference as u64
        })
        .collect()
}
