//! The cases of the kernel's own suite.

use crate::harness::tests;

tests![];
