//! Logging: records are queued, and a thread of its own writes them to standard error.
//!
//! Rule: logging never waits for the reader of the log. An event is one line, as a text or as a JSON object (`form`). Lines
//! that do not fit the queue are left out and counted (`queue`).
//! Not here: the messages (each module has its own), the level as typed (`args`).

mod form;
mod panics;
mod queue;

use std::{
    env,
    io::{self, Write},
    sync::{Arc, OnceLock},
};

use anstream::{AutoStream, ColorChoice};
use env_logger::{Target, WriteStyle};
use log::LevelFilter;

use self::{
    form::{Form, padded},
    queue::{QUEUE_BYTES, Queue},
};
use crate::settings::LogFormat;

/// The log of the process. When dropped it is written to its end, if somebody reads it.
pub(crate) struct Log(Arc<Queue>);

/// The same log, for whoever changes its format.
static LOG: OnceLock<Arc<Queue>> = OnceLock::new();

/// Has events from here on written in another format.
pub(crate) fn set_format(format: LogFormat) {
    if let Some(log) = LOG.get() {
        log.form.set(format);
    }
}

impl Log {
    /// Starts it, for `level` and above; `None` leaves that to `RUST_LOG`. Panics are logged from here on.
    ///
    /// # Errors
    /// Without a thread for it.
    pub(crate) fn start(level: Option<LevelFilter>, format: LogFormat) -> io::Result<Self> {
        let queue = Arc::new(Queue::new(Form::new(format)));
        queue.start()?;
        // There is no second one.
        let _ = LOG.set(Arc::clone(&queue));
        let mut log = env_logger::Builder::new();
        log.filter_level(LevelFilter::Info);
        // Of the HTTP server only what fails of itself: whatever a client sends wrong is no news, and RUST_LOG can ask for it.
        log.filter_module("actix_server", LevelFilter::Warn).filter_module("actix_http", LevelFilter::Off);
        match level {
            Some(level) => log.filter_level(level),
            None => log.parse_default_env(),
        };
        let form = Arc::clone(&queue);
        log.target(Target::Pipe(Box::new(Enqueue(Arc::clone(&queue)))))
            .write_style(style())
            .format(move |line, record| {
                let style = line.default_level_style(record.level());
                let written = form.form.record(record, |level| format!("{style}{}{style:#}", padded(level)));
                line.write_all(written.as_bytes())
            })
            .init();
        std::panic::set_hook(Box::new(panics::log));
        Ok(Self(queue))
    }

    /// Writes the words by which the process ends, at any level, however full the queue is.
    pub(crate) fn last_words(&self, failure: &str) {
        self.0.add(self.0.form.last_words(failure).as_bytes(), usize::MAX);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        panics::log_left_out();
        self.0.flush();
    }
}

/// Colours where standard error shows them: env_logger does not look, since it writes to a queue.
fn style() -> WriteStyle {
    match env::var("RUST_LOG_STYLE").as_deref() {
        Ok("always") => WriteStyle::Always,
        Ok("never") => WriteStyle::Never,
        _ => match AutoStream::choice(&io::stderr()) {
            ColorChoice::Always | ColorChoice::AlwaysAnsi => WriteStyle::Always,
            ColorChoice::Auto | ColorChoice::Never => WriteStyle::Never,
        },
    }
}

/// The way from env_logger to the queue; each record comes whole.
struct Enqueue(Arc<Queue>);

impl Write for Enqueue {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        self.0.add(record, QUEUE_BYTES);
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
