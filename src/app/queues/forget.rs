//! Gives up a spool that is missing or damaged, as an operator says: a new one may then take its place.
//!
//! Never deletes what is left of it, and never touches one that is there and whole, or that may be mended.

use crate::control::queue::QueueAnswer;
use crate::forward::stored::store::Store;
use crate::spool::{Damage, SpoolError};

/// Says what is given up where a spool cannot be opened.
enum Loss {
    /// What is left of it is set aside.
    Remains,
    /// The one that is there takes its place.
    Entry,
}

/// Gives up the spool of a forward, which could not be opened for this reason.
pub(super) async fn forget(store: &Store, error: &SpoolError, reason: &str, by: &str) -> QueueAnswer {
    let place = store.place();
    let name = place.name.clone();
    let Some(loss) = loss(error) else {
        return QueueAnswer::Failed { cause: format!("the queue of {name} is not lost, so that it is kept: {error}") };
    };
    let given_up = tokio::task::spawn_blocking(move || match loss {
        Loss::Remains => place.register.give_up(&place.name, &place.directory),
        Loss::Entry => place.register.forget(&place.name).map(|()| None),
    });
    match given_up.await.unwrap_or(Err(SpoolError::Closed)) {
        Ok(aside) => {
            tracing::warn!(forward = %name, by, reason, why = %error, "a queue is given up");
            store.look_again();
            let left = aside.map(|aside| format!("; what was left of it is in {}", aside.display()));
            QueueAnswer::Done { said: format!("the queue of {name} is given up{}", left.unwrap_or_default()) }
        }
        Err(error) => QueueAnswer::Failed { cause: error.to_string() },
    }
}

fn loss(error: &SpoolError) -> Option<Loss> {
    match error {
        SpoolError::Damaged { damage: Damage::Entry, .. } => Some(Loss::Entry),
        SpoolError::Gone { .. } | SpoolError::Removed { .. } | SpoolError::CutShort { .. } => Some(Loss::Remains),
        SpoolError::OtherKey { .. } | SpoolError::Damaged { .. } => Some(Loss::Remains),
        SpoolError::OtherSpool { .. } => Some(Loss::Entry),
        SpoolError::KeyFile { .. } | SpoolError::KeyMissing { .. } | SpoolError::NoneThere { .. } => None,
        SpoolError::KeyGone { .. } | SpoolError::KeyChanged { .. } | SpoolError::KeyNotMade { .. } => None,
        SpoolError::File { .. } | SpoolError::Store { .. } | SpoolError::Disk { .. } => None,
        SpoolError::InUse { .. } | SpoolError::Link { .. } | SpoolError::Random | SpoolError::Closed => None,
        SpoolError::NotThere { .. } | SpoolError::NotAllowed { .. } | SpoolError::Sent { .. } => None,
        SpoolError::TooManyForwards { .. } => None,
    }
}
