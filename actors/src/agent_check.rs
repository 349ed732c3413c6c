//! Agent check: a listener of line sessions that answers HAProxy's agent checks: up, drain, down, and a weight by load.
//! Feature `agent-check`.
