//! Feeds the frame decoder any bytes, cut at any place: `cargo +nightly fuzz run frame_decoder`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wardlink::mllp::frame::fuzz_frame_decoder(data));
