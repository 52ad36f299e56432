//! Feeds the socket of wg(8) any request: `cargo +nightly fuzz run uapi`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wardlink::tunnel::fuzz_uapi(data));
