//! Builds the rooms, starts and stops them in order.
