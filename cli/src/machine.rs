//! The machine `pipe` runs on: memory, disk, CPU.

use std::path::{Path, PathBuf};

use sysinfo::System;

/// Bytes of memory this process may use: the machine's, or less where a container limits it.
pub fn memory() -> u64 {
    let mut system = System::new();
    system.refresh_memory();
    let limit = system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory);
    let total = system.total_memory();
    if limit == 0 { total } else { total.min(limit) }
}

/// Bytes of memory nobody uses now.
pub fn free_memory() -> u64 {
    let mut system = System::new();
    system.refresh_memory();
    system.available_memory()
}

/// Bytes this process holds in memory now.
pub fn resident() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        status_field(&status, "VmRSS:")
    }
    #[cfg(not(target_os = "linux"))]
    {
        use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, get_current_pid};
        let pid = get_current_pid().ok()?;
        let mut system = System::new();
        let what = ProcessRefreshKind::nothing().with_memory();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, what);
        system.process(pid).map(|process| process.memory())
    }
}

/// The most this process ever held in memory, where the system tells.
pub fn peak_resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    status_field(&text, "VmHWM:")
}

fn status_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

/// Free bytes on the disk that holds `path`, or would hold it.
pub fn free_disk(path: &Path) -> Option<u64> {
    let place = existing(path)?;
    // Asked of the place itself: lists of disks leave out those in memory and on the network.
    #[cfg(unix)]
    {
        let about = rustix::fs::statvfs(&place).ok()?;
        Some(about.f_bavail.saturating_mul(about.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let disks = sysinfo::Disks::new_with_refreshed_list();
        let holds = disks.iter().filter(|disk| place.starts_with(disk.mount_point()));
        holds.max_by_key(|disk| disk.mount_point().components().count()).map(|disk| disk.available_space())
    }
}

/// The deepest folder on the way to `path` that exists.
fn existing(path: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(path).ok()?;
    absolute.ancestors().find_map(|place| place.canonicalize().ok())
}

/// Bytes and number of files in a folder and all below it.
pub fn folder_size(path: &Path) -> (u64, u64) {
    let (mut bytes, mut files) = (0, 0);
    let mut rest = vec![path.to_owned()];
    while let Some(folder) = rest.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                rest.push(entry.path());
            } else if let Ok(about) = entry.metadata() {
                bytes += about.len();
                files += 1;
            }
        }
    }
    (bytes, files)
}

/// Number of CPU cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Name of the CPU.
pub fn cpu_name() -> Option<String> {
    use sysinfo::{CpuRefreshKind, RefreshKind};
    let system = System::new_with_specifics(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()));
    let name = system.cpus().first()?.brand().trim().to_owned();
    (!name.is_empty()).then_some(name)
}

/// Vector instructions of the CPU that matter for training.
pub fn simd() -> Vec<&'static str> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let all = [
            ("sse4.2", std::is_x86_feature_detected!("sse4.2")),
            ("avx", std::is_x86_feature_detected!("avx")),
            ("avx2", std::is_x86_feature_detected!("avx2")),
            ("fma", std::is_x86_feature_detected!("fma")),
            ("f16c", std::is_x86_feature_detected!("f16c")),
            ("avx512f", std::is_x86_feature_detected!("avx512f")),
            ("avx512bf16", std::is_x86_feature_detected!("avx512bf16")),
        ];
        found.extend(all.iter().filter(|(_, has)| *has).map(|(name, _)| *name));
    }
    #[cfg(target_arch = "aarch64")]
    found.push("neon");
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_answers() {
        assert!(memory() > 0 && cores() > 0);
        assert!(free_disk(Path::new("a/folder/that/is/not/there")).is_some());
        // A disk in memory is one of its own.
        #[cfg(target_os = "linux")]
        if let (Some(shared), true) = (free_disk(Path::new("/dev/shm")), Path::new("/dev/shm").exists()) {
            let told = std::process::Command::new("df").args(["--output=size", "-B1", "/dev/shm"]).output();
            let size =
                told.ok().and_then(|out| String::from_utf8(out.stdout).ok()?.lines().nth(1)?.trim().parse().ok());
            assert!(size.is_none_or(|size: u64| shared <= size), "{shared} of {size:?}");
        }
        assert_eq!(status_field("VmPeak:\t  10 kB\nVmHWM:\t    12 kB\n", "VmHWM:"), Some(12 * 1024));
    }
}
