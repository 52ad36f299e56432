//! What is up and why not.
