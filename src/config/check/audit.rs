//! How much of the audit log is kept, and where it is sent.
//!
//! Opens nothing but files of TLS.

use std::time::Duration;

use serde_saphyr::Spanned;

use super::{Findings, ReadKey, tls};
use crate::config::{Atna, Audit, raw, value};

/// Bounds how long entries are kept.
const KEEP_MIN: Duration = Duration::from_secs(24 * 3600);
const KEEP_MAX: Duration = Duration::from_secs(3650 * 24 * 3600);
/// Bounds how much is kept, in bytes: two files of it at the least.
const BYTES_MIN: u64 = 64 << 20;
const BYTES_MAX: u64 = 16 << 40;

/// Checks where it is sent; the outer `None` where that is wrong.
pub(super) fn atna(
    raw: Option<&Spanned<raw::Atna>>,
    read_key: ReadKey<'_>,
    findings: &mut Findings,
) -> Option<Option<Atna>> {
    let Some(raw) = raw else { return Some(None) };
    let instead = "the repository's HOST:PORT, such as audit.example.org:6514";
    let server = findings.required(raw.referenced, "server", instead, raw.value.server.as_ref(), value::endpoint);
    let server = server.map(|server| server.value);
    let tls = tls::receiver(raw.value.tls.as_ref(), server.as_ref(), read_key, findings);
    Some(Some(Atna { server: server?, tls: tls? }))
}

/// Checks how much is kept; `None` where that is wrong.
pub(super) fn check(raw: Option<&raw::Audit>, findings: &mut Findings) -> Option<Audit> {
    let default = Audit::default();
    let keep = raw.and_then(|raw| raw.keep.as_ref());
    let keep = findings.optional(keep, default.keep, |text| value::duration(text, KEEP_MIN..=KEEP_MAX));
    let max_size = raw.and_then(|raw| raw.max_size.as_ref());
    let bytes_max =
        findings.optional(max_size, default.bytes_max, |text| value::size_bytes(text, BYTES_MIN..=BYTES_MAX));
    Some(Audit { keep: keep?, bytes_max: bytes_max? })
}
