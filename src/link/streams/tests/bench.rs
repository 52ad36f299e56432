//! The bench: a near and a far end, a TCP connection between them that can be cut anywhere, virtual time.
//!
//! It drives each end only by its events, as the shell does: a lost wake-up shows as a stall.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};

use super::super::*;
use crate::link::wire::decode;

/// Records that are gathered for one write, in bytes; smaller than the shell's, so that more interleaves.
const WRITE_BYTES: usize = 20 << 10;

/// Is one end with what its shell remembers.
pub(super) struct End {
    pub(super) streams: Streams,
    pub(super) woken: BTreeSet<u64>,
    pub(super) opened: Vec<u64>,
    inbox: BytesMut,
    transmit: bool,
    clock: Option<Instant>,
}

impl End {
    fn new(side: Side, hold_for: Duration, now: Instant) -> Self {
        let streams = Streams::new(side, hold_for, now);
        let (woken, opened) = (BTreeSet::new(), Vec::new());
        Self { streams, woken, opened, inbox: BytesMut::new(), transmit: true, clock: None }
    }

    /// Takes the events, as `Session::with` does.
    pub(super) fn events(&mut self) {
        while let Some(event) = self.streams.poll_event() {
            match event {
                Event::Opened(key) => self.opened.push(key),
                Event::Wake(key) => drop(self.woken.insert(key)),
                Event::Transmit => self.transmit = true,
                Event::Clock => self.clock = self.streams.next_deadline(),
            }
        }
    }

    /// Writes what is due, only where an event asked for it.
    fn transmit(&mut self, wire: &mut VecDeque<u8>) {
        self.events();
        while std::mem::take(&mut self.transmit) {
            let mut out = BytesMut::new();
            self.streams.poll_transmit(&mut out, WRITE_BYTES);
            self.transmit = !out.is_empty();
            wire.extend(&out);
            self.events();
        }
    }

    fn receive(&mut self, bytes: impl Iterator<Item = u8>, now: Instant) {
        self.inbox.extend(bytes);
        while let Some((record, record_bytes)) = decode(&self.inbox).expect("a record") {
            assert!(self.streams.handle_record(record, now).is_ok(), "the other end keeps to the rules");
            self.inbox.advance(record_bytes);
        }
        self.events();
    }

    /// Lets time pass as the clock task does: it sleeps until the deadline that it last saw.
    fn pass(&mut self, now: Instant) {
        self.events();
        if self.clock.is_some_and(|at| now >= at) {
            self.streams.handle_time(now);
            self.events();
            self.clock = self.streams.next_deadline();
        }
        assert!(self.streams.next_deadline().is_none_or(|at| at > now), "the clock neither spins nor oversleeps");
    }

    pub(super) fn read_all(&mut self, key: u64) -> (Vec<u8>, Moved) {
        let (mut all, mut part) = (Vec::new(), [0; 4096]);
        loop {
            match self.streams.try_read(key, &mut part) {
                Moved::Bytes(count) => all.extend_from_slice(&part[..count]),
                moved => return (all, moved),
            }
        }
    }
}

/// Is two ends and what is between them.
pub(super) struct Bench {
    pub(super) now: Instant,
    pub(super) near: End,
    pub(super) far: End,
    pub(super) to_far: VecDeque<u8>,
    pub(super) to_near: VecDeque<u8>,
    pub(super) connected: bool,
    pub(super) hold_for: Duration,
}

impl Bench {
    /// Makes two ends that are not connected; the far one keeps streams for ten seconds longer.
    pub(super) fn down(hold_for: Duration) -> Self {
        let now = Instant::now();
        Self {
            now,
            near: End::new(Side::Near, hold_for, now),
            far: End::new(Side::Far, hold_for + Duration::from_secs(10), now),
            to_far: VecDeque::new(),
            to_near: VecDeque::new(),
            connected: false,
            hold_for,
        }
    }

    /// Makes two ends that are connected.
    pub(super) fn up(hold_for: Duration) -> Self {
        let mut bench = Self::down(hold_for);
        bench.connect(false);
        bench.settle();
        bench
    }

    pub(super) fn connect(&mut self, resumed: bool) {
        self.connected = true;
        self.far.streams.handle_connected(resumed);
        self.near.streams.handle_connected(resumed);
    }

    /// Moves what is due onto the wire; a TCP connection that is gone swallows it.
    pub(super) fn transmit(&mut self) {
        self.near.transmit(&mut self.to_far);
        self.far.transmit(&mut self.to_near);
        if !self.connected {
            self.to_far.clear();
            self.to_near.clear();
        }
    }

    /// Lets some bytes of each direction arrive.
    pub(super) fn deliver(&mut self, there: usize, back: usize) {
        let there = there.min(self.to_far.len());
        self.far.receive(self.to_far.drain(..there), self.now);
        let back = back.min(self.to_near.len());
        self.near.receive(self.to_near.drain(..back), self.now);
    }

    /// Transmits and delivers until nothing moves.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            self.transmit();
            if self.to_far.is_empty() && self.to_near.is_empty() {
                return;
            }
            self.deliver(usize::MAX, usize::MAX);
        }
        panic!("the ends never come to rest");
    }

    /// Cuts the connection after some bytes of each direction still arrived; the rest is lost, also within a record.
    pub(super) fn cut_after(&mut self, there: usize, back: usize, far_notices: bool) {
        self.transmit();
        self.deliver(there, back);
        self.to_far.clear();
        self.to_near.clear();
        self.near.inbox.clear();
        self.far.inbox.clear();
        self.connected = false;
        self.near.streams.handle_disconnected(Cause::LinkDown, self.now);
        if far_notices {
            self.far.streams.handle_disconnected(Cause::LinkDown, self.now);
        }
        self.near.events();
        self.far.events();
    }

    /// Cuts the connection; what was not delivered yet is lost.
    pub(super) fn cut(&mut self) {
        self.cut_after(0, 0, true);
    }

    pub(super) fn restart_far(&mut self) {
        self.far = End::new(Side::Far, self.hold_for + Duration::from_secs(10), self.now);
    }

    pub(super) fn restart_near(&mut self) {
        self.near = End::new(Side::Near, self.hold_for, self.now);
    }

    /// Lets time pass in steps, as the clocks of both ends see it.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = end.min(self.now + Duration::from_millis(50));
            self.near.pass(self.now);
            self.far.pass(self.now);
        }
    }

    /// Opens a stream and sends bytes on it at once.
    pub(super) fn open_with(&mut self, bytes: &[u8]) -> u64 {
        let key = self.near.streams.open().expect("a stream");
        assert_eq!(self.near.streams.try_write(key, bytes, self.now), Moved::Bytes(bytes.len()));
        key
    }

    /// Returns the far stream that was opened last.
    pub(super) fn arrived(&mut self) -> u64 {
        self.settle();
        self.far.opened.pop().expect("an arrival")
    }

    /// Opens a stream that the receiver has accepted.
    pub(super) fn open_accepted(&mut self) -> (u64, u64) {
        let near = self.near.streams.open().expect("a stream");
        let far = self.arrived();
        self.far.streams.accept(far);
        self.settle();
        assert!(self.near.streams.is_open(near));
        (near, far)
    }

    pub(super) fn assert_no_stream_is_left(&self) {
        for end in [&self.near, &self.far] {
            assert_eq!(end.streams.count(), 0, "streams are gone");
            assert!(end.streams.by_wire.is_empty(), "numbers are gone");
        }
    }
}
