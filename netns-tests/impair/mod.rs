//! A way that spoils UDP datagrams on purpose, each direction by itself: loss, delay with jitter, reordering,
//! duplication, corruption, a rate with a bounded queue, cuts, an MTU. The same seed and the same packets at the same
//! times have the same fate. For the tests in network namespaces and the benchmarks; also by hand (`main.rs`).
//!
//! ```text
//!   client ──there──> listen [ way: fate decides ] own socket a client, as a NAT has ──> to
//!          <──back───                                                               <──
//! ```

pub(crate) mod fate;
pub(crate) mod relay;
pub(crate) mod spec;
