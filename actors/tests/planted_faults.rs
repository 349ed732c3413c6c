//! A fuzz of scripts finds the faults that line services have, and none in a sound one.
//!
//! The service answers lines with their ROT13, as a beginner would write it, over a plain stream. Each of ten faults can be
//! planted in it. Not here: what a fuzz does and says (`fuzz`).

use std::{cell::RefCell, io, rc::Rc};

use actix_lines::{
    rot13,
    script::{Fuzz, Script, ScriptOptions, ServiceStream, Target},
};
use futures::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};

/// What programmers of line services do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// What comes before EOF without a newline is not answered.
    LostTail,
    /// A newline that comes alone is taken for nothing.
    GluedLines,
    /// `quit` closes at once: what the peer has sent behind it is answered by a reset.
    ResetAtClose,
    /// What cannot be written at once is written later, the latest first.
    SwappedAnswers,
    /// The first byte of a read that goes on with a line is skipped.
    LostAtTheEdge,
    /// A CR that ends a read is taken for the end of the line, and the LF behind it for nothing.
    LostCr,
    /// The stream is asked to write once, and what it did not take is forgotten.
    ShortWrite,
    /// What is there of an incomplete line is kept in one place for all sessions.
    SharedBuffer,
    /// At EOF answers that were not written yet are dropped.
    LostAfterHalfClose,
    /// A read that fills the buffer is taken to have more behind it, and nothing is answered before that.
    FullBuffer,
}

const FAULTS: [Fault; 10] = [
    Fault::LostTail,
    Fault::GluedLines,
    Fault::ResetAtClose,
    Fault::SwappedAnswers,
    Fault::LostAtTheEdge,
    Fault::LostCr,
    Fault::ShortWrite,
    Fault::SharedBuffer,
    Fault::LostAfterHalfClose,
    Fault::FullBuffer,
];

/// As their author would write them: what is sent, what has to come.
const SCRIPTS: [(&str, &str); 6] = [
    ("lines", "> Hello\n< Uryyb\n> one\n> two\n> three\n< bar\n< gjb\n< guerr\n: fin\n: eof\n"),
    ("tail", "> \"no newline\"\n: fin\n< \"ab arjyvar\"\n: eof\n"),
    ("crlf", "newline crlf\n> Hello\n< \"Uryyb\\r\\n\"\n>\n< \"\\r\\n\"\n> world\n< \"jbeyq\\r\\n\"\n"),
    (
        "long",
        "> abcdefghijklmnopqrstuvwxyz abcdefghijklmnopqrstuvwxyz\n< nopqrstuvwxyzabcdefghijklm nopqrstuvwxyzabcdefghijklm\n\
         > abcdefghijklmnopqrstuvwxyz abcdefghijklmnopqrstuvwxyz abcdefghijklmnopqrstuvwxyz\n\
         < nopqrstuvwxyzabcdefghijklm nopqrstuvwxyzabcdefghijklm nopqrstuvwxyzabcdefghijklm\n",
    ),
    (
        "two",
        "alice> Hello\nalice< Uryyb\nbob> world\nbob< jbeyq\nalice> again\nalice< ntnva\nbob> and again\nbob< naq ntnva\n",
    ),
    ("quit", "> Hello\n> quit\n> more\n< Uryyb\n< dhvg\n: eof\n"),
];

struct Session {
    reader: ReadHalf<ServiceStream>,
    writer: WriteHalf<ServiceStream>,
    fault: Option<Fault>,
    /// The beginning of a line: of this session, but for one fault.
    begun: Rc<RefCell<Vec<u8>>>,
    /// Answers that the stream did not take at once.
    waiting: Vec<Vec<u8>>,
}

impl Session {
    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// Writes what the stream takes at once; the rest waits.
    async fn answer(&mut self, mut line: Vec<u8>) -> io::Result<()> {
        rot13(&mut line);
        if self.has(Fault::ShortWrite) {
            return self.writer.write(&line).await.map(|_| ());
        }
        if self.waiting.is_empty()
            && let Some(count) = self.writer.write(&line).now_or_never()
        {
            line.drain(..count?);
        }
        if !line.is_empty() {
            self.waiting.push(line);
        }
        Ok(())
    }

    /// Writes some of what waits.
    async fn write(&mut self) -> io::Result<()> {
        let next = if self.has(Fault::SwappedAnswers) { self.waiting.len() - 1 } else { 0 };
        let count = self.writer.write(&self.waiting[next]).await?;
        self.waiting[next].drain(..count);
        self.waiting.retain(|line| !line.is_empty());
        Ok(())
    }

    /// Reads what is there; nothing at EOF.
    async fn read(reader: &mut ReadHalf<ServiceStream>, fault: Option<Fault>) -> io::Result<Vec<u8>> {
        let mut input = Vec::new();
        let mut space = [0; 64];
        loop {
            let count = reader.read(&mut space).await?;
            input.extend_from_slice(&space[..count]);
            if count < space.len() || fault != Some(Fault::FullBuffer) {
                return Ok(input);
            }
        }
    }

    /// Reads what is there, and writes meanwhile.
    async fn input(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if self.waiting.is_empty() {
                return Self::read(&mut self.reader, self.fault).await;
            }
            let next = if self.has(Fault::SwappedAnswers) { self.waiting.len() - 1 } else { 0 };
            let written = tokio::select! {
                input = Self::read(&mut self.reader, self.fault) => return input,
                written = self.writer.write(&self.waiting[next]) => written?,
            };
            self.waiting[next].drain(..written);
            self.waiting.retain(|line| !line.is_empty());
        }
    }

    /// Answers all lines of what came. False after `quit`.
    async fn lines(&mut self, mut input: Vec<u8>) -> io::Result<bool> {
        if self.has(Fault::GluedLines) && input == b"\n" {
            return Ok(true);
        }
        let begun = Rc::clone(&self.begun);
        if self.has(Fault::LostAtTheEdge) && !begun.borrow().is_empty() {
            input.remove(0);
        }
        if self.has(Fault::LostCr) && input.ends_with(b"\r") {
            input.pop();
        }
        begun.borrow_mut().extend(input);
        loop {
            let end = begun.borrow().iter().position(|byte| *byte == b'\n');
            let Some(end) = end else { return Ok(true) };
            let line: Vec<_> = begun.borrow_mut().drain(..=end).collect();
            let is_quit = line == b"quit\n";
            self.answer(line).await?;
            if is_quit {
                return Ok(false);
            }
        }
    }

    async fn serve(mut self) -> io::Result<()> {
        loop {
            let input = self.input().await?;
            if input.is_empty() {
                let tail = self.begun.take();
                if !tail.is_empty() && !self.has(Fault::LostTail) {
                    self.answer(tail).await?;
                }
                break;
            }
            if !self.lines(input).await? {
                break;
            }
        }
        if self.has(Fault::LostAfterHalfClose) {
            return self.writer.shutdown().await;
        }
        while !self.waiting.is_empty() {
            self.write().await?;
        }
        if self.has(Fault::ResetAtClose) {
            return Ok(());
        }
        self.writer.shutdown().await?;
        while !Self::read(&mut self.reader, None).await?.is_empty() {}
        Ok(())
    }
}

fn service(fault: Option<Fault>) -> Target {
    Target::streams(move || {
        let shared = Rc::new(RefCell::new(Vec::new()));
        move |stream: ServiceStream| {
            let (reader, writer) = split(stream);
            let begun = if fault == Some(Fault::SharedBuffer) { Rc::clone(&shared) } else { Rc::default() };
            let session = Session { reader, writer, fault, begun, waiting: Vec::new() };
            actix_rt::spawn(async move {
                // A peer that is gone is none of its business.
                let _ = session.serve().await;
            });
        }
    })
}

fn scripts() -> impl Iterator<Item = Script> {
    SCRIPTS
        .into_iter()
        .map(|(name, text)| Script::parse(format!("{name}.session"), text).unwrap_or_else(|error| panic!("\n{error}")))
}

/// How the first script that finds a fault finds it. `None` within if that is a run of the script as it is.
fn found(fault: Fault) -> Option<(Option<String>, String)> {
    scripts().find_map(|script| {
        let failure = script.fuzz(&service(Some(fault)), &ScriptOptions::default(), &Fuzz::default()).err()?;
        Some((failure.case().map(ToString::to_string), failure.to_string()))
    })
}

#[test]
fn a_plain_run_of_the_scripts_finds_two_of_ten() {
    let fails =
        |fault: &Fault| scripts().any(|script| script.run(&service(Some(*fault)), &ScriptOptions::default()).is_err());
    let found: Vec<_> = FAULTS.into_iter().filter(fails).collect();
    assert_eq!(found, [Fault::LostTail, Fault::LostAtTheEdge]);
}

#[test]
fn a_fuzz_of_the_scripts_finds_ten_of_ten() {
    let cases = FAULTS.map(|fault| {
        let (case, report) = found(fault).unwrap_or_else(|| panic!("{fault:?} was not found"));
        // For who runs it with `--nocapture`.
        eprintln!("== {fault:?}\n{report}\n");
        (fault, case)
    });
    let expected = [
        (Fault::LostTail, None),
        (Fault::GluedLines, Some("split:5")),
        (Fault::ResetAtClose, Some("split:11")),
        (Fault::SwappedAnswers, Some("stall:write:2")),
        (Fault::LostAtTheEdge, Some("split:1")),
        (Fault::LostCr, Some("split:6")),
        (Fault::ShortWrite, Some("writes:1")),
        (Fault::SharedBuffer, Some("early:1")),
        (Fault::LostAfterHalfClose, Some("stall:write:1")),
        (Fault::FullBuffer, Some("split:71")),
    ];
    assert_eq!(cases, expected.map(|(fault, case)| (fault, case.map(str::to_owned))));
}

#[test]
fn a_fuzz_finds_nothing_in_the_service_without_a_fault() {
    for script in scripts() {
        let report = script.fuzz(&service(None), &ScriptOptions::default(), &Fuzz::default());
        let report = report.unwrap_or_else(|failure| panic!("\n{failure}"));
        assert_eq!(report.left_out, Vec::<String>::new());
    }
}
