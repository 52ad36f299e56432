//! Where the audit log is sent, as IHE ATNA has it. Pure.
//!
//! Only says what was configured.

use std::sync::Arc;

use super::Endpoint;
use crate::tls;

/// Is an audit record repository: a server of syslog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Atna {
    /// Is where it is reached.
    pub server: Endpoint,
    /// Is what it is met with; absent: plain TCP.
    pub tls: Option<Arc<tls::Receiver>>,
}
