//! What the other end of a local leg speaks: the bytes around its frames, and the release of the protocol.
//!
//! Values only. Sources: HL7 Transport Specification MLLP, Release 1 and Release 2 (each content block is answered by a
//! commit acknowledgement, `06` for "in safe storage" or `15` for "not", in a frame of its own, and is sent again a few
//! times where that is negative or does not come); case 35 of the design of MLLP.

use std::time::Duration;

use super::frame::Framing;

/// Is what one end of a leg speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dialect {
    /// Starts and ends frames.
    pub framing: Framing,
    /// Says whether frames are committed.
    pub release: Release,
}

impl Dialect {
    /// Is the MLLP that nearly everybody speaks.
    pub const RELEASE_1: Self = Self { framing: Framing::MLLP, release: Release::One };
}

/// Says which release of MLLP is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Release {
    /// A message is answered by HL7 alone.
    #[default]
    One,
    /// Each message, and each answer, is committed by whoever received it.
    Two(Commit),
}

impl Release {
    /// Returns its number.
    pub fn number(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Two(_) => 2,
        }
    }

    /// Returns the terms of commits, where there are any.
    pub fn commit(self) -> Option<Commit> {
        match self {
            Self::One => None,
            Self::Two(commit) => Some(commit),
        }
    }
}

/// Says how long and how often a commit is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Bounds the wait for a commit, from the last byte that the connection took; absent: none is waited for.
    pub timeout: Option<Duration>,
    /// Counts how often the same is sent again where its commit was negative or did not come.
    pub retries: u32,
    /// Is the pause before that.
    pub pause: Duration,
}

impl Default for Commit {
    /// A commit says that the block is on a disk, not that it was worked on: that takes no 5 s, nor more than a moment
    /// until a disk that was full or a process that was started anew takes the next attempt.
    fn default() -> Self {
        Self { timeout: Some(Duration::from_secs(5)), retries: 2, pause: Duration::from_secs(1) }
    }
}
