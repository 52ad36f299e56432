//! Links that carry stored messages, at the far end: which forward of which peer they belong to, and who may have one.
//!
//! A forward of a peer has one reception, whatever connections come and go; it lives on without one for as long as
//! messages wait for the receiver. It never keeps a message itself.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::super::feed::reception::Reception;
use super::super::feed::station::OpenStation;
use super::super::feed::wire as feed;
use super::super::session::Ended;
use super::super::wire::{CARRIES_STORED, Cause, Record, VERSION, Welcome, encode};
use super::super::{FLUSH_WITHIN, cause_chain};
use super::{Door, GREET_WITHIN, GREETING_BYTES_MAX, Greeted, Inbound, printable};
use crate::audit::Event;
use crate::config::Name;
use crate::spool::{ForwardId, Opening};

/// Receptions of all peers together; a peer needs one for each stored forward.
const RECEPTIONS_MAX: usize = 1024;
/// Receptions of one peer: more forwards than a site has, and no peer takes all there are.
const RECEPTIONS_OF_PEER_MAX: usize = 128;
/// A reception without a connection and without messages is let go after so long: the near site has come back by then.
const LINGER: Duration = Duration::from_secs(60);

/// Is all receptions, by peer and forward.
pub(super) type Receptions = HashMap<(Name, ForwardId), Arc<Reception>>;

impl Inbound {
    /// Serves a connection that greeted for stored messages, until it ends.
    pub(super) async fn serve_stored(
        &self,
        greeted: Greeted,
        door: &Door,
        place: OwnedSemaphorePermit,
        open: &OpenStation,
    ) {
        let Greeted { mut tcp, early, from, peer, hello, service } = greeted;
        let Some(tie) = self.gate.owners.tie(&tcp, from.ip(), &peer) else { return };
        let forward = printable(&hello.forward);
        let opened = tokio::time::timeout(GREET_WITHIN, self.await_opening(&mut tcp, early)).await;
        let Ok(Some((opening, early))) = opened else { return };
        let found = {
            let _alone = door.take_over.lock().await;
            self.reception(&peer, &service, &opening, open).await
        };
        drop(place);
        let (reception, mut turn) = match found {
            Ok(found) => found,
            Err(cause) => {
                tracing::warn!(%peer, %forward, %service, %cause, "refused a link");
                refuse(&mut tcp, cause).await;
                return;
            }
        };
        tracing::info!(%peer, %forward, %service, "link for stored messages is up");
        self.note(Event::LinkUp, (&peer, &forward, &service), "");
        let key = (peer.clone(), opening.forward);
        let ended = tokio::select! {
            biased;
            ended = tie.hold(reception.run(tcp, early, opening, &mut turn)) => ended.unwrap_or(Ended::Moved),
            () = self.tell_receiver(&service, |news| reception.tell_receiver(news)) => Ended::Closed,
            cause = self.refused(&reception, (from, &peer, &service)) => {
                tracing::warn!(%peer, %forward, %service, %cause, "closed a link");
                Ended::Refused(cause)
            }
        };
        match &ended {
            Ended::Replaced => return,
            Ended::Refused(_) => {}
            ended => {
                let why = cause_chain(ended);
                tracing::info!(%peer, %forward, %why, "link for stored messages is down");
                self.note(Event::LinkDown, (&peer, &forward, &service), &why.to_string());
            }
        }
        if !matches!(ended, Ended::Store(_) | Ended::Refused(_)) {
            self.outlast(&reception, &mut turn, (from, &peer, &service)).await;
        }
        if turn.has_changed().unwrap_or(true) {
            return;
        }
        reception.wind_down().await;
        let _alone = door.take_over.lock().await;
        self.let_go(&key, &reception).await;
    }

    /// Answers the greeting and waits for what the near site tells of its queue.
    async fn await_opening(&self, tcp: &mut TcpStream, early: BytesMut) -> Option<(Opening, BytesMut)> {
        let (site, instance) = (self.gate.site.clone(), self.gate.instance);
        let welcome = Welcome { version: VERSION, capabilities: CARRIES_STORED, instance, resumed: false, site };
        let mut out = BytesMut::new();
        encode(&Record::Welcome(welcome), &mut out);
        tcp.write_all(&out).await.ok()?;
        let mut buffer = early;
        loop {
            match feed::decode(&buffer).ok()? {
                Some((feed::Record::Opening(opening), opening_bytes)) => {
                    return Some((opening, buffer.split_off(opening_bytes)));
                }
                Some(_) => return None,
                None => {}
            }
            if buffer.len() > GREETING_BYTES_MAX || tcp.read_buf(&mut buffer).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// Finds the reception of a forward of a peer, or opens one. The connection that had it before lets go of it.
    async fn reception(
        &self,
        peer: &Name,
        service: &Name,
        opening: &Opening,
        open: &OpenStation,
    ) -> Result<(Arc<Reception>, watch::Receiver<u64>), Cause> {
        let key = (peer.clone(), opening.forward);
        let old = self.receptions().get(&key).cloned();
        if let Some(old) = old {
            if old.is_winding_down() && !old.is_over() {
                return Err(Cause::Stopping); // the near site tries again
            }
            if old.service() == service && !old.is_over() {
                let turn = old.take_over();
                return Ok((old, turn));
            }
            self.let_go(&key, &old).await;
        }
        self.make_room(peer).await?;
        let failed = |error: super::super::feed::StoreError| {
            tracing::error!(%peer, %service, why = %cause_chain(&*error), "cannot keep what must be kept of stored messages");
            Cause::StoreFailed
        };
        let station = open(peer.clone(), service.clone(), opening.forward).await.map_err(failed)?;
        let unretired = station.book.outcomes_after(opening.retired_through).await.map_err(failed)?;
        let attempted = station.book.attempted().await.map_err(failed)?;
        let reception = Reception::new(service.clone(), station, &unretired, attempted);
        reception.set_voice(self.voice_for(peer));
        let turn = reception.take_over();
        self.receptions().insert(key, Arc::clone(&reception));
        Ok((reception, turn))
    }

    /// Makes room for one more reception of a peer: one that nobody is connected to and that has nothing to do goes.
    async fn make_room(&self, peer: &Name) -> Result<(), Cause> {
        let is_full = |receptions: &Receptions| {
            let of_peer = receptions.keys().filter(|(other, _)| other == peer).count();
            receptions.len() >= RECEPTIONS_MAX || of_peer >= RECEPTIONS_OF_PEER_MAX
        };
        if !is_full(&self.receptions()) {
            return Ok(());
        }
        let idle = self
            .receptions()
            .iter()
            .find(|((other, _), kept)| other == peer && kept.is_idle())
            .map(|(key, kept)| (key.clone(), Arc::clone(kept)));
        let (key, kept) = idle.ok_or(Cause::TooManyStreams)?;
        self.let_go(&key, &kept).await;
        if is_full(&self.receptions()) { Err(Cause::TooManyStreams) } else { Ok(()) }
    }

    fn receptions(&self) -> MutexGuard<'_, Receptions> {
        self.receptions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the peer may not use the service any more, and tells it. Cancel-safe.
    async fn refused(&self, reception: &Reception, whose: (SocketAddr, &Name, &Name)) -> Cause {
        let cause = self.barred(whose).await;
        reception.refuse(Cause::Withdrawn).await;
        cause
    }

    async fn barred(&self, (from, peer, service): (SocketAddr, &Name, &Name)) -> Cause {
        let mut reviews = self.reviews.subscribe();
        loop {
            if let Err(cause) = self.judge(from, peer, service) {
                return cause;
            }
            if reviews.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until a reception without a connection has nothing more to do, or a newer connection took over.
    async fn outlast(&self, reception: &Reception, turn: &mut watch::Receiver<u64>, whose: (SocketAddr, &Name, &Name)) {
        let done = async {
            loop {
                tokio::time::sleep(LINGER).await;
                if !reception.has_messages() || reception.is_over() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            _ = turn.changed() => turn.mark_changed(), // the caller looks
            () = done => {}
            _ = self.barred(whose) => {}
        }
    }

    /// Ends a reception, unless another one has its place.
    async fn let_go(&self, key: &(Name, ForwardId), reception: &Arc<Reception>) {
        {
            let mut receptions = self.receptions();
            if receptions.get(key).is_some_and(|kept| Arc::ptr_eq(kept, reception)) {
                receptions.remove(key);
            }
        }
        reception.close().await;
    }

    /// Ends all receptions: what the receiver has not answered is in doubt from then on.
    pub async fn close_stored(&self) {
        let receptions: Vec<_> = self.receptions().drain().map(|(_, reception)| reception).collect();
        for reception in receptions {
            reception.close().await;
        }
    }
}

async fn refuse(tcp: &mut TcpStream, cause: Cause) {
    let mut out = BytesMut::new();
    encode(&Record::Refuse(cause), &mut out);
    if tcp.write_all(&out).await.is_ok() {
        tokio::time::sleep(FLUSH_WITHIN).await;
    }
}
