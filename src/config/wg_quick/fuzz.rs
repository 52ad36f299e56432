//! Checks the promises of the wg-quick reader on any bytes: the body of the fuzz target, and of the test that replays
//! its corpus.
//!
//! Panics where a promise is broken, and only there; production code never calls it.

use std::path::Path;

use super::{Naming, counterpart, parse, site};
use crate::config::{self, Name, SecretKey};

/// Is the name of the file in errors and comments.
const SOURCE: &str = "fuzz.conf";

/// Takes `data` for a wg-quick file, imports it, and exports each peer of the site that comes of it.
///
/// # Panics
///
/// Panics where a secret is shown, a line is named that is not there, the YAML cannot be read, or an exported file
/// cannot be read back.
pub fn fuzz_wg_quick(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let file = match parse(&text) {
        Ok(file) => file,
        Err(mistakes) => {
            assert!(!mistakes.is_empty(), "refused without a reason");
            for mistake in mistakes {
                assert!((1..=text.lines().count().max(1)).contains(&mistake.line), "line {}", mistake.line);
                assert!(!mistake.message.chars().any(char::is_control), "{:?}", mistake.message);
            }
            return;
        }
    };
    let Some(name) = Name::new("fuzz") else { return };
    let made = site(&file, Naming { site: &name, interface: "wg0", keys: "/keys", source: SOURCE });
    for key in made.keys.iter().filter_map(|file| file.key.as_ref()) {
        // A public key may be the same bytes, where a file says so itself.
        let shown =
            made.yaml.lines().any(|line| line.contains(key.to_base64().as_str()) && !line.contains("public_key"));
        assert!(!shown, "a secret is in the YAML");
    }
    let read_key = |path: &Path| {
        let known = made.keys.iter().find(|file| Path::new(&file.path) == path);
        Ok(known.and_then(|file| file.key.clone()).unwrap_or_else(|| SecretKey::new([1; 32])))
    };
    match config::parse(&made.yaml, Path::new(SOURCE), &read_key) {
        Err(errors) => {
            let errors = errors.to_string();
            assert!(!errors.contains("is not YAML") && !errors.contains("not a known key"), "{errors}\n{}", made.yaml);
        }
        Ok(config) => {
            assert_eq!(config.peers.len(), file.peers.len());
            for peer in &config.peers {
                let exported = counterpart(&config, peer, None);
                let own = SecretKey::new([7; 32]).to_base64();
                let filled: Vec<&str> = exported
                    .lines()
                    .map(|line| if line.starts_with("PrivateKey = ") { "PrivateKey = @" } else { line })
                    .collect();
                let back = parse(&filled.join("\n").replace('@', &own));
                assert!(back.is_ok_and(|back| back.peers.len() == 1), "{exported}");
            }
        }
    }
}
