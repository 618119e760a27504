//! Random mutations of small valid files: the reader answers with a volume within its limits or
//! with an error, never with a panic.

use std::io::Write;
use std::path::Path;

use flate2::{Compression, write::GzEncoder};
use glmae::data::{Channels, ReadLimits, ReadOptions, read_volume};
use glmae::rng::{Purpose, Rng};

use super::limits::small;

const MAX_VOXELS: u64 = 1 << 16;

/// Every second file is read with the default limits.
fn options(id: u32) -> ReadOptions {
    let tight = ReadLimits {
        max_voxels: MAX_VOXELS,
        max_gz_ratio: 20,
        gz_free_bytes: 1 << 16,
        max_extension_bytes: 1 << 12,
    };
    let limits = if id.is_multiple_of(2) { tight } else { ReadLimits::default() };
    ReadOptions { channels: Channels::UpTo(8), limits }
}

/// Changes 1 to 8 places: bytes, whole fields of telling values, cuts, repeats.
fn mutate(bytes: &mut Vec<u8>, rng: &mut Rng) {
    const TELLING: [[u8; 4]; 8] = [
        [0; 4],
        [0xFF; 4],
        [0x7F, 0xFF, 0xFF, 0xFF],
        [0, 0, 0xC0, 0x7F], // NaN
        [0, 0, 0x80, 0x7F], // infinity
        [0, 0, 0, 0x80],    // smallest i32, -0
        [1, 0, 1, 0],
        [0, 0x7F, 0, 0x7F],
    ];
    for _ in 0..=rng.below(8) {
        let len = bytes.len() as u64;
        if len < 8 {
            return;
        }
        // Most of what decides lies in the header.
        let range = if rng.below(4) == 0 { len - 4 } else { (len - 4).min(360) };
        let at = rng.below(range) as usize;
        match rng.below(16) {
            0..6 => bytes[at] ^= 1 << rng.below(8),
            6..9 => bytes[at] = rng.next_u32() as u8,
            9..14 => bytes[at & !1..][..4].copy_from_slice(&TELLING[rng.below(8) as usize]),
            14 => bytes.truncate(at.max(8)),
            _ => {
                let part = bytes[at..at + 4].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
}

/// Whether the file was read.
fn try_one(path: &Path, bytes: &[u8], id: u32) -> bool {
    // A new file each time: ext4 flushes a file that is truncated and written again.
    let _ = std::fs::remove_file(path);
    std::fs::write(path, bytes).unwrap();
    match std::panic::catch_unwind(|| read_volume(path, &options(id))) {
        Err(_) => panic!("mutation {id} panicked; file: {bytes:?}"),
        Ok(Err(error)) => {
            assert!(!error.to_string().is_empty());
            false
        }
        Ok(Ok(volume)) => {
            let voxels = volume.channels * volume.dims.iter().product::<usize>();
            assert_eq!(volume.data.len(), voxels, "mutation {id}");
            assert!(voxels as u64 <= MAX_VOXELS, "mutation {id}");
            assert!(volume.orientation().is_ok(), "mutation {id}: {:?}", volume.affine);
            true
        }
    }
}

/// The process's peak memory, where the system tells it.
fn peak_rss_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[test]
fn mutated_files_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.nii");
    let (mut read, mut refused) = (0, 0);
    // More by hand or at night: GLMAE_FUZZ_CASES=2000000 cargo test --test main fuzz
    let cases = std::env::var("GLMAE_FUZZ_CASES").map_or(30_000, |n| n.parse().unwrap());
    for id in 0..cases {
        let mut rng = Rng::new(21, Purpose::Test, 0, id, 0);
        let (two, big) = (rng.below(2) == 1, rng.below(2) == 1);
        let mut bytes = small(two, big).bytes;
        if id % 3 == 0 {
            // Mutated inside of a sound gzip, or the gzip itself.
            let inside = rng.below(2) == 0;
            if inside {
                mutate(&mut bytes, &mut rng);
            }
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&bytes).unwrap();
            bytes = encoder.finish().unwrap();
            if !inside {
                mutate(&mut bytes, &mut rng);
            }
        } else {
            mutate(&mut bytes, &mut rng);
        }
        match try_one(&path, &bytes, id) {
            true => read += 1,
            false => refused += 1,
        }
    }
    if let Some(peak) = peak_rss_kib() {
        // Of the whole test binary; one file may ask for 2^31 voxels.
        assert!(peak < 1 << 20, "peak memory {peak} KiB");
    }
    println!("{read} mutated files read, {refused} refused");
    // Both ways must have been taken often, or the test tests nothing.
    assert!(read > 1000 && refused > 1000, "{read} read, {refused} refused");
}

#[test]
fn random_bytes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.nii");
    for id in 0..500 {
        let mut rng = Rng::new(22, Purpose::Test, 0, id, 0);
        let bytes: Vec<u8> = (0..rng.below(2000)).map(|_| rng.next_u32() as u8).collect();
        assert!(!try_one(&path, &bytes, id));
    }
}
