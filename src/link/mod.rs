//! The connection between two sites that carries a forward inside the tunnel.
