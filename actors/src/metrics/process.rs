//! Process: processor time, memory, threads and descriptors of this process, by the names that all programs give them.
//!
//! On Linux only; elsewhere there are none.
//! Not here: the server (`server`).

use std::fmt;
#[cfg(target_os = "linux")]
use std::{
    fs,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

#[cfg(target_os = "linux")]
use prometheus_client::registry::Unit::{Bytes, Seconds};
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};
#[cfg(target_os = "linux")]
use rustix::{
    param::clock_ticks_per_second,
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

#[cfg(target_os = "linux")]
use crate::metrics::families::{About, Families};

/// A process as the kernel describes it at one moment. What it does not tell is left out.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub(super) struct Process {
    processor_time: Duration,
    resident_bytes: Option<u64>,
    virtual_bytes: Option<u64>,
    threads: Option<u64>,
    open_descriptors: Option<u64>,
    max_descriptors: Option<u64>,
    started: Option<SystemTime>,
}

/// Reckoned once, by two clocks that are not read at the same moment: whoever counts restarts counts its changes.
#[cfg(target_os = "linux")]
static STARTED: OnceLock<Option<SystemTime>> = OnceLock::new();

#[cfg(target_os = "linux")]
fn of_clock(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

#[cfg(target_os = "linux")]
impl Process {
    /// Reads what the kernel says of this process.
    pub(super) fn read() -> Option<Self> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let number = |key| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        Some(Self {
            processor_time: of_clock(ClockId::ProcessCPUTime),
            resident_bytes: number("VmRSS:").map(|kib| kib * 1024),
            virtual_bytes: number("VmSize:").map(|kib| kib * 1024),
            threads: number("Threads:"),
            open_descriptors: open_descriptors(),
            max_descriptors: getrlimit(Resource::Nofile).current,
            started: *STARTED.get_or_init(|| started(&fs::read_to_string("/proc/self/stat").unwrap_or_default())),
        })
    }
}

/// Since Linux 6.2 the size of the folder is their number; before they are counted, which takes a while where they are many.
#[cfg(target_os = "linux")]
fn open_descriptors() -> Option<u64> {
    const FOLDER: &str = "/proc/self/fd";
    let size = fs::metadata(FOLDER).ok()?.len();
    if size > 0 {
        return Some(size);
    }
    let all = fs::read_dir(FOLDER).ok()?.count();
    // One of them is that of the folder.
    u64::try_from(all).ok()?.checked_sub(1)
}

/// When a process with this `stat` was started.
#[cfg(target_os = "linux")]
fn started(stat: &str) -> Option<SystemTime> {
    // The name, which may hold anything, ends with the last parenthesis; the 20th field behind it is ticks since the boot.
    let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let since_boot = Duration::from_millis(ticks.checked_mul(1000)? / clock_ticks_per_second().max(1));
    let age = of_clock(ClockId::Boottime).checked_sub(since_boot)?;
    SystemTime::now().checked_sub(age)
}

#[cfg(target_os = "linux")]
impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        let about = |name, unit, help| About { name, unit, help };
        let one = |value: Option<u64>| value.map(|value| ([], value));
        families.times(
            about("process_cpu", Some(&Seconds), "Processor time of all threads, in user and kernel"),
            [([], self.processor_time)],
        )?;
        families.gauges(
            about("process_resident_memory", Some(&Bytes), "Memory that is in use"),
            one(self.resident_bytes),
        )?;
        families.gauges(
            about("process_virtual_memory", Some(&Bytes), "Addresses that are in use"),
            one(self.virtual_bytes),
        )?;
        families.gauges(about("process_threads", None, "Threads"), one(self.threads))?;
        families.gauges(about("process_open_fds", None, "Open descriptors"), one(self.open_descriptors))?;
        families.gauges(about("process_max_fds", None, "Most open descriptors"), one(self.max_descriptors))?;
        let started = self.started.map(|started| ([], started));
        families.moments(about("process_start_time", Some(&Seconds), "Start of the process, since 1970"), started)
    }
}

/// Nothing that is known of a process.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub(super) struct Process;

#[cfg(not(target_os = "linux"))]
impl Process {
    pub(super) fn read() -> Option<Self> {
        None
    }
}

#[cfg(not(target_os = "linux"))]
impl Collector for Process {
    fn encode(&self, _: DescriptorEncoder<'_>) -> fmt::Result {
        Ok(())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_what_this_process_is() {
        let process = Process::read().unwrap();
        assert!(process.processor_time > Duration::ZERO);
        assert!(process.resident_bytes.unwrap() > 1024 * 1024 && process.virtual_bytes > process.resident_bytes);
        assert!(process.threads.unwrap() >= 2, "this test has a thread of its own");
        // Standard input, output and error at least.
        assert!((3..1_000_000).contains(&process.open_descriptors.unwrap()));
        assert_eq!(Process::read().unwrap().started, process.started);
        let age = SystemTime::now().duration_since(process.started.unwrap()).unwrap();
        assert!(age < Duration::from_secs(24 * 3600), "{age:?}");
        // Other tests close theirs meanwhile.
        let grows = || {
            let (before, _files) = (open_descriptors(), [(); 50].map(|()| fs::File::open("/dev/null").unwrap()));
            open_descriptors() >= before.map(|before| before + 50)
        };
        assert!((0..1000).any(|_| grows()));
    }

    #[test]
    fn a_process_may_have_any_name() {
        let behind = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4200 20 21";
        let plain = started(&format!("42 (rot13d) {behind}")).unwrap();
        let odd = started(&format!("42 (a) b (c d) {behind}")).unwrap();
        assert!(plain.max(odd).duration_since(plain.min(odd)).unwrap() < Duration::from_secs(60));
        assert_eq!(started("42 (rot13d) S 1 2"), None);
        assert_eq!(started(""), None);
    }
}
