//! The server benchmark.
fn main() {}
