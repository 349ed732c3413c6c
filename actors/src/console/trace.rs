//! Trace: the command that shows what a session says and is told.
//!
//! Not here: seeing the bytes (`wire/tap`).

use std::time::Duration;

use serde_json::json;

use crate::{
    console::{asked::Asked, out::Failure},
    control::event::EventRef,
    escape::Escaped,
    seconds,
    wire::tap::{TraceLimits, Traced},
    words::{self, WrongWord},
};

/// What a console may be shown in a second, and of one session in all. Unit: bytes.
const BYTES_PER_SECOND: u64 = 64 * 1024;
const TOTAL_BYTES: u64 = 16 * 1024 * 1024;

/// The longest part of a text that is shown as one line. Unit: bytes.
const MOST_SHOWN: usize = 500;

pub(crate) async fn trace(asked: Asked) -> Result<(), Failure> {
    if !asked.setup.may_trace {
        let problem = "is not allowed: it shows all that a session says; start the server with --console-trace, or its \
                       console with allow_trace";
        return Err(WrongWord::new("trace", problem).into());
    }
    let word = match &asked.words[..] {
        [] => return Err(WrongWord::alone("trace", "a session's number, as 7,").into()),
        [word] => word,
        [_, second, ..] => return Err(WrongWord::new(second, "is too much: trace has one session").into()),
    };
    let id = words::id(word)?;
    asked.log(format_args!("{id}"));
    let limits = TraceLimits::default().bytes_per_second(BYTES_PER_SECOND).total_bytes(TOTAL_BYTES);
    let began = seconds::now();
    let trace = asked.server.trace(id, limits).await?;
    let mut trace = trace.ok_or_else(|| WrongWord::new(word, "is no live session: list has them all"))?;
    loop {
        let piece = tokio::select! {
            () = asked.out.stopped() => return Ok(()),
            piece = trace.recv() => piece,
        };
        match piece {
            Some(Traced::In { at, bytes }) => show(&asked, "in", '>', began + at, &bytes).await,
            Some(Traced::Out { at, bytes }) => show(&asked, "out", '<', began + at, &bytes).await,
            Some(Traced::Lost { bytes_in, bytes_out }) => {
                let object = json!({ "event": "lost", "bytes_in": bytes_in, "bytes_out": bytes_out });
                asked.out.record(&object, format_args!("... {bytes_in} bytes in and {bytes_out} bytes out lost"));
            }
            Some(Traced::Closed(report)) => asked.out.record(&EventRef::Closed(&report), format_args!("{report}")),
            Some(Traced::Full) => {
                let object = json!({ "event": "full", "bytes": TOTAL_BYTES });
                asked.out.record(&object, format_args!("... {TOTAL_BYTES} bytes are shown: ask again for more"));
            }
            None => return Ok(()),
        }
        asked.out.sent().await;
    }
}

/// Writes bytes, line by line.
async fn show(asked: &Asked, event: &str, sign: char, at: Duration, bytes: &[u8]) {
    for line in bytes.split_inclusive(|byte| *byte == b'\n').flat_map(|line| line.chunks(MOST_SHOWN)) {
        let text = Escaped::new(line);
        if asked.out.is_json() {
            let at = at.as_millis() as f64 / 1000.0;
            asked.out.object(&json!({ "event": event, "at": at, "text": text.to_string() }));
        } else {
            asked.out.line(format_args!("{sign} {text}"));
        }
        asked.out.room().await;
    }
}
