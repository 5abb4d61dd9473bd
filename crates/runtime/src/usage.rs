//! What this process has used of the machine so far, as the system counts it.

use std::time::Duration;

/// The time that this process's threads have computed, system calls included; zero where the system
/// does not tell.
///
/// Unlike wall-clock time it hardly depends on what else the machine does.
pub fn cpu_time() -> Duration {
    #[cfg(unix)]
    {
        use nix::sys::resource::{UsageWho, getrusage};
        let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
        [usage.user_time(), usage.system_time()].iter().fold(Duration::ZERO, |sum, time| {
            let micros = u64::try_from(time.tv_usec()).unwrap_or(0);
            let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
            sum + Duration::from_secs(seconds) + Duration::from_micros(micros)
        })
    }
    #[cfg(not(unix))]
    Duration::ZERO
}

/// The most bytes of memory that this process has held at once, pages of mapped files included;
/// `None` where the system does not tell.
pub fn peak_memory() -> Option<u64> {
    // Not `getrusage`: Linux counts there what the process held before it became this program.
    #[cfg(target_os = "linux")]
    {
        peak_in(&std::fs::read_to_string("/proc/self/status").ok()?)
    }
    #[cfg(all(unix, not(target_os = "linux")))]
    {
        use nix::sys::resource::{UsageWho, getrusage};
        let unit = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
        let peak = getrusage(UsageWho::RUSAGE_SELF).ok()?.max_rss();
        u64::try_from(peak).ok().map(|peak| peak * unit)
    }
    #[cfg(not(unix))]
    None
}

/// The peak that `/proc/PID/status` tells.
#[cfg(target_os = "linux")]
fn peak_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_in_bytes() {
        let status = "Name:\tdistorch\nVmPeak:\t 9 kB\nVmHWM:\t  123 kB\nVmRSS:\t 5 kB\n";
        assert_eq!(peak_in(status), Some(123 * 1024));
        assert_eq!(peak_in("VmHWM:\t 18446744073709551615 kB"), None);
        assert_eq!(peak_in("VmRSS:\t 5 kB"), None);
    }

    #[test]
    fn memory_and_time_are_counted() {
        const SIZE: usize = 64 << 20;
        let (time, start) = (cpu_time(), std::time::Instant::now());
        let touched = vec![1_u8; SIZE];
        assert!(peak_memory().unwrap() >= SIZE as u64 + touched[SIZE - 1] as u64);
        let mut sum = 0_u64;
        while start.elapsed() < Duration::from_millis(100) {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(cpu_time() > time);
    }
}
