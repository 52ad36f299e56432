//! TLS on local legs: whether the files are there, are what they should be, and belong together.
//!
//! Never shows what is in a file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde_saphyr::{Location, Spanned};
use zeroize::Zeroizing;

use super::{Findings, ReadKey};
use crate::config::raw::{ForwardTls, ServiceTls, Text};
use crate::config::{Endpoint, Host, KeyFileError};
use crate::tls::{Anchors, Identity, Listener, Problem, Receiver};

/// Checks what senders meet; the outer `None` where it is wrong.
pub(super) fn listener(
    raw: Option<&Spanned<ForwardTls>>,
    read_key: ReadKey<'_>,
    findings: &mut Findings,
) -> Option<Option<Arc<Listener>>> {
    let Some(raw) = raw else { return Some(None) };
    let (at, raw) = (raw.referenced, &raw.value);
    let identity = identity(at, raw.certificate_file.as_ref(), raw.key_file.as_ref(), read_key, findings);
    let issuers = raw.client_ca_file.as_ref().map(|text| anchors(text, read_key, findings));
    let issuers = match issuers {
        Some(issuers) => Some(issuers?),
        None => None,
    };
    made(at, Listener::new(identity?, issuers), findings)
}

/// Checks what a receiver is met with; the outer `None` where it is wrong.
pub(super) fn receiver(
    raw: Option<&Spanned<ServiceTls>>,
    target: Option<&Endpoint>,
    read_key: ReadKey<'_>,
    findings: &mut Findings,
) -> Option<Option<Arc<Receiver>>> {
    let Some(raw) = raw else { return Some(None) };
    let (at, raw) = (raw.referenced, &raw.value);
    if raw.ca_file.is_none() {
        findings.missing(at, "ca_file", "the file with the certificate of who issued the receiver's, in PEM");
    }
    let issuers = raw.ca_file.as_ref().and_then(|text| anchors(text, read_key, findings));
    let shows = raw.certificate_file.is_some() || raw.key_file.is_some();
    let (certificate, key) = (raw.certificate_file.as_ref(), raw.key_file.as_ref());
    let identity = shows.then(|| identity(at, certificate, key, read_key, findings));
    let identity = match identity {
        Some(identity) => Some(identity?),
        None => None,
    };
    let (name, name_at) = match (&raw.server_name, target?) {
        (Some(name), _) => (name.value.clone(), name.referenced),
        (None, Endpoint { host: Host::Address(address), .. }) => (address.to_string(), at),
        (None, Endpoint { host: Host::OnLink { address, .. }, .. }) => (address.to_string(), at),
        (None, Endpoint { host: Host::Name(name), .. }) => (name.clone(), at),
    };
    let made = Receiver::new(issuers?, &name, identity);
    made_at(
        name_at,
        made.map_err(|error| format!("{error}; write server_name: as the receiver's certificate has it")),
        findings,
    )
}

/// Checks what a server beyond this site is met with that is trusted by the certificates in a file.
pub(super) fn server(
    ca_file: &Text,
    server: &Endpoint,
    read_key: ReadKey<'_>,
    findings: &mut Findings,
) -> Option<Arc<Receiver>> {
    let issuers = anchors(ca_file, read_key, findings)?;
    let name = match &server.host {
        Host::Address(address) => address.to_string(),
        Host::OnLink { address, .. } => address.to_string(),
        Host::Name(name) => name.clone(),
    };
    let made = Receiver::new(issuers, &name, None);
    made_at(ca_file.referenced, made, findings).flatten()
}

fn made<T>(at: Location, made: Result<T, String>, findings: &mut Findings) -> Option<Option<T>> {
    made_at(at, made.map_err(|error| format!("cannot be used ({error}); write other files")), findings)
}

fn made_at<T>(at: Location, made: Result<T, String>, findings: &mut Findings) -> Option<Option<T>> {
    match made {
        Ok(made) => Some(Some(made)),
        Err(message) => {
            findings.value(at, message);
            None
        }
    }
}

fn identity(
    at: Location,
    certificate: Option<&Text>,
    key: Option<&Text>,
    read_key: ReadKey<'_>,
    findings: &mut Findings,
) -> Option<(PathBuf, Identity)> {
    if certificate.is_none() {
        findings.missing(at, "certificate_file", "the file with this site's certificate in PEM");
    }
    if key.is_none() {
        findings.missing(at, "key_file", "the file with the private key of that certificate in PEM");
    }
    let (certificate, key) = (certificate?, key?);
    let chain = read(certificate, false, read_key, findings);
    let chain = chain.and_then(|(path, pem)| Some((path, found(certificate, Identity::certificates(&pem), findings)?)));
    let key_pem = read(key, true, read_key, findings);
    let ((path, chain), (_, key_pem)) = (chain?, key_pem?);
    let identity = match Identity::new(chain, &key_pem) {
        Err(problem @ Problem::BadCertificate(_)) => found(certificate, Err(problem), findings),
        made => found(key, made, findings),
    }?;
    let ended = SystemTime::now().duration_since(identity.expires()).is_ok();
    if ended && !read_key.is_to_run() {
        let at = humantime::format_rfc3339_seconds(identity.expires());
        findings
            .value(certificate.referenced, format!("holds a certificate that expired at {at}; have it issued anew"));
    }
    Some((path, identity))
}

fn anchors(text: &Text, read_key: ReadKey<'_>, findings: &mut Findings) -> Option<(PathBuf, Anchors)> {
    let (path, pem) = read(text, false, read_key, findings)?;
    Some((path, found(text, Anchors::new(&pem), findings)?))
}

fn found<T>(text: &Text, found: Result<T, Problem>, findings: &mut Findings) -> Option<T> {
    found.map_err(|problem| findings.value(text.referenced, problem.to_string())).ok()
}

fn read(
    text: &Text,
    is_secret: bool,
    read_key: ReadKey<'_>,
    findings: &mut Findings,
) -> Option<(PathBuf, Zeroizing<Vec<u8>>)> {
    let path = Path::new(&text.value);
    match read_key.read_pem(path, is_secret) {
        Ok(pem) => Some((read_key.place(path).path().to_owned(), pem)),
        Err(error) => {
            let instead = match &error {
                KeyFileError::Missing { .. } => "write the path of a file in PEM that is there".to_owned(),
                KeyFileError::Mode { path, .. } => format!("run: chmod 0600 {}", path.display()),
                KeyFileError::Read { .. } => "run as the owner of the file, or as root".to_owned(),
                KeyFileError::NotAFile { .. } | KeyFileError::NotAKey { .. } | KeyFileError::TooLong { .. } => {
                    "write the path of a file in PEM".to_owned()
                }
            };
            findings.value(text.referenced, format!("{error}; {instead}"));
            None
        }
    }
}
