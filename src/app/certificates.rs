//! The certificates of local legs: when they expire, said in time, and that a reload makes nothing worse.
//!
//! It closes no connection and holds no key.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::{AppError, Parts, Running};
use crate::config;
use crate::health::facts::CertificateFacts;
use crate::tls::Certificate;

/// Is the time between two looks at when certificates expire.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// Is the time between two warnings of one file.
const WARN_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Lists the certificates of a forward.
pub(super) fn of_forward(config: &config::Forward) -> &[Certificate] {
    config.tls.as_ref().map(|tls| tls.certificates()).unwrap_or_default()
}

/// Lists the certificates of a service.
pub(super) fn of_service(config: &config::Service) -> &[Certificate] {
    config.tls.as_ref().map(|tls| tls.certificates()).unwrap_or_default()
}

/// Lists the certificates of the health endpoints.
pub(super) fn of_health(config: &config::Config) -> &[Certificate] {
    config.health_door.as_ref().map(|door| door.tls.certificates()).unwrap_or_default()
}

/// Lists the certificates towards the repository of the audit log.
pub(super) fn of_atna(config: &config::Config) -> &[Certificate] {
    let tls = config.atna.as_ref().and_then(|atna| atna.tls.as_ref());
    tls.map(|tls| tls.certificates()).unwrap_or_default()
}

/// Says what health is told of those of the site itself.
pub(super) fn of_site(config: &config::Config) -> Vec<CertificateFacts> {
    let named = |of| move |one| CertificateFacts { of: Some(of), ..one };
    let health = facts(of_health(config)).into_iter().map(named("health"));
    health.chain(facts(of_atna(config)).into_iter().map(named("audit.atna"))).collect()
}

/// Says what health is told of certificates.
pub(super) fn facts(certificates: &[Certificate]) -> Vec<CertificateFacts> {
    let now = SystemTime::now();
    let of = |one: &Certificate| CertificateFacts {
        of: None,
        role: one.role.as_str(),
        file: one.file.display().to_string(),
        expires: one.expires,
        expired: one.is_expired(now),
        note: one.expires_soon(now).filter(|_| !one.is_expired(now)).map(|left| {
            format!("{} {} expires in {}: have it issued anew", one.role.as_str(), one.file.display(), days(left))
        }),
    };
    certificates.iter().map(of).collect()
}

/// Keeps an expired certificate from taking the place of one that has not.
///
/// # Errors
/// It would.
pub(super) fn judge(what: impl Fn() -> String, was: &[Certificate], is: &[Certificate]) -> Result<(), AppError> {
    let now = SystemTime::now();
    let worse = is.iter().filter(|one| one.is_expired(now)).find(|one| {
        let before = was.iter().find(|before| before.role == one.role);
        before.is_some_and(|before| !before.is_expired(now))
    });
    match worse {
        None => Ok(()),
        Some(one) => Err(AppError::CertificateExpired {
            what: what(),
            file: one.file.clone(),
            at: humantime::format_rfc3339_seconds(one.expires).to_string(),
        }),
    }
}

impl Parts {
    /// Has the log warn of certificates that expire soon, once a day and at each reload, for who has just installed one.
    pub(super) async fn look_at_certificates(&self) {
        let mut told = HashMap::new();
        loop {
            warn(&self.now.get(), &mut told, SystemTime::now());
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.taken_up.notified() => told.clear(),
            }
        }
    }
}

/// Warns of each file once a day; `told` remembers when.
fn warn(running: &Running, told: &mut HashMap<(String, PathBuf), SystemTime>, now: SystemTime) {
    let forwards = running.config.forwards.iter();
    let forwards = forwards.flat_map(|one| of_forward(one).iter().map(|it| (format!("forward {}", one.name), it)));
    let services = running.config.services.iter();
    let services = services.flat_map(|one| of_service(one).iter().map(|it| (format!("service {}", one.name), it)));
    let health = of_health(&running.config).iter().map(|it| ("health".to_owned(), it));
    let atna = of_atna(&running.config).iter().map(|it| ("audit.atna".to_owned(), it));
    for (what, one) in forwards.chain(services).chain(health).chain(atna) {
        let Some(left) = one.expires_soon(now) else { continue };
        let key = (what, one.file.clone());
        let is_due = |at: &SystemTime| now.duration_since(*at).is_ok_and(|age| age >= WARN_EVERY);
        if told.get(&key).is_none_or(is_due) {
            let (role, file, what) = (one.role.as_str(), one.file.display(), &key.0);
            if one.is_expired(now) {
                tracing::warn!(%what, role, %file, "a certificate has expired: have it issued anew, then wardlink reload");
            } else {
                let left = days(left);
                tracing::warn!(%what, role, %file, %left, "a certificate expires soon: have it issued anew, then wardlink reload");
            }
            told.insert(key, now);
        }
    }
}

/// Writes how long is left, in days; hours where it is less than two.
fn days(left: Duration) -> String {
    let hours = left.as_secs() / 3600;
    if hours < 48 { format!("{hours} h") } else { format!("{} days", hours / 24) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::Role;

    fn certificate(ends_in_days: i64) -> Certificate {
        let day = Duration::from_secs(24 * 3600);
        let distance = day * u32::try_from(ends_in_days.unsigned_abs()).unwrap();
        let now = SystemTime::now() + Duration::from_secs(60);
        let expires = if ends_in_days < 0 { now - distance } else { now + distance };
        Certificate { role: Role::Certificate, file: "lab.pem".into(), expires }
    }

    #[test]
    fn what_expires_soon_is_noted_and_what_has_expired_is_said_so() {
        let facts = facts(&[certificate(31), certificate(29), certificate(1), certificate(-1)]);
        let notes: Vec<_> = facts.iter().map(|one| one.note.as_deref()).collect();
        let soon = Some("certificate lab.pem expires in 29 days: have it issued anew");
        let tomorrow = Some("certificate lab.pem expires in 24 h: have it issued anew");
        assert_eq!(notes, [None, soon, tomorrow, None]);
        assert_eq!(facts.iter().map(|one| one.expired).collect::<Vec<_>>(), [false, false, false, true]);
    }

    #[test]
    fn an_expired_certificate_takes_the_place_of_an_expired_one_only() {
        let judge = |was: &[Certificate], is| {
            judge(|| "forward lab".into(), was, &[certificate(is)]).map_err(|e| e.to_string())
        };
        let error = judge(&[certificate(1)], -1).unwrap_err();
        assert!(error.starts_with("forward lab: the certificate in lab.pem expired at "), "{error}");
        for (was, is) in [(vec![certificate(-2)], -1), (vec![certificate(1)], 2), (vec![], -1)] {
            assert_eq!(judge(&was, is), Ok(()));
        }
    }
}
