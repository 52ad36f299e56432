//! Replays the committed corpus of every fuzz target: what once broke a promise, or nearly, stays tested.
#![allow(clippy::unwrap_used)]

use std::path::Path;

fn replay(target: &str, body: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut replayed = 0;
    for entry in std::fs::read_dir(&corpus).unwrap() {
        let path = entry.unwrap().path();
        let data = std::fs::read(&path).unwrap();
        // The name of the input is what a failure needs; its bytes are in the file.
        let outcome = std::panic::catch_unwind(|| body(&data));
        assert!(outcome.is_ok(), "{} breaks {target}", path.display());
        replayed += 1;
    }
    assert!(replayed > 0, "{} is empty", corpus.display());
}

#[test]
fn frame_decoder() {
    replay("frame_decoder", wardlink::mllp::frame::fuzz_frame_decoder);
}

#[test]
fn datagram() {
    replay("datagram", wardlink::tunnel::fuzz_datagram);
}

#[test]
fn inner_packet() {
    replay("inner_packet", wardlink::tunnel::fuzz_inner_packet);
}

#[test]
fn offload() {
    replay("offload", wardlink::tunnel::offload::fuzz_offload);
}

#[test]
fn uapi() {
    replay("uapi", wardlink::tunnel::fuzz_uapi);
}

#[test]
fn wg_quick() {
    replay("wg_quick", wardlink::config::wg_quick::fuzz_wg_quick);
}
