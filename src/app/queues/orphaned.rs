//! What operators do with a queue whose forward is not named any more.
//!
//! Never hands a message on by itself: it is moved, named again, or given up.

use super::forget;
use crate::app::orphans::{self, Orphan};
use crate::app::prepare::place;
use crate::app::{Reloader, Running};
use crate::config::{Config, Delivery};
use crate::control::operate::{Courier, Desk, operate};
use crate::control::queue::{QueueAction, QueueAnswer, QueueRequest};
use crate::forward::stored::store::{Opened, Place, Store};
use crate::spool::SpoolError;
use crate::spool::register::{Register, Registered};

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
            (Opened::Open(_), QueueAction::Move { to: Some(to) }) => {
                move_to(&running.config, store, to, reloader, by).await
            }
            (Opened::Open(spool), action) => {
                let (forward, courier) = (request.forward.as_str(), Courier::Nobody);
                let desk = Desk { forward, spool: &spool, courier, destination: None };
                Ok(operate(&desk, action.clone(), by).await)
            }
        },
    };
    done.unwrap_or_else(|cause| QueueAnswer::Failed { cause })
}

/// Moves all that the queue holds to where a stored forward leads, and has it drain there from now on.
async fn move_to(
    config: &Config,
    store: &Store,
    to: &str,
    reloader: &Reloader,
    by: &str,
) -> Result<QueueAnswer, String> {
    let way = orphans::way_for(config, to)?;
    let Delivery::Stored(terms) = way.delivery else { return Err(format!("no stored forward is named {to}")) };
    let next = place(config, way, terms).and_then(|place| place.destination);
    let destination = next.ok_or_else(|| format!("forward {to} has no destination"))?;
    let text = |error: SpoolError| error.to_string();
    let spool = store.spool().map_err(text)?;
    spool.move_to(destination, by).await.map_err(text)?;
    let depth = spool.tail().borrow().depth;
    let entry = Registered { spool: spool.id(), directory: store.place().directory, moved_to: Some(way.name.clone()) };
    let Place { name, register, .. } = store.place();
    let noted = tokio::task::spawn_blocking(move || register.note(&name, &entry)).await;
    noted.unwrap_or(Err(SpoolError::Closed)).map_err(text)?;
    drop(spool);
    reloader
        .again()
        .await
        .map_err(|error| format!("the messages are moved to {to}, and go when the site is started again: {error}"))?;
    Ok(QueueAnswer::Done { said: format!("{depth} messages go on the way of {to} now, beside its own") })
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
    tracing::warn!(target: "wardlink::audit", forward = %request.forward, by, reason, "a queue is given up");
    reloader.again().await.ok();
    Ok(QueueAnswer::Done { said: format!("the queue of {} is given up; its files are as they are", request.forward) })
}
