//! MLLP frames and a read-only view of HL7 v2 headers. All of it pure: bytes and times come in as arguments, what
//! was seen goes out as events; nothing here opens, waits, or reads a clock.
//!
//! `frame` finds frames in a stream, `message` reads MSH and MSA, `ack` builds answers, `observe` watches a
//! transparent connection, `exchange` pairs one message with its answer,
//! `control_ids` tells when that needs a new connection, `dialect` is what the other end speaks, `trace` names a message
//! for the account.

pub mod ack;
pub mod control_ids;
pub mod dialect;
pub mod exchange;
pub mod frame;
pub mod message;
pub mod observe;
pub mod trace;
