//! How much of the audit log is kept.
//!
//! Opens nothing.

use std::time::Duration;

use super::Findings;
use crate::config::Audit;
use crate::config::raw;
use crate::config::value;

/// Bounds how long entries are kept.
const KEEP_MIN: Duration = Duration::from_secs(24 * 3600);
const KEEP_MAX: Duration = Duration::from_secs(3650 * 24 * 3600);
/// Bounds how much is kept, in bytes: two files of it at the least.
const BYTES_MIN: u64 = 64 << 20;
const BYTES_MAX: u64 = 16 << 40;

/// Checks what the file says of it; `None` where that is wrong.
pub(super) fn check(raw: Option<&raw::Audit>, findings: &mut Findings) -> Option<Audit> {
    let default = Audit::default();
    let keep = raw.and_then(|raw| raw.keep.as_ref());
    let keep = findings.optional(keep, default.keep, |text| value::duration(text, KEEP_MIN..=KEEP_MAX));
    let max_size = raw.and_then(|raw| raw.max_size.as_ref());
    let bytes_max =
        findings.optional(max_size, default.bytes_max, |text| value::size_bytes(text, BYTES_MIN..=BYTES_MAX));
    Some(Audit { keep: keep?, bytes_max: bytes_max? })
}
