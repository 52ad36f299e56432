//! Looks at the files that the next start needs: whether it would find what the running site has.
//!
//! It opens no queue and takes nothing up: it only says so, while there is time.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::{Parts, Running};
use crate::config::{self, PublicKey};
use crate::health::files::{FileFault, followed, told};
use crate::spool::SpoolError;
use crate::spool::key::SpoolKey;

/// Is the time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// Remembers what was found.
#[derive(Default)]
pub(super) struct Watch(Mutex<Vec<FileFault>>);

impl Watch {
    pub(super) fn facts(&self) -> Vec<FileFault> {
        told(&self.0.lock().unwrap_or_else(PoisonError::into_inner), SystemTime::now())
    }
}

impl Parts {
    /// Looks again and again. Never returns.
    pub(super) async fn look_at_files(self: Arc<Self>, file: Option<Arc<Path>>) {
        let mut logged: Vec<FileFault> = Vec::new();
        loop {
            let (running, file) = (self.now.get(), file.clone());
            let look = move || look(&running, file.as_deref());
            if let Ok(found) = tokio::task::spawn_blocking(look).await {
                let mut faults = self.files.0.lock().unwrap_or_else(PoisonError::into_inner);
                *faults = followed(&faults, found, SystemTime::now());
                let lasting = told(&faults, SystemTime::now());
                for fault in lasting.iter().filter(|fault| !logged.contains(fault)) {
                    tracing::warn!(cause = %fault.cause, "a restart would not go well");
                }
                logged = lasting;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn look(running: &Running, file: Option<&Path>) -> Vec<String> {
    let held = running.stores().find_map(|store| store.key());
    let spool = running.config.spool.as_ref().zip(held);
    let spool = spool.and_then(|(spool, held)| of_spool_key(spool.key.path(), &held));
    let own = file.and_then(|file| of_private_key(file, running.config.tunnel.private_key.public_key()));
    spool.into_iter().chain(own).collect()
}

/// Says what is with the file of the key that the queues are sealed with.
fn of_spool_key(path: &Path, held: &SpoolKey) -> Option<String> {
    let path = path.to_owned();
    match SpoolKey::load(&path) {
        Ok(found) if held.is(&found) => None,
        Ok(_) => Some(SpoolError::KeyChanged { path }.to_string()),
        Err(SpoolError::KeyMissing { .. }) => Some(SpoolError::KeyGone { path }.to_string()),
        Err(error) => {
            Some(format!("{error}; do not restart the site before, for it still holds the key and its queues go on"))
        }
    }
}

/// Says that the configuration names another private key than this one; one that cannot be read is another matter.
fn of_private_key(file: &Path, runs: PublicKey) -> Option<String> {
    let named = config::own_key(file).filter(|named| *named != runs)?;
    Some(format!(
        "{} names the private key of {named}, and the site runs with that of {runs}, as where `rotate` was killed: \
         `wardlink reload` takes up what the file says",
        file.display()
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::SecretKey;

    fn write(path: &Path, key: u8) {
        fs::write(path, SecretKey::new([key; 32]).to_base64()).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn a_key_of_the_queues_that_is_gone_another_one_or_no_key_is_told_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spool.key");
        let held = SpoolKey::from_bytes([1; 32]);
        let told = || of_spool_key(&path, &held);
        let gone = told().unwrap();
        assert!(gone.contains("is gone") && gone.contains("restore that very file"), "{gone}");
        write(&path, 1);
        assert_eq!(told(), None);
        write(&path, 2);
        let other = told().unwrap();
        assert!(other.contains("is another key") && other.contains("put that one back"), "{other}");
        fs::write(&path, "no key").unwrap();
        let none = told().unwrap();
        assert!(none.contains("does not hold a key") && none.contains("do not restart"), "{none}");
    }

    #[test]
    fn another_private_key_in_the_file_than_the_one_that_runs_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("wardlink.yaml");
        write(&directory.path().join("private-2.key"), 2);
        let public = |key| SecretKey::new([key; 32]).public_key();
        let told = |text: &str, key| {
            fs::write(&file, text).unwrap();
            of_private_key(&file, public(key))
        };
        let named = "tunnel: {private_key_file: private-2.key}\n";
        assert_eq!(told(named, 2), None);
        let other = told(named, 1).unwrap();
        assert!(other.contains(&public(2).to_string()) && other.contains("`wardlink reload`"), "{other}");
        for unread in ["tunnel: {private_key_file: gone.key}\n", "tunnel: [\n", ""] {
            assert_eq!(told(unread, 1), None, "{unread}");
        }
    }
}
