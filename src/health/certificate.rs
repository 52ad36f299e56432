//! The certificates of local legs, as health tells of them and judges them. Pure.
//!
//! One that expires soon is noted and judged by nobody: a feed that works is not reported as one that does not.

use std::time::SystemTime;

use serde::Serialize;

use super::facts::{rfc3339, rfc3339_text};
use super::state::{Status, Verdict};

/// Holds what is known of a file of certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateFacts {
    /// Says of what part of the site it is, where it is of no forward and no service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<&'static str>,
    /// Says what it is for: `certificate`, which this site shows, or `issuer`, which must have issued the other end's.
    pub role: &'static str,
    /// Is the file.
    pub file: String,
    /// Says when it expires.
    #[serde(serialize_with = "rfc3339")]
    pub expires: SystemTime,
    /// Says that it has expired.
    pub expired: bool,
    /// Says that it expires soon, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Answers where one has expired.
pub(super) fn expired(certificates: &[CertificateFacts]) -> Option<Verdict> {
    let one = certificates.iter().filter(|one| one.expired).min_by_key(|one| one.expires)?;
    let text = format!(
        "{} {} expired at {}: have it issued anew, then wardlink reload",
        one.role,
        one.file,
        rfc3339_text(one.expires)
    );
    Some(Verdict::new(Status::Degraded, one.expires, &text))
}
