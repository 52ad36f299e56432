//! Other people's MLLP software at the ends of a real pair of sites, in both deliveries: receivers (python-hl7, hl7apy,
//! simple-hl7, node-hl7-server), senders (python-hl7, node-hl7-client, simple-hl7), and HAProxy's check as a prober.
//!
//! Transparent: what a peer does through the tunnel is what it does without. Stored: what was acknowledged arrives in
//! order, or waits, and nothing is lost. Each case is one of the design's 37; where a peer itself deviates its quirk is
//! named. `netns-tests/peers/install` installs them; `netns-tests/peers/run` writes the matrix of what came.

mod cases;
mod haproxy;
mod receivers;
mod senders;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::harness::Case;

/// Lists the tests of all peers.
pub(crate) fn tests() -> Vec<Case> {
    [receivers::tests(), senders::tests(), haproxy::tests()].into_iter().flatten().collect()
}

/// Says how the forward under test delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    Transparent,
    Stored,
}

/// Tells whether `netns-tests/peers/install` installed a peer here.
pub(crate) fn is_installed(peer: &str) -> bool {
    home().join("installed").join(peer).is_file()
}

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers")
}

/// Returns the words that run one of `netns-tests/peers/programs`.
pub(crate) fn program(name: &str, arguments: &[&str]) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("netns-tests/peers/programs").join(name);
    let (script, home) = (script.display().to_string(), home().display().to_string());
    let mut words = if script.ends_with(".py") {
        vec![format!("{home}/venv/bin/python3")]
    } else {
        vec!["env".to_owned(), format!("NODE_PATH={home}/node_modules"), "node".to_owned()]
    };
    words.push(script);
    words.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    words
}

/// Writes a cell of the matrix where `netns-tests/peers/run` asks for it.
fn record(peer: &str, delivery: Delivery, case: u8, outcome: &str) {
    let Some(dir) = std::env::var_os("WARDLINK_PEERS_RESULTS") else { return };
    let path = Path::new(&dir).join(format!("{peer}.{delivery:?}.tsv"));
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    writeln!(file.expect("the directory is there"), "{case}\t{outcome}").expect("it is written");
}

/// Is MSA-1 and MSA-2 of an answer, as `AA 7`; `none` for a frame without an MSA.
fn msa(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let msa = text.split(['\r', '\n']).find(|segment| segment.starts_with("MSA"));
    let fields: Vec<&str> = msa.map(|msa| msa.split(['|', '#']).collect()).unwrap_or_default();
    match fields.get(1..3) {
        Some([code, id]) => format!("{code} {id}"),
        _ => "none".to_owned(),
    }
}
