//! Feeds the tunnel any datagram: `cargo +nightly fuzz run datagram`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wardlink::tunnel::fuzz_datagram(data));
