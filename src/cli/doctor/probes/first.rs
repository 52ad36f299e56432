//! The first message: without an answer to it nothing can be found out, and what came instead is said.
//!
//! Never guesses: without an answer there is no profile.

use super::{Doctor, End, Line, Outcome, Talk};

/// Says what to do where nothing is known.
const NO_ANSWER_ADVICE: &str =
    "Is it running, and is it a plain MLLP receiver? (A receiver that never answers by design needs ack: none.)";

impl Doctor<'_> {
    /// Sends the first message; without an answer to it there is nothing to find out.
    pub(super) async fn first(&mut self) -> Result<(), (String, &'static str)> {
        let opened = Talk::open(self.to, self.timeout).await;
        let mut talk = opened.map_err(|error| (format!("cannot connect: {error}"), NO_ANSWER_ADVICE))?;
        let message = self.messages.small();
        let mut outcome = self.exchange(&mut talk, &message, self.timeout).await;
        if !outcome.is_answer() && self.facts.quirks.has_unmatched() {
            self.facts.takes_any = true;
            outcome = Outcome::Answered { code: self.facts.quirks.unmatched_code, after: self.timeout };
        }
        self.leave(talk).await;
        let Outcome::Answered { code, .. } = outcome else {
            if let Some((words, advice)) = self.facts.quirks.only_transport() {
                return Err((format!("connected; to one message came {words}"), advice));
            }
            let reason = format!("connected; to one message came {}", outcome.words());
            let other = if matches!(outcome, Outcome::End(End::Unreadable(_))) { None } else { self.other().await };
            return Err(match other {
                Some((words, advice)) => (format!("{reason}; {words}"), advice),
                None => (reason, NO_ANSWER_ADVICE),
            });
        };
        self.facts.code = code;
        let (came, means) = self.facts.first_answer();
        (self.report)(Line::new("answer", "one message", came, means));
        Ok(())
    }
}
