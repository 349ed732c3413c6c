//! Handler: `LineHandler`, the trait that a session's actor implements.
//!
//! Not here: calling the hooks (`input`, `close`), delimiters (`framing`).

use actix::Actor;

use crate::{
    report::{CloseReason, CloseReport},
    session::{
        context::LineContext,
        lines::{Line, Lines, Payload},
    },
    wire::filter::Notice,
};

/// The answer of [`LineHandler::idle`] for a session without a line for [`idle_timeout`](crate::limits::LimitsBuilder::idle_timeout).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Idle {
    /// It ends with [`CloseReason::IdleTimeout`]: what is owed is sent, then our FIN.
    #[default]
    End,
    /// It goes on, and its idle clock starts anew.
    Stay,
}

/// A session's actor: its hooks for a line and, where the defaults do not fit, for every other event of a connection.
///
/// The actor is an ordinary one: it may handle any message, spawn futures, set timers, wait. Hooks come in this order:
/// [`Actor::started`], [`opened`](Self::opened), lines and [`payload`](Self::payload) in between, [`tail`](Self::tail) and [`eof`](Self::eof) once the
/// peer's bytes have ended, [`Actor::stopping`], [`ending`](Self::ending), [`closed`](Self::closed), [`Actor::stopped`]. After a
/// panic in any of them none is called again.
///
/// ```
/// use actix::Actor;
/// use actix_lines::{Line, LineContext, LineHandler};
///
/// struct Greeter;
///
/// impl Actor for Greeter {
///     type Context = LineContext<Self>;
/// }
///
/// impl LineHandler for Greeter {
///     fn opened(&mut self, ctx: &mut Self::Context) {
///         ctx.write(b"What is your name?\n");
///     }
///
///     fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
///         ctx.write(b"Hello, ");
///         ctx.write(&line);
///         ctx.drain();
///     }
/// }
/// ```
pub trait LineHandler: Actor<Context = LineContext<Self>> {
    /// Called for each line.
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context);

    /// Called with all whole lines of one read. The default calls [`line`](Self::line) for each.
    ///
    /// Lines that are left are offered again once `ctx` wants lines again. A call may leave some although `ctx` wants
    /// them, but must not leave all: that ends the session with [`CloseReason::HandlerStalled`](crate::CloseReason).
    fn batch(&mut self, lines: &mut Lines<'_>, ctx: &mut Self::Context) {
        while let Some(line) = lines.next(ctx) {
            self.line(line, ctx);
        }
    }

    /// Called with each chunk of a payload, which [`LineContext::payload`] asked for. The default drops it: override
    /// this hook if you call that method.
    fn payload(&mut self, _chunk: Payload<'_>, _ctx: &mut Self::Context) {}

    /// Called with what a [filter](crate::filter) tells, such as telnet's interrupt, "are you there" and window size: after
    /// all lines that came before it on the wire, and before those that came after it. What had come of a line by then is
    /// delivered with that line. As lines, it waits while the actor waits, is paused or is above its high watermark.
    ///
    /// The default writes the notice's [own answer](Notice::answer), as an override should for notices that it does not know.
    ///
    /// ```
    /// # #[cfg(feature = "telnet")]
    /// # mod telnet {
    /// use actix_lines::{Line, LineContext, LineHandler, filter::Notice, telnet::TelnetEvent};
    /// # struct Desk;
    /// # impl actix::Actor for Desk { type Context = LineContext<Self>; }
    ///
    /// impl LineHandler for Desk {
    ///     # fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {}
    ///     fn notice(&mut self, notice: &Notice, ctx: &mut Self::Context) {
    ///         match notice.get() {
    ///             Some(TelnetEvent::Interrupt) => ctx.write("cancelled\r\n"),
    ///             Some(TelnetEvent::WindowSize(size)) => writeln!(ctx, "{} columns\r", size.columns),
    ///             _ => ctx.write(notice.answer()),
    ///         }
    ///     }
    /// }
    /// # }
    /// ```
    fn notice(&mut self, notice: &Notice, ctx: &mut Self::Context) {
        ctx.write(notice.answer());
    }

    /// Called when the session has begun: the place for a greeting. The default does nothing.
    fn opened(&mut self, _ctx: &mut Self::Context) {}

    /// Called with the bytes after the last delimiter when the peer's bytes have ended. The default calls
    /// [`line`](Self::line) with a line that is not [terminated](Line::is_terminated).
    fn tail(&mut self, tail: Line<'_>, ctx: &mut Self::Context) {
        self.line(tail, ctx);
    }

    /// Called when a line is longer than allowed, before any of it is delivered. The framing's
    /// [`Overlong`](crate::Overlong) policy is applied afterwards; this hook may write an answer, or [set another
    /// framing](LineContext::set_framing), which then cuts this line. The default does nothing.
    fn overlong(&mut self, _ctx: &mut Self::Context) {}

    /// Called when the peer's bytes have ended and every line was delivered; the peer may still read. The default
    /// drains: it sends what is owed, then ends the session. An override that does not end the session leaves it open
    /// until something else does.
    fn eof(&mut self, ctx: &mut Self::Context) {
        ctx.drain();
    }

    /// Called when a filter that has joined in the middle of the session is open: after
    /// [`push_filter`](LineContext::push_filter), or `start_tls` with its handshake over. The peer's next line comes through
    /// it, and [`connection`](LineContext::connection) has what it has found out. The place to forget what the peer has said
    /// before, and for a client's next command. If the session waits, it is called behind that. The default does nothing.
    fn upgraded(&mut self, _ctx: &mut Self::Context) {}

    /// Called when messages of others for this peer were dropped, because the peer does not read or its worker does not
    /// keep up: messages in a [`Room`](crate::Room), or pushes. It is called before the next one is written, with the
    /// number dropped since the last call, so that it can write a note in their place. Also called while the actor
    /// waits, since messages of others are written then, too. The default does nothing.
    ///
    /// ```
    /// # use actix_lines::{Line, LineContext, LineHandler};
    /// # struct Chatter;
    /// # impl actix::Actor for Chatter { type Context = LineContext<Self>; }
    /// impl LineHandler for Chatter {
    ///     # fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {}
    ///     fn missed(&mut self, messages: u64, ctx: &mut Self::Context) {
    ///         writeln!(ctx, "* {messages} messages missed");
    ///     }
    /// }
    /// ```
    fn missed(&mut self, _messages: u64, _ctx: &mut Self::Context) {}

    /// Called when no line has come for [`idle_timeout`](crate::limits::LimitsBuilder::idle_timeout), once each time. [`Idle::End`], the
    /// default, ends the session with [`CloseReason::IdleTimeout`]. [`Idle::Stay`] starts the idle clock anew: for protocols
    /// that send a ping first.
    ///
    /// A session that always stays is ended by its [`max_age`](crate::limits::LimitsBuilder::max_age) only.
    ///
    /// ```
    /// # use actix_lines::{Idle, Line, LineContext, LineHandler};
    /// #[derive(Default)]
    /// struct Chatter {
    ///     pinged: bool,
    /// }
    /// # impl actix::Actor for Chatter { type Context = LineContext<Self>; }
    ///
    /// impl LineHandler for Chatter {
    ///     fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {
    ///         self.pinged = false;
    ///     }
    ///
    ///     fn idle(&mut self, ctx: &mut Self::Context) -> Idle {
    ///         if std::mem::replace(&mut self.pinged, true) {
    ///             return Idle::End;
    ///         }
    ///         ctx.write(b"PING\r\n");
    ///         Idle::Stay
    ///     }
    /// }
    /// ```
    fn idle(&mut self, _ctx: &mut Self::Context) -> Idle {
        Idle::End
    }

    /// Called once when the session begins to end, for the `reason` that is in its report too: the place to say goodbye. The
    /// default does nothing.
    ///
    /// It comes after the last line, [`tail`](Self::tail), [`eof`](Self::eof) and [`stopping`](actix::Actor::stopping), so a
    /// veto prevents it. Its output comes last: after each answer owed, pushes and the server's goodbye, before our FIN.
    /// After a [`half_close`](LineContext::half_close), or if the socket has failed ([`CloseReason::PeerReset`],
    /// [`CloseReason::Io`]), the output counts as unsent.
    ///
    /// Not called after a panic, nor if the session is cut: by an [`abort`](LineContext::abort),
    /// [`write_timeout`](crate::limits::LimitsBuilder::write_timeout), an outbox that is too full, an eviction. Nothing keeps the
    /// session from ending: `stop` and `drain` change nothing here, and futures are dropped.
    ///
    /// ```
    /// use actix_lines::CloseReason;
    /// # use actix_lines::{Line, LineContext, LineHandler};
    /// # struct Mail;
    /// # impl actix::Actor for Mail { type Context = LineContext<Self>; }
    ///
    /// impl LineHandler for Mail {
    ///     # fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {}
    ///     fn ending(&mut self, reason: &CloseReason, ctx: &mut Self::Context) {
    ///         match reason {
    ///             CloseReason::IdleTimeout => ctx.write(b"421 4.4.2 Timeout, closing\r\n"),
    ///             CloseReason::Drained | CloseReason::Kicked => ctx.write(b"421 4.3.2 Shutting down\r\n"),
    ///             _ => {}
    ///         }
    ///     }
    /// }
    /// ```
    fn ending(&mut self, _reason: &CloseReason, _ctx: &mut Self::Context) {}

    /// Called when the session's socket is closed. Not called after a panic; the supervisor gets the report in any
    /// case. The default does nothing.
    fn closed(&mut self, _report: &CloseReport) {}
}
