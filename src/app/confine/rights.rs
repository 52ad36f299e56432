//! The capabilities that a site keeps where root runs it; the systemd unit gives it the first only.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
};

/// Are the interface, its routes and settings; ports below 1024; and, as another user than root may own state, queues and
/// sockets, files of others.
pub(super) const KEPT: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::CHOWN);

/// Gives up all other capabilities, for this thread and all that it starts. An old kernel wants CAP_NET_RAW to bind a socket
/// to the interface (before Linux 5.7): it is kept there.
pub(super) fn give_up(is_old: bool) -> io::Result<()> {
    let kept = if is_old { KEPT | CapabilitySet::NET_RAW } else { KEPT };
    let held = capabilities(None)?;
    // A program that root starts gets what is in the bounding set.
    if held.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().difference(kept).iter() {
            // A kernel that does not know it does not give it either.
            remove_capability_from_bounding_set(capability).ok();
        }
    }
    let CapabilitySets { effective, permitted, inheritable } = held;
    Ok(set_capabilities(
        None,
        CapabilitySets { effective: effective & kept, permitted: permitted & kept, inheritable: inheritable & kept },
    )?)
}
