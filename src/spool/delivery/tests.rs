//! Tests of the conversation with a receiver.
