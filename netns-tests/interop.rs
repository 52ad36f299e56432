//! Later.
use crate::harness::tests;
tests![];
