//! The first message: without an answer to it nothing can be found out, and what came instead is said.
//!
//! Never guesses: without an answer there is no profile.

use super::{Doctor, Line, Outcome, Talk};

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
            let transport = self.facts.quirks.only_transport();
            let (words, advice) = transport
                .map_or_else(|| (outcome.words(), NO_ANSWER_ADVICE), |(words, advice)| (words.to_owned(), advice));
            return Err((format!("connected; to one message came {words}"), advice));
        };
        self.facts.code = code;
        let (came, means) = self.facts.first_answer();
        (self.report)(Line::new("answer", "one message", came, means));
        Ok(())
    }
}
