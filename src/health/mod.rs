//! What is up and why not: facts from the other rooms, a verdict on them, and where monitoring reads it.
//!
//! Listens and never steers: it imports no room that carries messages; `app` fills [`facts`] on each request. No fact has
//! room for a byte of a message.

pub mod agent;
pub mod alarms;
pub mod audit;
mod certificate;
pub mod facts;
pub mod files;
pub mod history;
pub mod http;
pub mod metrics;
pub mod page;
mod queue;
pub mod rates;
mod settings;
pub mod state;

#[cfg(test)]
pub(crate) mod fixture;
