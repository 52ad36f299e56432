//! What `wardlink status` says of the audit log, where that is not as it should be. Pure.
//!
//! Understands what it needs of the status.

use serde::Deserialize;

use crate::cli::columns::line;

/// Is how the audit log is.
#[derive(Debug, Deserialize)]
pub(super) struct Audit {
    lost: u64,
    failed: Option<Failed>,
    contradicted: Option<Failed>,
    #[serde(default)]
    peers: Vec<PeerLog>,
    atna: Option<Atna>,
}

/// Is how the audit log of a peer is.
#[derive(Debug, Deserialize)]
struct PeerLog {
    peer: String,
    fault: Option<Failed>,
}

/// Is how the audit log is sent.
#[derive(Debug, Deserialize)]
struct Atna {
    server: String,
    unsent: u64,
    failed: Option<Failed>,
}

#[derive(Debug, Deserialize)]
struct Failed {
    since: String,
    cause: String,
}

/// Writes a line for each thing that is wrong with it.
pub(super) fn account(text: &mut String, audit: &Audit) {
    if let Some(Failed { since, cause }) = &audit.failed {
        line(text, &format!("  the audit log cannot be written since {since}: {cause}"));
    }
    if let Some(Failed { since, cause }) = &audit.contradicted {
        line(text, &format!("  the audit log is not as it was written, as is known since {since}: {cause}"));
    }
    for PeerLog { peer, fault } in &audit.peers {
        if let Some(Failed { since, cause }) = fault {
            line(text, &format!("  the audit log of {peer} is not what it was, as is known since {since}: {cause}"));
        }
    }
    if let Some(Atna { server, unsent, failed: Some(Failed { since, cause }) }) = &audit.atna {
        let waits = format!("{unsent} entries wait");
        line(text, &format!("  the audit log cannot be sent to {server} since {since}: {cause}; {waits}"));
    }
    if audit.lost > 0 {
        line(text, &format!("  {} events are not in the audit log: it could not be written as fast", audit.lost));
    }
}
