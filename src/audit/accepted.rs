//! What an operator accepted of a log that is not the one that peers were told of: `accepted` beside the log.
//!
//! Never counts where the key of the log did not make it: who takes the log away with its key takes this too.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::witness::{Accepted, ProofKey};
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
    let path = directory.join(FILE);
    let is_short = fs::metadata(&path).is_ok_and(|metadata| metadata.len() <= BYTES_MAX);
    let text = if is_short { fs::read(&path).ok() } else { None };
    let Some(written) = text.and_then(|text| serde_json::from_slice::<Written>(&text).ok()) else {
        return Default::default();
    };
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
    let (path, draft) = (directory.join(FILE), directory.join("accepted.new"));
    // The site reads what root wrote; nobody else comes into the directory.
    let written = fs::write(&draft, text + "\n")
        .and_then(|()| fs::set_permissions(&draft, Permissions::from_mode(0o644)))
        .and_then(|()| fs::File::open(&draft)?.sync_all())
        .and_then(|()| fs::rename(&draft, &path));
    written.map_err(|source| AuditError::File { doing: "write", path, source })
}
