//! One scalar's text to its value, with the sentence for the one who wrote it: what is wrong; what to write instead.
//!
//! Pure. Never sees key material, so that the text may be quoted. The sources: RFC 1123 for host names, `ip` and wg(8)
//! for addresses and prefixes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;

use super::{Endpoint, Host, Name};

/// Limits the text that an error quotes, in characters: a line stays readable.
const QUOTED_CHARS_MAX: usize = 64;
/// Limits a host name, in bytes (RFC 1123, 2.1).
const HOST_NAME_BYTES_MAX: usize = 253;
/// Limits an interface name, in bytes (Linux IFNAMSIZ without its NUL).
const INTERFACE_BYTES_MAX: usize = 15;
/// Limits the path of a Unix socket, in bytes (Linux sun_path without its NUL).
pub(crate) const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Says what is wrong and what to write instead.
pub(super) type Judged<T> = Result<T, String>;

/// Quotes text out of the file: escaped, and cut where it is long.
pub(super) fn quote(text: &str) -> String {
    if text.chars().count() <= QUOTED_CHARS_MAX {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(QUOTED_CHARS_MAX).collect();
    format!("{start:?}...")
}

/// Reads a name out of `[a-z0-9-]`.
pub(super) fn name(text: &str) -> Judged<Name> {
    Name::new(text).ok_or_else(|| format!("{} is not a name; write 1 to 63 characters of a-z, 0-9 and -", quote(text)))
}

/// Reads the name of a network interface, by the rule of wg-quick(8).
pub(super) fn interface(text: &str) -> Judged<String> {
    let clean = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_=+.-".contains(&b));
    let fits = (1..=INTERFACE_BYTES_MAX).contains(&text.len());
    if clean && fits && text != "." && text != ".." {
        return Ok(text.to_owned());
    }
    Err(format!("{} is not an interface name; write 1 to 15 characters of a-z, A-Z, 0-9 and _=+.-", quote(text)))
}

/// Reads the name of the tunnel's own interface.
pub(super) fn own_interface(text: &str) -> Judged<String> {
    match interface(text) {
        Ok(name) if name == "lo" => {
            Err("\"lo\" is this host's loopback interface; write a name that is free, such as wl0".to_owned())
        }
        judged => judged,
    }
}

/// Reads a whole number, decimal or 0x hexadecimal, inside a range.
pub(super) fn number(text: &str, range: RangeInclusive<u32>) -> Judged<u32> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    parsed.filter(|number| range.contains(number)).ok_or_else(|| {
        format!("{} is not a whole number from {} to {}; write one that is", quote(text), range.start(), range.end())
    })
}

/// Reads a port that something listens on: not 0.
pub(super) fn port(text: &str) -> Judged<u16> {
    number(text, 1..=u32::from(u16::MAX)).map(|port| u16::try_from(port).unwrap_or(u16::MAX))
}

/// Reads a share such as `50%`, in percent.
pub(super) fn percent(text: &str) -> Judged<u32> {
    let parsed = text.strip_suffix('%').and_then(|number| number.trim_end().parse().ok());
    parsed
        .filter(|percent| (1..=100).contains(percent))
        .ok_or_else(|| format!("{} is not a share; write one from 1% to 100%", quote(text)))
}

/// Reads true or false.
pub(super) fn boolean(text: &str) -> Judged<bool> {
    choice(text, &[("true", true), ("false", false)])
}

/// Reads one of a few words.
pub(super) fn choice<T: Copy>(text: &str, words: &[(&str, T)]) -> Judged<T> {
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        format!("{} is not known here; write {}", quote(text), list.join(" or "))
    })
}

/// Reads a duration such as `25s` or `5m`, inside a range.
pub(super) fn duration(text: &str, range: RangeInclusive<Duration>) -> Judged<Duration> {
    let wanted = || {
        let (from, to) = (duration_text(*range.start()), duration_text(*range.end()));
        format!("write a duration from {from} to {to}")
    };
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // What is suggested is taken.
        let seconds = text.parse().map(Duration::from_secs).ok().filter(|seconds| range.contains(seconds));
        let such = seconds.map(|_| format!(", such as {text}s")).unwrap_or_default();
        return Err(format!("{} has no unit; {}{such}", quote(text), wanted()));
    }
    let parsed = humantime::parse_duration(text)
        .map_err(|_| format!("{} is not a duration; {}, such as 25s or 5m", quote(text), wanted()))?;
    if range.contains(&parsed) {
        return Ok(parsed);
    }
    Err(format!("{} is out of range; {}", quote(text), wanted()))
}

/// Writes whole days as days: humantime would make months of them.
fn duration_text(duration: Duration) -> String {
    const DAY_SECONDS: u64 = 24 * 3600;
    let days = duration.as_secs() / DAY_SECONDS;
    if days > 1 && duration == Duration::from_secs(days * DAY_SECONDS) {
        return format!("{days}days");
    }
    humantime::format_duration(duration).to_string()
}

/// Lists the units of sizes, each with its bytes, the largest first.
const UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a size in bytes such as `64MiB`, inside a range of bytes.
pub(super) fn size_bytes(text: &str, range: RangeInclusive<u64>) -> Judged<u64> {
    let parsed = UNITS.iter().find_map(|(unit, bytes)| {
        let digits = text.strip_suffix(unit)?.trim_end();
        let count: u64 = digits.parse().ok()?;
        count.checked_mul(*bytes)
    });
    let (from, to) = (size_text(*range.start()), size_text(*range.end()));
    let wanted = format!("write a size from {from} to {to}, such as 64MiB");
    let bytes = parsed.ok_or_else(|| format!("{} is not a size; {wanted}", quote(text)))?;
    if range.contains(&bytes) {
        return Ok(bytes);
    }
    Err(format!("{} is out of range; {wanted}", quote(text)))
}

/// Writes a size in the largest unit that it is a whole number of.
pub(super) fn size_text(size_bytes: u64) -> String {
    let fitting = UNITS.iter().find(|(_, bytes)| size_bytes >= *bytes && size_bytes.is_multiple_of(*bytes));
    let (unit, bytes) = fitting.copied().unwrap_or(("B", 1));
    format!("{}{unit}", size_bytes / bytes)
}

/// Reads an address.
pub(super) fn address(text: &str) -> Judged<IpAddr> {
    text.parse().map_err(|_| format!("{} is not an address; write one like 10.98.0.2 or fd98::2", quote(text)))
}

/// Reads an interface's address with its prefix length; a bare address is a host prefix.
pub(super) fn interface_address(text: &str) -> Judged<IpNet> {
    let net = any_prefix(text)?;
    let address = net.addr();
    if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        return Err(format!("{address} cannot be an interface's address; write a private one, such as 10.98.0.1/32"));
    }
    Ok(net)
}

/// Reads a prefix without host bits; a bare address is a host prefix.
pub(super) fn prefix(text: &str) -> Judged<IpNet> {
    let net = any_prefix(text)?;
    if net.addr() == net.network() {
        return Ok(net);
    }
    let (network, host) = (net.trunc(), IpNet::from(net.addr()));
    Err(format!("{} has host bits set; write {network} for the network or {host} for the one address", quote(text)))
}

fn any_prefix(text: &str) -> Judged<IpNet> {
    text.parse()
        .or_else(|_| text.parse().map(|address: IpAddr| IpNet::from(address)))
        .map_err(|_| format!("{} is not a prefix; write one like 10.98.0.2/32 or fd98::2/128", quote(text)))
}

/// Reads where to listen or connect: ADDRESS:PORT.
pub fn socket_address(text: &str) -> Judged<SocketAddr> {
    let parsed: Option<SocketAddr> = text.parse().ok();
    if let Some(parsed) = parsed.filter(|parsed| parsed.port() != 0) {
        return Ok(parsed);
    }
    let what = quote(text);
    if parsed.is_some() {
        return Err(format!("{what} has port 0; write a port from 1 to 65535"));
    }
    if let Ok(IpAddr::V6(address)) = text.parse() {
        return Err(format!("{what} has no port; write \"[{address}]:PORT\", in quotes"));
    }
    if text.parse::<IpAddr>().is_ok() {
        return Err(format!("{what} has no port; write {text}:PORT"));
    }
    if text.parse::<u16>().is_ok() {
        return Err(format!("{what} has no address; write 0.0.0.0:{text} for every address of this host"));
    }
    Err(format!("{what} is not ADDRESS:PORT; write one like 192.168.10.5:2575 or \"[fd98::1]:2575\", in quotes"))
}

/// Reads where something is reached: HOST:PORT, a name or an address.
pub(super) fn endpoint(text: &str) -> Judged<Endpoint> {
    if let Ok(socket) = text.parse::<SocketAddr>()
        && socket.port() != 0
        && !text.contains('%')
    {
        if let IpAddr::V6(address) = socket.ip()
            && address.is_unicast_link_local()
        {
            let instead = format!("\"[{address}%eth0]:{}\", in quotes", socket.port());
            return Err(format!("{} does not say on which link; append %INTERFACE, such as {instead}", quote(text)));
        }
        // What IPv6 maps is IPv4: a socket of one family reaches none of the other.
        let address = socket.ip().to_canonical();
        if !is_of_one_host(address) {
            return Err(format!("{} is not the address of one host; write the host's own", quote(text)));
        }
        return Ok(Endpoint { host: Host::Address(address), port: socket.port() });
    }
    let what = quote(text);
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Err(format!("{what} has no port; write \"[{address}]:PORT\", in quotes"));
    }
    let Some((host, port_text)) = text.rsplit_once(':') else {
        return Err(format!("{what} has no port; write HOST:PORT, such as lab.example.org:51820"));
    };
    let port = port(port_text).map_err(|_| format!("{what} has no valid port; write HOST:PORT, port 1 to 65535"))?;
    if host_name_is_valid(host) {
        return Ok(Endpoint { host: Host::Name(host.to_owned()), port });
    }
    if let Some(host) = on_link(host) {
        return Ok(Endpoint { host, port });
    }
    Err(format!("{what} is not HOST:PORT; write a name or an address, such as lab.example.org:51820"))
}

fn is_of_one_host(address: IpAddr) -> bool {
    let is_broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !(address.is_unspecified() || address.is_multicast() || is_broadcast)
}

/// Reads an address on a link with its interface, `[fe80::1%eth0]` (RFC 4007, section 11).
fn on_link(host: &str) -> Option<Host> {
    let (address, name) = host.strip_prefix('[')?.strip_suffix(']')?.split_once('%')?;
    let (address, interface) = (address.parse::<Ipv6Addr>().ok()?, interface(name).ok()?);
    address.is_unicast_link_local().then_some(Host::OnLink { address, interface })
}

/// Whether the text is a host name: its last label has a letter, or it is an address that is not one.
fn host_name_is_valid(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let label_is_valid = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last_is_number = host.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    host.len() <= HOST_NAME_BYTES_MAX && host.split('.').all(label_is_valid) && !last_is_number
}

/// Reads an absolute path.
pub(super) fn absolute_path(text: &str) -> Judged<std::path::PathBuf> {
    if text.starts_with('/') && !text.contains('\0') {
        return Ok(text.into());
    }
    Err(format!("{} is not an absolute path; write one that begins with /", quote(text)))
}

/// Reads the path of a Unix socket.
pub(super) fn socket_path(text: &str) -> Judged<std::path::PathBuf> {
    let path = absolute_path(text)?;
    if text.len() > SOCKET_PATH_BYTES_MAX {
        return Err(format!("{} is too long; write a path of at most {SOCKET_PATH_BYTES_MAX} bytes", quote(text)));
    }
    Ok(path)
}

#[cfg(test)]
mod tests;
