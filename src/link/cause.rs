//! Why a stream or a link ended or was refused: one list for the wire, the metrics and people.
//!
//! Pure. It never carries an address or a byte of a message.

use std::fmt;

use crate::mllp::exchange::ANSWERS_COMMITS;
use crate::tls::Failure;

/// Says why a stream or a link ended or was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cause {
    /// The receiver refuses connections.
    ReceiverRefuses = 1,
    /// The receiver does not answer to a connection attempt.
    ReceiverSilent = 2,
    /// The receiver's address cannot be reached.
    ReceiverUnreachable = 3,
    /// The receiver has as many connections as it may have.
    ReceiverBusy = 4,
    /// The receiver broke its connection off.
    ReceiverReset = 5,
    /// The receiver did not acknowledge in time.
    AckTimeout = 6,
    /// The site offers no such service.
    ServiceUnknown = 7,
    /// The service is not offered to this peer.
    ServiceNotAllowed = 8,
    /// There are as many streams as there may be.
    TooManyStreams = 9,
    /// The sender is gone.
    SenderGone = 10,
    /// The site stops, or was configured anew and ends what began before.
    Stopping = 11,
    /// The link is down, and was for too long.
    LinkDown = 12,
    /// The far site lost the stream: it was restarted.
    Lost = 13,
    /// The other side does not keep to the protocol, or speaks no common version.
    Protocol = 14,
    /// The bytes are not MLLP as the limits want it.
    Refused = 15,
    /// The site does not offer the service to this peer any more.
    Withdrawn = 16,
    /// The other side is of a version that does not carry stored messages.
    StoredUnsupported = 17,
    /// The site cannot keep what it must of stored messages.
    StoreFailed = 18,
    /// The receiver's certificate was not issued by one that is trusted here.
    TlsNotTrusted = 19,
    /// The receiver's certificate is for another name.
    TlsWrongName = 20,
    /// The receiver's certificate has expired or is not valid yet.
    TlsExpired = 21,
    /// The receiver requires a certificate and is shown none.
    TlsCertificateRequired = 22,
    /// The receiver does not accept this site's certificate.
    TlsCertificateRefused = 23,
    /// The receiver speaks nothing newer than TLS 1.1.
    TlsTooOld = 24,
    /// The receiver does not speak TLS.
    TlsNotSpoken = 25,
    /// The receiver did not finish the TLS handshake in time.
    TlsTimeout = 26,
    /// The TLS handshake with the receiver failed.
    TlsFailed = 27,
    /// The receiver's name does not resolve.
    ReceiverNameUnknown = 28,
    /// The receiver answers the commits that it gets.
    AnswersCommits = 29,
}

impl Cause {
    /// Lists them.
    pub const ALL: [Self; 29] = [
        Self::ReceiverRefuses,
        Self::ReceiverSilent,
        Self::ReceiverUnreachable,
        Self::ReceiverBusy,
        Self::ReceiverReset,
        Self::AckTimeout,
        Self::ServiceUnknown,
        Self::ServiceNotAllowed,
        Self::TooManyStreams,
        Self::SenderGone,
        Self::Stopping,
        Self::LinkDown,
        Self::Lost,
        Self::Protocol,
        Self::Refused,
        Self::Withdrawn,
        Self::StoredUnsupported,
        Self::StoreFailed,
        Self::TlsNotTrusted,
        Self::TlsWrongName,
        Self::TlsExpired,
        Self::TlsCertificateRequired,
        Self::TlsCertificateRefused,
        Self::TlsTooOld,
        Self::TlsNotSpoken,
        Self::TlsTimeout,
        Self::TlsFailed,
        Self::ReceiverNameUnknown,
        Self::AnswersCommits,
    ];

    /// Reads a cause; one that a later version added counts as a protocol matter.
    pub(super) fn from_byte(byte: u8) -> Self {
        Self::ALL.into_iter().find(|cause| *cause as u8 == byte).unwrap_or(Self::Protocol)
    }

    /// Reads a stable code; one that is not listed here is another end of the receiver's connection.
    pub fn from_code(code: &str) -> Self {
        Self::ALL.into_iter().find(|cause| cause.code() == code).unwrap_or(Self::ReceiverReset)
    }

    /// Tells whether no byte can have reached the receiver where a stream is refused so: it may be opened again.
    pub fn is_refusal(self) -> bool {
        match self {
            Self::ReceiverRefuses
            | Self::ReceiverSilent
            | Self::ReceiverUnreachable
            | Self::ReceiverBusy
            | Self::ServiceUnknown
            | Self::ServiceNotAllowed
            | Self::TooManyStreams
            | Self::TlsNotTrusted
            | Self::TlsWrongName
            | Self::TlsExpired
            | Self::TlsCertificateRequired
            | Self::TlsCertificateRefused
            | Self::TlsTooOld
            | Self::TlsNotSpoken
            | Self::TlsTimeout
            | Self::TlsFailed
            | Self::ReceiverNameUnknown => true,
            Self::ReceiverReset
            | Self::AckTimeout
            | Self::SenderGone
            | Self::Stopping
            | Self::LinkDown
            | Self::Lost
            | Self::Protocol
            | Self::Refused
            | Self::Withdrawn
            | Self::StoredUnsupported
            | Self::StoreFailed
            | Self::AnswersCommits => false,
        }
    }

    /// Returns the stable code that metrics show.
    pub const fn code(self) -> &'static str {
        match self {
            Self::ReceiverRefuses => "receiver_refuses",
            Self::ReceiverSilent => "receiver_silent",
            Self::ReceiverUnreachable => "receiver_unreachable",
            Self::ReceiverBusy => "receiver_busy",
            Self::ReceiverReset => "receiver_reset",
            Self::AckTimeout => "ack_timeout",
            Self::ServiceUnknown => "service_unknown",
            Self::ServiceNotAllowed => "service_not_allowed",
            Self::TooManyStreams => "too_many_streams",
            Self::SenderGone => "sender_gone",
            Self::Stopping => "stopping",
            Self::LinkDown => "link_down",
            Self::Lost => "lost",
            Self::Protocol => "protocol",
            Self::Refused => "refused",
            Self::Withdrawn => "service_withdrawn",
            Self::StoredUnsupported => "stored_unsupported",
            Self::StoreFailed => "store_failed",
            Self::TlsNotTrusted => "tls_not_trusted",
            Self::TlsWrongName => "tls_wrong_name",
            Self::TlsExpired => "tls_expired",
            Self::TlsCertificateRequired => "tls_certificate_required",
            Self::TlsCertificateRefused => "tls_certificate_refused",
            Self::TlsTooOld => "tls_too_old",
            Self::TlsNotSpoken => "tls_not_spoken",
            Self::TlsTimeout => "tls_timeout",
            Self::TlsFailed => "tls_failed",
            Self::ReceiverNameUnknown => "receiver_name_unknown",
            Self::AnswersCommits => ANSWERS_COMMITS,
        }
    }
}

impl From<Failure> for Cause {
    /// Says why a receiver is not reached whose handshake failed.
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotTrusted => Self::TlsNotTrusted,
            Failure::WrongName => Self::TlsWrongName,
            Failure::Expired => Self::TlsExpired,
            Failure::CertificateRequired => Self::TlsCertificateRequired,
            Failure::CertificateRefused => Self::TlsCertificateRefused,
            Failure::TooOld => Self::TlsTooOld,
            Failure::NotTls => Self::TlsNotSpoken,
            Failure::TimedOut => Self::TlsTimeout,
            Failure::Gone | Failure::Other => Self::TlsFailed,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReceiverRefuses => "the receiver refuses connections",
            Self::ReceiverSilent => "the receiver does not answer to a connection attempt",
            Self::ReceiverUnreachable => "the receiver cannot be reached",
            Self::ReceiverBusy => "the receiver has as many connections as it may have",
            Self::ReceiverReset => "the receiver broke its connection off",
            Self::AckTimeout => "the receiver did not acknowledge in time",
            Self::ServiceUnknown => "the service is not known there",
            Self::ServiceNotAllowed => "the service is not offered to this site",
            Self::TooManyStreams => "there are as many connections as there may be",
            Self::SenderGone => "the sender is gone",
            Self::Stopping => "the site stops or was configured anew",
            Self::LinkDown => "the link is down",
            Self::Lost => "the other site was restarted",
            Self::Protocol => "the sites speak no common protocol version",
            Self::Refused => "the bytes were refused",
            Self::Withdrawn => "the service is not offered to this site any more",
            Self::StoredUnsupported => "the other site's version does not carry stored messages",
            Self::StoreFailed => "the other site cannot keep what it must of stored messages",
            Self::TlsNotTrusted => "the receiver's certificate was not issued by one that is trusted",
            Self::TlsWrongName => "the receiver's certificate is for another name",
            Self::TlsExpired => "the receiver's certificate has expired or is not valid yet",
            Self::TlsCertificateRequired => "the receiver requires a certificate",
            Self::TlsCertificateRefused => "the receiver does not accept its site's certificate",
            Self::TlsTooOld => "the receiver speaks nothing newer than TLS 1.1",
            Self::TlsNotSpoken => "the receiver does not speak TLS",
            Self::TlsTimeout => "the receiver did not finish the TLS handshake in time",
            Self::TlsFailed => "the TLS handshake with the receiver failed",
            Self::ReceiverNameUnknown => "the receiver's name does not resolve",
            Self::AnswersCommits => {
                "the receiver goes on with frames that answer nothing; where it speaks MLLP Release 1 it answers commits, \
                 leave mllp: release2 out; where it speaks Release 2 it repeats its own, look at the receiver"
            }
        })
    }
}
