//! The other side runs plain WireGuard (wireguard-go, driven by `wg`) or other HL7 software (python-hl7).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::harness::mllp::{Behaviour, MARKER, Receiver, Sender, answer_to, message};
use crate::harness::pair::{FORWARD, Pair, TARGET};
use crate::harness::plan::{Plan, UDP_PORT};
use crate::harness::process::Process;
use crate::harness::site::{Site, write_secret};
use crate::harness::wire::Wire;
use crate::harness::wireguard_go::WireGuardGo;
use crate::harness::{tests, until};

tests![
    a_forward_reaches_a_receiver_at_a_plain_wireguard_site needs "wg" "wireguard-go",
    a_plain_wireguard_site_reaches_a_service_by_its_port needs "wg" "wireguard-go",
    a_preshared_key_is_used needs "wg" "wireguard-go",
    a_plain_wireguard_site_that_restarts_is_reached_again needs "wg" "wireguard-go",
    a_plain_wireguard_site_can_be_the_one_that_calls needs "wg" "wireguard-go",
    the_tunnel_address_answers_pings needs "wg" "wireguard-go" "ping",
    python_hl7_at_both_ends needs "mllp_send",
];

/// Is the port of a receiver inside the tunnel, and of a service offered as plain TCP.
const INSIDE: u16 = 2576;

/// Bounds the time until a restarted plain site is reached: its handshake, and TCP's retransmission.
const FLOW_LIMIT: Duration = Duration::from_secs(8);

/// Starts north with a forward to a receiver inside south, which runs wireguard-go.
fn towards_plain(wire: &Wire, wg_words: &str, peer_lines: &[&str]) -> (Site, Site, WireGuardGo) {
    let (mut north, south) = (wire.site("north"), wire.site("south"));
    let go = WireGuardGo::start(&south);
    go.peer(&south, &north, wg_words);
    let endpoint = format!("endpoint: \"{}:{UDP_PORT}\"", south.outer);
    let lines = [&[endpoint.as_str()], peer_lines].concat();
    let to = format!("to: \"{}:{INSIDE}\"", south.inner);
    let plan = Plan::of(&north).peer_with(&south, &format!("{}/32", south.inner), &lines).forward(
        "orders",
        FORWARD,
        "south",
        &to,
        &["hold_for: 20s"],
    );
    north.start(&plan);
    (north, south, go)
}

fn a_forward_reaches_a_receiver_at_a_plain_wireguard_site() {
    let wire = Wire::new();
    let (north, south, _go) = towards_plain(&wire, "", &[]);
    let at = SocketAddr::new(south.inner.into(), INSIDE);
    let receiver = Receiver::start(&south.namespace, at, Behaviour::Answer("AA"));
    let mut sender = Sender::connect(&north.namespace, FORWARD).expect("the forward listens");
    for (id, bytes) in [("1", 500), ("2", 2_000_000), ("3", 1)] {
        sender.exchange(&message(id, bytes));
    }
    assert_eq!(receiver.payloads()[1], message("2", 2_000_000));
    assert_eq!(north.health_of("forwards", "orders")["status"], "ok");
}

fn a_plain_wireguard_site_reaches_a_service_by_its_port() {
    let wire = Wire::new();
    let (north, mut south) = (wire.site("north"), wire.site("south"));
    let plan = Plan::of(&south).peer(&north);
    south.start(&plan.service("orders", TARGET, "north", &[&format!("port: {INSIDE}")]));
    let go = WireGuardGo::start(&north);
    go.peer(&north, &south, "");
    let receiver = Receiver::start(&south.namespace, TARGET, Behaviour::Answer("AA"));
    let at = SocketAddr::new(south.inner.into(), INSIDE);
    let mut sender = Sender::connect(&north.namespace, at).expect("the service is offered");
    for (id, bytes) in [("1", 500), ("2", 2_000_000), ("3", 1)] {
        sender.exchange(&message(id, bytes));
    }
    assert_eq!(receiver.payloads()[1], message("2", 2_000_000));
}

fn a_preshared_key_is_used() {
    let wire = Wire::new();
    let secret = "3q2+796tvu/erb7v3q2+796tvu/erb7v3q2+796tvu8=";
    let (mut north, south) = (wire.site("north"), wire.site("south"));
    let file = north.dir.join("south.psk");
    write_secret(&file, secret);
    let go = WireGuardGo::start(&south);
    let plain = WireGuardGo::preshared_key(&south, secret);
    go.peer(&south, &north, &format!("preshared-key {plain}"));
    let endpoint = format!("endpoint: \"{}:{UDP_PORT}\"", south.outer);
    let key_line = format!("preshared_key_file: {}", file.display());
    let to = format!("to: \"{}:{INSIDE}\"", south.inner);
    let allowed = format!("{}/32", south.inner);
    let plan = |lines: &[&str]| {
        Plan::of(&north).peer_with(&south, &allowed, lines).forward("orders", FORWARD, "south", &to, &["hold_for: 1s"])
    };
    let (with, without) = (plan(&[&endpoint, &key_line]), plan(&[&endpoint]));
    let at = SocketAddr::new(south.inner.into(), INSIDE);
    let receiver = Receiver::start(&south.namespace, at, Behaviour::Answer("AA"));
    north.start(&without);
    let mut sender = Sender::connect(&north.namespace, FORWARD).expect("the forward listens");
    sender.send(&message("no key", 300)).expect("open");
    assert!(sender.answer(Duration::from_secs(2)).is_err(), "no session without the key");
    assert!(receiver.payloads().is_empty());
    north.kill();
    north.start(&with);
    Sender::connect(&north.namespace, FORWARD).expect("the forward listens").exchange(&message("key", 300));
}

fn a_plain_wireguard_site_that_restarts_is_reached_again() {
    let wire = Wire::new();
    let (north, south, go) = towards_plain(&wire, "", &[]);
    let at = SocketAddr::new(south.inner.into(), INSIDE);
    let receiver = Receiver::start(&south.namespace, at, Behaviour::Answer("AA"));
    let connect = || Sender::connect(&north.namespace, FORWARD).expect("the forward listens");
    connect().exchange(&message("before", 500));
    drop((go, receiver));
    south.namespace.run(|| std::fs::remove_file("/var/run/wireguard/wg0.sock").ok());
    let go = WireGuardGo::start(&south);
    go.peer(&south, &north, "");
    let _receiver = Receiver::start(&south.namespace, at, Behaviour::Answer("AA"));
    let start = Instant::now();
    connect().exchange(&message("after", 500));
    assert!(start.elapsed() < FLOW_LIMIT, "{:?} after the restart", start.elapsed());
}

fn a_plain_wireguard_site_can_be_the_one_that_calls() {
    let wire = Wire::new();
    let (mut north, south) = (wire.site("north"), wire.site("south"));
    let to = format!("to: \"{}:{INSIDE}\"", south.inner);
    let plan = Plan::of(&north).peer_that_comes(&south);
    north.start(&plan.forward("orders", FORWARD, "south", &to, &["hold_for: 20s"]));
    let at = SocketAddr::new(south.inner.into(), INSIDE);
    let go = WireGuardGo::start(&south);
    let _receiver = Receiver::start(&south.namespace, at, Behaviour::Answer("AA"));
    let mut sender = Sender::connect(&north.namespace, FORWARD).expect("the forward listens");
    sender.send(&message("early", 500)).expect("open");
    go.peer(&south, &north, "");
    let answer = sender.answer(FLOW_LIMIT);
    assert_eq!(answer, Ok(answer_to(&message("early", 500), "AA")));
}

fn the_tunnel_address_answers_pings() {
    let wire = Wire::new();
    let (north, mut south) = (wire.site("north"), wire.site("south"));
    let plan = Plan::of(&south).peer(&north);
    south.start(&plan);
    let go = WireGuardGo::start(&north);
    go.peer(&north, &south, "");
    let ping = |bytes: u16| format!("ping -c 5 -i 0.1 -W 2 -M do -s {bytes} {}", south.inner);
    north.namespace.must(&ping(0));
    // 1420, the MTU, less the headers of IPv4 and ICMP
    for bytes in [1, 15, 16, 17, 1391, 1392] {
        north.namespace.must(&ping(bytes));
    }
}

/// Is python-hl7's server: it keeps each block's bytes in a file, and answers with its own ACK.
const PYTHON_RECEIVER: &str = r#"
import asyncio, sys, hl7
from hl7.mllp import start_hl7_server

async def serve(reader, writer):
    try:
        while True:
            block = await reader.readblock()
            ack = hl7.parse(block.decode("latin-1")).create_ack()
            with open(sys.argv[1], "ab") as kept:
                kept.write(block)
            with open(sys.argv[2], "ab") as kept:
                kept.write(str(ack).encode("latin-1"))
            writer.writemessage(ack)
            await writer.drain()
    except asyncio.IncompleteReadError:
        writer.close()

async def main():
    server = await start_hl7_server(serve, host="127.0.0.1", port=6661, encoding="latin-1")
    async with server:
        await server.serve_forever()

asyncio.run(main())
"#;

fn python_hl7_at_both_ends() {
    let pair = Pair::start(&["hold_for: 20s"]);
    let dir = &pair.south.dir;
    let (script, kept, acks) = (dir.join("receiver.py"), dir.join("kept"), dir.join("acks"));
    std::fs::write(&script, PYTHON_RECEIVER).expect("the script");
    let words = [&python(), &*script.to_string_lossy(), &*kept.to_string_lossy(), &*acks.to_string_lossy()];
    let _receiver = Process::start(&pair.south.namespace, &words.map(str::to_owned), &dir.join("python.log"));
    until(FLOW_LIMIT, "python-hl7 listens", || pair.south.namespace.connect(TARGET).ok());
    let file = pair.north.dir.join("message.hl7");
    let payload = message("PY1", 1500);
    std::fs::write(&file, &payload).expect("the message");
    let command = format!("mllp_send --loose -p {} -f {} 127.0.0.1", FORWARD.port(), file.display());
    let printed = pair.north.namespace.must(&command);
    let read = |path| std::fs::read(path).unwrap_or_default();
    assert_eq!(trimmed(&read(&kept)), trimmed(&payload), "the payload at the receiver");
    let ack = String::from_utf8(read(&acks)).expect("python-hl7's own text");
    assert!(!ack.is_empty() && printed.contains(&ack), "the answer at the sender: {printed:?}");
    assert!(!pair.north.log().contains(MARKER) && !pair.south.log().contains(MARKER));
}

/// Drops the last segment's CR, which `mllp_send --loose` does not send.
fn trimmed(bytes: &[u8]) -> &[u8] {
    bytes.trim_ascii_end()
}

/// Returns the Python that lies beside `mllp_send`.
fn python() -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dir = std::env::split_paths(&path).find(|dir| dir.join("mllp_send").is_file()).expect("it is needed");
    dir.join("python3").display().to_string()
}
