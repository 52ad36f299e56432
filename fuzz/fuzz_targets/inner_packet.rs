//! Feeds the filter any inner packet: `cargo +nightly fuzz run inner_packet`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wardlink::tunnel::fuzz_inner_packet(data));
