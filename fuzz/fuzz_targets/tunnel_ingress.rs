//! Feeds the tunnel any datagram and any inner packet: `cargo +nightly fuzz run tunnel_ingress`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wardlink::tunnel::fuzz_ingress(data));
