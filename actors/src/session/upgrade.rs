//! Upgrade: a filter that joins in the middle of a session, as TLS does by STARTTLS.
//!
//! What was written before leaves as before, to its last byte; then the filter is pushed below all others, and what was written
//! meanwhile waits until it is open. Nothing that came in clear behind the line that asked for it is ever taken for something
//! behind the filter: wherever it lies, it ends the session.
//! Not here: driving the filter (`wire/transport`), the rest of a close (`close`).

use std::task::{Context, Poll};

use actix::Actor;

#[cfg(feature = "tls")]
use crate::wire::tls::{client::TlsClient, error::TlsError, info::TlsInfo, server::Tls};
use crate::{
    report::{CloseReason, Half},
    session::{
        context::LineContext,
        handler::LineHandler,
        state::{Failure, Flags, Phase, Turn, Upgrade},
        user_code::Session,
    },
    wire::{filter::Filter, transport::Layer},
};

/// The reason why a session's connection is not upgraded. Nothing has changed when it is returned.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// The session ends, or one of the two directions has ended.
    #[error("the session or one of its directions has ended: upgrade before stop(), drain(), half_close() and eof()")]
    Ended,
    /// A filter is not open yet.
    #[error("another filter is not open yet: wait for the handler's upgraded()")]
    UnderWay,
    /// Bytes of a payload have yet to come: the first part would have come in clear, and the rest behind the filter.
    #[error("{left} bytes of a payload have yet to come: upgrade behind its last chunk, or end it by payload(0)")]
    InPayload {
        /// How many.
        left: u64,
    },
    /// There is TLS already, by the listener or by an earlier `start_tls`.
    #[cfg(feature = "tls")]
    #[error("the connection has TLS already: refuse the peer's command, and do not offer it again")]
    AlreadyTls,
    /// A setting of TLS cannot work.
    #[cfg(feature = "tls")]
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl<A> LineContext<A>
where
    A: Actor<Context = LineContext<A>>,
{
    /// Adds a filter in the middle of the session, nearest to the wire: below all that are there, such as telnet.
    ///
    /// What was written before leaves without it, whole; what is written from now on waits in the outbox until it is open.
    /// Then [`LineHandler::upgraded`](crate::LineHandler::upgraded) is called, and lines come through it. Framing and state of
    /// the actor stay as they are.
    ///
    /// Until then no line is delivered. Bytes that the peer has sent behind the current line, payload chunk or message's
    /// moment end the session with [`CloseReason::UpgradeInjection`](crate::CloseReason::UpgradeInjection), wherever they are
    /// by now: in the same read, in lines that are held back, in an incomplete line, in a filter. They are counted as
    /// undelivered. What the kernel still holds is the new filter's to judge.
    ///
    /// The filter has [`preface_timeout`](crate::limits::LimitsBuilder::preface_timeout) to open
    /// ([`CloseReason::UpgradeTimeout`](crate::CloseReason::UpgradeTimeout)); idle and line clocks stand still meanwhile. A
    /// session that ends in between, by whatever cause, sends what was written before, and counts the rest as unsent.
    ///
    /// # Errors
    /// Returns an [`UpgradeError`] if the session is ending, if another filter is not open yet, or in a payload.
    pub fn push_filter(&mut self, filter: impl Filter) -> Result<(), UpgradeError> {
        self.check_upgrade()?;
        self.begin_upgrade(Layer::new(filter));
        Ok(())
    }

    /// Begins TLS on the peer's request, as a server: STARTTLS. Write the line that grants it before. Otherwise as
    /// [`push_filter`](Self::push_filter). Needs the feature `tls`.
    ///
    /// # Errors
    /// As [`push_filter`](Self::push_filter); [`UpgradeError::AlreadyTls`] if there is TLS.
    ///
    /// ```
    /// use actix::Actor;
    /// use actix_lines::{Line, LineContext, LineHandler, tls::Tls};
    ///
    /// struct Mail {
    ///     tls: Tls,
    ///     sender: Option<Vec<u8>>,
    /// }
    ///
    /// impl Actor for Mail {
    ///     type Context = LineContext<Self>;
    /// }
    ///
    /// impl LineHandler for Mail {
    ///     fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
    ///         match line.text() {
    ///             b"STARTTLS" if ctx.connection().tls().is_some() => ctx.write("503 5.5.1 TLS already\r\n"),
    ///             b"STARTTLS" => {
    ///                 ctx.write("220 2.0.0 Go ahead\r\n");
    ///                 if ctx.start_tls(&self.tls).is_err() {
    ///                     ctx.abort();
    ///                 }
    ///             }
    ///             sender => self.sender = Some(sender.to_vec()),
    ///         }
    ///     }
    ///
    ///     fn upgraded(&mut self, _ctx: &mut Self::Context) {
    ///         // Anybody may have said it.
    ///         self.sender = None;
    ///     }
    /// }
    /// ```
    #[cfg(feature = "tls")]
    pub fn start_tls(&mut self, tls: &Tls) -> Result<(), UpgradeError> {
        self.check_tls()?;
        self.begin_upgrade(tls.layer());
        Ok(())
    }

    /// Begins TLS as a client, behind the line by which the server has granted it; `server` is the name or address that its
    /// certificate has to have, with or without a port. For sessions of a [`Connector`](crate::connect::Connector). Write
    /// the next command in [`upgraded`](crate::LineHandler::upgraded), or at once: it waits for the handshake. Otherwise as
    /// [`push_filter`](Self::push_filter). Needs the feature `tls`.
    ///
    /// # Errors
    /// As [`start_tls`](Self::start_tls); [`UpgradeError::Tls`] if `server` is neither a name nor an address.
    #[cfg(feature = "tls")]
    pub fn start_tls_client(&mut self, tls: &TlsClient, server: &str) -> Result<(), UpgradeError> {
        self.check_tls()?;
        let name = tls.name_for(server)?;
        self.begin_upgrade(tls.layer(name));
        Ok(())
    }

    #[cfg(feature = "tls")]
    fn check_tls(&self) -> Result<(), UpgradeError> {
        self.check_upgrade()?;
        match self.connection().info::<TlsInfo>() {
            Some(_) => Err(UpgradeError::AlreadyTls),
            None => Ok(()),
        }
    }

    fn check_upgrade(&self) -> Result<(), UpgradeError> {
        const ENDS: Flags = Flags::STOP
            .union(Flags::ABORT)
            .union(Flags::CLOSE)
            .union(Flags::PEER_EOF)
            .union(Flags::EOF_CALLED)
            .union(Flags::HALF_CLOSE)
            .union(Flags::FIN_SENT);
        if self.phase != Phase::Open || self.has(ENDS) || self.transport.is_unwritable() {
            return Err(UpgradeError::Ended);
        }
        if self.has(Flags::UPGRADING) || !self.transport.is_open() {
            return Err(UpgradeError::UnderWay);
        }
        match self.payload_left() {
            0 => Ok(()),
            left => Err(UpgradeError::InPayload { left }),
        }
    }

    fn begin_upgrade(&mut self, layer: Layer) {
        let clear = self.outbox_len();
        self.extra().upgrade = Some(Box::new(Upgrade { layer, clear }));
        self.set(Flags::UPGRADING | Flags::AGAIN);
    }

    /// The filter that waits for what was written before it.
    pub(super) fn upgrade_mut(&mut self) -> Option<&mut Upgrade> {
        self.extra.as_mut()?.upgrade.as_deref_mut()
    }

    fn take_upgrade(&mut self) -> Option<Box<Upgrade>> {
        self.extra.as_mut()?.upgrade.take()
    }
}

impl<A: LineHandler> Session<A> {
    /// Sends what was written before the filter, then pushes it. Returns true if the outbox is the filter's, which is open.
    pub(super) fn flush_in_clear(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Result<bool, Failure> {
        let Some(&mut Upgrade { clear, .. }) = self.ctx.upgrade_mut() else {
            return Ok(self.ctx.transport.is_open());
        };
        if self.ctx.input.len() > self.ctx.start as usize || self.ctx.transport.held() > 0 {
            self.ctx.set_reason(CloseReason::UpgradeInjection);
            self.ctx.set(Flags::CLOSE | Flags::AGAIN);
            return Ok(false);
        }
        let before = self.ctx.outbox_len();
        // A filter's own words as well.
        if self.ctx.transport.is_unflushed() {
            self.ctx.set(Flags::UNFLUSHED);
        }
        self.send(before - clear.min(before), cx, turn)?;
        let clear = clear.saturating_sub(before - self.ctx.outbox_len());
        let is_sent = clear == 0 && !self.ctx.has(Flags::UNFLUSHED | Flags::FIN_SENT);
        if is_sent && let Some(upgrade) = self.ctx.take_upgrade() {
            self.ctx.transport.push_layer(upgrade.layer);
            self.ctx.set(Flags::AGAIN);
        } else if let Some(upgrade) = self.ctx.upgrade_mut() {
            upgrade.clear = clear;
        }
        Ok(false)
    }

    /// Drives the filter on that joins in, if there is one and nothing else comes first.
    #[cold]
    pub(super) fn upgrade(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        if !self.ctx.has(Flags::UPGRADING) || self.ctx.has(Flags::INTERRUPT_UPGRADE) {
            return Ok(());
        }
        if self.ctx.phase != Phase::Open {
            // Nothing comes any more.
            self.ctx.clear(Flags::LAST_READ);
            return Ok(());
        }
        let is_waiting = self.ctx.has(Flags::WAITING);
        // While the actor waits its own deadline counts, which is the only one; behind that this one begins anew.
        if !is_waiting && !self.ctx.worker.slot(self.ctx.slot, |slot| slot.has_deadline()) {
            self.ctx.worker.set_deadline(self.ctx.slot, self.ctx.worker.limits().preface_timeout);
        }
        if self.ctx.upgrade_mut().is_some() {
            return Ok(());
        }
        let poll = self.ctx.transport.poll_open(cx);
        if self.ctx.transport.is_unflushed() {
            self.ctx.set(Flags::UNFLUSHED);
        }
        let Poll::Ready(result) = poll else { return Ok(()) };
        result.map_err(|error| (Half::Read, error))?;
        if !self.ctx.transport.is_open() {
            match self.ctx.transport.ending() {
                Some(ending) => self.end_by_filter(ending),
                None => {
                    self.ctx.set(Flags::PEER_EOF);
                    self.ctx.drain_because(CloseReason::PeerEof);
                }
            }
        } else if !is_waiting {
            self.ctx.clear(Flags::UPGRADING);
            self.ctx.set(Flags::AGAIN);
            self.ctx.worker.slot(self.ctx.slot, |slot| slot.clear_deadline());
            self.guarded(|actor, ctx| actor.upgraded(ctx));
        }
        Ok(())
    }

    /// The session ends before its filter was open: all that was not written in clear is unsent.
    #[cold]
    pub(super) fn abandon_upgrade(&mut self) {
        self.ctx.clear(Flags::UPGRADING);
        match self.ctx.take_upgrade() {
            Some(upgrade) => self.discard_outbox(upgrade.clear),
            None if !self.ctx.transport.is_open() => self.discard_outbox(0),
            None => {}
        }
    }
}
