//! How the near end connects and greets, and why it could not.
//!
//! It never says more to an address than whom it wants, and nothing to one that is not the peer's.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::USER_TIMEOUT;
use super::super::wire::{CARRIES_STORED, Cause, Hello, Record, VERSION, Welcome, WireError, decode, encode};
use super::Outbound;

/// A connection attempt that takes longer is begun anew: its SYN waits in a backoff.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// The greeting is answered within this.
const GREET_WITHIN: Duration = Duration::from_secs(5);
/// A greeting is one small record, in bytes.
const GREETING_BYTES_MAX: usize = 1024;

/// Says why a link does not come up.
#[derive(Debug, Error)]
pub enum DialError {
    /// TCP cannot connect.
    #[error("cannot connect to the link port {address}")]
    Connect {
        /// Is where.
        address: SocketAddr,
        /// Says why.
        source: io::Error,
    },
    /// Nobody answers.
    #[error("no answer from the link port {address}")]
    Silent {
        /// Is where.
        address: SocketAddr,
    },
    /// The other side speaks something else.
    #[error("the link port {address} does not speak wardlink's protocol")]
    Foreign {
        /// Is where.
        address: SocketAddr,
        /// Says what is wrong.
        source: WireError,
    },
    /// The connection broke in the greeting.
    #[error("the link port {address} broke the connection off")]
    Broken {
        /// Is where.
        address: SocketAddr,
    },
    /// The address belongs to another peer, or to none: `wg` can move it.
    #[error("the address of the link port {address} does not belong to the peer")]
    NotThePeers {
        /// Is where.
        address: SocketAddr,
    },
    /// The other side is of a version that does not carry stored messages.
    #[error("the link port {address} is of a version that does not carry stored messages")]
    StoredUnsupported {
        /// Is where.
        address: SocketAddr,
    },
    /// The other side refuses, and says why.
    #[error("{0}")]
    Refused(Cause),
}

impl DialError {
    /// Returns the kind of failure.
    pub(super) fn cause(&self) -> Cause {
        match self {
            Self::Refused(cause) => *cause,
            Self::StoredUnsupported { .. } => Cause::StoredUnsupported,
            Self::Foreign { .. } => Cause::Protocol,
            Self::Connect { .. } | Self::Silent { .. } | Self::Broken { .. } | Self::NotThePeers { .. } => {
                Cause::LinkDown
            }
        }
    }
}

impl Outbound {
    /// Connects and greets; returns what was read beyond the greeting as well.
    pub(super) async fn greet(&self) -> Result<(TcpStream, Welcome, BytesMut), DialError> {
        let address = self.route.address;
        if !self.inside.owners().is_at(&self.route.peer, address.ip()) {
            return Err(DialError::NotThePeers { address });
        }
        let connect = tokio::time::timeout(CONNECT_WITHIN, self.inside.connect(address, USER_TIMEOUT)).await;
        let mut tcp = connect
            .map_err(|_| DialError::Silent { address })?
            .map_err(|source| DialError::Connect { address, source })?;
        tokio::time::timeout(GREET_WITHIN, self.exchange_greetings(&mut tcp))
            .await
            .map_err(|_| DialError::Silent { address })?
            .map(|(welcome, early)| (tcp, welcome, early))
    }

    async fn exchange_greetings(&self, tcp: &mut TcpStream) -> Result<(Welcome, BytesMut), DialError> {
        let address = self.route.address;
        let mut hello = BytesMut::new();
        encode(&Record::Hello(self.hello()), &mut hello);
        tcp.write_all(&hello).await.map_err(|source| DialError::Connect { address, source })?;
        let mut buffer = BytesMut::with_capacity(GREETING_BYTES_MAX);
        loop {
            let read = tcp.read_buf(&mut buffer).await.map_err(|source| DialError::Connect { address, source })?;
            if read == 0 || buffer.len() > GREETING_BYTES_MAX * 8 {
                return Err(DialError::Broken { address });
            }
            let (answer, answer_bytes) =
                match decode(&buffer).map_err(|source| DialError::Foreign { address, source })? {
                    None => continue,
                    Some((Record::Welcome(welcome), _))
                        if self.supply.is_some() && welcome.capabilities & CARRIES_STORED == 0 =>
                    {
                        return Err(DialError::StoredUnsupported { address });
                    }
                    Some((Record::Welcome(welcome), bytes)) if welcome.version == VERSION => (Ok(welcome), bytes),
                    Some((Record::Refuse(cause), bytes)) => (Err(DialError::Refused(cause)), bytes),
                    Some((_, bytes)) => (Err(DialError::Refused(Cause::Protocol)), bytes),
                };
            let early = buffer.split_off(answer_bytes);
            return answer.map(|welcome| (welcome, early));
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            version_min: VERSION,
            version_max: VERSION,
            capabilities: if self.supply.is_some() { CARRIES_STORED } else { 0 },
            instance: self.route.instance,
            linger_ms: u32::try_from(self.hold_for().as_millis()).unwrap_or(u32::MAX),
            site: self.route.site.clone(),
            forward: self.route.forward.clone(),
            service: self.route.service.clone(),
        }
    }
}
