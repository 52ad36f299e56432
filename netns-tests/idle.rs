//! What an idle connection of a sender costs: it has exchanged a message, and stays.
//!
//! ```text
//!   1,000 senders ─ 127.0.0.1:2575 orders [north] ═══ wire ═══ [south] orders ─ 127.0.0.1:6661 receiver
//! ```

use std::thread;
use std::time::Duration;

use crate::harness::mllp::{Behaviour, Sender, message};
use crate::harness::pair::{FORWARD, Pair, TARGET};
use crate::harness::plan::Plan;
use crate::harness::tests;

tests![
    an_idle_connection_in_transparent_delivery_takes_eight_kib_at_most,
    an_idle_connection_in_stored_delivery_takes_eight_kib_at_most,
];

const CONNECTIONS: u32 = 1000;

/// Is what both sites may have for each connection, in bytes. These programs are not optimised, and their futures larger
/// than those of a release, where the same is measured by `bench/protect`.
const EACH_BYTES_MAX: u64 = 8 << 10;

/// Connects so many senders, one after the other, each of which exchanges a message.
fn connect(pair: &Pair, count: u32, start: u32) -> Vec<Sender> {
    let namespace = &pair.north.namespace;
    let sender = |number| {
        let mut sender = Sender::connect(namespace, FORWARD).expect("the forward listens");
        sender.send(&message(&format!("{number}"), 500)).expect("open");
        sender.answer(Duration::from_secs(15)).expect("an answer");
        sender
    };
    (start..start + count).map(sender).collect()
}

fn memory(pair: &mut Pair) -> [u64; 2] {
    [&mut pair.north, &mut pair.south].map(|site| site.program().memory_now_bytes())
}

fn costs(delivery: &[&str]) {
    let mut pair = Pair::unstarted();
    let key = pair.north.dir.join("spool.key").display().to_string();
    let lines = [&["max_connections: 2000", "max_connections_per_source: 2000"], delivery].concat();
    let north = Plan::of(&pair.north).peer(&pair.south).spool(&key);
    let north = north.forward("orders", FORWARD, "south", "service: orders", &lines);
    let south = Plan::of(&pair.south).peer(&pair.north).service("orders", TARGET, "north", &["connections: 2000"]);
    pair.south.start(&south);
    pair.north.start(&north);
    pair.is_linked();
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    // What there is once, however many connect.
    let first = connect(&pair, 100, 0);
    thread::sleep(Duration::from_secs(1));
    let before = memory(&mut pair);
    let all = connect(&pair, CONNECTIONS, 100);
    thread::sleep(Duration::from_secs(1));
    let after = memory(&mut pair);
    for ((name, before), after) in ["near", "far"].into_iter().zip(before).zip(after) {
        let each = after.saturating_sub(before) / u64::from(CONNECTIONS);
        eprintln!("{name}: {each} bytes for each idle connection");
        assert!(each <= EACH_BYTES_MAX, "{name}: {each} bytes for each idle connection");
    }
    drop((first, all));
}

fn an_idle_connection_in_transparent_delivery_takes_eight_kib_at_most() {
    costs(&[]);
}

fn an_idle_connection_in_stored_delivery_takes_eight_kib_at_most() {
    costs(&["delivery: stored"]);
}
