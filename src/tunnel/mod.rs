//! WireGuard in userspace: keys, peers, filter, TUN, UDP.
