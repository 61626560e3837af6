//! What this process takes of memory and what it may take, read off Linux.

/// A field of /proc/self/status in bytes.
pub(super) fn status(field: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}

/// What this process may take in bytes: its container's limit, else what the machine has.
pub(super) fn allowed() -> Option<f64> {
    let limit = |file: &str| std::fs::read_to_string(file).ok()?.trim().parse::<f64>().ok();
    let machine = || {
        let info = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(line.trim().trim_end_matches("kB").trim().parse::<f64>().ok()? * 1024.0)
    };
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limits = limits.into_iter().filter_map(limit).chain(machine());
    Some(limits.reduce(f64::min)? - in_memory_files())
}

/// What keys and values may take of it beside what this process has already, in bytes.
pub(super) fn for_keys() -> Option<f64> {
    /// Of the memory that is there, what they leave to everything else.
    const SPARE: f64 = 0.2;
    Some((allowed()? * (1.0 - SPARE) - status("VmRSS:")?).max(0.0))
}

/// What files in memory take of it, such as those of a cache that is kept there.
fn in_memory_files() -> f64 {
    let accounts = ["/sys/fs/cgroup/memory.stat", "/sys/fs/cgroup/memory/memory.stat"];
    accounts.into_iter().find_map(|file| shmem(&std::fs::read_to_string(file).ok()?)).unwrap_or_default()
}

fn shmem(account: &str) -> Option<f64> {
    account.lines().find_map(|line| line.strip_prefix("shmem "))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_in_memory_are_found_in_the_account() {
        assert_eq!(shmem("anon 1\nfile 7\nshmem 4096\nshmem_thp 5\n"), Some(4096.0));
        assert_eq!(shmem("anon 1\n"), None);
    }
}
