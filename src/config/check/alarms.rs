//! Alarms: their limits, and who is told.
//!
//! Never shows the path of a webhook: services put a secret there.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_saphyr::Spanned;

use super::{Findings, ReadKey, tls};
use crate::config::alarms::{AlarmLimits, Alarms, Path, Webhook};
use crate::config::raw::{self, Text};
use crate::config::value::{self, Judged};
use crate::config::{Endpoint, Host};

/// Is the longest time that something may be so before it counts.
const HOLD_MAX: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
/// Limits the words of a command.
const WORDS_MAX: usize = 64;
/// Are where systems keep the certificates that they trust: Debian and Alpine, Red Hat, SUSE, others.
const SYSTEM_CA_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Checks the alarms; `None` where something is wrong.
pub(super) fn check(
    raw: Option<&Spanned<raw::Alarms>>,
    read_key: ReadKey<'_>,
    findings: &mut Findings,
) -> Option<Alarms> {
    let Some(raw) = raw else { return Some(Alarms::default()) };
    let raw = &raw.value;
    let limits = limits(raw, findings);
    let webhook = raw.webhook.as_ref().map(|url| webhook(url, raw.webhook_ca_file.as_ref(), read_key, findings));
    if let (None, Some(file)) = (&raw.webhook, &raw.webhook_ca_file) {
        findings.value(
            file.referenced,
            "says whom to trust at a webhook, and there is none; write webhook, or leave it out",
        );
    }
    let command = raw.command.as_ref().map(|words| command(words, findings));
    let webhook = match webhook {
        Some(webhook) => Some(webhook?),
        None => None,
    };
    let command = match command {
        Some(command) => Some(command?),
        None => None,
    };
    Some(Alarms { limits: limits?, webhook, command })
}

fn limits(raw: &raw::Alarms, findings: &mut Findings) -> Option<AlarmLimits> {
    let default = AlarmLimits::default();
    let mut time = |text: &Option<Text>, default, range: RangeInclusive<Duration>| {
        findings.optional(text.as_ref(), default, |text| or_off(text, |text| value::duration(text, range.clone())))
    };
    let down = time(&raw.down, default.down, Duration::ZERO..=WEEK);
    let queue_age = time(&raw.queue_age, default.queue_age, SECOND..=WEEK);
    let ack_latency = time(&raw.ack_latency, default.ack_latency, Duration::from_millis(1)..=HOLD_MAX);
    let no_session = time(&raw.no_session, default.no_session, Duration::ZERO..=WEEK);
    let certificate = time(&raw.certificate, default.certificate, DAY..=DAY * 365);
    let disk = time(&raw.disk, default.disk, SECOND * 60..=DAY * 30);
    let mut share =
        |text: &Option<Text>, default| findings.optional(text.as_ref(), default, |text| or_off(text, value::percent));
    let queue_depth_percent = share(&raw.queue_depth, default.queue_depth_percent);
    let nak_percent = share(&raw.nak_rate, default.nak_percent);
    let hold = |text: &str| value::duration(text, Duration::ZERO..=HOLD_MAX);
    let hold = findings.optional(raw.hold.as_ref(), default.hold, hold);
    let learn_silence = findings.optional(raw.learn_silence.as_ref(), default.learn_silence, value::boolean);
    Some(AlarmLimits {
        hold: hold?,
        down: down?,
        queue_depth_percent: queue_depth_percent?,
        queue_age: queue_age?,
        nak_percent: nak_percent?,
        ack_latency: ack_latency?,
        no_session: no_session?,
        certificate: certificate?,
        disk: disk?,
        learn_silence: learn_silence?,
    })
}

fn or_off<T>(text: &str, read: impl FnOnce(&str) -> Judged<T>) -> Judged<Option<T>> {
    match text {
        "off" => Ok(None),
        text => read(text).map(Some).map_err(|error| format!("{error}, or off")),
    }
}

fn webhook(url: &Text, ca_file: Option<&Text>, read_key: ReadKey<'_>, findings: &mut Findings) -> Option<Webhook> {
    let (is_tls, authority, server, path) = findings.read(url, read_url)?.value;
    let is_loopback = match &server.host {
        Host::Address(address) => address.to_canonical().is_loopback(),
        Host::Name(name) => name == "localhost",
        Host::OnLink { .. } => false,
    };
    if !is_tls {
        if !is_loopback {
            findings
                .value(url.referenced, "is http beyond loopback, where anybody reads and changes it; write https://");
            return None;
        }
        return Some(Webhook { server, authority, path, tls: None });
    }
    let tls = match ca_file {
        Some(file) => tls::server(file, &server, read_key, findings)?,
        None => {
            let system =
                SYSTEM_CA_FILES.iter().find(|file| read_key.read_pem(std::path::Path::new(file), false).is_ok());
            let Some(system) = system else {
                findings.value(url.referenced, "is of no issuer that this system knows; write webhook_ca_file as well");
                return None;
            };
            let file = Spanned::new((*system).to_owned(), url.referenced, url.defined);
            tls::server(&file, &server, read_key, findings)?
        }
    };
    Some(Webhook { server, authority, path, tls: Some(tls) })
}

/// Reads a URL; an error shows nothing of it.
fn read_url(text: &str) -> Judged<(bool, String, Endpoint, Path)> {
    let wrong = || "is no URL of a webhook; write https://HOST/PATH or https://HOST:PORT/PATH".to_owned();
    let (is_tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return Err(wrong()),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let is_clean = text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.contains('#');
    if !is_clean || authority.is_empty() || authority.contains(['@', '?']) {
        return Err(wrong());
    }
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let port = if is_tls { 443 } else { 80 };
    let whole = if has_port { authority.to_owned() } else { format!("{authority}:{port}") };
    let server = value::endpoint(&whole).map_err(|_| wrong())?;
    let path = if path.is_empty() { "/" } else { path };
    Ok((is_tls, authority.to_owned(), server, Path(path.to_owned())))
}

fn command(words: &Spanned<Vec<Text>>, findings: &mut Findings) -> Option<Vec<String>> {
    let instead = "write [/PATH/OF/PROGRAM, ARGUMENT, ...]";
    let Some(program) = words.value.first() else {
        findings.value(words.referenced, format!("is empty; {instead}, or leave the key out"));
        return None;
    };
    if words.value.len() > WORDS_MAX {
        findings.value(words.referenced, format!("has more than {WORDS_MAX} words; put them into a script"));
        return None;
    }
    if words.value.iter().any(|word| word.value.contains('\0')) {
        findings.value(words.referenced, format!("has a word that no program can be given; {instead}"));
        return None;
    }
    findings.read(program, value::absolute_path)?;
    Some(words.value.iter().map(|word| word.value.clone()).collect())
}
