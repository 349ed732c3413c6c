//! Recorder: the thread that makes files of what sessions say, and its handle.
//!
//! Rule: sessions never wait for it. It has a file open only while it writes; what is not written yet is at most 4 KiB a
//! session and a second old.
//! Not here: the text (`writer`), the folder (`files`), seeing the bytes (`session`).

use std::{
    collections::HashMap,
    io, mem,
    path::Path,
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{RecvTimeoutError, sync_channel},
    },
    thread,
    time::Duration,
};

use tokio::{runtime::Handle, time::Instant};

use crate::{
    connection::Connection,
    escape::Escaped,
    log_limit::{Kind, LogLimit},
    plural::Counted,
    record::{
        files::{FileNumber, Folder, Room},
        queue::{End, Inbox, Message, Queue, RecordStats, Shared, queue},
        session::Recording,
        writer::{Event, Writer},
    },
    report::{CloseReason, CloseReport},
    wire::filter::Filter,
};

/// Text of a session that waits to be written. Unit: bytes.
const MOST_UNWRITTEN: usize = 4096;

/// How long the thread lets messages gather once one has come.
const GATHER: Duration = Duration::from_millis(10);

/// The longest time that text waits to be written.
const MOST_DELAY: Duration = Duration::from_secs(1);

/// The least of [`RecordLimits::session_bytes`]: room for what is always there. Unit: bytes.
const LEAST_SESSION_BYTES: u64 = 1024;

/// Bounds of what a [`Recorder`] stores.
///
/// ```
/// use actix_lines::record::RecordLimits;
///
/// let limits = RecordLimits::default().session_bytes(1 << 20).files(50).gaps(false);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordLimits {
    session_bytes: u64,
    files: u64,
    total_bytes: u64,
    gaps: bool,
}

impl Default for RecordLimits {
    fn default() -> Self {
        Self { session_bytes: 64 * 1024, files: 1000, total_bytes: 64 * 1024 * 1024, gaps: true }
    }
}

impl RecordLimits {
    /// Sets the size of a session's file, at which it is cut; it says so, and still holds. Unit: bytes. Default: 64 KiB; less
    /// than 1 KiB counts as that.
    #[must_use]
    pub fn session_bytes(mut self, bytes: u64) -> Self {
        self.session_bytes = bytes.max(LEAST_SESSION_BYTES);
        self
    }

    /// Sets how many files are kept. The oldest are removed, also those of an earlier process and of sessions that still
    /// live. Default: 1000; 0 counts as 1.
    #[must_use]
    pub fn files(mut self, files: u64) -> Self {
        self.files = files.max(1);
        self
    }

    /// Sets the size of all files together, above which the oldest are removed. Unit: bytes. Default: 64 MiB. The file that
    /// is being written is not removed for its own sake.
    #[must_use]
    pub fn total_bytes(mut self, bytes: u64) -> Self {
        self.total_bytes = bytes;
        self
    }

    /// Sets whether times of a second and more become `: after TIME`. Default: true.
    #[must_use]
    pub fn gaps(mut self, gaps: bool) -> Self {
        self.gaps = gaps;
        self
    }
}

/// Records sessions as scripts, each in a file of its own, on a thread of its own. Clones are handles of the same one.
///
/// A recording has everything that a peer says: passwords, too. Files are for their owner only (mode 0600), and so is the
/// folder if it is made here.
///
/// A session never waits for the disk. If its bytes come faster than they can be written, or its recording is as long as it
/// may be, the recording is cut, and says so. A recorded session costs two copies of its bytes; one whose recording is cut
/// costs nothing more.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: Queue,
    shared: Arc<Shared>,
}

impl Recorder {
    /// Starts a recorder that writes into `folder`. The folder is made if it is not there.
    ///
    /// # Errors
    /// Returns the reason why no file can be made in it, or no thread.
    pub fn open(folder: impl AsRef<Path>, limits: RecordLimits) -> io::Result<Self> {
        let folder = Folder::open(folder.as_ref())?;
        let (queue, inbox) = queue();
        let shared = Arc::<Shared>::default();
        let recorder = Self { queue, shared: Arc::clone(&shared) };
        recorder.set_limits(limits);
        let keeper = Keeper { folder, shared, sessions: HashMap::new(), errors: LogLimit::default(), is_dirty: false };
        let runtime = Handle::try_current().ok();
        let run = move || {
            // For the end of a flood of errors; see `log_limit`.
            let _entered = runtime.as_ref().map(Handle::enter);
            keeper.run(&inbox);
        };
        thread::Builder::new().name("record".to_owned()).spawn(run)?;
        Ok(recorder)
    }

    /// Changes the bounds: for files from now on, and for the folder at the next write.
    pub fn set_limits(&self, limits: RecordLimits) {
        self.shared.session_bytes.store(limits.session_bytes, Relaxed);
        self.shared.files.store(limits.files, Relaxed);
        self.shared.total_bytes.store(limits.total_bytes, Relaxed);
        self.shared.has_no_gaps.store(!limits.gaps, Relaxed);
    }

    /// Records one session: for [`Transport::with_filter`](crate::Transport::with_filter), as its last filter. The sessions of
    /// a server are recorded by [`LineServer::record`](crate::LineServer::record).
    #[must_use]
    pub fn session(&self, connection: &Connection) -> impl Filter + use<> {
        Recording::new(self.queue.clone(), Arc::clone(&self.shared), connection)
    }

    /// Returns the counters.
    #[must_use]
    pub fn stats(&self) -> RecordStats {
        self.shared.counters.stats()
    }

    /// Writes everything that has come so far, and waits for that, at most as long as `patience`. Returns false if that was
    /// not enough. Call it when the server has ended: what the thread has not written when the process ends is lost.
    #[must_use]
    pub fn flush(&self, patience: Duration) -> bool {
        let (done, is_done) = sync_channel(1);
        self.queue.send(Message::Flush(done)) && is_done.recv_timeout(patience).is_ok()
    }
}

/// A session that is being recorded.
struct Session {
    writer: Writer<Vec<u8>>,
    /// What times are counted from.
    opened: Instant,
    name: String,
    /// `None` until something was written.
    file: Option<FileNumber>,
    /// Bytes in the file that stay.
    at: u64,
    /// The length of the text before the end of our bytes, if that came before the end of the peer's.
    before_eof: Option<u64>,
    has_fin: bool,
    has_ended: bool,
}

impl Session {
    fn event(&mut self, at: Instant, event: Event<'_>) -> io::Result<()> {
        match event {
            Event::Fin => self.has_fin = true,
            Event::Eof if !self.has_fin => self.before_eof = Some(self.writer.mark()?),
            _ => {}
        }
        self.writer.event("", at.saturating_duration_since(self.opened), event)
    }

    /// Takes back the end of our bytes, and what the peer said and did behind it: nothing that it did has led to that end.
    fn take_back(&mut self, before_eof: u64) {
        self.writer.go_back(before_eof);
        let out = self.writer.out();
        out.truncate(usize::try_from(before_eof.saturating_sub(self.at)).unwrap_or(usize::MAX));
        self.at = self.at.min(before_eof);
    }

    fn end(&mut self, at: Instant, end: &End) -> io::Result<()> {
        self.has_ended = true;
        match end {
            End::Closed(report) => self.close(at.saturating_duration_since(self.opened), report),
            End::TooLong => self.writer.cut("this is as long as a recording may be"),
            End::Overrun => self.writer.cut("the disk was slower than the peers"),
            End::Dropped => self.writer.cut("the connection was given up"),
        }
    }

    fn close(&mut self, at: Duration, report: &CloseReport) -> io::Result<()> {
        if let Some(before_eof) = self.before_eof
            && !is_repeatable(report.reason, self.writer.has_gaps())
        {
            self.take_back(before_eof);
        }
        if matches!(report.reason, CloseReason::PeerReset | CloseReason::Io(..)) {
            self.writer.event("", at, Event::Reset)?;
        }
        self.writer.comment(&format!(
            "ended: {}, after {:.3} s: {} and {} in, {} out, {} unsent",
            report.reason,
            report.duration.as_secs_f64(),
            Counted(report.lines_in, "line"),
            Counted(report.bytes_in, "byte"),
            Counted(report.bytes_out, "byte"),
            report.unsent_bytes,
        ))?;
        self.writer.end()
    }
}

/// Returns true if the same peer would see the same end once more: nothing has led to it but what the script has of it, and
/// time, if the script has that.
fn is_repeatable(reason: CloseReason, has_gaps: bool) -> bool {
    match reason {
        CloseReason::Drained
        | CloseReason::Aborted
        | CloseReason::Kicked
        | CloseReason::Evicted
        | CloseReason::OutboxFull
        | CloseReason::WriteStalled
        | CloseReason::WorkerStopped => false,
        // What its filters read is not in the script.
        CloseReason::Truncated
        | CloseReason::FilterFailed
        | CloseReason::FilterFault(_)
        | CloseReason::Refused(_)
        | CloseReason::Probe
        | CloseReason::PrefaceTimeout
        | CloseReason::PrefaceEvicted
        | CloseReason::UpgradeInjection
        | CloseReason::UpgradeTimeout => false,
        CloseReason::IdleTimeout | CloseReason::LineTimeout | CloseReason::MaxAge | CloseReason::WaitTimeout => {
            has_gaps
        }
        CloseReason::PeerEof
        | CloseReason::PeerReset
        | CloseReason::Overlong
        | CloseReason::ClosedByHandler
        | CloseReason::HandlerPanicked
        | CloseReason::HandlerStalled
        | CloseReason::Io(..) => true,
    }
}

const UNWRITTEN: Kind = Kind("recording not written", "recordings not written");

/// What the thread of a recorder owns: the folder, and the sessions whose text is not all written.
struct Keeper {
    folder: Folder,
    shared: Arc<Shared>,
    sessions: HashMap<u64, Session>,
    errors: LogLimit,
    /// There is text that is not written yet.
    is_dirty: bool,
}

impl Keeper {
    fn run(mut self, inbox: &Inbox) {
        let mut written = Instant::now();
        loop {
            let patience = self.is_dirty.then(|| MOST_DELAY.saturating_sub(written.elapsed()));
            match inbox.wait(patience) {
                Ok(message) => {
                    // To wake a thread that waits costs its sender a system call: with this pause few of them pay for it.
                    if !matches!(message, Message::Flush(_)) {
                        thread::sleep(GATHER);
                    }
                    if !mem::replace(&mut self.is_dirty, true) {
                        written = Instant::now();
                    }
                    self.take(message);
                    while written.elapsed() < MOST_DELAY
                        && let Some(message) = inbox.next()
                    {
                        self.take(message);
                    }
                    if written.elapsed() < MOST_DELAY {
                        continue;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.flush(),
            }
            self.flush();
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Opened { id, at, name, title } => {
                let gaps = !self.shared.has_no_gaps.load(Relaxed);
                let mut writer = Writer::new(Vec::new()).max_bytes(self.shared.session_bytes.load(Relaxed)).gaps(gaps);
                // Into memory: there is no error.
                let _ = writer.comment(&title).and_then(|()| writer.event("", Duration::ZERO, Event::Connect));
                let session = Session {
                    writer,
                    opened: at,
                    name,
                    file: None,
                    at: 0,
                    before_eof: None,
                    has_fin: false,
                    has_ended: false,
                };
                self.sessions.insert(id, session);
            }
            Message::Sent { id, at, bytes } => self.event(id, at, Event::Sent(&bytes)),
            Message::Received { id, at, bytes } => self.event(id, at, Event::Received(&bytes)),
            Message::Fin { id, at } => self.event(id, at, Event::Fin),
            Message::Eof { id, at } => self.event(id, at, Event::Eof),
            Message::Ended { id, at, end } => {
                if let Some(mut session) = self.sessions.remove(&id) {
                    let was_cut = session.writer.is_cut();
                    let _ = session.end(at, &end);
                    if !was_cut && session.writer.is_cut() && !matches!(end, End::Overrun | End::Dropped) {
                        self.shared.counters.cut.fetch_add(1, Relaxed);
                    }
                    self.write(&mut session);
                }
            }
            Message::Flush(done) => {
                self.flush();
                let _ = done.send(());
            }
        }
    }

    fn event(&mut self, id: u64, at: Instant, event: Event<'_>) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let was_cut = session.writer.is_cut();
        let _ = session.event(at, event);
        let is_cut = session.writer.is_cut();
        if is_cut && !was_cut {
            self.shared.counters.cut.fetch_add(1, Relaxed);
        }
        if session.writer.out().len() > MOST_UNWRITTEN || (is_cut && !was_cut) {
            let Some(mut session) = self.sessions.remove(&id) else { return };
            // It may end here for the disk's sake; later messages of it find nobody.
            if self.write(&mut session) && !is_cut {
                self.sessions.insert(id, session);
            }
        }
    }

    /// Writes all that is not written yet.
    fn flush(&mut self) {
        self.is_dirty = false;
        let mut sessions = mem::take(&mut self.sessions);
        sessions.retain(|_, session| self.write(session));
        self.sessions = sessions;
    }

    /// Writes a session's text. Returns false if its file cannot be written, or had to make room.
    fn write(&mut self, session: &mut Session) -> bool {
        if session.file.is_some_and(|file| !self.folder.has(file)) {
            return false;
        }
        let text = mem::take(session.writer.out());
        session.writer.trim();
        if text.is_empty() {
            return true;
        }
        let goes_on = !session.has_ended && !session.writer.is_cut();
        let room = Room { files: self.shared.files.load(Relaxed), bytes: self.shared.total_bytes.load(Relaxed) };
        let made = match session.file {
            Some(file) => Ok((file, None)),
            None => self.folder.create(&session.name, room).map(|(file, disk)| (file, Some(disk))),
        };
        let written = made.and_then(|(file, disk)| {
            session.file = Some(file);
            self.folder.write(file, disk, session.at, &text, goes_on, room)
        });
        self.shared.counters.removed.store(self.folder.removed, Relaxed);
        session.at += text.len() as u64;
        match written {
            Ok(()) => true,
            Err(error) => {
                self.shared.counters.failed.fetch_add(1, Relaxed);
                if let Some(events) = self.errors.pass(&UNWRITTEN, "") {
                    let file = Escaped::new(&session.name).to_string();
                    log::error!(count = events; "recording {file} was not written: {error}; free or repair its disk{events}");
                }
                false
            }
        }
    }
}
