//! Has a queue take the way of a stored forward, or its own again, as an operator says.
//!
//! Never sends a message elsewhere than it was accepted for, or than the operator's word names. Rules: design,
//! delivery.md ("stored: intake").

use crate::app::prepare::{destination, place};
use crate::app::{Reloader, orphans};
use crate::config::{Config, Delivery, Target};
use crate::control::destinations::Destinations;
use crate::control::queue::QueueAnswer;
use crate::forward::stored::store::{Place, Store};
use crate::spool::SpoolError;
use crate::spool::register::Registered;
use crate::spool::store::Destination;

/// Knows how destinations are named in a configuration.
pub(in crate::app) fn destinations(config: &Config) -> Destinations {
    let peers = config.peers.iter().map(|peer| (peer.first_key.0, peer.name.to_string())).collect();
    let stored = config.forwards.iter().filter(|forward| orphans::stores(forward));
    let led = stored.filter_map(|forward| Some((forward.name.to_string(), destination(config, forward)?)));
    Destinations { peers, forwards: led.collect() }
}

/// Is what an operator says of a queue.
pub(super) struct Word<'a> {
    /// Names the forward whose way it takes.
    pub(super) to: &'a str,
    /// Names the destination whose messages go there although they were not accepted for it.
    pub(super) from: Option<&'a str>,
    pub(super) by: &'a str,
}

/// Has the queue take that way from now on, and says what goes.
pub(super) async fn move_to(
    config: &Config,
    store: &Store,
    word: Word<'_>,
    reloader: &Reloader,
) -> Result<QueueAnswer, String> {
    let Word { to, from, by } = word;
    let way = orphans::way_for(config, to)?;
    let Delivery::Stored(terms) = way.delivery else { return Err(format!("no stored forward is named {to}")) };
    let next = place(config, way, terms).and_then(|place| place.destination);
    let next = next.ok_or_else(|| format!("forward {to} has no destination"))?;
    let text = |error: SpoolError| error.to_string();
    let spool = store.spool().map_err(text)?;
    let Place { name, register, directory, moved_to, .. } = store.place();
    if to == name && moved_to.is_none() && from.is_none() {
        return Err(format!("{name} takes its own way already"));
    }
    let own = config.forwards.iter().find(|own| orphans::stores(own) && own.name.as_str() == name);
    let held = spool.held_for().await.map_err(text)?;
    let known = destinations(config);
    let mut redirected = None;
    if let Some(from) = relabelled(&known, (&held, &next), from, (&name, to), own.is_some())? {
        let moved = spool.move_to(from.clone(), next.clone(), by).await.map_err(text)?;
        redirected = Some((moved, from));
    }
    let goes = spool.held_for().await.map_err(text)?.into_iter().find(|(to, _)| *to == next);
    if own.is_some() {
        store.set_moved_to((to != name).then(|| way.name.clone()));
    } else {
        let entry = Registered { spool: spool.id(), directory, moved_to: Some(way.name.clone()) };
        let name = name.clone();
        let noted = tokio::task::spawn_blocking(move || register.note(&name, &entry)).await;
        noted.unwrap_or(Err(SpoolError::Closed)).map_err(text)?;
    }
    drop(spool);
    let when = "goes when the site is started again";
    reloader.again().await.map_err(|error| format!("{name} is moved to the way of {to}, and {when}: {error}"))?;
    let (count, there) = (goes.map_or(0, |(_, count)| count), known.told(&next));
    let target = match &way.target {
        _ if to == name => "its own way".to_owned(),
        Target::Service(_) | Target::Address(_) => format!("the way of {to}, beside its own messages"),
    };
    let said = format!(
        "{name} takes {target}: the {count} messages for {there} go, in order; the first that was accepted for elsewhere \
         holds the queue until it is moved in its turn"
    );
    let told = |(moved, from): (u64, Destination)| redirection(&known, moved, &from, &next);
    Ok(QueueAnswer::Done { said: redirected.map(told).unwrap_or_default() + &said })
}

/// Says that messages go elsewhere than they were accepted for: a patient's message to another laboratory.
fn redirection(known: &Destinations, moved: u64, from: &Destination, to: &Destination) -> String {
    let (from, to) = (known.told(from), known.told(to));
    format!("{moved} messages that were accepted for {from} go to {to} instead. ")
}

/// Finds the destination whose messages are to go elsewhere than they were accepted for; none where all that goes was
/// accepted for there.
fn relabelled(
    known: &Destinations,
    (held, next): (&[(Destination, u64)], &Destination),
    from: Option<&str>,
    (name, to): (&str, &str),
    has_own_way: bool,
) -> Result<Option<Destination>, String> {
    if let Some(from) = from {
        return known.find(from, held).map(Some);
    }
    match held {
        _ if to == name || held.iter().any(|(known, _)| known == next) => Ok(None),
        [] => Ok(None),
        // Whoever gives up a forward and names another one says where its messages go.
        [(only, _)] if !has_own_way => Ok(Some(only.clone())),
        held => Err(format!(
            "nothing in {name} was accepted for {}, where {to} leads; what is there is for {}: say --from-destination and \
             one of these to send that there all the same",
            known.told(next),
            known.listed(held)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_goes_elsewhere_than_it_was_accepted_for() {
        let to = |target: &str| Destination { peer_key: [1; 32], target: target.to_owned() };
        let known = Destinations { peers: vec![([1; 32], "lab".into())], forwards: Vec::new() };
        let two = [(to("a"), 2), (to("b"), 1)];
        let ask = |held: &[(Destination, u64)], next: &str, from, own| {
            relabelled(&known, (held, &to(next)), from, ("orders", "other"), own)
        };
        for own in [true, false] {
            assert_eq!(ask(&two, "a", None, own), Ok(None), "the others wait");
            assert_eq!(ask(&two, "c", Some("b"), own), Ok(Some(to("b"))));
            assert!(ask(&two, "c", None, own).unwrap_err().contains("a@lab (2), b@lab (1)"));
            assert_eq!(ask(&[], "c", None, own), Ok(None));
        }
        assert_eq!(ask(&two[..1], "c", None, false), Ok(Some(to("a"))), "of a forward that is gone");
        assert!(ask(&two[..1], "c", None, true).is_err(), "of one that leads elsewhere");
        let told = redirection(&known, 4, &to("a"), &to("b"));
        assert_eq!(told, "4 messages that were accepted for a at lab go to b at lab instead. ");
        assert_eq!(relabelled(&known, (&two, &to("c")), None, ("orders", "orders"), true), Ok(None), "back");
    }
}
