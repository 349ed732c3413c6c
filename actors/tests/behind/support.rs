//! What the suites find as `support` here: the server and the conversations are those behind filters.
#![allow(unreachable_pub, unused_imports)]

pub use crate::{
    behind::{CASES, Server, converse, is_direct, knows_peer},
    plain::*,
};
