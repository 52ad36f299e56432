//! Two ends of a link over a simulated TCP connection in virtual time: every transition, every cut.
//!
//! They never sleep and never read a clock but for an epoch.

mod bench;
mod hostile;
mod never_twice;
mod transitions;
