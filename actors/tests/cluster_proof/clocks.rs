//! Wall clocks that jump, by libfaketime; no monotonic clock is touched.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A wall clock that is set by a test. Its file is gone in the end.
pub(crate) struct Clock {
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    /// Makes a clock that is right; `None` if there can be none here.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let folders = fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok);
        let library =
            folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|file| file.is_file())?;
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("clock-{name}-{}", std::process::id()));
        let clock = Self { file, library };
        clock.set(0);
        Some(clock)
    }

    /// Jumps to so many seconds before or behind the right time.
    pub(crate) fn set(&self, seconds: i64) {
        // Whole or not at all: it is read at any time.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{seconds:+}\n")).unwrap();
        fs::rename(new, &self.file).unwrap();
    }

    /// What a process needs that goes by this clock.
    pub(crate) fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        let mut environment =
            vec![("LD_PRELOAD", self.library.clone()), ("FAKETIME_TIMESTAMP_FILE", self.file.clone())];
        for flag in ["FAKETIME_NO_CACHE", "FAKETIME_DONT_FAKE_MONOTONIC", "DONT_FAKE_MONOTONIC"] {
            environment.push((flag, "1".into()));
        }
        environment
    }

    /// This program under the clock.
    pub(crate) fn program(&self) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.envs(self.environment());
        command
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}
