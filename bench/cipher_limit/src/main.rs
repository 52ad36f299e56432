//! Measures how fast one core seals, and opens, inner packets of 1420 bytes with ChaCha20-Poly1305 by ring, in place: no
//! copies, no system calls. `cipher_limit SECONDS` prints both in Gbit/s of inner packets.

use std::env;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::error::Unspecified;

/// Is the size of an inner packet, in bytes: the usual MTU of a tunnel.
const PACKET_BYTES: usize = 1420;

/// Is how many packets are handled between two looks at the clock.
const TURN: u64 = 1000;

fn main() -> ExitCode {
    let seconds = env::args().nth(1).and_then(|word| word.parse().ok());
    let Some(limit) = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) else {
        eprintln!("usage: cipher_limit SECONDS");
        return ExitCode::from(64);
    };
    match measure(limit) {
        Ok((seal, open)) => {
            println!("{seal:.2} {open:.2}");
            ExitCode::SUCCESS
        }
        Err(Unspecified) => {
            eprintln!("cipher_limit: a packet did not open");
            ExitCode::FAILURE
        }
    }
}

/// Returns the rates of sealing and of opening, in Gbit/s.
fn measure(limit: Duration) -> Result<(f64, f64), Unspecified> {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[7; 32])?);
    let mut packet = vec![0x5a_u8; PACKET_BYTES];
    let seal = rate(limit, |counter| {
        let tag = key.seal_in_place_separate_tag(nonce(counter), Aad::empty(), &mut packet)?;
        std::hint::black_box(tag);
        Ok(())
    })?;
    let mut sealed = vec![0x5a_u8; PACKET_BYTES];
    key.seal_in_place_append_tag(nonce(0), Aad::empty(), &mut sealed)?;
    let mut packet = sealed.clone();
    let open = rate(limit, |_| {
        // opening destroys the packet: the copy is small beside the cipher, as a receiver's own is
        packet.copy_from_slice(&sealed);
        std::hint::black_box(key.open_in_place(nonce(0), Aad::empty(), &mut packet)?);
        Ok(())
    })?;
    Ok((seal, open))
}

fn rate(limit: Duration, mut handle: impl FnMut(u64) -> Result<(), Unspecified>) -> Result<f64, Unspecified> {
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < limit {
        for _ in 0..TURN {
            handle(count)?;
            count += 1;
        }
    }
    let bits = count as f64 * PACKET_BYTES as f64 * 8.0;
    Ok(bits / start.elapsed().as_secs_f64() / 1e9)
}

/// Returns the nonce of a data packet (WireGuard whitepaper 5.4.6): four zeros and the counter.
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}
