//! The impairing way by hand: `cargo run --release --example impair -- --listen 192.0.2.1:51820 --to 198.51.100.2:51820
//! loss=1% delay=20ms back:rate=10M`. The words are those of `spec.rs`; what became of the packets is printed.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    clippy::print_stdout,
    reason = "a tool of the tests"
)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test"))]

#[path = "mod.rs"]
#[allow(dead_code, reason = "what only the tests in namespaces use")]
mod impair;

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;

use impair::relay::{Relay, Route};
use impair::spec::Ways;

/// Carries UDP datagrams between clients and one address, and spoils them as told.
#[derive(Parser)]
struct Arguments {
    /// Where clients send to
    #[arg(long)]
    listen: SocketAddr,
    /// Where their datagrams go
    #[arg(long)]
    to: SocketAddr,
    /// A client that is known from the start, so that the other side may speak first
    #[arg(long)]
    client: Option<SocketAddr>,
    /// The address that the first client's datagrams leave from
    #[arg(long)]
    from: Option<SocketAddr>,
    /// The silence after which a client's socket is given up, as a NAT forgets
    #[arg(long, value_parser = humantime::parse_duration)]
    forget_after: Option<Duration>,
    /// The same seed and the same packets have the same fate
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How often to print what became of the packets
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10s")]
    report_every: Duration,
    /// loss=1% delay=20ms jitter=5ms reorder=1% reorder_by=10ms duplicate=1% corrupt=0.1% rate=10M queue=64k mtu=1280
    /// fragments=1280 cut=10s..50s, each for both directions, or one with `there:` or `back:` before it
    words: Vec<String>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Arguments { listen, to, client, from, forget_after, seed, report_every, words } = Arguments::parse();
    let ways = Ways::parse(&words.join(" "))?;
    let relay = Relay::start(Route { listen, to, client, from, forget_after }, ways, seed)?;
    loop {
        std::thread::sleep(report_every);
        let [there, back] = relay.counts();
        println!("there {there:?}\nback  {back:?}");
    }
}
