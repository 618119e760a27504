//! The limits themselves (Linux): physical memory, control groups of both versions, and the limits of
//! the process that `ulimit` sets. Whatever cannot be read is no limit.

use std::fmt;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// A limit on the memory of this process, or of a group of processes that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// What to look for in a manual: `cgroup memory.max (/sys/fs/cgroup/job/memory.max)`.
    pub name: String,
    /// The limit in bytes.
    pub total: u64,
    /// What is left of it now.
    pub free: u64,
    /// Of what is taken: addresses that nothing stands at yet, such as the room that the C library keeps for
    /// the small allocations of each thread. Much of a run may go there.
    pub reserved: u64,
    /// Whether it counts addresses, used or not, as `ulimit -v` does.
    pub of_addresses: bool,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let [free, total] = [self.free, self.total].map(super::bytes);
        write!(f, "{}: {free} left of {total}", self.name)
    }
}

/// The limits of this process, the one with the least left first.
pub fn bounds() -> Vec<Bound> {
    bounds_below(Path::new("/"))
}

/// The one with the least left.
pub fn tightest(bounds: &[Bound]) -> Option<&Bound> {
    bounds.iter().min_by_key(|b| b.free)
}

/// As [`bounds`], with `proc` and `sys` below `root`.
pub fn bounds_below(root: &Path) -> Vec<Bound> {
    let mut found = Vec::new();
    found.extend(machine(root));
    found.extend(groups(root));
    found.extend(process(root));
    found.sort_by_key(|b| b.free);
    found
}

/// The value of a line `KEY:   123 kB` in bytes.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What the machine has, and what is available without pushing others out; swap counts as available.
fn machine(root: &Path) -> Option<Bound> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let swap = |key| kilobytes(&text, key).unwrap_or(0);
    let total = kilobytes(&text, "MemTotal")?;
    let free = kilobytes(&text, "MemAvailable").or_else(|| kilobytes(&text, "MemFree"))?;
    let name = match swap("SwapTotal") {
        0 => "memory of the machine",
        _ => "memory and swap of the machine",
    };
    Some(Bound {
        name: name.to_owned(),
        total: total.saturating_add(swap("SwapTotal")),
        free: free.saturating_add(swap("SwapFree")),
        reserved: 0,
        of_addresses: false,
    })
}

/// Of `RLIMIT_AS` and `RLIMIT_DATA`: the limit that is in force, less what it counts already.
fn process(root: &Path) -> Vec<Bound> {
    let read = |name: &str| fs::read_to_string(root.join("proc/self").join(name));
    let (Ok(limits), Ok(status)) = (read("limits"), read("status")) else { return vec![] };
    let bound = |title: &str, name: &str, used: &str, of_addresses| {
        // `Max address space     1500000000   unlimited   bytes`
        let line = limits.lines().find_map(|line| line.strip_prefix(title))?;
        let total = line.split_whitespace().next()?.parse::<u64>().ok()?;
        let used = kilobytes(&status, used).unwrap_or(0);
        let free = total.saturating_sub(used);
        let standing = ["VmData", "VmStk", "VmExe", "VmLib"];
        let standing = standing.iter().filter_map(|key| kilobytes(&status, key));
        let reserved = used.saturating_sub(standing.sum());
        Some(Bound { name: name.to_owned(), total, free, reserved, of_addresses })
    };
    [
        bound("Max address space", "ulimit -v (RLIMIT_AS)", "VmSize", true),
        bound("Max data size", "ulimit -d (RLIMIT_DATA)", "VmData", true),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Version 1 writes "none" as the largest number of pages.
const NONE: u64 = 1 << 60;

/// One version's files: where it is mounted, and what they are called.
struct Version {
    mount: &'static str,
    limits: &'static [&'static str],
    usage: &'static str,
    /// File pages that the kernel takes back before it refuses.
    reclaimable: &'static str,
}

const V1: Version = Version {
    mount: "sys/fs/cgroup/memory",
    limits: &["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file",
};
const V2: Version = Version {
    mount: "sys/fs/cgroup",
    // Above `high` the kernel slows a process down until it all but stands.
    limits: &["memory.max", "memory.high"],
    usage: "memory.current",
    reclaimable: "inactive_file",
};

/// The limits of the group and of every group around it.
fn groups(root: &Path) -> Vec<Bound> {
    let Ok(text) = fs::read_to_string(root.join("proc/self/cgroup")) else { return vec![] };
    let mut found = Vec::new();
    for line in text.lines() {
        // `0::/user.slice/job` of version 2, `9:memory:/job` of version 1.
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let version = match controllers {
            "" => &V2,
            some if some.split(',').any(|c| c == "memory") => &V1,
            _ => continue,
        };
        let mount = root.join(version.mount);
        // `..` is how a group outside of the namespace is written; what we see then is the mount.
        let normal = |c: Component<'_>| match c {
            Component::Normal(part) => Some(PathBuf::from(part)),
            _ => None,
        };
        let inner: PathBuf = match path.contains("..") {
            true => PathBuf::new(),
            false => Path::new(path).components().filter_map(normal).collect(),
        };
        for folder in inner.ancestors() {
            found.extend(of_group(root, &mount.join(folder), version));
        }
    }
    found
}

fn of_group(root: &Path, folder: &Path, version: &Version) -> Vec<Bound> {
    let number = |name: &str| -> Option<u64> {
        fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok()
    };
    let reclaimable = || -> Option<u64> {
        let text = fs::read_to_string(folder.join("memory.stat")).ok()?;
        let line = |l: &str| l.strip_prefix(version.reclaimable)?.trim().parse().ok();
        text.lines().find_map(line)
    };
    let bound = |name: &&str| {
        let total = number(name).filter(|&n| n < NONE)?;
        let used = number(version.usage).unwrap_or(0).saturating_sub(reclaimable().unwrap_or(0));
        let file = Path::new("/").join(folder.strip_prefix(root).unwrap_or(folder)).join(name);
        Some(Bound {
            name: format!("cgroup {name} ({})", file.display()),
            total,
            free: total.saturating_sub(used),
            reserved: 0,
            of_addresses: false,
        })
    };
    version.limits.iter().filter_map(bound).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const MEMINFO: (&str, &str) = (
        "proc/meminfo",
        "MemTotal:       24000000 kB\nMemFree:  1000 kB\nMemAvailable:   20000000 kB\n\
         SwapTotal:        0 kB\nSwapFree:         0 kB\n",
    );

    fn numbers(root: &tempfile::TempDir) -> Vec<(String, u64, u64)> {
        bounds_below(root.path()).into_iter().map(|b| (b.name, b.total, b.free)).collect()
    }

    #[test]
    fn the_machine_is_a_limit_and_swap_is_a_part_of_it() {
        assert_eq!(
            numbers(&tree(&[MEMINFO])),
            [("memory of the machine".into(), 24_000_000 << 10, 20_000_000 << 10)]
        );
        let swap = MEMINFO.1.replace("        0 kB", "5 kB");
        let found = numbers(&tree(&[("proc/meminfo", &swap)]));
        assert_eq!(found[0].0, "memory and swap of the machine");
        assert_eq!(found[0].2, (20_000_000 << 10) + 5 * 1024);
        assert_eq!(numbers(&tree(&[])), []);
        assert_eq!(numbers(&tree(&[("proc/meminfo", "MemTotal: x kB\n")])), []);
    }

    #[test]
    fn groups_of_version_2_count_with_all_around_them() {
        let root = tree(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/slurm/job_7/step\n"),
            ("sys/fs/cgroup/slurm/job_7/step/memory.max", "max\n"),
            ("sys/fs/cgroup/slurm/job_7/step/memory.high", "max\n"),
            ("sys/fs/cgroup/slurm/job_7/memory.max", "800000000\n"),
            ("sys/fs/cgroup/slurm/job_7/memory.high", "900000000\n"),
            ("sys/fs/cgroup/slurm/job_7/memory.current", "300000000\n"),
            ("sys/fs/cgroup/slurm/job_7/memory.stat", "anon 1\ninactive_file 100000000\n"),
        ]);
        let found = numbers(&root);
        assert_eq!(
            found[0],
            (
                "cgroup memory.max (/sys/fs/cgroup/slurm/job_7/memory.max)".into(),
                800_000_000,
                600_000_000
            )
        );
        assert!(found[1].0.starts_with("cgroup memory.high"), "{found:?}");
        assert_eq!(found.len(), 3);
    }

    /// A container sees its own group at the mount, under whatever name the line has.
    #[test]
    fn a_group_at_the_mount_counts_whatever_its_name() {
        for line in ["0::/\n", "0::/../../outside\n", "0::/not/there\n"] {
            let root = tree(&[("proc/self/cgroup", line), ("sys/fs/cgroup/memory.max", "5000\n")]);
            assert_eq!(numbers(&root)[0].1, 5000, "{line}");
        }
    }

    #[test]
    fn groups_of_version_1_count() {
        let root = tree(&[
            MEMINFO,
            ("proc/self/cgroup", "11:cpu,cpuacct:/a\n9:blkio,memory:/docker/abc\n0::/x\n"),
            ("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "1073741824\n"),
            ("sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes", "73741824\n"),
            ("sys/fs/cgroup/memory/docker/abc/memory.stat", "total_inactive_file 0\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        let found = numbers(&root);
        assert_eq!((found[0].1, found[0].2), (1 << 30, 1_000_000_000));
        assert!(found[0].0.contains("memory.limit_in_bytes"), "{found:?}");
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn limits_of_the_process_are_named_as_people_set_them() {
        let limits = "\
Limit                     Soft Limit           Hard Limit           Units     
Max data size             4000000000           unlimited            bytes     
Max address space         1536000000           unlimited            bytes     
Max open files            1024                 4096                 files     
";
        let status = "Name:\tglmae\nVmSize:\t  100000 kB\nVmData:\t   50000 kB\n";
        let root = tree(&[MEMINFO, ("proc/self/limits", limits), ("proc/self/status", status)]);
        let found = numbers(&root);
        assert_eq!(found[0], ("ulimit -v (RLIMIT_AS)".into(), 1536000000, 1536000000 - 102400000));
        assert_eq!(found[1], ("ulimit -d (RLIMIT_DATA)".into(), 4000000000, 4000000000 - 51200000));
        let addresses = &bounds_below(root.path())[0];
        assert!(addresses.of_addresses);
        assert_eq!(addresses.reserved, 51_200_000);
        let none = limits.replace("1536000000", "unlimited ").replace("4000000000", "unlimited ");
        let root = tree(&[("proc/self/limits", &none), ("proc/self/status", status)]);
        assert_eq!(numbers(&root), []);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_memory() {
        let found = bounds();
        let least = tightest(&found).unwrap();
        assert!(least.free > 0 && found.iter().all(|b| b.free <= b.total), "{found:?}");
        assert!(least.to_string().contains("left of"), "{least}");
    }
}
