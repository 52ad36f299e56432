//! One value of a wg-quick file, with the sentence for the one who wrote it: what is wrong; what to write instead.
//!
//! Pure. Never quotes what may be a key. The source: wg(8), "CONFIGURATION FILE FORMAT".

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::value::{self, Judged, quote};
use crate::config::{Endpoint, SecretKey, Table};

pub(super) fn items(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty())
}

pub(super) fn secret_key(value: &str, key: &str, command: &str) -> Judged<SecretKey> {
    let instead = || format!("{key} is not a key of 44 characters in base64; write what {command} prints");
    SecretKey::from_base64(value).ok_or_else(instead)
}

pub(super) fn number(value: &str, key: &str, max: u32) -> Judged<u32> {
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let number = value.parse().ok().filter(|number| digits && *number <= max);
    number.ok_or_else(|| format!("{key} {} is no whole number from 0 to {max}; write one that is", quote(value)))
}

/// Narrows what [`number`] has bounded.
pub(super) fn short(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

pub(super) fn mark(value: &str) -> Judged<u32> {
    if value.eq_ignore_ascii_case("off") {
        return Ok(0);
    }
    // 010 is 8 to wg and 10 to a reader.
    let is_octal = value.len() > 1 && value.starts_with('0') && value.bytes().all(|b| b.is_ascii_digit());
    let hex = value.strip_prefix("0x").or_else(|| value.strip_prefix("0X"));
    let is_plain = |text: &str, radix| !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
    let number = match hex {
        Some(digits) => u32::from_str_radix(digits, 16).ok().filter(|_| is_plain(digits, 16)),
        None => value.parse().ok().filter(|_| is_plain(value, 10) && !is_octal),
    };
    number.ok_or_else(|| {
        format!("FwMark {} is no mark; write off, a number such as 51820, or one in hex such as 0xca6c", quote(value))
    })
}

/// Reads a table; `None` where it is named.
pub(super) fn table(value: &str) -> Option<Table> {
    match value.to_ascii_lowercase().as_str() {
        "auto" => Some(Table::Auto),
        "off" => Some(Table::Off),
        "main" => Some(Table::Auto),
        number => value::number(number, 1..=u32::MAX).ok().map(Table::Number),
    }
}

pub(super) fn prefix(item: &str, key: &str, example: &str) -> Judged<IpNet> {
    let net = item.parse().or_else(|_| item.parse::<IpAddr>().map(IpNet::from));
    net.map_err(|_| format!("{key} {} is no prefix; write one such as {example}", quote(item)))
}

pub(super) fn endpoint(value: &str) -> Judged<Endpoint> {
    value::endpoint(value).map_err(|why| format!("Endpoint {why}"))
}
