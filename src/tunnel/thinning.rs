//! Lets the kernel drop a random part of a flood of handshakes, before it wakes the data thread for each.
//!
//! It never drops anything but initiations, and decides nothing: `peer/load` says how many are to stay. What is seen
//! here follows the WireGuard paper, section 5.4.2; the filter's language is that of Linux' socket filters.

use std::io;
use std::net::UdpSocket;

use socket2::{SockFilter, SockRef};

/// Says which part of the initiations stays, in 1/2^32; all where it is the largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thinning {
    /// Of those whose cookie field is empty.
    pub without_cookie: u32,
    /// Of those that say they have a cookie.
    pub with_cookie: u32,
}

impl Thinning {
    /// Drops nothing.
    pub const NONE: Self = Self { without_cookie: u32::MAX, with_cookie: u32::MAX };
}

/// A filter sees a datagram from its UDP header on, of 8 bytes.
const MESSAGE_AT: u32 = 8;
const INITIATION_BYTES: u32 = 148;
const INITIATION: u32 = 1;
const COOKIE_AT: u32 = MESSAGE_AT + INITIATION_BYTES - 16;

/// Lets the kernel drop what is not to stay, from now on.
///
/// # Errors
/// The kernel takes no filter; every datagram then arrives, as before.
pub(super) fn apply(socket: &UdpSocket, thinning: Thinning) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if thinning == Thinning::NONE {
        return match socket.detach_filter() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            detached => detached,
        };
    }
    socket.attach_filter(&program(thinning))
}

/// Writes the filter. Jumps count the instructions that are skipped.
fn program(thinning: Thinning) -> [SockFilter; 16] {
    let load = |kind: u32, at: u32| instruction(libc::BPF_LD | kind, 0, 0, at);
    let word = |at: u32| load(libc::BPF_W | libc::BPF_ABS, at);
    let is = |value: u32, yes, no| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, yes, no, value);
    let exceeds = |value: u32, yes, no| instruction(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, yes, no, value);
    let end = |bytes: u32| instruction(libc::BPF_RET | libc::BPF_K, 0, 0, bytes);
    let random = || word((libc::SKF_AD_OFF + libc::SKF_AD_RANDOM).cast_unsigned());
    [
        load(libc::BPF_W | libc::BPF_LEN, 0),
        is(MESSAGE_AT + INITIATION_BYTES, 0, 12), // else stays
        load(libc::BPF_B | libc::BPF_ABS, MESSAGE_AT),
        is(INITIATION, 0, 10), // else stays
        word(COOKIE_AT),
        is(0, 0, 6), // else with a cookie
        word(COOKIE_AT + 4),
        is(0, 0, 4),
        word(COOKIE_AT + 8),
        is(0, 0, 2),
        random(),
        exceeds(thinning.without_cookie, 3, 2),
        random(),
        exceeds(thinning.with_cookie, 1, 0),
        end(u32::MAX),
        end(0),
    ]
}

fn instruction(code: u32, yes: u8, no: u8, value: u32) -> SockFilter {
    SockFilter::new(u16::try_from(code).unwrap_or(0), yes, no, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    }

    /// Counts how many of a thousand messages arrive.
    fn arrive(to: &UdpSocket, message: &[u8]) -> usize {
        let from = socket();
        let mut buffer = [0; 2000];
        let mut arrived = 0;
        for _ in 0..1000 {
            from.send_to(message, to.local_addr().unwrap()).unwrap();
            arrived += usize::from(to.recv(&mut buffer).is_ok_and(|bytes| buffer[..bytes] == *message));
        }
        arrived
    }

    fn initiation(cookie: [u8; 16]) -> Vec<u8> {
        let mut message = vec![0x5a; 148];
        message[0] = 1;
        message[132..].copy_from_slice(&cookie);
        message
    }

    #[test]
    fn a_part_of_the_initiations_stays_and_everything_else() {
        let to = socket();
        let without = initiation([0; 16]);
        let with: Vec<Vec<u8>> = (0..4).map(|at| initiation(std::array::from_fn(|n| u8::from(n == at * 5)))).collect();
        let others = [vec![4; 148], vec![1; 147], vec![1; 149], vec![2; 92], vec![3; 64], vec![], vec![1]];

        apply(&to, Thinning { without_cookie: u32::MAX / 5, with_cookie: u32::MAX }).unwrap();
        let kept = arrive(&to, &without);
        assert!((130..270).contains(&kept), "{kept} of 1000");
        for message in with.iter().chain(&others) {
            assert_eq!(arrive(&to, message), 1000, "{message:?}");
        }

        apply(&to, Thinning { without_cookie: u32::MAX, with_cookie: 0 }).unwrap();
        assert_eq!(arrive(&to, &without), 1000);
        for message in &with {
            assert_eq!(arrive(&to, message), 0);
        }

        apply(&to, Thinning::NONE).unwrap();
        assert_eq!(arrive(&to, &with[0]), 1000);
        apply(&to, Thinning::NONE).unwrap();
    }
}
