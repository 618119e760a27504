//! What a fatbin holds: which architectures its machine code is for, and which its PTX, read from the
//! headers of its entries; nothing is unpacked. `glmae doctor` and error messages say it.
//!
//! The layout is not documented by NVIDIA; it is that of `cuobjdump --list-elf` on what nvcc 13 writes. A
//! file that is laid out differently gives no entries, never a failure.

use std::collections::BTreeSet;
use std::fmt::{self, Display};

/// Code for one architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Code {
    /// PTX, which the driver compiles for newer GPUs, or machine code.
    pub is_ptx: bool,
    /// 10 * major + minor of the compute capability.
    pub arch: u32,
    /// `a`: for this very architecture alone; `f`: for its family.
    pub suffix: Option<char>,
}

impl Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_ptx { "compute" } else { "sm" };
        write!(f, "{kind}_{}", self.arch)?;
        self.suffix.map_or(Ok(()), |suffix| write!(f, "{suffix}"))
    }
}

impl Code {
    /// Whether a GPU of this compute capability runs it: machine code within a major version, from its own
    /// minor version on; PTX from its own architecture on.
    pub fn runs_on(&self, [major, minor]: [u32; 2]) -> bool {
        let gpu = 10 * major + minor;
        match (self.suffix, self.is_ptx) {
            (Some('a'), _) => gpu == self.arch,
            (None, true) => gpu >= self.arch,
            _ => self.arch / 10 == major && self.arch <= gpu,
        }
    }
}

const MAGIC: u32 = 0xba55_ed50;
const PTX: u16 = 1;
const MACHINE_CODE: u16 = 2;
const SPECIFIC: u32 = 1 << 20;
const FAMILY: u32 = 1 << 21;

/// The entries of `fatbin`, machine code first.
pub fn codes(fatbin: &[u8]) -> BTreeSet<Code> {
    entries(fatbin).unwrap_or_default()
}

fn entries(fatbin: &[u8]) -> Option<BTreeSet<Code>> {
    if u32_at(fatbin, 0)? != MAGIC {
        return None;
    }
    let mut found = BTreeSet::new();
    let mut at = usize::from(u16_at(fatbin, 6)?);
    while let Some(entry) = fatbin.get(at..).filter(|e| !e.is_empty()) {
        let kind = u16_at(entry, 0)?;
        let (header, payload) = (u32_at(entry, 4)?, u64_at(entry, 8)?);
        if kind == PTX || kind == MACHINE_CODE {
            let (arch, flags) = (u32_at(entry, 28)?, u32_at(entry, 40)?);
            let suffix = match (flags & SPECIFIC != 0, flags & FAMILY != 0) {
                (true, _) => Some('a'),
                (false, true) => Some('f'),
                (false, false) => None,
            };
            found.insert(Code { is_ptx: kind == PTX, arch, suffix });
        }
        let length = usize::try_from(payload).ok()?.checked_add(header as usize)?;
        at = at.checked_add(length.max(1))?;
    }
    Some(found)
}

fn bytes<const N: usize>(of: &[u8], at: usize) -> Option<[u8; N]> {
    of.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(of: &[u8], at: usize) -> Option<u16> {
    bytes(of, at).map(u16::from_le_bytes)
}

fn u32_at(of: &[u8], at: usize) -> Option<u32> {
    bytes(of, at).map(u32::from_le_bytes)
}

fn u64_at(of: &[u8], at: usize) -> Option<u64> {
    bytes(of, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn machine(arch: u32, suffix: Option<char>) -> Code {
        Code { is_ptx: false, arch, suffix }
    }

    /// The headers of what nvcc 13.0 made of a kernel for 80, 86 and 90a with PTX for 80.
    fn example() -> Vec<u8> {
        let mut all = Vec::new();
        for (kind, header, payload, arch, flags) in [
            (1u16, 80u32, 24u64, 80u32, 0x8011u32),
            (2, 64, 16, 80, 0x8011),
            (2, 64, 8, 86, 0x8011),
            (2, 64, 40, 90, 0x10_8011),
        ] {
            let mut entry = vec![0u8; header as usize + payload as usize];
            entry[0..2].copy_from_slice(&kind.to_le_bytes());
            entry[2..4].copy_from_slice(&0x101u16.to_le_bytes());
            entry[4..8].copy_from_slice(&header.to_le_bytes());
            entry[8..16].copy_from_slice(&payload.to_le_bytes());
            entry[28..32].copy_from_slice(&arch.to_le_bytes());
            entry[40..44].copy_from_slice(&flags.to_le_bytes());
            all.extend(entry);
        }
        let mut file = MAGIC.to_le_bytes().to_vec();
        file.extend(1u16.to_le_bytes());
        file.extend(16u16.to_le_bytes());
        file.extend((all.len() as u64).to_le_bytes());
        file.extend(all);
        file
    }

    #[test]
    fn entries_of_a_fatbin() {
        let found: Vec<String> = codes(&example()).iter().map(Code::to_string).collect();
        assert_eq!(found, ["sm_80", "sm_86", "sm_90a", "compute_80"]);
    }

    #[test]
    fn what_is_no_fatbin_has_no_entries() {
        assert!(codes(b"").is_empty());
        assert!(codes(b"\x7fELF and more than sixteen bytes").is_empty());
        let file = example();
        for end in 0..file.len() {
            assert!(codes(&file[..end]).len() <= 4);
        }
        let mut endless = file;
        // A length that would end before it began.
        endless[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(codes(&endless).is_empty());
    }

    #[test]
    fn who_runs_what() {
        assert!(machine(80, None).runs_on([8, 9]) && machine(86, None).runs_on([8, 9]));
        assert!(!machine(86, None).runs_on([8, 0]) && !machine(80, None).runs_on([9, 0]));
        let specific = machine(90, Some('a'));
        assert!(specific.runs_on([9, 0]) && !specific.runs_on([10, 0]));
        let family = machine(120, Some('f'));
        assert!(family.runs_on([12, 1]) && !family.runs_on([13, 0]));
        let ptx = Code { is_ptx: true, arch: 80, suffix: None };
        assert!(ptx.runs_on([12, 0]) && ptx.runs_on([8, 0]) && !ptx.runs_on([7, 5]));
    }

    /// In a binary with the feature `cuda`: every file of kernels holds the same codes, PTX among them.
    #[cfg(feature = "cuda")]
    #[test]
    fn the_fatbins_of_this_binary() {
        use crate::device::launch::{FATBINS, is_for_hopper};
        let first = codes(FATBINS[0].1);
        assert!(first.iter().any(|c| c.is_ptx) && first.iter().any(|c| !c.is_ptx), "{first:?}");
        for (file, fatbin) in FATBINS {
            let codes = codes(fatbin);
            match is_for_hopper(file) {
                true => assert!(
                    codes.len() == 1 && codes.iter().all(|code| code.arch == 90),
                    "{file}: {codes:?}"
                ),
                false => assert_eq!(codes, first, "{file}"),
            }
        }
    }
}
