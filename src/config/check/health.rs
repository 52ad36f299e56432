//! Where health is asked, and by whom: beyond loopback over TLS only, by who has the token or a certificate.
//!
//! Never shows a token.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use serde_saphyr::Location;

use super::{At, Findings, ReadKey, tls};
use crate::config::raw::{self, Text};
use crate::config::{Door, KeyFileError, Token, value};

/// Is where the health endpoints listen unless the file says otherwise: loopback, beside other Prometheus exporters.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9575);
/// Says how a token is made.
const MAKE: &str = "(umask 077; wardlink key psk > FILE)";

/// Is health as the file has it: where it is asked, where HAProxy asks, and who is answered.
pub(super) struct Draft {
    pub(super) listen: Option<At<SocketAddr>>,
    pub(super) agent: Option<At<SocketAddr>>,
    pub(super) door: Option<Arc<Door>>,
}

/// Checks health; `None` where something is not, or is wrong.
pub(super) fn check(raw: Option<&raw::Health>, read_key: ReadKey<'_>, findings: &mut Findings) -> Draft {
    let listen = listens(raw.and_then(|raw| raw.listen.as_ref()), Some(LISTEN), findings);
    let agent = listens(raw.and_then(|raw| raw.agent_listen.as_ref()), None, findings);
    let agent = agent.filter(|agent| {
        let is_loopback = is_loopback(agent);
        if !is_loopback {
            let message = format!(
                "{} is beyond loopback, and HAProxy's agent-check knows neither TLS nor a password; write 127.0.0.1:{}, \
                 or none",
                agent.value,
                agent.value.port()
            );
            findings.value(agent.at, message);
        }
        is_loopback
    });
    let Some(raw) = raw else { return Draft { listen, agent, door: None } };
    let tls = tls::listener(raw.tls.as_ref(), read_key, findings);
    let token = raw.token_file.as_ref().map(|text| token(text, read_key, findings));
    if let (None, Some(text)) = (&raw.tls, &raw.token_file) {
        let message = "needs TLS, for a token in the clear is everybody's; write tls: {certificate_file: FILE, key_file: \
                       FILE} beside it, or leave it out";
        findings.value(text.referenced, message);
    }
    let has_client_ca = raw.tls.as_ref().is_some_and(|tls| tls.value.client_ca_file.is_some());
    let missing = missing(raw.tls.is_some(), token.is_some() || has_client_ca);
    if let (Some(listen), Some(missing)) = (listen.filter(|listen| !is_loopback(listen)), missing) {
        findings.value(listen.at, format!("{} is beyond loopback, {missing}; or write {LISTEN}", listen.value));
    }
    let door = match (tls, token) {
        (Some(Some(tls)), None) => Some(Arc::new(Door { tls, token: None })),
        (Some(Some(tls)), Some(Some(token))) => Some(Arc::new(Door { tls, token: Some(token) })),
        _ => None,
    };
    Draft { listen, agent, door }
}

fn is_loopback(listen: &At<SocketAddr>) -> bool {
    listen.value.ip().to_canonical().is_loopback()
}

/// Says what a listener beyond loopback lacks.
fn missing(has_tls: bool, asks_who: bool) -> Option<String> {
    let tls = "tls: {certificate_file: FILE, key_file: FILE}";
    let who = format!("token_file: FILE, made by {MAKE}, or client_ca_file: FILE in tls");
    match (has_tls, asks_who) {
        (true, true) => None,
        (true, false) => Some(format!("where it must know who asks; write {who}")),
        (false, true) => Some(format!("which needs TLS; write {tls} beside it")),
        (false, false) => Some(format!("which needs TLS, and must know who asks; write {tls} beside it, and {who}")),
    }
}

/// Reads where something of health listens; `None` where it does not, or where it is wrong.
fn listens(raw: Option<&Text>, default: Option<SocketAddr>, findings: &mut Findings) -> Option<At<SocketAddr>> {
    match raw {
        None => default.map(|value| At { value, at: Location::UNKNOWN }),
        Some(text) if text.value == "none" => None,
        Some(text) => findings.read(text, value::socket_address),
    }
}

fn token(text: &Text, read_key: ReadKey<'_>, findings: &mut Findings) -> Option<Token> {
    let path = Path::new(&text.value);
    let place = read_key.place(path);
    let shown = place.path().display();
    let read = match read_key.read_pem(path, true) {
        Ok(bytes) => Token::new(&bytes).map_err(|problem| format!("{shown} {problem}; make one: {MAKE}")),
        Err(error @ KeyFileError::Missing { .. }) => Err(format!("{error}; make it: {MAKE}")),
        Err(error @ KeyFileError::Mode { .. }) => Err(format!("{error}; run: chmod 0600 {shown}")),
        Err(error @ KeyFileError::Read { .. }) => Err(format!("{error}; run as the owner of the file, or as root")),
        Err(error) => Err(format!("{error}; write the path of a file with a token")),
    };
    read.map_err(|message| findings.value(text.referenced, message)).ok()
}
