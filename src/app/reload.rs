//! Reads the configuration again and has the running site take it up, on SIGHUP or by `wardlink reload`.
//!
//! A file that is wrong, or that cannot be taken up as a whole, changes nothing; what came of the last try is kept for
//! `status` and the metrics.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::prepare::{Ground, check_key};
use super::serve::{Tasks, commit};
use super::{AppError, Parts, account};
use crate::audit::{Account, Event, Record, Subject};
use crate::config::{self, Changes, Config, OldKey};
use crate::control::Reloaded;
use crate::health::facts::{ConfigFacts, FailedReload};
use crate::link::cause_chain;
use crate::tunnel::Tunnel;

/// Reads the configuration again.
pub type LoadConfig = Arc<dyn Fn() -> Result<Config, config::Errors> + Send + Sync>;

/// Faults of a file that status and health show; `wardlink check-config` lists them all.
const FAULTS_SHOWN_MAX: usize = 5;
/// Reloads that wait while one is under way: those of all commands at once.
const REQUESTS_MAX: usize = 16;

/// Says why a reload changed nothing.
#[derive(Debug, Error)]
pub enum ReloadError {
    /// The file is wrong.
    #[error("{0}")]
    BadFile(config::Errors),
    /// The file changes what cannot change while the site runs.
    #[error(
        "{} cannot be changed while the site runs: restart it (systemctl restart wardlink), or write what it was",
        .0.join(", ")
    )]
    RestartNeeded(Vec<&'static str>),
    /// A part cannot be bound or changed.
    #[error("{}", cause_chain(.0))]
    Apply(#[from] AppError),
    /// The site stops.
    #[error("the site stops")]
    Stopping,
}

/// Is a configuration to take up, and who waits for what came of it.
pub(super) struct Request {
    /// Is the configuration; none: the one that runs, because what it is prepared from differs.
    config: Option<Config>,
    /// Names who asked, where that was a command.
    by: String,
    answer: oneshot::Sender<Result<Changes, ReloadError>>,
}

/// Asks a running site to reload.
#[derive(Clone)]
pub struct Reloader {
    load: LoadConfig,
    requests: mpsc::Sender<Request>,
    outcome: Arc<Mutex<ConfigFacts>>,
    account: Account,
}

impl Reloader {
    pub(super) fn new(load: LoadConfig, account: Account) -> (Self, mpsc::Receiver<Request>) {
        let (requests, requested) = mpsc::channel(REQUESTS_MAX);
        let outcome = ConfigFacts { loaded: SystemTime::now(), failed: None };
        (Self { load, requests, outcome: Arc::new(Mutex::new(outcome)), account }, requested)
    }

    /// Reads the configuration again and takes it up. Where this is cancelled, the site may take it up all the same.
    ///
    /// # Errors
    /// Says why nothing was changed.
    pub async fn reload(&self) -> Result<Changes, ReloadError> {
        self.reload_by(String::new()).await
    }

    async fn reload_by(&self, by: String) -> Result<Changes, ReloadError> {
        let load = Arc::clone(&self.load);
        let loaded = tokio::task::spawn_blocking(move || load()).await.map_err(|_| ReloadError::Stopping)?;
        let config = match loaded {
            Ok(config) => config,
            Err(errors) => {
                let error = ReloadError::BadFile(errors);
                self.note_failure(&error, by);
                return Err(error);
            }
        };
        self.ask(Some(config), by).await
    }

    /// Has the site take up what runs anew: a queue was moved. The tunnel is left as it is.
    ///
    /// # Errors
    /// Says why nothing was changed.
    pub(super) async fn again(&self) -> Result<Changes, ReloadError> {
        self.ask(None, String::new()).await
    }

    async fn ask(&self, config: Option<Config>, by: String) -> Result<Changes, ReloadError> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request { config, by, answer }).await.map_err(|_| ReloadError::Stopping)?;
        answered.await.map_err(|_| ReloadError::Stopping)?
    }

    /// Does the same for a command.
    pub async fn reload_for_command(self, by: String) -> Reloaded {
        match self.reload_by(by).await {
            Ok(changes) => Reloaded::Done { changes: changes.to_string() },
            Err(ReloadError::BadFile(errors)) => Reloaded::BadFile { errors: errors.to_string() },
            Err(error) => Reloaded::Failed { cause: error.to_string() },
        }
    }

    /// Tells what came of the last reload.
    pub(super) fn facts(&self) -> ConfigFacts {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_failure(&self, error: &ReloadError, by: String) {
        // The errors of a file quote what is in it.
        let detail = match error {
            ReloadError::BadFile(_) => "the file is wrong: `wardlink check-config` says where".to_owned(),
            error => error.to_string(),
        };
        let clerk = self.account.clerk(Subject::default());
        clerk.record(Record { detail, by, ..clerk.now(Event::ConfigRefused) });
        tracing::error!(%error, "not reloaded: nothing was changed");
        let failed = FailedReload { at: SystemTime::now(), cause: shortened(&error.to_string()) };
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).failed = Some(failed);
    }

    fn note_success(&self, changes: &Changes) {
        tracing::info!(%changes, "reloaded");
        let done = ConfigFacts { loaded: SystemTime::now(), failed: None };
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = done;
    }
}

fn shortened(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().take(FAULTS_SHOWN_MAX).collect();
    if text.lines().count() > lines.len() {
        lines.push("... (`wardlink check-config` lists them all)");
    }
    lines.join("\n")
}

/// Takes up the configuration of a request, or changes nothing, and tells who waits for it.
pub(super) async fn answer(parts: &Arc<Parts>, request: Request, tasks: &mut Tasks) {
    let Request { config, by, answer } = request;
    let is_again = config.is_none();
    let had_repository = parts.now.get().config.atna.is_some();
    let result = take_up(parts, config, tasks).await;
    match &result {
        _ if is_again => {}
        Ok(changes) => {
            parts.reloader.note_success(changes);
            parts.taken_up.notify_one();
            let config = &parts.now.get().config;
            let behind = account::configured(&parts.account, config, changes.to_string(), by);
            if config.atna.is_some() && !had_repository {
                parts.atna.begin_behind(behind);
            }
        }
        Err(error) => parts.reloader.note_failure(error, by),
    }
    // A command that did not wait left its answer: it stands in the log.
    answer.send(result).ok();
}

/// Lists what `wg` has set: a reload takes the tunnel back to what the file says.
fn set_by_wg(tunnel: &Tunnel) -> Vec<String> {
    let set = tunnel.set_by_wg();
    let peers = tunnel.peers().into_iter().filter(|peer| peer.set_by_wg).map(|peer| format!("peer {}", peer.name));
    let removed = set.removed_peers.iter().map(|name| format!("the removal of peer {name}"));
    set.tunnel.iter().map(|what| (*what).to_owned()).chain(peers).chain(removed).collect()
}

async fn take_up(parts: &Arc<Parts>, next: Option<Config>, tasks: &mut Tasks) -> Result<Changes, ReloadError> {
    let running = parts.now.get();
    let config = next.as_ref().unwrap_or(&running.config).clone();
    let mut changes = Changes::between(&running.config, &config);
    if !changes.restart.is_empty() {
        return Err(ReloadError::RestartNeeded(changes.restart));
    }
    let ground = Ground {
        running: &running,
        inside: &parts.inside,
        start: parts.start,
        listens_for_links: tasks.listens_for_links,
    };
    let prepared = ground.prepare(config)?;
    check_key(&running, &prepared).map_err(AppError::from)?;
    if next.is_some() {
        changes.undone = set_by_wg(&parts.tunnel);
        parts.tunnel.reload(&prepared.config).await.map_err(AppError::from)?;
        let (was, is) = (&running.config.tunnel, &prepared.config.tunnel);
        if was.private_key.public_key() != is.private_key.public_key() && matches!(is.old_private_key, OldKey::None) {
            *parts.key_replaced.lock().unwrap_or_else(PoisonError::into_inner) = Some(SystemTime::now());
        }
    }
    commit(parts, prepared, tasks);
    Ok(changes)
}
