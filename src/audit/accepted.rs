//! What an operator accepted: of a log that is not the one that peers were told of, `accepted` beside the log; of a
//! peer's, `peers/NAME.accepted`, until the site has taken it up.
//!
//! The first never counts where the key of the log did not make it: who takes the log away with its key takes this too.
//! The second names what it is of: never counts for what comes later.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::peers::DIRECTORY;
use super::witness::{Accepted, Ended, ProofKey};
use super::{AuditError, Chain, Head};

/// Names the file.
const FILE: &str = "accepted";
/// Bounds it, in bytes.
const BYTES_MAX: u64 = 4096;

/// Is what the file has, as JSON.
#[derive(Serialize, Deserialize)]
struct Written {
    own: u64,
    foreign: u64,
    by: String,
    proof: String,
}

/// Makes the proof: of a head that no log has, for no hash ends with so many zeros.
fn sealed(key: &ProofKey, accepted: Accepted) -> Head {
    let mut chain = [0; 32];
    for (to, from) in chain.iter_mut().zip(accepted.foreign.to_be_bytes()) {
        *to = from;
    }
    key.head(accepted.own, Chain(chain))
}

/// Reads what was accepted, and by whom; nothing where the file is not there, or not of this key.
pub fn load(directory: &Path, key: &[u8; 32]) -> (Accepted, String) {
    let Some(written) = read::<Written>(&directory.join(FILE)) else { return Default::default() };
    let accepted = Accepted { own: written.own, foreign: written.foreign };
    match hex::encode(sealed(&ProofKey::new(key), accepted).proof) == written.proof {
        true => (accepted, written.by),
        false => Default::default(),
    }
}

/// Writes what is accepted; it counts from the site's next start on.
///
/// # Errors
/// It cannot be written.
pub fn store(directory: &Path, key: &[u8; 32], accepted: Accepted, by: &str) -> Result<(), AuditError> {
    let Accepted { own, foreign } = accepted;
    let proof = hex::encode(sealed(&ProofKey::new(key), accepted).proof);
    let text = serde_json::json!(Written { own, foreign, by: by.to_owned(), proof }).to_string();
    write(directory.join(FILE), &directory.join("accepted.new"), text)
}

/// Is what the file of a peer has, as JSON.
#[derive(Serialize, Deserialize)]
struct OfPeer {
    ended: Vec<Ended>,
    by: String,
}

fn path_of(directory: &Path, peer: &str) -> PathBuf {
    directory.join(DIRECTORY).join(format!("{peer}.accepted"))
}

/// Writes what is accepted of a peer's log; a running site takes it up, or the next start.
///
/// # Errors
/// It cannot be written.
pub fn store_of_peer(directory: &Path, peer: &str, ended: &[Ended], by: &str) -> Result<(), AuditError> {
    let text = serde_json::json!(OfPeer { ended: ended.to_vec(), by: by.to_owned() }).to_string();
    let path = path_of(directory, peer);
    let draft = path.with_extension("accepted-new");
    write(path, &draft, text)
}

/// Reads what is accepted of a peer's log and not taken up yet, by whom, and where that is written.
pub(super) fn load_of_peer(directory: &Path, peer: &str) -> Option<(PathBuf, Vec<Ended>, String)> {
    let path = path_of(directory, peer);
    let OfPeer { ended, by } = read(&path)?;
    Some((path, ended, by))
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    let is_short = fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() <= BYTES_MAX);
    let text = if is_short { fs::read(path).ok() } else { None };
    serde_json::from_slice(&text?).ok()
}

fn write(path: PathBuf, draft: &Path, text: String) -> Result<(), AuditError> {
    // The site reads what root wrote; nobody else comes into the directory.
    let written = fs::write(draft, text + "\n")
        .and_then(|()| fs::set_permissions(draft, Permissions::from_mode(0o644)))
        .and_then(|()| fs::File::open(draft)?.sync_all())
        .and_then(|()| fs::rename(draft, &path))
        .inspect_err(|_| drop(fs::remove_file(draft)));
    written.map_err(|source| AuditError::File { doing: "write", path, source })
}
