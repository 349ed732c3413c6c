//! The names that most programs need: `use actix_lines::prelude::*;`.
//!
//! ```no_run
//! use actix_lines::prelude::*;
//!
//! struct Echo;
//!
//! impl Actor for Echo {
//!     type Context = LineContext<Self>;
//! }
//!
//! impl LineHandler for Echo {
//!     fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
//!         ctx.write(line);
//!     }
//! }
//!
//! # #[actix::main]
//! # async fn main() -> std::io::Result<()> {
//! LineServer::new(|_connection| Echo).bind("127.0.0.1:7000")?.run().await
//! # }
//! ```

#[doc(no_inline)]
pub use actix::{Actor, ActorContext, AsyncContext};

#[doc(no_inline)]
pub use crate::{
    connection::Connection,
    framing::{Framing, Overlong},
    limits::Limits,
    listen::listener::Listener,
    report::{CloseReason, CloseReport},
    room::Room,
    server::{builder::LineServer, handle::ServerHandle},
    session::{
        context::LineContext,
        handler::{Idle, LineHandler},
        lines::{Line, Lines, Payload},
    },
};
