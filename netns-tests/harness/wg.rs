//! The real `wg`, run inside a site that runs wardlink, and the socket that it speaks to.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::site::{Site, write_secret};

/// Is the name of the sites' interface.
pub(crate) const INSIDE: &str = "wl0";

/// Bounds the wait for an answer of the socket.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// Runs `wg` in a site; panics where it fails.
#[track_caller]
pub(crate) fn wg(site: &Site, words: &str) -> String {
    site.namespace.must(&format!("wg {words}"))
}

/// Runs `wg set` on the site's interface.
#[track_caller]
pub(crate) fn set(site: &Site, words: &str) {
    wg(site, &format!("set {INSIDE} {words}"));
}

/// Reads a column of what `wg show` says of each peer: the key, and the rest of its line.
#[track_caller]
pub(crate) fn show(site: &Site, what: &str) -> Vec<(String, String)> {
    let text = wg(site, &format!("show {INSIDE} {what}"));
    let lines = text.lines().map(|line| line.split_once('\t').unwrap_or((line, "")));
    lines.map(|(key, rest)| (key.to_owned(), rest.to_owned())).collect()
}

#[track_caller]
pub(crate) fn show_of(site: &Site, peer: &str, what: &str) -> String {
    let found = show(site, what).into_iter().find(|(key, _)| key == peer);
    found.unwrap_or_else(|| panic!("no peer {peer} in {what}")).1
}

/// Makes a key pair: the secret in a file of the site, and the public key.
pub(crate) fn new_key(site: &Site, name: &str) -> (String, String) {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).expect("randomness");
    let secret = x25519_dalek::StaticSecret::from(secret);
    let file = site.dir.join(name);
    write_secret(&file, &STANDARD.encode(secret.to_bytes()));
    (file.display().to_string(), STANDARD.encode(x25519_dalek::PublicKey::from(&secret).as_bytes()))
}

/// Writes a file into a site's directory and returns its path.
pub(crate) fn file(site: &Site, name: &str, text: &str) -> String {
    let path = site.dir.join(name);
    std::fs::write(&path, text).expect("the file is written");
    path.display().to_string()
}

/// Speaks to the socket itself, and returns the answer to one request.
pub(crate) fn say(site: &Site, request: &str) -> String {
    let request = request.to_owned();
    site.namespace.run(move || {
        let mut stream = UnixStream::connect(format!("/var/run/wireguard/{INSIDE}.sock")).expect("the socket is there");
        stream.set_read_timeout(Some(ANSWER_LIMIT)).expect("a timeout");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        let mut byte = [0; 1];
        while !answer.ends_with("\n\n") {
            stream.read_exact(&mut byte).expect("it answers");
            answer.push(char::from(byte[0]));
        }
        answer
    })
}
