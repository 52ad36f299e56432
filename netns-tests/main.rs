//! Whole sites in network namespaces.
fn main() {}
