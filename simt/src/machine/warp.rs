//! A warp: its registers, where its lanes are, and what it waits for.

use super::bulk::Groups;
use super::copies::Copies;
use super::paths::Paths;
use super::products::Products;
use crate::machine::access::shared_address;
use crate::program::Program;
use crate::program::lanes::{Lanes32, Lanes64};
use crate::program::op::{Dst, Src, Src64, SrcPred, Value};
use crate::program::own::OwnAddress;

pub struct Warp {
    /// Its block in the cluster.
    pub cta: u32,
    /// Within its block.
    pub index: u32,
    /// Within the clocks of the cluster.
    pub id: u32,
    /// The lanes that are threads: all but in the last warp of an odd block.
    pub lanes: u32,
    /// Those that have ended.
    pub exited: u32,
    pub paths: Paths,
    pub copies: Copies,
    pub bulk: Groups,
    pub products: Products,
    /// Where it last asked for something that had not come, and how often in a row.
    pub asked: Option<u32>,
    pub asks: u32,
    /// The phase of the cluster's barrier at which it has arrived without having waited.
    pub cluster_phase: Option<u64>,
    /// Lanes that may be earlier than the end of the kernel before: see `early`. None where nobody looks.
    pub early: u32,
    words: Vec<Lanes32>,
    longs: Vec<Lanes64>,
    preds: Vec<u32>,
    /// Local memory, lane after lane.
    pub local: Vec<u8>,
}

impl Warp {
    pub fn new(program: &Program) -> Self {
        let counts = program.counts;
        Self {
            cta: 0,
            index: 0,
            id: 0,
            lanes: 0,
            exited: 0,
            paths: Paths::default(),
            copies: Copies::default(),
            bulk: Groups::default(),
            products: Products::default(),
            asked: None,
            asks: 0,
            cluster_phase: None,
            early: 0,
            words: vec![[0; 32]; counts.words as usize],
            longs: vec![[0; 32]; counts.longs as usize],
            preds: vec![0; counts.preds as usize],
            local: vec![0xff; 32 * program.layout.local_bytes as usize],
        }
    }

    /// Ready for another block. Registers keep what they held: nvcc's code reads none before writing it, and
    /// zeroing them would cost as much as a small block; see [`Warp::forget`] for checked runs.
    pub fn begin(&mut self, cta: u32, index: u32, id: u32, threads: u32) {
        let there = (threads - index * 32).min(32);
        (self.cta, self.index, self.id) = (cta, index, id);
        self.lanes = if there == 32 { u32::MAX } else { (1 << there) - 1 };
        self.exited = 0;
        self.paths.begin(self.lanes);
        self.copies.clear();
        self.bulk = Groups::default();
        self.products.clear(self.words.len());
        (self.asked, self.asks) = (None, 0);
        self.cluster_phase = None;
        self.early = 0;
    }

    /// Fills registers with a pattern that reads as NaN, and local memory likewise.
    pub fn forget(&mut self) {
        self.words.fill([0xffff_ffff; 32]);
        self.longs.fill([u64::MAX; 32]);
        self.preds.fill(0);
        self.local.fill(0xff);
    }

    /// Puts the addresses of the block's own shared memory where instructions look for them.
    pub fn place(&mut self, own: &[OwnAddress]) {
        for own in own {
            let at = shared_address(self.cta as usize, own.offset);
            self.words[own.word as usize] = [at as u32; 32];
            self.longs[own.long as usize] = [at; 32];
        }
    }

    #[inline(always)]
    pub fn word<'a>(&'a self, source: Src, room: &'a mut Lanes32) -> &'a Lanes32 {
        match source {
            Src::Slot(slot) => &self.words[slot as usize],
            Src::Value(value) => {
                *room = [value; 32];
                room
            }
        }
    }

    #[inline(always)]
    pub fn long<'a>(&'a self, source: Src64, room: &'a mut Lanes64) -> &'a Lanes64 {
        match source {
            Src64::Slot(slot) => &self.longs[slot as usize],
            Src64::Value(value) => {
                *room = [value; 32];
                room
            }
        }
    }

    /// Of one lane.
    pub fn word_of(&self, source: Src, lane: usize) -> u32 {
        match source {
            Src::Slot(slot) => self.words[slot as usize][lane],
            Src::Value(value) => value,
        }
    }

    /// Of one lane, in as many bits as there are.
    pub fn value_of(&self, value: Value, lane: usize) -> u64 {
        match value {
            Value::Word(source) => u64::from(self.word_of(source, lane)),
            Value::Long(Src64::Slot(slot)) => self.longs[slot as usize][lane],
            Value::Long(Src64::Value(value)) => value,
        }
    }

    pub fn word_slot(&self, slot: u32) -> &Lanes32 {
        &self.words[slot as usize]
    }

    pub fn long_slot(&self, slot: u32) -> &Lanes64 {
        &self.longs[slot as usize]
    }

    /// A predicate as bits, one a lane.
    #[inline(always)]
    pub fn pred(&self, source: SrcPred) -> u32 {
        match source {
            SrcPred::Slot { slot, negated } => {
                self.preds[slot as usize] ^ if negated { u32::MAX } else { 0 }
            }
            SrcPred::Value(value) => {
                if value {
                    u32::MAX
                } else {
                    0
                }
            }
        }
    }

    #[inline(always)]
    pub fn guard(&self, slot: u32, negated: bool) -> u32 {
        self.pred(SrcPred::Slot { slot, negated })
    }

    #[inline(always)]
    pub fn put(&mut self, slot: u32, value: &Lanes32, lanes: u32) {
        let register = &mut self.words[slot as usize];
        if lanes == u32::MAX {
            *register = *value;
        } else {
            for lane in 0..32 {
                let is_on = 0u32.wrapping_sub(lanes >> lane & 1);
                register[lane] = value[lane] & is_on | register[lane] & !is_on;
            }
        }
    }

    #[inline(always)]
    pub fn put_long(&mut self, slot: u32, value: &Lanes64, lanes: u32) {
        let register = &mut self.longs[slot as usize];
        if lanes == u32::MAX {
            *register = *value;
        } else {
            for lane in 0..32 {
                let is_on = 0u64.wrapping_sub(u64::from(lanes >> lane & 1));
                register[lane] = value[lane] & is_on | register[lane] & !is_on;
            }
        }
    }

    #[inline(always)]
    pub fn put_pred(&mut self, slot: u32, value: u32, lanes: u32) {
        let register = &mut self.preds[slot as usize];
        *register = value & lanes | *register & !lanes;
    }

    /// To a register of any width: its low bits.
    pub fn put_any(&mut self, d: Dst, value: &Lanes64, lanes: u32) {
        match d {
            Dst::Half(slot) => self.put(slot, &value.map(|v| v as u32 & 0xffff), lanes),
            Dst::Word(slot) => self.put(slot, &value.map(|v| v as u32), lanes),
            Dst::Long(slot) => self.put_long(slot, value, lanes),
            Dst::Sink => {}
        }
    }
}
