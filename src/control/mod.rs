//! The local socket that the commands talk to.
