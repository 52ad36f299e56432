//! What of a link's ups and downs is news: the begin and the end of each state, not every attempt. Pure.
//!
//! Never tells twice that a link is down for one reason while no connection held: one that comes up and breaks again at
//! once is as good as down.

use std::time::SystemTime;

/// Remembers what was told.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Is since when the link is down, and why it was last; none once a connection holds.
    down: Option<(SystemTime, String)>,
    /// Tells that a connection was there since.
    came_up: bool,
    /// Tells that this was told.
    up_told: bool,
}

impl News {
    /// Takes in that a connection is there; says whether that is to be told now. Of one that came up and broke before it
    /// held, only [`News::handle_steady`] tells.
    pub(super) fn handle_up(&mut self) -> bool {
        self.up_told = self.down.is_none() || !self.came_up;
        self.came_up = true;
        self.up_told
    }

    /// Takes in that the connection holds; says whether it is to be told now that the link is up.
    pub(super) fn handle_steady(&mut self) -> bool {
        (self.down, self.came_up) = (None, false);
        !std::mem::replace(&mut self.up_told, true)
    }

    /// Takes in that there is no connection; returns since when the link is down, and whether that is to be told now.
    pub(super) fn handle_down(&mut self, why: &str, now: SystemTime) -> (SystemTime, bool) {
        let (since, is_news) = match &self.down {
            Some((since, before)) => (*since, before != why),
            None => (now, true),
        };
        self.down = Some((since, why.to_owned()));
        (since, is_news)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn at(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn each_state_is_told_once_when_it_begins_and_ends() {
        let mut news = News::default();
        assert_eq!(news.handle_down("refused", at(1)), (at(1), true));
        assert_eq!(news.handle_down("refused", at(2)), (at(1), false));
        assert_eq!(news.handle_down("silent", at(3)), (at(1), true), "another reason");
        assert!(news.handle_up(), "it came");
        assert!(!news.handle_steady());
        assert_eq!(news.handle_down("closed", at(9)), (at(9), true));
        assert!(news.handle_up(), "after one that held");
    }

    #[test]
    fn a_link_that_breaks_again_and_again_is_down() {
        let mut news = News::default();
        assert!(news.handle_up());
        assert_eq!(news.handle_down("its rules", at(1)), (at(1), true));
        for second in 2..9 {
            assert!(!news.handle_up());
            assert_eq!(news.handle_down("its rules", at(second)), (at(1), false));
        }
        assert!(!news.handle_up());
        assert!(news.handle_steady(), "now it holds");
        assert_eq!(news.handle_down("its rules", at(20)), (at(20), true));
    }
}
