//! Recording: sessions as scripts, for an operator who wants to know what peers do.
//!
//! Not here: the recordings themselves (`actix-lines`), their bounds (`settings`).

use std::{fmt::Write, io, time::Duration};

use actix_lines::{Escaped, record::Recorder};

use crate::{plural::counted, reason::reason, settings::Settings};

/// The longest time that the end of the process waits for the disk.
const LAST_WRITE: Duration = Duration::from_secs(5);

/// Starts to record, if that is asked for.
pub(crate) fn start(settings: &Settings) -> io::Result<Option<Recorder>> {
    let Some(folder) = settings.record_folder() else { return Ok(None) };
    let shown = Escaped::new(folder.as_os_str().as_encoded_bytes()).to_string();
    let recorder = Recorder::open(folder, settings.record_limits()).map_err(|error| {
        let advice = "use a folder that this user may write into";
        io::Error::new(error.kind(), format!("cannot record in {shown}: {}; {advice}", reason(&error)))
    })?;
    log::warn!("recording sessions in {shown}: everything that peers say is stored there, passwords too");
    Ok(Some(recorder))
}

/// Waits for what is not written yet.
pub(crate) fn finish(recorder: &Recorder) {
    if !recorder.flush(LAST_WRITE) {
        log::error!("the last recordings were not written within {LAST_WRITE:?}");
    }
}

/// The counters, as the end of a line.
pub(crate) fn counters(recorder: Option<&Recorder>) -> String {
    let mut text = String::new();
    if let Some(stats) = recorder.map(Recorder::stats) {
        // Into a string: there is no error.
        let _ = write!(
            text,
            "; {} recorded, {} cut at their size, {} for want of time, {} failed, {} removed",
            counted(stats.sessions, "session"),
            stats.cut,
            stats.overrun,
            stats.failed,
            counted(stats.removed, "file")
        );
    }
    text
}
