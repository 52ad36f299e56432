//! What operators do with a queue whose forward is not named any more.
//!
//! Never hands a message on by itself: it is moved, named again, or given up.

use super::forget;
use super::moved::{self, Word};
use crate::app::orphans::Orphan;
use crate::app::{Reloader, Running};
use crate::config::Config;
use crate::control::operate::{Courier, Desk, operate};
use crate::control::queue::{QueueAction, QueueAnswer, QueueRequest};
use crate::forward::stored::store::Opened;
use crate::spool::SpoolError;
use crate::spool::register::Register;

/// Does what is asked of such a queue.
pub(super) async fn answer(
    running: &Running,
    orphan: &Orphan,
    reloader: &Reloader,
    request: &QueueRequest,
    by: &str,
) -> QueueAnswer {
    let done = match (&orphan.store, &request.action) {
        (None, QueueAction::Forget { reason }) => forget_unseen(&running.config, request, reason, by, reloader).await,
        (None, _) => Err(format!("the spool of {} is not open: the configuration has no spool: section", orphan.name)),
        (Some(store), action) => match (store.opened(), action) {
            (Opened::Failed(_, error), QueueAction::Forget { reason }) => {
                let answer = forget::forget(store, &error, reason, by).await;
                reloader.again().await.ok();
                Ok(answer)
            }
            (Opened::Failed(_, error), _) => Err(format!("the spool of {} is not open: {error}", orphan.name)),
            (Opened::Not, _) => Err(format!("the spool of {} is being opened", orphan.name)),
            (Opened::Open(_), QueueAction::Move { to: Some(to), from }) => {
                let word = Word { to, from: from.as_deref(), by };
                moved::move_to(&running.config, store, word, reloader).await
            }
            (Opened::Open(spool), action) => {
                let (forward, courier) = (request.forward.as_str(), Courier::Nobody);
                let known = &moved::destinations(&running.config);
                let desk = Desk { forward, spool: &spool, courier, destination: None, way: None, known };
                Ok(operate(&desk, action.clone(), by).await)
            }
        },
    };
    done.unwrap_or_else(|cause| QueueAnswer::Failed { cause })
}

/// Gives up a queue that nobody can look into.
async fn forget_unseen(
    config: &Config,
    request: &QueueRequest,
    reason: &str,
    by: &str,
    reloader: &Reloader,
) -> Result<QueueAnswer, String> {
    let (register, name) = (Register::new(&config.state_dir), request.forward.clone());
    let forgotten = tokio::task::spawn_blocking(move || register.forget(&name)).await;
    forgotten.unwrap_or(Err(SpoolError::Closed)).map_err(|error| error.to_string())?;
    tracing::warn!(forward = %request.forward, by, reason, "a queue is given up");
    reloader.again().await.ok();
    Ok(QueueAnswer::Done { said: format!("the queue of {} is given up; its files are as they are", request.forward) })
}
