//! Who asks, for the account: the uid at the socket, and who logged in, where the kernel knows.
//!
//! `sudo` leaves uid 0 at the socket; the login uid (/proc/PID/loginuid, set once at the login by pam_loginuid) stays what
//! it was. It says which login a command came from, not who typed it.

use std::path::Path;
use std::time::Duration;

use nix::unistd::{Uid, User};
use tokio::net::unix::UCred;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Is the login uid of a process that no login began.
const NOBODY: u32 = u32::MAX;
/// Bounds the look-up of a name: a directory server may be away, and nobody waits for it.
const NAME_WITHIN: Duration = Duration::from_secs(1);
/// Bounds a name, in characters.
const NAME_CHARS_MAX: usize = 64;

/// Names who is behind a connection, such as `uid 0 (login 1000, alice)`.
pub(super) async fn operator(credentials: &UCred) -> String {
    let process = credentials.pid().and_then(|process| u32::try_from(process).ok());
    let login = process.and_then(|process| login_uid(Path::new("/proc"), process));
    let found = match login {
        Some(login) => timeout(NAME_WITHIN, spawn_blocking(move || name_of(login))).await,
        None => Ok(Ok(None)),
    };
    named(credentials.uid(), login, found.ok().and_then(Result::ok).flatten().as_deref())
}

/// Names who runs this process, in the same way.
pub fn invoker() -> String {
    let login = login_uid(Path::new("/proc"), std::process::id());
    named(Uid::current().as_raw(), login, login.and_then(name_of).as_deref())
}

/// Returns who logged in, where that is known: the process still waits for its answer.
fn login_uid(processes: &Path, process: u32) -> Option<u32> {
    let text = std::fs::read_to_string(processes.join(process.to_string()).join("loginuid")).ok()?;
    text.trim_end().parse().ok().filter(|login| *login != NOBODY)
}

fn name_of(login: u32) -> Option<String> {
    User::from_uid(Uid::from_raw(login)).ok().flatten().map(|user| user.name)
}

fn named(uid: u32, login: Option<u32>, name: Option<&str>) -> String {
    // What a directory gives may have anything in it.
    let is_plain = |c: &char| !c.is_control() && !c.is_whitespace() && !matches!(c, ',' | '(' | ')');
    let name: String = name.unwrap_or_default().chars().filter(is_plain).take(NAME_CHARS_MAX).collect();
    match login {
        None => format!("uid {uid}"),
        Some(login) if name.is_empty() => format!("uid {uid} (login {login})"),
        Some(login) => format!("uid {uid} (login {login}, {name})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_logged_in_is_named_beside_the_uid() {
        let processes = tempfile::tempdir().unwrap();
        let login = |text: &str| {
            std::fs::create_dir_all(processes.path().join("42")).unwrap();
            std::fs::write(processes.path().join("42/loginuid"), text).unwrap();
            login_uid(processes.path(), 42)
        };
        assert_eq!(
            [login("1000"), login("1000\n"), login("4294967295"), login("x")],
            [Some(1000), Some(1000), None, None]
        );
        assert_eq!(login_uid(processes.path(), 43), None);
        assert_eq!(named(0, None, None), "uid 0");
        assert_eq!(named(0, Some(1000), None), "uid 0 (login 1000)");
        assert_eq!(named(0, Some(1000), Some("alice")), "uid 0 (login 1000, alice)");
        assert_eq!(named(0, Some(1000), Some("a\u{1f}l (i, ce)")), "uid 0 (login 1000, alice)");
    }

    #[tokio::test]
    async fn this_process_is_named() {
        let (one, _other) = tokio::net::UnixStream::pair().unwrap();
        let who = operator(&one.peer_cred().unwrap()).await;
        let begin = format!("uid {}", nix::unistd::getuid());
        let login = login_uid(Path::new("/proc"), std::process::id());
        let expected = login.map_or(begin.clone(), |login| format!("{begin} (login {login}"));
        assert!(who.starts_with(&expected) && who.ends_with(')') == login.is_some(), "{who}");
    }
}
