//! Opening: everything that a session begins with, and the only way to begin one.
//!
//! Every connection becomes an [`Opening`] on its worker. From then on a report is owed: by its session, or by the
//! opening itself if no session begins. The actor is made last, when all else is there.
//! Not here: admission (`control/admission`), the running session (`turn`).

use std::{
    any::Any,
    cell::{Cell, OnceCell},
    mem,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    rc::Rc,
};

use tokio::{sync::oneshot, time::Instant};

use crate::{
    caught::{dispose, drop_caught, panic_text},
    connection::{Connection, SessionId},
    control::admission::listener::Place,
    framing::{Framing, Overrun, Reach},
    report::{CloseReason, CloseReport, RefuseReason},
    session::{
        context::LineContext,
        handler::LineHandler,
        state::{Flags, Phase},
        user_code::Session,
    },
    wire::transport::Transport,
    worker::{
        clock::Standing,
        command::Commands,
        reports::Counts,
        slot::SlotMut,
        worker::{PANIC, Worker},
    },
};

/// Everything that a session begins with. Dropped before its session is there, it closes the connection, gives back the
/// place, and leaves the report.
#[must_use = "a connection becomes a session when it is opened"]
pub(crate) struct Opening {
    pub(super) worker: Rc<Worker>,
    pub(super) transport: Transport,
    pub(super) connection: Connection,
    framing: Framing,
    pub(super) slot: u32,
    /// The session has the slot, and owes the report.
    has_begun: bool,
    /// Subscribers know of it.
    is_announced: bool,
    /// Its peer closed first, or it was a silent check of a proxy's: nothing that was on its way is lost.
    is_at_rest: bool,
    /// Bytes read before, in order: the session's first input. Counted when the session begins, as if it had read them.
    pub(crate) input: Vec<u8>,
    /// Counters so far, without `input`.
    pub(crate) counts: Counts,
    /// Beginning of the session, if that is earlier than now.
    pub(crate) opened: Option<Instant>,
}

/// The way to one session for whoever opened it.
pub(crate) struct SessionRef {
    worker: Rc<Worker>,
    slot: u32,
    pub(crate) id: SessionId,
}

impl SessionRef {
    /// Sends the session a command, if it still lives.
    pub(crate) fn send(&self, command: Commands) {
        self.worker.send(self.slot, self.id, command);
    }
}

/// The factory of a session's actor has panicked. Its connection is closed and reported as
/// [`CloseReason::HandlerPanicked`].
#[must_use]
pub(crate) struct FactoryPanicked {
    worker: Rc<Worker>,
    id: SessionId,
    payload: Box<dyn Any + Send>,
}

impl FactoryPanicked {
    /// Logs the panic, as often as its worker logs panics.
    pub(crate) fn log(self) {
        let Self { worker, id, payload } = self;
        if let Some(events) = worker.panics.pass(&PANIC, "") {
            let text = panic_text(&*payload);
            log::error!(session = id.get(), count = events; "session {id}: the factory of its actor panicked: {text}{events}");
        }
        dispose(payload);
    }

    /// Goes on with the panic, for a factory that the caller has called.
    pub(crate) fn resume(self) -> ! {
        resume_unwind(self.payload)
    }
}

impl Opening {
    /// Makes a connection one of the worker's sessions to be: it has a slot, and owes a report. The worker has the limits.
    pub(crate) fn new(
        worker: &Rc<Worker>,
        transport: Transport,
        connection: Connection,
        place: Option<Place>,
        framing: Framing,
    ) -> Self {
        let slot = worker.open(&connection, place);
        Self {
            worker: Rc::clone(worker),
            transport,
            connection,
            framing,
            slot,
            has_begun: false,
            is_announced: false,
            is_at_rest: false,
            input: Vec::new(),
            counts: Counts::default(),
            opened: None,
        }
    }

    /// Returns what the report comes by, besides the ways of any report.
    pub(crate) fn watch(&mut self) -> oneshot::Receiver<CloseReport> {
        let (report_to, report) = oneshot::channel();
        self.worker.slot(self.slot, |slot| slot.set_report_to(report_to));
        report
    }

    /// Returns the connection, with what its filters have found out once their preface is over.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Returns true if something is between the wire and the lines.
    pub(crate) fn is_filtered(&self) -> bool {
        self.transport.is_filtered()
    }

    /// Charges a connection without filters to its peer, if a filter was to do that: it was accepted by a listener that has
    /// been replaced since. An error over a limit of the peer's.
    pub(crate) fn charge(&self) -> Result<(), RefuseReason> {
        let peer = &self.connection.peer;
        let charge = |slot: &mut SlotMut<'_>| if slot.is_charged_to(peer) { Ok(()) } else { slot.recharge(peer) };
        self.worker.slot(self.slot, charge).inspect_err(|reason| self.worker.log_refused(&self.connection, *reason))
    }

    /// Ends the connection before it was a session.
    pub(crate) fn fail(self, reason: CloseReason) {
        self.worker.slot(self.slot, |slot| slot.set_reason(reason));
    }

    /// The same, of one that loses nothing by it.
    pub(super) fn end_at_rest(mut self, reason: CloseReason) {
        self.is_at_rest = true;
        self.fail(reason);
    }

    /// Spawns the session on the current arbiter. Its actor is made with the context at hand, by `make`, which may return
    /// something besides.
    ///
    /// # Errors
    /// [`FactoryPanicked`] if `make` has panicked; then there is no session.
    ///
    /// # Panics
    /// Outside of an actix arbiter, as [`actix_rt::spawn`] does.
    pub(crate) fn open<A, R>(
        mut self,
        make: impl FnOnce(&mut LineContext<A>) -> (A, R),
    ) -> Result<(SessionRef, R), FactoryPanicked>
    where
        A: LineHandler,
    {
        self.announce();
        self.book();
        self.has_begun = true;
        let Self { connection: Connection { id, .. }, framing, slot, .. } = self;
        let worker = Rc::clone(&self.worker);
        let input = mem::take(&mut self.input);
        // A preface may have read whole lines: they are delivered before anything is read.
        let (flags, scanned) = match input.is_empty() {
            true => (Flags::empty(), 0),
            false => (Flags::UNDELIVERED_LINES, Reach::ALL.to_bits()),
        };
        let mut session = Session {
            ctx: LineContext {
                transport: self.transport.take(),
                worker: Rc::clone(&worker),
                mailbox: OnceCell::new(),
                extra: None,
                outbox: None,
                input,
                start: 0,
                scanned,
                slot,
                flags: Cell::new(flags),
                framing,
                phase: Phase::Open,
                overrun: Overrun::None,
            },
            actor: None,
        };
        match catch_unwind(AssertUnwindSafe(|| make(&mut session.ctx))) {
            Ok((actor, made)) => {
                session.actor = Some(actor);
                actix_rt::spawn(session);
                Ok((SessionRef { worker, slot, id }, made))
            }
            Err(payload) => {
                session.ctx.set_reason(CloseReason::HandlerPanicked);
                // It ends as one that its arbiter stops: what the factory wrote still leaves.
                drop(session);
                Err(FactoryPanicked { worker, id, payload })
            }
        }
    }

    /// Tells subscribers of the session, once.
    fn announce(&mut self) {
        if !std::mem::replace(&mut self.is_announced, true) {
            self.worker.announce(&self.connection);
        }
    }

    /// Books what the session begins with.
    fn book(&self) {
        let Self { worker, slot, counts, input, opened, .. } = self;
        worker.slot(*slot, |slot| slot.resume(counts, *opened));
        if !input.is_empty() {
            let read = Counts { bytes_in: input.len() as u64, ..Counts::default() };
            worker.end_turn(*slot, &read, 0, input.capacity(), Standing::OPEN | Standing::PARTIAL);
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if self.has_begun {
            return;
        }
        self.announce();
        self.book();
        let tail = self.framing.tail_len(&self.input);
        self.worker.slot(self.slot, |slot| {
            slot.add_undelivered(self.input.len());
            slot.add_tail(tail);
        });
        if self.transport.is_filtered() {
            let report = self.worker.slot(self.slot, |slot| slot.report(!self.is_at_rest));
            self.transport.tell_closed(&report);
        }
        // Closed before its place is given back: there are never more sockets than places.
        let transport = self.transport.take();
        drop_caught(transport);
        self.worker.close(self.slot, !self.is_at_rest);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        io::{Cursor, ErrorKind},
        sync::Arc,
        time::Duration,
    };

    use actix::{Actor, AsyncContext, fut::wrap_future};
    use futures::task::noop_waker_ref;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::{
        address::Address,
        control::admission::{
            Admission,
            listener::{ListenerAdmission, Ticket},
        },
        framing::Overlong,
        limits::{Limits, ListenerLimits, SessionLimits},
        rate::{Rate, RateLimit},
        report::Half,
        rot13::Rot13,
        session::lines::{Line, Lines, Payload},
        wire::stream::ByteStream,
        worker::task,
    };

    /// How the lines are taken.
    #[derive(Clone, Copy, Debug)]
    enum Taking {
        Blocks,
        /// One of each block, and a wait after it.
        Waiting,
        /// None before a second is over.
        Paused,
        /// The first three bytes are a payload.
        Payload,
    }

    type Log = Rc<RefCell<Vec<(Vec<u8>, bool)>>>;

    struct Taker(Taking, Log);

    impl Actor for Taker {
        type Context = LineContext<Self>;
    }

    impl LineHandler for Taker {
        fn opened(&mut self, ctx: &mut Self::Context) {
            match self.0 {
                Taking::Paused => {
                    ctx.pause();
                    ctx.run_later(Duration::from_secs(1), |_, ctx| ctx.resume());
                }
                Taking::Payload => ctx.payload(3),
                Taking::Blocks | Taking::Waiting => {}
            }
        }

        fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
            ctx.write(&line);
            self.1.borrow_mut().push((line.to_vec(), line.is_terminated()));
        }

        fn batch(&mut self, lines: &mut Lines<'_>, ctx: &mut Self::Context) {
            while let Some(line) = lines.next(ctx) {
                self.line(line, ctx);
                if matches!(self.0, Taking::Waiting) {
                    ctx.wait(wrap_future::<_, Self>(tokio::task::yield_now()));
                }
            }
        }

        fn payload(&mut self, chunk: Payload<'_>, _: &mut Self::Context) {
            // How it is cut does not count.
            let mut log = self.1.borrow_mut();
            chunk.iter().for_each(|byte| log.push((vec![*byte], false)));
        }
    }

    fn worker() -> Rc<Worker> {
        task::standalone(SessionLimits::default())
    }

    fn opening(stream: impl ByteStream, place: Option<Place>, framing: Framing) -> Opening {
        let connection = Connection::between(Address::Memory, Address::Memory);
        Opening::new(&worker(), Transport::new(stream), connection, place, framing)
    }

    fn pair() -> (DuplexStream, DuplexStream) {
        tokio::io::duplex(4096)
    }

    /// What becomes of `bytes` if the first `before` of them were read before the session: lines, answer, and report.
    async fn outcome(taking: Taking, framing: Framing, bytes: &[u8], before: usize) -> (Log, Vec<u8>, CloseReport) {
        let (ours, mut theirs) = pair();
        theirs.write_all(&bytes[before..]).await.unwrap();
        theirs.shutdown().await.unwrap();
        let log = Log::default();
        let mut opening = opening(ours, None, framing);
        opening.input = bytes[..before].to_vec();
        let report = opening.watch();
        assert!(opening.open(|_| (Taker(taking, Rc::clone(&log)), ())).is_ok());
        let mut answer = Vec::new();
        theirs.read_to_end(&mut answer).await.unwrap();
        (log, answer, report.await.unwrap())
    }

    #[actix::test]
    async fn input_that_was_read_before_is_delivered_first_once_and_counted_as_if_the_session_had_read_it() {
        tokio::time::pause();
        let short = |framing: Framing, policy| framing.max_line(5).unwrap().overlong(policy);
        let policies = [Overlong::Pieces, Overlong::Split, Overlong::Truncate, Overlong::Close];
        let bytes = b"one\r\ntwo\0\nlonger than five\r\n\n\0three\0\r\ntail";
        for taking in [Taking::Blocks, Taking::Waiting, Taking::Paused, Taking::Payload] {
            for framing in [Framing::lf(), Framing::lf().keep_cr(), Framing::crlf(), Framing::nul()] {
                for framing in policies.map(|policy| short(framing, policy)).into_iter().chain([framing]) {
                    let (log, answer, report) = outcome(taking, framing, bytes, 0).await;
                    for before in 1..=bytes.len() {
                        let what = format!("{taking:?}, {framing:?}, {before} bytes before");
                        let (its_log, its_answer, its_report) = outcome(taking, framing, bytes, before).await;
                        assert_eq!(*its_log.borrow(), *log.borrow(), "{what}");
                        assert_eq!(its_answer, answer, "{what}");
                        let counts = |report: &CloseReport| {
                            let CloseReport { lines_in, bytes_in, bytes_out, tail_bytes, .. } = *report;
                            // A line that is too long closes, whatever comes behind it: that may be read or not.
                            let all = (report.reason != CloseReason::Overlong).then_some((bytes_in, tail_bytes));
                            (report.reason, lines_in, bytes_in - report.undelivered_bytes, bytes_out, report.cut, all)
                        };
                        assert_eq!(counts(&its_report), counts(&report), "{what}");
                    }
                }
            }
        }
    }

    #[actix::test]
    async fn input_that_was_read_before_has_the_rate_of_what_is_read() {
        tokio::time::pause();
        let bytes = Some(Rate { per_second: 100, burst: 100 });
        let limits = Limits::builder().session_rate(RateLimit { bytes, lines: None }).build().unwrap();
        let (ours, mut theirs) = pair();
        let connection = Connection::between(Address::Memory, Address::Memory);
        let worker = task::standalone(limits.into());
        let mut opening = Opening::new(&worker, Transport::new(ours), connection, None, Framing::lf());
        opening.input = b"x\n".repeat(50);
        assert!(opening.open(|_| (Rot13, ())).is_ok());
        let begin = Instant::now();
        theirs.write_all(b"y\n").await.unwrap();
        let mut answer = [0; 102];
        theirs.read_exact(&mut answer[..100]).await.unwrap();
        assert_eq!(begin.elapsed(), Duration::ZERO, "what was read is delivered at once");
        theirs.read_exact(&mut answer[100..]).await.unwrap();
        assert_eq!(answer[..], *[b"k\n".repeat(50), b"l\n".to_vec()].concat());
        assert!(begin.elapsed() > Duration::ZERO, "its bucket was empty");
    }

    #[actix::test]
    async fn counters_and_age_of_a_session_that_began_elsewhere_go_on() {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(100)).await;
        let (ours, mut theirs) = pair();
        let mut opening = opening(ours, None, Framing::lf());
        opening.input = b"two\nthr".to_vec();
        opening.counts = Counts { lines_in: 1, bytes_in: 4, bytes_out: 4, ..Counts::default() };
        opening.opened = Some(Instant::now() - Duration::from_secs(60));
        let report = opening.watch();
        assert!(opening.open(|_| (Rot13, ())).is_ok());
        theirs.write_all(b"ee\n").await.unwrap();
        theirs.shutdown().await.unwrap();
        theirs.read_to_end(&mut Vec::new()).await.unwrap();
        let report = report.await.unwrap();
        assert_eq!((report.lines_in, report.bytes_in, report.bytes_out), (3, 14, 14), "{report:?}");
        assert!(report.duration >= Duration::from_secs(60), "{report:?}");
    }

    /// A server's admission with one place, and that place.
    fn one_place() -> (Arc<ListenerAdmission>, Place) {
        let server = Admission::new(Limits::builder().max_sessions(1).build().unwrap().admission);
        let admission = ListenerAdmission::new(&server, ListenerLimits::default());
        let place = match admission.ticket(noop_waker_ref()) {
            Ticket::Place(mut place) => {
                place.admit(Address::Memory).unwrap();
                place
            }
            _ => panic!("the place is free"),
        };
        (admission, place)
    }

    fn is_free(admission: &Arc<ListenerAdmission>) -> bool {
        matches!(admission.ticket(noop_waker_ref()), Ticket::Place(_))
    }

    #[actix::test]
    async fn an_opening_that_never_was_a_session_closes_gives_back_its_place_and_leaves_one_report() {
        for reason in [CloseReason::WorkerStopped, CloseReason::Io(Half::Read, ErrorKind::Other)] {
            let (admission, place) = one_place();
            let (ours, mut theirs) = pair();
            let mut opening = opening(ours, Some(place), Framing::lf());
            opening.input = b"line\ntail".to_vec();
            let report = opening.watch();
            assert!(!is_free(&admission));
            match reason {
                CloseReason::WorkerStopped => drop(opening),
                reason => opening.fail(reason),
            }
            assert!(is_free(&admission));
            assert_eq!(theirs.read_to_end(&mut Vec::new()).await.unwrap(), 0, "it is closed");
            let report = report.await.unwrap();
            assert_eq!((report.reason, report.cut), (reason, true));
            let CloseReport { lines_in, bytes_in, undelivered_bytes, tail_bytes, .. } = report;
            assert_eq!((lines_in, bytes_in, undelivered_bytes, tail_bytes), (0, 9, 9, 4));
        }
    }

    #[actix::test]
    async fn a_factory_that_panics_leaves_no_session_but_its_report_and_its_place() {
        let (admission, place) = one_place();
        let (ours, mut theirs) = pair();
        let mut opening = opening(ours, Some(place), Framing::lf());
        opening.input = b"line\n".to_vec();
        let report = opening.watch();
        let made = opening.open(|ctx: &mut LineContext<Rot13>| -> (Rot13, ()) {
            ctx.spawn(wrap_future(std::future::pending()));
            ctx.write(b"hello\n");
            panic!("a fault on purpose, where an actor is made");
        });
        assert!(made.is_err());
        assert!(is_free(&admission));
        assert_eq!(theirs.read_to_end(&mut Vec::new()).await.unwrap(), 0, "it is closed");
        let report = report.await.unwrap();
        assert_eq!((report.reason, report.cut), (CloseReason::HandlerPanicked, true));
        assert_eq!((report.bytes_in, report.undelivered_bytes, report.unsent_bytes), (5, 5, 6), "{report:?}");
    }

    #[actix::test]
    async fn a_transport_that_panics_when_it_is_closed_keeps_no_place() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("a fault on purpose, where a transport is closed");
            }
        }
        impl AsRef<[u8]> for Bomb {
            fn as_ref(&self) -> &[u8] {
                b"line\n"
            }
        }
        let (admission, place) = one_place();
        let transport = tokio::io::join(Cursor::new(Bomb), tokio::io::sink());
        drop(opening(transport, Some(place), Framing::lf()));
        assert!(is_free(&admission));
    }
}
