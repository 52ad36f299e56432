//! Who may ask: who shows the token, as a prober in a header or as a browser by a cookie that it got for the token.
//!
//! Never shows the token, and compares it in a time that says nothing of it. The header is that of RFC 6750, section 2.1; the
//! cookie has the prefix and attributes of RFC 6265bis, so that no other site and no script gets or sends it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{DefaultBodyLimit, Form, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Router};
use hmac::{Hmac, Mac as _};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::greet::Advice;
use crate::config::{Door, Token};
use crate::health::page::login;

/// Is how long a browser is known that showed the token: a screen on a wall is asked once a month.
const KNOWN_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// Limits what the form sends, in bytes: a token with each character in three.
const FORM_BYTES_MAX: usize = 1024;
/// Are what everybody gets that TLS lets in: whether the process serves and is ready, without a word, and the form's look.
const FOR_ALL: [&str; 3] = ["/livez", "/readyz", "/page.css"];

/// Is who asks, and at which address of this site.
#[derive(Clone)]
pub(super) struct Asker {
    pub(super) local: SocketAddr,
    pub(super) from: SocketAddr,
    /// Is what it must show; absent: nothing.
    pub(super) door: Option<Arc<Door>>,
    pub(super) advice: Arc<Advice>,
}

/// Is what the form sends.
#[derive(Deserialize)]
struct Login {
    token: String,
}

impl Asker {
    fn token(&self) -> Option<&Token> {
        self.door.as_ref()?.token.as_ref()
    }

    /// Tells whether a name, or address, is one of this site's.
    pub(super) fn is_own(&self, host: &str) -> bool {
        let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        let is_here = match host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback() || address == self.local.ip().to_canonical(),
            Err(_) => host.eq_ignore_ascii_case("localhost"),
        };
        is_here || self.door.as_ref().is_some_and(|door| door.tls.is_for(host))
    }

    /// Names the cookie: those of two sites on one host are two.
    fn cookie(&self) -> String {
        format!("__Host-wardlink-{}", self.local.port())
    }
}

/// Lets pass who may ask.
pub(super) async fn check_who(State(asker): State<Asker>, request: Request, next: Next) -> Response {
    let Some(token) = asker.token() else { return next.run(request).await };
    let path = request.uri().path();
    if FOR_ALL.contains(&path) || path == login::PATH {
        return next.run(request).await;
    }
    let headers = request.headers();
    match bearer(headers) {
        Some(shown) if is_same(token, shown) => return next.run(request).await,
        Some(_) => {
            asker.advice.of_token(asker.from);
            let text = "the token is not the one in health.token_file\n";
            let challenge = "Bearer realm=\"wardlink\", error=\"invalid_token\"";
            return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)], text).into_response();
        }
        None => {}
    }
    let name = asker.cookie();
    if cookies(headers, &name).any(|cookie| knows(token, cookie, SystemTime::now())) {
        return next.run(request).await;
    }
    if headers.get(header::ACCEPT).is_some_and(|accept| accept.as_bytes().starts_with(b"text/html")) {
        return login::form(StatusCode::UNAUTHORIZED, false);
    }
    let text = "a token is needed: send the header Authorization: Bearer TOKEN, with that in health.token_file\n";
    let challenge = "Bearer realm=\"wardlink\"";
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)], text).into_response()
}

/// Returns where the form goes, where there is a token.
pub(super) fn router(asker: &Asker) -> Router {
    if asker.token().is_none() {
        return Router::new();
    }
    let router = Router::new().route(login::PATH, post(log_in));
    router.layer(DefaultBodyLimit::max(FORM_BYTES_MAX)).layer(Extension(asker.clone()))
}

async fn log_in(Extension(asker): Extension<Asker>, Form(Login { token: shown }): Form<Login>) -> Response {
    let shown = Zeroizing::new(shown);
    let Some(token) = asker.token().filter(|token| is_same(token, shown.trim())) else {
        asker.advice.of_token(asker.from);
        return login::form(StatusCode::UNAUTHORIZED, true);
    };
    let cookie = format!(
        "{}={}; Path=/; Max-Age={}; Secure; HttpOnly; SameSite=Strict",
        asker.cookie(),
        known(token, SystemTime::now() + KNOWN_FOR),
        KNOWN_FOR.as_secs()
    );
    (StatusCode::SEE_OTHER, [(header::LOCATION, "/".to_owned()), (header::SET_COOKIE, cookie)]).into_response()
}

/// Returns the token in the header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().unwrap_or_default();
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    Some(if scheme.eq_ignore_ascii_case("bearer") { token.trim() } else { "" })
}

/// Returns the cookies of that name.
fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = pairs.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(move |(key, _)| *key == name).map(|(_, value)| value)
}

/// Keys what is made of a token, with its hash: as long as it may be, no longer than a key.
fn keyed(token: &Token, words: &[&[u8]]) -> Hmac<Sha256> {
    let mut key = Zeroizing::new([0; 64]);
    key.iter_mut().zip(Sha256::digest(token.expose())).for_each(|(to, byte)| *to = byte);
    let mut mac = Hmac::<Sha256>::new((&*key).into());
    words.iter().for_each(|word| mac.update(word));
    mac
}

/// Compares what both make under one key, so that the time says nothing of where they differ.
fn is_same(token: &Token, shown: &str) -> bool {
    let mine = keyed(token, &[b"token:", token.expose().as_bytes()]).finalize().into_bytes();
    keyed(token, &[b"token:", shown.as_bytes()]).verify(&mine).is_ok()
}

/// Writes a cookie: when it ends, and what nobody without the token can make of that.
fn known(token: &Token, until: SystemTime) -> String {
    let until = until.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mac = keyed(token, &[b"cookie:", until.to_string().as_bytes()]).finalize().into_bytes();
    format!("{until}.{}", hex::encode(mac))
}

fn knows(token: &Token, cookie: &str, now: SystemTime) -> bool {
    let Some((until, mac)) = cookie.split_once('.') else { return false };
    let is_ours =
        hex::decode(mac).is_ok_and(|mac| keyed(token, &[b"cookie:", until.as_bytes()]).verify_slice(&mac).is_ok());
    let end = until.parse().ok().and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
    is_ours && end.is_some_and(|end| now < end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_ends_and_is_of_one_token() {
        let token = |text: &str| Token::new(text.as_bytes()).expect("a token");
        let (one, other) = (token("0123456789abcdef0123456789abcdef"), token("0123456789abcdef0123456789abcdee"));
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let cookie = known(&one, now + KNOWN_FOR);
        assert!(knows(&one, &cookie, now) && !knows(&other, &cookie, now) && !knows(&one, &cookie, now + KNOWN_FOR));
        let later = cookie.replacen("18", "19", 1);
        for bad in ["", ".", "x.00", &later, &cookie[..cookie.len() - 1], "99999999999999999999999.00"] {
            assert!(!knows(&one, bad, now), "{bad}");
        }
        assert!(is_same(&one, one.expose()) && !is_same(&one, other.expose()) && !is_same(&one, ""));
    }
}
