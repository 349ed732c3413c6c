//! The trait that a session's actor implements: a line → what to write.
//!
//! Not here: the socket and the order of the hooks (`context`), where lines end (`framing`).

use actix::Actor;

use crate::{
    report::CloseReport,
    session::{
        context::LineContext,
        lines::{Line, Lines, Payload},
    },
};

/// A session's actor: what happens for one line, and, where the defaults do not fit, for everything else that a
/// connection may do.
///
/// The actor is an ordinary one: it may handle any message, spawn futures, set timers, wait. Hooks come in this order:
/// [`Actor::started`], [`opened`](Self::opened), lines and [`payload`](Self::payload) in between, [`tail`](Self::tail) and [`eof`](Self::eof) once the
/// peer's bytes have ended, [`Actor::stopping`], [`closed`](Self::closed), [`Actor::stopped`]. After a panic in any of
/// them none is called again.
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

    /// The session's socket is done with. Not called after a panic; the supervisor has the report in any case.
    fn closed(&mut self, _report: &CloseReport) {}
}
