use std::cell::RefCell;

use proptest::prelude::*;

use super::*;

/// Which step of a write fails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Create,
    /// The write that would pass this many bytes; everything up to it is accepted.
    Write(u64),
    Sync,
    Rename,
    SyncDir,
}

/// The real disk with one fault, and a record of the steps taken.
struct Faulty {
    fault: Option<Fault>,
    error: fn() -> io::Error,
    steps: std::rc::Rc<RefCell<Vec<&'static str>>>,
}

fn faulty(fault: Option<Fault>, error: fn() -> io::Error) -> Faulty {
    Faulty { fault, error, steps: Default::default() }
}

impl Faulty {
    fn step(&self, name: &'static str, fault: Fault) -> io::Result<()> {
        self.steps.borrow_mut().push(name);
        if self.fault == Some(fault) { Err((self.error)()) } else { Ok(()) }
    }
}

struct FaultyFile {
    file: File,
    left: u64,
    fail_sync: bool,
    error: fn() -> io::Error,
    steps: std::rc::Rc<RefCell<Vec<&'static str>>>,
}

impl Write for FaultyFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err((self.error)());
        }
        let n = data.len().min(self.left as usize);
        self.left -= n as u64;
        self.file.write_all(&data[..n])?;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl SyncWrite for FaultyFile {
    fn sync(&mut self) -> io::Result<()> {
        self.steps.borrow_mut().push("sync");
        if self.fail_sync { Err((self.error)()) } else { self.file.sync_all() }
    }
}

impl Storage for Faulty {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn SyncWrite>> {
        self.step("create", Fault::Create)?;
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let left = if let Some(Fault::Write(n)) = self.fault { n } else { u64::MAX };
        let fail_sync = self.fault == Some(Fault::Sync);
        let (error, steps) = (self.error, self.steps.clone());
        Ok(Box::new(FaultyFile { file, left, fail_sync, error, steps }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("rename", Fault::Rename)?;
        Disk.rename(from, to)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.step("sync_dir", Fault::SyncDir)?;
        Disk.sync_dir(dir)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step("remove", Fault::Create)?;
        Disk.remove(path)
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn enospc() -> io::Error {
    io::Error::from_raw_os_error(28)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn steps_come_in_the_safe_order() {
    let dir = tempfile::tempdir().unwrap();
    let storage = faulty(None, eio);
    let n = write_to(&storage, &dir.path().join("a"), |w| w.write_all(b"new")).unwrap();
    assert_eq!(n, 3);
    assert_eq!(*storage.steps.borrow(), ["create", "sync", "rename", "sync_dir"]);
    assert_eq!(names(dir.path()), ["a"]);
}

#[test]
fn every_fault_before_the_rename_keeps_the_old_file_and_no_rubbish() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.bin");
    write_bytes(&path, b"old").unwrap();
    let contents = vec![7u8; 3 * BUFFER_BYTES + 11];
    let mut faults = vec![Fault::Sync, Fault::Rename];
    faults.extend([0, 1, 100, BUFFER_BYTES as u64, 3 * BUFFER_BYTES as u64].map(Fault::Write));
    for error in [eio as fn() -> io::Error, enospc] {
        for &fault in &faults {
            let storage = faulty(Some(fault), error);
            let result = write_to(&storage, &path, |w| w.write_all(&contents));
            let Err(Error::Io { path: named, .. }) = result else { panic!("{fault:?}") };
            assert_eq!(named, path);
            assert_eq!(fs::read(&path).unwrap(), b"old", "{fault:?}");
            assert_eq!(names(dir.path()), ["model.bin"], "{fault:?}");
        }
    }
    let storage = faulty(Some(Fault::Create), eio);
    assert!(write_to(&storage, &path, |w| w.write_all(&contents)).is_err());
    assert_eq!(names(dir.path()), ["model.bin"]);
    // After the rename the new file is there; the caller still hears that it may not be durable.
    let storage = faulty(Some(Fault::SyncDir), eio);
    assert!(write_to(&storage, &path, |w| w.write_all(b"new")).is_err());
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(names(dir.path()), ["model.bin"]);
}

#[test]
fn a_full_disk_says_how_much_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let storage = faulty(Some(Fault::Write(1000)), enospc);
    let total = 2 * BUFFER_BYTES + 5;
    let error = write_to(&storage, &dir.path().join("big"), |w| {
        for chunk in vec![1u8; total].chunks(4096) {
            w.write_all(chunk)?;
        }
        Ok(())
    })
    .unwrap_err()
    .to_string();
    let wanted = format!("disk full: {total} bytes needed, 1000 bytes of them written");
    assert!(error.contains(&wanted) && error.contains("big"), "{error}");
    let storage = faulty(Some(Fault::Sync), enospc);
    let error = write_to(&storage, &dir.path().join("big"), |w| w.write_all(b"12345"));
    assert!(error.unwrap_err().to_string().contains("disk full: 5 bytes needed"));
}

/// The kernel's own ENOSPC, not one of ours.
#[test]
#[cfg(target_os = "linux")]
fn dev_full_is_a_full_disk() {
    struct DevFull;
    impl Storage for DevFull {
        fn create_new(&self, _: &Path) -> io::Result<Box<dyn SyncWrite>> {
            Ok(Box::new(OpenOptions::new().write(true).open("/dev/full")?))
        }
        fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
            panic!("a failed write must not be renamed")
        }
        fn sync_dir(&self, _: &Path) -> io::Result<()> {
            Ok(())
        }
        fn remove(&self, _: &Path) -> io::Result<()> {
            Ok(())
        }
    }
    let error = write_to(&DevFull, Path::new("x"), |w| w.write_all(b"abc")).unwrap_err();
    assert!(error.to_string().contains("disk full: 3 bytes needed"), "{error}");
}

#[test]
fn a_failing_or_panicking_fill_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    assert!(write(&path, |_| Err(io::Error::other("no"))).is_err());
    let panicked = std::panic::catch_unwind(|| write(&path, |_| panic!("fill")));
    assert!(panicked.is_err());
    assert!(names(dir.path()).is_empty());
}

#[test]
#[cfg(unix)]
fn permissions_are_those_of_an_ordinary_file() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    write_bytes(dir.path().join("ours"), b"1").unwrap();
    // What open(2) with mode 0666 gives under the umask of this process.
    fs::write(dir.path().join("plain"), b"1").unwrap();
    let mode = |n| fs::metadata(dir.path().join(n)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("ours"), mode("plain"));
}

#[test]
fn leftovers_are_passed_by_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |n: &str| dir.path().join(n);
    let leftover = format!(".a.tmp-{}-0", std::process::id());
    for name in [&leftover, ".b.bin.tmp-1-17", ".c.tmp-x-1", "d.tmp-1-1", ".tmp-1-1", ".e.tmp-1"] {
        fs::write(at(name), b"?").unwrap();
    }
    fs::create_dir(at(".f.tmp-1-1")).unwrap();
    write_bytes(at("a"), b"whole").unwrap();
    assert_eq!(fs::read(at("a")).unwrap(), b"whole");
    let mut wanted = vec![at(&leftover), at(".b.bin.tmp-1-17")];
    wanted.sort();
    assert_eq!(remove_stale(dir.path()).unwrap(), wanted);
    assert_eq!(
        names(dir.path()),
        [".c.tmp-x-1", ".e.tmp-1", ".f.tmp-1-1", ".tmp-1-1", "a", "d.tmp-1-1"]
    );
    assert!(remove_stale(at("absent")).is_err());
}

#[test]
fn paths_without_a_name_or_a_folder_are_errors() {
    assert!(write_bytes("/", b"").is_err());
    let dir = tempfile::tempdir().unwrap();
    assert!(write_bytes(dir.path().join("no/such/file"), b"").is_err());
}

/// CRC-32C of "123456789" is 0xE3069283 (RFC 3720, catalogue of parametrised CRCs).
#[test]
fn crc32c_known_answer_however_the_bytes_arrive() {
    let mut w = Crc32cWriter::new(Vec::new());
    for part in [&b"1234"[..], b"", b"56789"] {
        w.write_all(part).unwrap();
    }
    assert_eq!((w.crc(), w.bytes()), (0xE306_9283, 9));
    assert_eq!(w.into_inner(), b"123456789");
    // A short write counts only what was taken.
    let mut buffer = [0u8; 9];
    let mut w = Crc32cWriter::new(&mut buffer[..]);
    assert!(w.write_all(b"123456789more").is_err());
    assert_eq!(w.crc(), 0xE306_9283);
}

/// Rewrites a file without end; run only as the child of the test below.
#[test]
fn endless_writer() {
    let Some(path) = std::env::var_os("GLMAE_TEST_ENDLESS_WRITER") else { return };
    for generation in 0u64.. {
        write_bytes(&path, &whole_file(generation)).unwrap();
    }
}

/// Its generation, a length that depends on it, and a checksum at the end.
fn whole_file(generation: u64) -> Vec<u8> {
    let mut bytes = generation.to_le_bytes().repeat(1 + (generation % 64) as usize * 4096);
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// kill -9 at scattered moments: the file is always one whole generation, and what the dead writers
/// left behind can be removed.
#[test]
#[cfg(unix)]
fn sigkill_leaves_a_whole_file() {
    use crate::rng::{Purpose, Rng};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.bin");
    let mut rng = Rng::new(11, Purpose::Test, 0, 0, 0);
    let (mut leftovers, mut generations) = (0, 0);
    for _ in 0..40 {
        write_bytes(&path, &whole_file(0)).unwrap();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "atomic::tests::endless_writer"])
            .env("GLMAE_TEST_ENDLESS_WRITER", &path)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_micros(5_000 + rng.below(25_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let found = fs::read(&path).unwrap();
        let generation = u64::from_le_bytes(*found.first_chunk().unwrap());
        assert!(found == whole_file(generation), "generation {generation} is torn");
        generations += generation;
        leftovers += remove_stale(dir.path()).unwrap().len();
        assert_eq!(names(dir.path()), ["model.bin"]);
    }
    // The kills must have hit the middle of something to prove anything.
    assert!(generations > 0 && leftovers > 0, "{generations} generations, {leftovers} leftovers");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever the pieces and wherever the fault: afterwards the file is the whole old or the
    /// whole new one, success is reported exactly for the new one, and nothing lies beside it.
    #[test]
    fn old_or_new_never_between(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..8),
        fail_after in 0u64..4000,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_bytes(&path, b"old").unwrap();
        let new: Vec<u8> = pieces.concat();
        let storage = faulty(Some(Fault::Write(fail_after)), eio);
        let result = write_to(&storage, &path, |w| pieces.iter().try_for_each(|p| w.write_all(p)));
        prop_assert_eq!(result.is_ok(), new.len() as u64 <= fail_after);
        let found = fs::read(&path).unwrap();
        prop_assert_eq!(found, if result.is_ok() { new } else { b"old".to_vec() });
        prop_assert_eq!(names(dir.path()), ["f"]);
    }
}
