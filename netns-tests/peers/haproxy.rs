//! HAProxy as a prober: its check sends a message through the forward at every interval, and its verdict is whether the
//! receiver behind the tunnel answers.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{Delivery, record};
use crate::harness::mllp::{Behaviour, framed, message};
use crate::harness::pair::{FORWARD, Pair};
use crate::harness::process::Process;
use crate::harness::{tests, until};

tests![
    its_check_follows_the_receiver needs "haproxy",
];

/// Bounds the time until its verdict has changed: two checks, each a second at most, on a machine that is busy.
const VERDICT_LIMIT: Duration = Duration::from_secs(30);

fn its_check_follows_the_receiver() {
    let pair = Pair::start(&["on_unreachable: close"]);
    let dir = &pair.north.dir;
    let socket = dir.join("haproxy.sock");
    let check: String = framed(&message("CHECK", 200)).iter().map(|byte| format!("{byte:02x}")).collect();
    let config = format!(
        "global\n  stats socket {} level admin\ndefaults\n  mode tcp\n  timeout connect 2s\n  timeout client 5s\n  \
         timeout server 5s\n  timeout check 2s\nbackend feed\n  option tcp-check\n  tcp-check connect\n  \
         tcp-check send-binary {check}\n  tcp-check expect string MSA|AA|CHECK\n  \
         server forward {FORWARD} check inter 300ms fall 2 rise 2\n",
        socket.display()
    );
    let path = dir.join("haproxy.cfg");
    fs::write(&path, config).expect("the configuration");
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let words = ["haproxy", "-db", "-f", &path.display().to_string()].map(str::to_owned);
    let haproxy = Process::start(&pair.north.namespace, &words, &dir.join("haproxy.log"));
    until(VERDICT_LIMIT, "it is there", || socket.exists().then_some(()));
    until(VERDICT_LIMIT, "each check is a message with an answer", || {
        (status(&socket).starts_with("UP") && receiver.payloads().len() > 2).then_some(())
    });
    // a connection for each check, none left open
    assert!(receiver.connections() >= 3, "{}", haproxy.log());
    record("HAProxy check", Delivery::Transparent, 23, "ok");
    drop(receiver);
    until(VERDICT_LIMIT, "a receiver that is away is down", || status(&socket).starts_with("DOWN").then_some(()));
    record("HAProxy check", Delivery::Transparent, 25, "ok");
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    until(VERDICT_LIMIT, "and up again", || status(&socket).starts_with("UP").then_some(()));
}

/// Asks HAProxy what its check says.
fn status(socket: &Path) -> String {
    let mut text = String::new();
    if let Ok(mut stream) = UnixStream::connect(socket) {
        let _ = stream.write_all(b"show stat\n").and_then(|()| stream.read_to_string(&mut text).map(|_| ()));
    }
    let line = text.lines().find(|line| line.starts_with("feed,forward,")).unwrap_or_default();
    line.split(',').nth(17).unwrap_or_default().to_owned()
}
