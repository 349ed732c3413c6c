//! A folder of messages: a file for each, which is there whole or not at all.
//!
//! All of it may take a disk's time, so it is called off the workers' threads.
//! Not here: what a message is (`main`).

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

pub(crate) struct Spool {
    folder: PathBuf,
    /// What makes names of this process other than those of any before.
    prefix: String,
    count: AtomicU64,
}

impl Spool {
    /// Opens a folder, which is made if it is not there.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let prefix = format!("{}.{:09}-{}", since.as_secs(), since.subsec_nanos(), process::id());
        Ok(Self { folder: folder.to_owned(), prefix, count: AtomicU64::new(0) })
    }

    /// Begins a message. There is no file yet.
    pub(crate) fn draft(self: &Arc<Self>) -> Draft {
        let name = format!("{}-{}.eml", self.prefix, self.count.fetch_add(1, Relaxed));
        Draft { spool: Arc::clone(self), name, file: None }
    }
}

/// A message that has not come whole. Dropped before it is published it leaves nothing.
pub(crate) struct Draft {
    spool: Arc<Spool>,
    name: String,
    file: Option<File>,
}

impl Draft {
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(File::create_new(self.hidden())?),
        };
        file.write_all(bytes)
    }

    /// Gives it its name. When that returns the message is on the disk: it would be there after a power cut.
    pub(crate) fn publish(mut self) -> io::Result<String> {
        self.append(b"")?;
        if let Some(file) = &self.file {
            file.sync_all()?;
        }
        fs::rename(self.hidden(), self.spool.folder.join(&self.name))?;
        self.file = None;
        File::open(&self.spool.folder)?.sync_all()?;
        Ok(std::mem::take(&mut self.name))
    }

    /// Its path until it is whole.
    fn hidden(&self) -> PathBuf {
        self.spool.folder.join(format!(".{}", self.name))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.file.is_some() {
            // What cannot be removed is hidden, and no message.
            let _ = fs::remove_file(self.hidden());
        }
    }
}
