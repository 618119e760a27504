//! The shadow of a block's shared memory. Copies and matrices go there by 16 bytes: one record stands for all bytes of
//! a chunk of 16 until some of them are touched without the others.

use std::cell::Cell;

use crate::shadow::{Byte, Stamp, Trouble as Found, shadow};

const CHUNK: usize = 16;

#[derive(Default)]
pub struct Chunks {
    bytes: Box<[Byte]>,
    /// Of every chunk: whether each byte has its own record; otherwise that of the first is that of all.
    are_mixed: Box<[Cell<bool>]>,
}

impl Chunks {
    /// Makes room for so many bytes, never written.
    pub fn grow(&mut self, bytes: usize) {
        if self.bytes.len() < bytes {
            let chunks = bytes.div_ceil(CHUNK);
            let are_mixed = (0..chunks).map(|_| Cell::new(false)).collect();
            *self = Self { bytes: shadow(chunks * CHUNK), are_mixed };
        }
    }

    /// Visits the records of a range until one has trouble: which byte of the range, and what.
    #[inline]
    pub fn visit(
        &self,
        start: usize,
        bytes: usize,
        mut visit: impl FnMut(&Byte) -> Option<Found>,
    ) -> Option<(usize, Found)> {
        let end = start + bytes;
        let mut at = start;
        while at < end {
            let chunk = at / CHUNK;
            let until = ((chunk + 1) * CHUNK).min(end);
            let is_mixed = &self.are_mixed[chunk];
            if until - at == CHUNK && !is_mixed.get() {
                if let Some(found) = visit(&self.bytes[at]) {
                    return Some((at - start, found));
                }
            } else {
                if !is_mixed.replace(true) {
                    let (first, others) = self.bytes[chunk * CHUNK..][..CHUNK].split_at(1);
                    others.iter().for_each(|other| other.assign(&first[0]));
                }
                for i in at..until {
                    if let Some(found) = visit(&self.bytes[i]) {
                        return Some((i - start, found));
                    }
                }
            }
            at = until;
        }
        None
    }

    /// The bytes of an asynchronous copy are there.
    pub fn deliver(&self, start: usize, bytes: usize, writer: Stamp, site: u32) {
        for chunk in start.div_ceil(CHUNK)..(start + bytes) / CHUNK {
            self.are_mixed[chunk].set(false);
        }
        self.visit(start, bytes, |byte| {
            byte.deliver(writer, site);
            None
        });
    }

    /// The record of a byte.
    pub fn byte(&self, at: usize) -> &Byte {
        match self.are_mixed[at / CHUNK].get() {
            true => &self.bytes[at],
            false => &self.bytes[at / CHUNK * CHUNK],
        }
    }

    /// Who wrote the 16 bytes from a multiple of 16 on: stamps with the byte of each.
    pub fn writers(&self, at: usize) -> impl Iterator<Item = (Stamp, usize)> + '_ {
        let n = if self.are_mixed[at / CHUNK].get() { CHUNK } else { 1 };
        self.bytes[at..at + n].iter().map(Byte::writer).zip(at..)
    }
}
