//! The trait that a session's actor implements: a line → what to write.
//!
//! Not here: the socket and the order of the hooks (`context`), where lines end (`framing`).

use actix::Actor;

use crate::{
    report::{CloseReason, CloseReport},
    session::{
        context::LineContext,
        lines::{Line, Lines, Payload},
    },
};

/// The answer of [`LineHandler::idle`] for a session without a line for [`idle_timeout`](crate::LimitsBuilder::idle_timeout).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Idle {
    /// It ends with [`CloseReason::IdleTimeout`]: what is owed is sent, then our FIN.
    #[default]
    End,
    /// It goes on, and its idle clock starts anew.
    Stay,
}

/// A session's actor: what happens for one line, and, where the defaults do not fit, for everything else that a
/// connection may do.
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
    /// One line has come.
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context);

    /// All whole lines of one read have come. The default calls [`line`](Self::line) for each.
    ///
    /// Lines that are left are offered again once `ctx` wants lines again. To leave some though it wants them is
    /// fine, to take none is not: it ends the session with [`CloseReason::HandlerStalled`](crate::CloseReason).
    fn batch(&mut self, lines: &mut Lines<'_>, ctx: &mut Self::Context) {
        while let Some(line) = lines.next(ctx) {
            self.line(line, ctx);
        }
    }

    /// Bytes of a payload have come, which [`LineContext::payload`] asked for. The default drops them: whoever asks for a
    /// payload has this method.
    fn payload(&mut self, _chunk: Payload<'_>, _ctx: &mut Self::Context) {}

    /// The session has begun: the place to greet.
    fn opened(&mut self, _ctx: &mut Self::Context) {}

    /// The peer's bytes have ended without a delimiter. The default treats them as a line, one that is not
    /// [terminated](Line::is_terminated).
    fn tail(&mut self, tail: Line<'_>, ctx: &mut Self::Context) {
        self.line(tail, ctx);
    }

    /// A line has turned out longer than allowed; nothing of it was delivered yet. The framing's
    /// [`Overlong`](crate::Overlong) decides what becomes of it; here an answer may be written, or
    /// [another framing set](LineContext::set_framing), which it is then cut by. The default does nothing.
    fn overlong(&mut self, _ctx: &mut Self::Context) {}

    /// The peer's bytes have ended, and every line of them was delivered; it may still read. The default drains: what is
    /// owed is sent, then the session ends. Without that, the session lives until it is stopped.
    fn eof(&mut self, ctx: &mut Self::Context) {
        ctx.drain();
    }

    /// Messages of others for the peer were dropped, because it does not read or its worker does not keep up: what was said
    /// in a [`Room`](crate::Room), or pushed. Called before the next one is written, with how many were dropped since the
    /// last call, so that something may be written in their place. Also called while the actor waits: what others say is
    /// written then, too. The default does nothing.
    ///
    /// ```
    /// # use actix_lines::{Line, LineContext, LineHandler};
    /// # struct Chatter;
    /// # impl actix::Actor for Chatter { type Context = LineContext<Self>; }
    /// impl LineHandler for Chatter {
    ///     # fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {}
    ///     fn missed(&mut self, messages: u64, ctx: &mut Self::Context) {
    ///         ctx.write(format!("* {messages} messages missed\n").as_bytes());
    ///     }
    /// }
    /// ```
    fn missed(&mut self, _messages: u64, _ctx: &mut Self::Context) {}

    /// Called when no line has come for [`idle_timeout`](crate::LimitsBuilder::idle_timeout), once each time. [`Idle::End`], the
    /// default, ends the session with [`CloseReason::IdleTimeout`]. [`Idle::Stay`] starts the idle clock anew: for protocols
    /// that send a ping first.
    ///
    /// A session that always stays is ended by its [`max_age`](crate::LimitsBuilder::max_age) only.
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
    /// [`write_timeout`](crate::LimitsBuilder::write_timeout), an outbox that is too full, an eviction. Nothing keeps the
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

    /// The session's socket is done with. Not called after a panic; the supervisor has the report in any case.
    fn closed(&mut self, _report: &CloseReport) {}
}
