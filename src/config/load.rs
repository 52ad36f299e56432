//! A configuration file to a validated site, and the JSON Schema of such files.
//!
//! Reads the file, and the key files that it names; opens no socket.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;

use super::check::{self, ReadKey};
use super::errors::{Errors, Finding, Position, Subject};
use super::keys::KeyFiles;
use super::succession::{self, Succession};
use super::{Config, KeyFileError, raw, yaml};

/// Limits the file, in bytes: thousands of peers fit, a log or an image named by mistake does not.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads and validates a configuration file, and the key files that it names.
///
/// # Errors
/// Returns everything that is wrong with the file, at least one thing, by position.
pub fn load(path: &Path) -> Result<Config, Errors> {
    load_with(path, false)
}

/// Does the same for a site that is to run: a key of the spools that cannot be read stops its stored forwards and nothing
/// else, and is read again until it can be; an expired certificate is used, and warned of.
///
/// # Errors
/// As with [`load`].
pub fn load_to_run(path: &Path) -> Result<Config, Errors> {
    load_with(path, true)
}

fn load_with(path: &Path, is_to_run: bool) -> Result<Config, Errors> {
    let bytes = read(path).map_err(|error| {
        let message = format!("cannot be read ({error}); write -c FILE with the path of a configuration");
        Errors::whole(path, message)
    })?;
    parse_bytes(&bytes, path, &key_files(path, is_to_run)).map(with_newest_keys)
}

/// Gives a configuration the keys that took the place of those in the file; where nothing is known of such, none.
fn with_newest_keys(mut config: Config) -> Config {
    let path = Succession::path(&config.state_dir);
    let mut bytes = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(succession::FILE_BYTES_MAX).read_to_end(&mut bytes));
    match read.map(|_| Succession::from_json(&bytes)) {
        Ok(Ok(succession)) => succession.apply(&mut config),
        Ok(Err(error)) => {
            tracing::error!(file = %path.display(), %error, "what is known of newer keys is damaged: the configuration's count");
        }
        // Who may not read the state is not who runs the site.
        Err(_) => {}
    }
    config
}

/// Validates a text that is to become this file, with the key files that it names.
///
/// # Errors
/// As with [`parse`].
pub fn parse_beside(text: &str, path: &Path) -> Result<Config, Errors> {
    parse_bytes(text.as_bytes(), path, &key_files(path, false)).map(with_newest_keys)
}

pub(super) fn key_files(path: &Path, is_to_run: bool) -> KeyFiles {
    KeyFiles {
        config_directory: path.parent().unwrap_or(Path::new("")).to_owned(),
        credentials_directory: std::env::var_os("CREDENTIALS_DIRECTORY").map(Into::into),
        is_to_run,
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more than allowed shows that there is more.
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Validates the text of a configuration; `file` is only named in errors, `read_key` gives the key in a file.
///
/// # Errors
/// Returns everything that is wrong with the text, at least one thing, by position.
pub fn parse(text: &str, file: &Path, read_key: ReadKey<'_>) -> Result<Config, Errors> {
    parse_bytes(text.as_bytes(), file, read_key)
}

fn parse_bytes(bytes: &[u8], file: &Path, read_key: ReadKey<'_>) -> Result<Config, Errors> {
    if u64::try_from(bytes.len()).is_ok_and(|bytes| bytes > FILE_BYTES_MAX) {
        let message = format!("is longer than {FILE_BYTES_MAX} bytes; write -c FILE with the path of a configuration");
        return Err(Errors::whole(file, message));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let (valid, _) = bytes.split_at(error.valid_up_to());
        let message = "is not UTF-8 here; save the file as UTF-8".to_owned();
        Errors::new(file, "", vec![Finding { position: end_of(valid), subject: Subject::Text, message }])
    })?;
    let is_empty = text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#') || line == "---");
    if is_empty {
        return Err(Errors::whole(file, "is empty; write site: and tunnel: at least".to_owned()));
    }
    yaml::read(text).and_then(|raw| check::site(&raw, read_key)).map_err(|found| Errors::new(file, text, found))
}

/// Returns the position after valid UTF-8.
fn end_of(valid: &[u8]) -> Position {
    let text = std::str::from_utf8(valid).unwrap_or_default();
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX).saturating_add(1);
    let last_line = text.rsplit('\n').next().unwrap_or_default();
    Position { line: count(text.matches('\n').count()), column: count(last_line.chars().count()) }
}

/// Returns the JSON Schema of a configuration file, for editors.
pub fn schema() -> String {
    // Serde's default of an optional key is "nothing", which the file must not say; the descriptions name the real ones.
    let drop_default = RecursiveTransform(|schema: &mut Schema| {
        schema.remove("default");
    });
    let settings = SchemaSettings::draft2020_12().with_transform(drop_default);
    let schema = settings.into_generator().into_root_schema_for::<raw::Site>();
    serde_json::to_string_pretty(&schema).unwrap_or_default()
}

/// Parses arbitrary bytes as a configuration, without any files; the body of a fuzz target.
#[doc(hidden)]
pub fn fuzz_config(data: &[u8]) {
    let no_files = |path: &Path| Err(KeyFileError::Missing { path: path.to_owned() });
    if let Err(errors) = parse_bytes(data, Path::new("fuzz.yaml"), &no_files) {
        assert!(!errors.to_string().is_empty());
    }
}
