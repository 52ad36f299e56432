//! Builds the rooms, starts and stops them in order.

use tokio::sync::watch;

use crate::config::Config;
use crate::health::facts::SiteFacts;

/// Says why a site does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The tunnel does not start, or ended.
    #[error(transparent)]
    Tunnel(#[from] crate::tunnel::TunnelError),
}

/// Is a running site.
pub struct Site {}

impl Site {
    /// Starts everything that the configuration names, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Whatever keeps a part from running; nothing is left behind.
    pub async fn start(config: Config) -> Result<Self, AppError> {
        let _ = config;
        Ok(Self {})
    }

    /// Tells what is known about the site now.
    pub fn facts(&self) -> SiteFacts {
        todo!()
    }

    /// Serves until `stop` says true, then drains within a bound and ends.
    ///
    /// # Errors
    /// A part that must not end ended by itself.
    pub async fn run(self, mut stop: watch::Receiver<bool>) -> Result<(), AppError> {
        stop.wait_for(|stop| *stop).await.ok();
        Ok(())
    }
}
