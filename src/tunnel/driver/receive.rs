//! What the peers send comes out of the interface, judged; and time passes for every peer.
//!
//! It never hands anything to the interface that the filter did not judge: one packet of a run speaks for those that
//! were joined to it, which differ in nothing that the filter looks at.

use std::net::UdpSocket;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::{Found, send};
use crate::config::PublicKey;
use crate::tunnel::drops::Drop;
use crate::tunnel::filter::{self, Verdict};
use crate::tunnel::offload::{Run, VnetHeader};
use crate::tunnel::packet::{self, IpPacket};
use crate::tunnel::peer::{Action, Addressed, BUFFER_BYTES, Pair, REPLY_BYTES_MAX, Source, data_index, is_response};
use crate::tunnel::peers::PeerEntry;
use crate::tunnel::thinning::Thinning;
use crate::tunnel::udp::{self, Path, Received};
use crate::tunnel::{Shared, TunnelError, tun};

/// Peers' timers run this often, each tick a random part later (tunnel.md, 8 and 13).
const TICK_MIN: Duration = Duration::from_millis(100);
/// The random part of a tick.
const TICK_JITTER: Duration = Duration::from_millis(100);
/// RSTs a second that answer refused SYNs: enough for a person, too few for a scan to amplify.
const RESETS_PER_SECOND: u32 = 100;
/// A stranger's handshake, and a flood of them, is logged this often: enough to find a mistyped key, too few to fill a disk.
const STRANGER_EVERY: Duration = Duration::from_secs(60);
/// Messages that are no data count as one read, so many at the most: most of a flood of them is dropped unseen, and
/// the data behind it must not wait for a turn each.
const MESSAGES_A_READ: usize = 32;
/// The limiter of handshakes counts by the second.
const SECOND: Duration = Duration::from_secs(1);

/// Handles what the peers send.
pub(super) struct Receiver<'a> {
    shared: &'a Shared,
    /// Holds the packets of a batch, decrypted, one behind the other.
    plain: Vec<u8>,
    /// Says where they lie.
    packets: Vec<Range<usize>>,
    out: Vec<u8>,
    reset: Vec<u8>,
    next_tick: Instant,
    next_second: Instant,
    resets_left: u32,
    stranger_told: Option<Instant>,
    flood_told: Option<Instant>,
    is_thinned: bool,
}

impl<'a> Receiver<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            plain: vec![0; BUFFER_BYTES + REPLY_BYTES_MAX],
            packets: Vec::new(),
            out: vec![0; BUFFER_BYTES],
            reset: vec![0; 64],
            next_tick: Instant::now(),
            next_second: Instant::now(),
            resets_left: RESETS_PER_SECOND,
            stranger_told: None,
            flood_told: None,
            is_thinned: false,
        }
    }

    /// Says when [`Receiver::handle_time`] is due.
    pub(super) fn next_tick(&self) -> Instant {
        self.next_tick
    }

    /// Handles what one read of a socket brings.
    pub(super) fn handle_socket(&mut self, socket: &UdpSocket, datagrams: &mut [u8]) -> Result<Found, TunnelError> {
        for _ in 0..MESSAGES_A_READ {
            // `WouldBlock`; any other error was caused by an earlier datagram and says nothing about the next.
            let Ok(received) = udp::receive(socket, datagrams) else { return Ok(Found::Nothing) };
            let is_data = data_index(datagrams.get(..received.bytes).unwrap_or(&[])).is_some();
            self.handle_received(datagrams, &received)?;
            if is_data {
                break;
            }
        }
        Ok(Found::Something)
    }

    /// Takes apart what one read brought: data of one peer together, everything else one by one.
    fn handle_received(&mut self, datagrams: &[u8], received: &Received) -> Result<(), TunnelError> {
        let mut rest = datagrams.get(..received.bytes).unwrap_or(datagrams);
        let segment_bytes = received.segment_bytes.max(1);
        while !rest.is_empty() {
            let first = rest.get(..segment_bytes).unwrap_or(rest);
            let index = data_index(first);
            let same = rest.chunks(segment_bytes).take_while(|datagram| data_index(datagram) == index);
            let run_bytes = if index.is_some() { same.map(<[u8]>::len).sum() } else { first.len() };
            let Some((run, left)) = rest.split_at_checked(run_bytes) else { return Ok(()) };
            match index {
                Some(index) => self.handle_data(index, run, segment_bytes, received.path)?,
                None => {
                    let begun = Instant::now();
                    self.handle_message(run, received.path)?;
                    self.shared.peers().identity.spent(begun.elapsed());
                }
            }
            rest = left;
        }
        Ok(())
    }

    /// Handles a message that is no data: finds out first whom it is for.
    fn handle_message(&mut self, datagram: &[u8], path: Path) -> Result<(), TunnelError> {
        let shared = self.shared;
        let peers = shared.peers();
        let (entry, claim) = match peers.identity.handle_datagram(path.to.ip(), datagram, &mut self.out) {
            Addressed::Key(pair) => {
                let entry = peers.by_key(&pair.theirs);
                if entry.is_none() {
                    self.tell_of_stranger(&pair.theirs, path);
                }
                (entry, Some(pair))
            }
            Addressed::Index(index) => (peers.by_index(index), None),
            Addressed::Cookie(cookie) => {
                shared.drops.count(Drop::UnderLoad);
                if shared.udp().send(cookie, cookie.len(), path).is_err() {
                    shared.drops.count(Drop::SendFailed);
                }
                return Ok(());
            }
            Addressed::Refused(reason) => {
                shared.drops.count(reason);
                return Ok(());
            }
        };
        match entry {
            Some(entry) => self.handle_datagrams(&entry, (datagram, datagram.len()), path, claim),
            None => {
                shared.drops.count(Drop::UnknownPeer);
                Ok(())
            }
        }
    }

    /// Names the key that knocks and is no peer's: most likely a mistyped one at the site that is being set up.
    fn tell_of_stranger(&mut self, key: &PublicKey, path: Path) {
        let now = Instant::now();
        if self.stranger_told.is_none_or(|told| now.duration_since(told) >= STRANGER_EVERY) {
            self.stranger_told = Some(now);
            tracing::warn!(public_key = %key, from = %path.to, "a handshake came with a key that is no peer's here");
        }
    }

    /// Lets the kernel drop a part of a flood of handshakes, and says so. Each second anew: the sockets may be others.
    fn thin(&mut self, thinning: Thinning, now: Instant) {
        let is_flood = thinning != Thinning::NONE;
        if !is_flood && !self.is_thinned {
            return;
        }
        self.is_thinned = is_flood;
        if let Err(error) = self.shared.udp().thin(thinning) {
            tracing::debug!(%error, "the kernel drops nothing of a flood of handshakes");
        }
        if is_flood && self.flood_told.is_none_or(|told| now.duration_since(told) >= STRANGER_EVERY) {
            self.flood_told = Some(now);
            tracing::warn!("a flood of handshakes: the kernel drops a part of them");
        }
    }

    fn handle_data(&mut self, index: u32, run: &[u8], segment_bytes: usize, path: Path) -> Result<(), TunnelError> {
        match self.shared.peers().by_index(index) {
            Some(entry) => self.handle_datagrams(&entry, (run, segment_bytes), path, None),
            None => {
                self.shared.drops.count(Drop::UnknownPeer);
                Ok(())
            }
        }
    }

    /// Authenticates and decrypts what one peer sent, with its lock taken once, then delivers it.
    fn handle_datagrams(
        &mut self,
        entry: &Arc<PeerEntry>,
        (datagrams, segment_bytes): (&[u8], usize),
        path: Path,
        claim: Option<Pair>,
    ) -> Result<(), TunnelError> {
        let (now, random) = (Instant::now(), self.shared.random());
        let source = Source { address: path.to.ip(), claim };
        let (mut filled, mut heard_bytes, mut begins_session, mut reply_bytes) = (0, 0, false, 0);
        let mut spoiled = 0;
        self.packets.clear();
        let mut peer = entry.lock();
        for datagram in datagrams.chunks(segment_bytes) {
            let out = self.plain.get_mut(filled..).unwrap_or(&mut []);
            let received = peer.handle_datagram(source, datagram, now, random, out);
            heard_bytes += if received.moves_endpoint { datagram.len() } else { 0 };
            begins_session |= received.begins_session;
            match received.action {
                Action::None => {}
                Action::Refused(reason) => {
                    spoiled += usize::from(reason == Drop::NotAuthentic);
                    entry.drops.count(reason);
                }
                // Only a handshake message is replied to, and it comes alone.
                Action::Reply(reply) => {
                    reply_bytes = reply.len();
                    // An initiation that is answered is authentic, though it may be replayed from anywhere.
                    if is_response(reply) {
                        entry.received(datagram.len());
                    }
                }
                Action::Packet(packet) => {
                    self.packets.push(filled..filled + packet.len());
                    filled += packet.len();
                }
            }
        }
        drop(peer);
        if datagrams.len() > segment_bytes {
            self.shared.udp().note_spoiled(datagrams.len().div_ceil(segment_bytes), spoiled);
        }
        if heard_bytes > 0 {
            entry.heard(heard_bytes, path, now);
        }
        if let Some(reply) = self.plain.get(..reply_bytes).filter(|reply| !reply.is_empty()) {
            send(self.shared, entry, reply, path);
        }
        self.deliver(entry)?;
        if begins_session {
            entry.begin_session(SystemTime::now());
            self.drain(entry);
        }
        Ok(())
    }

    /// Judges the packets of a batch and hands them to the interface, joined where they belong together.
    fn deliver(&mut self, entry: &Arc<PeerEntry>) -> Result<(), TunnelError> {
        let (shared, peers, rules) = (self.shared, self.shared.peers(), entry.rules());
        let hosts = shared.locals.now();
        let packets = std::mem::take(&mut self.packets);
        let mut run: Option<Run> = None;
        for at in &packets {
            if run.as_mut().is_some_and(|run| run.join(&self.plain, at.clone())) {
                continue;
            }
            if let Some(run) = run.take() {
                self.write_run(entry, run)?;
            }
            let bytes = self.plain.get(at.clone()).unwrap_or(&[]);
            let Some(packet) = IpPacket::parse(bytes) else {
                entry.drops.count(Drop::Malformed);
                continue;
            };
            let whose = |address| Shared::whose(&peers, &hosts, address, entry);
            match filter::judge(&packet, &rules, whose, || entry.flows().is_answer(&packet, Instant::now())) {
                Verdict::Pass => {
                    let whole = at.start..at.start + packet.total_bytes;
                    run = shared.tun.joins().then(|| Run::begin(&self.plain, whole.clone())).flatten();
                    if run.is_none() {
                        write(shared, entry, &VnetHeader::default(), &self.plain, &whole, &[])?;
                    }
                }
                Verdict::Drop(reason) => entry.drops.count(reason),
                Verdict::Reset(reason) => {
                    entry.drops.count(reason);
                    let reset_bytes = packet::reset_for(&packet, &mut self.reset);
                    self.send_reset(entry, reset_bytes);
                }
            }
        }
        self.packets = packets;
        run.map_or(Ok(()), |run| self.write_run(entry, run))
    }

    /// Hands a run to the interface at once; one by one, now and from now on, where the kernel does not take it.
    fn write_run(&mut self, entry: &PeerEntry, mut run: Run) -> Result<(), TunnelError> {
        let shared = self.shared;
        let Some(header) = run.complete(&mut self.plain) else {
            entry.drops.count(Drop::Malformed);
            return Ok(());
        };
        match write(shared, entry, &header, &self.plain, &run.first(), run.payloads())? {
            Written::Refused if !run.payloads().is_empty() => {
                shared.tun.stop_joining();
                run.restore(&mut self.plain);
                for packet in std::iter::once(run.first()).chain(run.packets()) {
                    write(shared, entry, &VnetHeader::default(), &self.plain, &packet, &[])?;
                }
                Ok(())
            }
            Written::Refused | Written::Done => Ok(()),
        }
    }

    /// Encrypts and sends the RST that answers a refused SYN, as far as this second's number of them goes.
    fn send_reset(&mut self, entry: &PeerEntry, reset_bytes: Option<usize>) {
        let Some((reset_bytes, path)) = reset_bytes.zip(entry.path()).filter(|_| self.resets_left > 0) else { return };
        self.resets_left -= 1;
        let mtu_bytes = self.shared.mtu_bytes();
        let datagram = entry.lock().handle_outgoing(&mut self.reset, 0..reset_bytes, mtu_bytes, &mut self.out);
        if let Some(datagram) = datagram {
            send(self.shared, entry, datagram, path);
        }
    }

    /// Sends what waited for the session: a responder's packets would stall until its next one otherwise.
    fn drain(&mut self, entry: &PeerEntry) {
        let Some(path) = entry.path() else { return };
        loop {
            let datagram = entry.lock().poll_queued(&mut self.out);
            match datagram {
                Some(datagram) => send(self.shared, entry, datagram, path),
                None => return,
            }
        }
    }

    pub(super) fn handle_time(&mut self, now: Instant) {
        if now >= self.next_second {
            self.next_second = now + SECOND;
            self.resets_left = RESETS_PER_SECOND;
            self.thin(self.shared.peers().identity.handle_second(), now);
        }
        if now < self.next_tick {
            return;
        }
        let jitter = self.shared.random() % u64::try_from(TICK_JITTER.as_micros()).unwrap_or(1);
        self.next_tick = now + TICK_MIN + Duration::from_micros(jitter);
        self.shared.peers().identity.handle_tick();
        for entry in self.shared.peers().all() {
            let datagram = entry.lock().handle_tick(now, &mut self.out);
            if let (Some(datagram), Some(path)) = (datagram, entry.path()) {
                send(self.shared, entry, datagram, path);
            }
        }
    }
}

/// Says whether the interface took what was written.
#[derive(PartialEq, Eq)]
enum Written {
    Done,
    Refused,
}

/// Hands a packet to the interface, or a super-packet: its first packet and the payloads that follow.
fn write(
    shared: &Shared,
    entry: &PeerEntry,
    header: &VnetHeader,
    plain: &[u8],
    first: &Range<usize>,
    payloads: &[Range<usize>],
) -> Result<Written, TunnelError> {
    let slice = |range: &Range<usize>| plain.get(range.clone()).unwrap_or(&[]);
    match shared.tun.write(header, slice(first), payloads.iter().map(slice)) {
        Ok(()) => Ok(Written::Done),
        Err(error) if tun::is_gone(&error) => Err(shared.tun.deleted()),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && !payloads.is_empty() => Ok(Written::Refused),
        Err(_) => {
            entry.drops.count(Drop::InterfaceWrite);
            Ok(Written::Done)
        }
    }
}
