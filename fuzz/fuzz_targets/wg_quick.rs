//! Takes any bytes for a wg-quick file: `cargo +nightly fuzz run wg_quick`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wardlink::config::wg_quick::fuzz_wg_quick(data));
