//! What a configuration file names outside itself: absolute paths, and whether a command is to run.
//!
//! For what shuts the site in, which must know before it opens anything, and again before a reload.

use std::fs;
use std::path::{Path, PathBuf};

use super::check::ReadKeys as _;
use super::load::key_files;
use super::{Errors, PublicKey};

/// Is what a file names.
#[derive(Debug)]
pub struct Names {
    file: PathBuf,
    /// Lists the absolute paths, of whatever key.
    pub paths: Vec<PathBuf>,
    /// Tells that alarms run a command.
    pub command: bool,
}

impl Names {
    /// Says that the running site may not do what the file wants.
    pub fn restart(&self, what: &str, why: &str) -> Errors {
        let message = format!(
            "{what}: the running site {why}, by its sandbox: where `wardlink check-config` finds nothing wrong, restart it \
             (systemctl restart wardlink), or write what it was"
        );
        Errors::whole(&self.file, message)
    }
}

/// Reads what a file names; a file that cannot be read names nothing, and is refused by who loads it.
pub fn names(file: &Path) -> Names {
    let text = fs::read_to_string(file).unwrap_or_default();
    let value = serde_saphyr::from_str::<serde_json::Value>(&text).unwrap_or_default();
    let command = value.get("alarms").is_some_and(|alarms| alarms.get("command").is_some());
    let mut paths = Vec::new();
    collect(&value, &mut paths);
    Names { file: file.to_owned(), paths, command }
}

/// Returns the public key of the private key that a file names, as far as both can be read.
pub fn own_key(file: &Path) -> Option<PublicKey> {
    let text = fs::read_to_string(file).ok()?;
    let value = serde_saphyr::from_str::<serde_json::Value>(&text).ok()?;
    let path = value.get("tunnel")?.get("private_key_file")?.as_str()?;
    key_files(file, true).read(Path::new(path)).ok().map(|key| key.public_key())
}

fn collect(value: &serde_json::Value, paths: &mut Vec<PathBuf>) {
    match value {
        // one key in 64 begins with a slash
        serde_json::Value::String(text) if text.starts_with('/') && PublicKey::from_base64(text).is_none() => {
            paths.push(PathBuf::from(text));
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| collect(value, paths)),
        serde_json::Value::Object(values) => values.values().for_each(|value| collect(value, paths)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_that_begins_as_a_path_does_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("wardlink.yaml");
        let key = "/GDr7y4j10V5x4oAqpfTdf7VQiHvcCI8zObCdeuWGm0=";
        fs::write(&file, format!("state_dir: /var/lib/a\npeers: [{{public_key: \"{key}\"}}]\n")).unwrap();
        assert_eq!(names(&file).paths, [PathBuf::from("/var/lib/a")]);
    }
}
