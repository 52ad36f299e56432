//! Feeds the splitting and joining of super-packets any header and packets: `cargo +nightly fuzz run offload`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wardlink::tunnel::offload::fuzz_offload(data));
