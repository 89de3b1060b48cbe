//! What this process may use of the machine: CPUs and memory.
//!
//! Always: no more than the tightest of the affinity mask, the control group's CPU quota and memory limit, and the
//! machine itself, over both versions of control groups. Files are read through an argument, so that every layout is a
//! row of a test. A quota is rounded down: an executor that the kernel throttles half of the time stalls every client
//! pinned to it, which costs more than the fraction of a core that is left unused.

use std::path::{Path, PathBuf};

/// CPUs and memory that the process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The affinity mask, in order; never empty.
    pub cpus: Vec<usize>,
    /// Whole CPUs that the control group's quota allows, at least one; `None` without a quota.
    pub cpu_quota: Option<usize>,
    /// Memory of the machine, or less if the control group allows less.
    pub memory_bytes: u64,
}

impl Machine {
    /// Asks the kernel.
    pub fn ask() -> Machine {
        let read = |path: &Path| std::fs::read_to_string(path).ok();
        Machine { cpus: affinity(), cpu_quota: cpu_quota(&read), memory_bytes: memory_bytes(&read) }
    }

    /// Cores to use when nobody says how many.
    pub fn cores(&self) -> usize {
        self.cpus.len().min(self.cpu_quota.unwrap_or(usize::MAX)).max(1)
    }
}

fn affinity() -> Vec<usize> {
    let allowed: Vec<usize> = match rustix::thread::sched_getaffinity(None) {
        Ok(mask) => (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| mask.is_set(*cpu)).collect(),
        // More CPUs than a mask holds: take as many as the kernel reports, from 0.
        Err(_) => (0..std::thread::available_parallelism().map_or(1, usize::from)).collect(),
    };
    if allowed.is_empty() { vec![0] } else { allowed }
}

/// Where control groups are mounted on every distribution that matters.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// When neither a limit nor /proc/meminfo can be read.
const MEMORY_BYTES_FALLBACK: u64 = 1 << 30;

type ReadFile<'r> = &'r dyn Fn(&Path) -> Option<String>;

/// The directories of this process's control group for one controller, innermost first, up to the root of the mount.
/// `controller` is empty for version 2.
fn group_directories(read: ReadFile<'_>, controller: &str) -> Vec<PathBuf> {
    let Some(groups) = read(Path::new("/proc/self/cgroup")) else { return Vec::new() };
    let group = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        let path = fields.next()?;
        controllers.split(',').any(|name| name == controller).then_some((controllers, path))
    });
    let Some((controllers, path)) = group else { return Vec::new() };
    // A version 1 hierarchy is mounted under the names of all its controllers, with a link for each.
    let mounts = if controller.is_empty() { vec![""] } else { vec![controller, controllers] };
    let mut directories = Vec::new();
    for mount in mounts {
        let root = Path::new(CGROUP_ROOT).join(mount);
        let inner = root.join(path.trim_start_matches('/'));
        directories.extend(
            inner.ancestors().take_while(|directory| directory.starts_with(&root)).map(Path::to_owned),
        );
    }
    directories
}

fn cpu_quota(read: ReadFile<'_>) -> Option<usize> {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let unified = group_directories(read, "").into_iter().filter_map(|directory| {
        let text = read(&directory.join("cpu.max"))?;
        let (quota, period) = text.trim().split_once(' ')?;
        Some((number(quota)?, number(period)?))
    });
    let legacy = group_directories(read, "cpu").into_iter().filter_map(|directory| {
        let quota = number(&read(&directory.join("cpu.cfs_quota_us"))?)?;
        let period = number(&read(&directory.join("cpu.cfs_period_us"))?)?;
        Some((quota, period))
    });
    unified
        .chain(legacy)
        .filter(|(_, period)| *period > 0)
        .map(|(quota, period)| usize::try_from(quota / period).unwrap_or(usize::MAX).max(1))
        .min()
}

fn memory_bytes(read: ReadFile<'_>) -> u64 {
    let number = |path: &Path| read(path).and_then(|text| text.trim().parse::<u64>().ok());
    let unified =
        group_directories(read, "").into_iter().filter_map(|directory| number(&directory.join("memory.max")));
    let legacy = group_directories(read, "memory")
        .into_iter()
        .filter_map(|directory| number(&directory.join("memory.limit_in_bytes")));
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| meminfo_total(&text));
    unified.chain(legacy).chain(machine).min().unwrap_or(MEMORY_BYTES_FALLBACK)
}

fn meminfo_total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: (&str, &str) = ("/proc/meminfo", "MemTotal:        8192 kB\nMemFree: 1 kB\n");

    #[track_caller]
    fn check(files: &[(&str, &str)], want: (Option<usize>, u64)) {
        let read = |path: &Path| {
            files.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| (*text).to_owned())
        };
        assert_eq!((cpu_quota(&read), memory_bytes(&read)), want, "{files:?}");
    }

    #[test]
    fn the_tightest_limit_of_every_level_holds() {
        let v2 = ("/proc/self/cgroup", "0::/a/b\n");
        let whole = 8192 * 1024;
        check(&[], (None, MEMORY_BYTES_FALLBACK));
        check(&[MEMINFO], (None, whole));
        check(
            &[
                MEMINFO,
                v2,
                ("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n"),
                ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ],
            (None, whole),
        );
        check(
            &[
                MEMINFO,
                v2,
                ("/sys/fs/cgroup/a/b/cpu.max", "250000 100000\n"),
                ("/sys/fs/cgroup/a/memory.max", "4096\n"),
            ],
            (Some(2), 4096),
        );
        check(
            &[
                MEMINFO,
                v2,
                ("/sys/fs/cgroup/a/cpu.max", "50000 100000"),
                ("/sys/fs/cgroup/a/b/cpu.max", "400000 100000"),
            ],
            (Some(1), whole),
        );
        check(
            &[MEMINFO, ("/proc/self/cgroup", "0::/\n"), ("/sys/fs/cgroup/memory.max", "1048576\n")],
            (None, 1_048_576),
        );
    }

    #[test]
    fn version_1_hierarchies_are_read_under_either_name() {
        let v1 = ("/proc/self/cgroup", "4:memory:/docker/x\n2:cpu,cpuacct:/docker/x\n1:name=systemd:/\n");
        let quota = |directory: &str| {
            vec![
                (format!("{directory}/cpu.cfs_quota_us"), "300000".to_owned()),
                (format!("{directory}/cpu.cfs_period_us"), "100000".to_owned()),
            ]
        };
        for directory in ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct/docker/x"] {
            let mut files = quota(directory);
            files.push((MEMINFO.0.to_owned(), MEMINFO.1.to_owned()));
            files.push((v1.0.to_owned(), v1.1.to_owned()));
            files.push((
                "/sys/fs/cgroup/memory/memory.limit_in_bytes".to_owned(),
                "9223372036854771712\n".to_owned(),
            ));
            let files: Vec<(&str, &str)> =
                files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
            check(&files, (Some(3), 8192 * 1024));
        }
        check(
            &[
                MEMINFO,
                v1,
                ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1"),
                ("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "1"),
            ],
            (None, 8192 * 1024),
        );
    }

    #[test]
    fn this_machine_has_a_cpu_and_memory() {
        let machine = Machine::ask();
        assert!(machine.cores() >= 1 && machine.cores() <= machine.cpus.len());
        assert!(machine.memory_bytes > 16 << 20);
    }
}
