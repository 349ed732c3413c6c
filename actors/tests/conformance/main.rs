//! A session's context means what `actix::Context` means: each script runs on both, and both have to say the same.
//!
//! Where they differ on purpose, `differences` says how. What a session has besides, the tests of `context` are about.

mod contexts;

mod differences;
mod life;
mod messages;
mod spawned;
mod waits;
