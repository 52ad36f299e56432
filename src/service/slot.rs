//! A place among the connections that a receiver takes, and how the only one changes hands.
//!
//! Where there is one only, it is free again when the receiver has ended its side too, and the connection that follows
//! carries nothing before it has stood for a moment: a receiver that has not noticed the end of the one before turns it
//! away, and what was written by then would be in doubt. It never says anything to the receiver.

use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::counted::Waiting;
use super::{RECEIVER_TIMEOUT, Service, dial};
use crate::config;
use crate::link::inside::tune;
use crate::link::wire::Cause;
use crate::tls::Socket;

/// A stream that gets no free connection to the receiver within this is refused; the near site holds and tries again.
pub(super) const SLOT_WITHIN: Duration = Duration::from_secs(10);
/// A receiver has so long to end its side of its only connection: most do at once, and one that does not is called all
/// the same.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);
/// Counts the reads of what it still says meanwhile; one that goes on is cut off.
const LEAVE_READS_MAX: usize = 64;
/// A connection that follows another one so soon is looked at before it is used.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(5);
/// It is turned away within this, if at all: an accept and a close, on one LAN.
const STAND_FOR: Duration = Duration::from_millis(20);
/// It is opened again after a pause of [`STAND_FOR`], doubling to this.
const AGAIN_AFTER_MAX: Duration = Duration::from_millis(500);
/// And so for this long; then the receiver is at its limit for another reason.
const AGAIN_WITHIN: Duration = Duration::from_secs(5);

/// Is a place. Whoever has it lets the connection go first.
pub(super) struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    /// Is the only connection that the receiver takes, to see its end.
    only: Option<std::net::TcpStream>,
    leaving: Arc<Leaving>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let (Some(tcp), Some(permit)) = (self.only.take(), self.permit.take()) {
            self.leaving.begin(tcp, permit);
        }
    }
}

/// Knows how the connection before ended.
#[derive(Default)]
pub(super) struct Leaving {
    last: Mutex<Last>,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct Last {
    ended: Option<Instant>,
    /// Says that the receiver turned away what followed.
    is_turned_away: bool,
}

impl Leaving {
    fn last(&self) -> std::sync::MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, tcp: std::net::TcpStream, permit: OwnedSemaphorePermit) {
        self.last().ended = Some(Instant::now());
        let Ok(runtime) = Handle::try_current() else { return };
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(
            async move {
                timeout(LEAVE_WITHIN, leave(tcp)).await.ok();
                drop(permit);
            },
            &runtime,
        );
    }

    fn is_to_be_looked_at(&self) -> bool {
        let last = self.last();
        last.is_turned_away || last.ended.is_some_and(|ended| ended.elapsed() < FOLLOWS_WITHIN)
    }
}

/// Ends this side, and waits for the end of the other one.
async fn leave(tcp: std::net::TcpStream) {
    SockRef::from(&tcp).shutdown(Shutdown::Write).ok();
    let Ok(tcp) = TcpStream::from_std(tcp) else { return };
    let mut forgotten = [0; 1024];
    for _ in 0..LEAVE_READS_MAX {
        if tcp.readable().await.is_err() {
            return;
        }
        match tcp.try_read(&mut forgotten) {
            Ok(0) => return,
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return,
            // What comes without a pause lets others have their turn.
            Ok(_) | Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// Tells whether a connection is still there a moment later.
async fn stands(socket: &Socket) -> bool {
    let ends = async {
        while !socket.is_closing().await {
            sleep(STAND_FOR / 10).await;
        }
    };
    timeout(STAND_FOR, ends).await.is_err()
}

impl Service {
    /// Waits for a place.
    pub(super) async fn slot(&self) -> Result<Slot, Cause> {
        let permit = match Arc::clone(&self.slots).try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => {
                let _waiting = Waiting::new(&self.waiting);
                let permit = timeout(SLOT_WITHIN, Arc::clone(&self.slots).acquire_owned()).await;
                permit.ok().and_then(Result::ok)
            }
        };
        let mut full_since = self.full_since.lock().unwrap_or_else(PoisonError::into_inner);
        match &permit {
            Some(_) => *full_since = None,
            None => drop(full_since.get_or_insert_with(SystemTime::now)),
        }
        let slot = |permit| Slot { permit: Some(permit), only: None, leaving: Arc::clone(&self.leaving) };
        permit.map(slot).ok_or(Cause::ReceiverBusy)
    }

    /// Connects to the receiver in a place; also to one that has not noticed yet that its only connection is gone.
    pub(super) async fn meet(&self, config: &config::Service, slot: &mut Slot) -> Result<Socket, Cause> {
        let is_only = config.connections_max.get() == 1;
        let met = if is_only && self.leaving.is_to_be_looked_at() {
            self.call_again(config).await
        } else {
            call(config).await
        };
        if let Ok(socket) = met.as_ref()
            && is_only
        {
            slot.only = socket.tcp().as_fd().try_clone_to_owned().ok().map(Into::into);
        }
        met
    }

    async fn call_again(&self, config: &config::Service) -> Result<Socket, Cause> {
        let deadline = Instant::now() + AGAIN_WITHIN;
        let mut pause = STAND_FOR;
        loop {
            let met = match call(config).await {
                Ok(socket) if !stands(&socket).await => Err(Cause::ReceiverReset),
                met => met,
            };
            let is_turned_away = matches!(met, Err(Cause::ReceiverReset));
            if !is_turned_away || Instant::now() >= deadline {
                self.leaving.last().is_turned_away = is_turned_away;
                return met;
            }
            sleep(pause).await;
            pause = pause.saturating_mul(2).min(AGAIN_AFTER_MAX);
        }
    }
}

async fn call(config: &config::Service) -> Result<Socket, Cause> {
    let tcp = dial::dial(&config.target).await?;
    match (tune(&tcp, RECEIVER_TIMEOUT), &config.tls) {
        // One that takes connections and ends each at once is there all the same.
        (Err(_), _) => Err(Cause::ReceiverReset),
        (Ok(()), None) => Ok(Socket::plain(tcp)),
        (Ok(()), Some(tls)) => Socket::connect(tcp, tls).await.map_err(Cause::from),
    }
}

#[cfg(test)]
mod tests;
