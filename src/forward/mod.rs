//! The listener, the sender's connection, transparent intake.
