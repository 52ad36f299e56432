//! A site's card: the one line by which another site gets to know it. Public: it holds no secret.
//!
//! Pure. The form, which is this project's own:
//!
//! `wardlink1:name=city-lab,key=KEY,address=fd12::1,endpoint=lab.example.org:51820,services=a+b,check=1f2e3d4c`
//!
//! - `key` is the public key in base64; `address` the one address inside the tunnel; `endpoint` and `services` may be
//!   missing; `check` is the start of SHA-256 over all before `,check=`, in hex: it finds a damaged copy, nothing more.
//! - Each site has one card and each card one form: what is not byte for byte as it would be written here is refused.
//! - The fingerprint is the start of SHA-256 over the whole line, as words: 8 words of 2048 are 88 bits, so that nobody
//!   can make a second card with the same words. The words are those of BIP-39 in English (MIT licence), which are told
//!   apart by their first four letters; two admins compare them aloud.

mod admit;
mod routes;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use super::{Config, Endpoint, Name, PublicKey};

pub use admit::{Admission, Admitted, Refusal, admit, is_elsewhere, is_private};
pub use routes::{Route, ipv4_routes, ipv6_routes};

/// Begins a card, with the version of its form.
const MARK: &str = "wardlink1:";
/// Limits a card, in bytes: all services of a large site, and a name of the longest for each.
pub const CARD_BYTES_MAX: usize = 8 * 1024;
/// Limits the services of a card: what it bounds in bytes with names of the longest.
pub const SERVICES_MAX: usize = 100;
/// Is the number of words of a fingerprint: 8 times 11 bits.
pub const WORDS: usize = 8;
/// Are the bits that a word stands for.
const WORD_BITS: usize = 11;
/// Is the number of bytes of the check: a damaged copy passes once in four thousand million.
const CHECK_BYTES: usize = 4;
/// Sets the hash of fingerprints apart from all others.
const FINGERPRINT_DOMAIN: &[u8] = b"wardlink card fingerprint 1\n";
/// Sets the hash of addresses apart from all others.
const ADDRESS_DOMAIN: &[u8] = b"wardlink tunnel address 1\n";
/// Holds the words, one a line, in order.
const WORD_LIST: &str = include_str!("card/words.txt");

/// Is what a site tells another one of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Is the name that the site gives itself.
    pub name: Name,
    /// Is its public key.
    pub key: PublicKey,
    /// Is its one address inside the tunnel.
    pub address: IpAddr,
    /// Says where it is reached from outside; absent: it is not, and calls.
    pub endpoint: Option<Endpoint>,
    /// Names what it offers.
    pub services: Vec<Name>,
}

/// Says why a text is no card, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CardError {
    /// It begins otherwise.
    #[error("is no card; a card is the line that begins with {MARK}, as `wardlink card` prints it at the other site")]
    NotACard,
    /// It is of another version.
    #[error("is a card of another version of wardlink; install the same version at both sites")]
    OtherVersion,
    /// It is longer than any card.
    #[error(
        "is longer than {CARD_BYTES_MAX} bytes, which no card is; copy the line of `wardlink card` and nothing else"
    )]
    TooLong,
    /// A part of it is missing or changed.
    #[error("is not whole: its checksum does not fit; copy it again, all of the line, or send it as a file")]
    Damaged,
    /// It has a part that no card has, or in another form.
    #[error("was not written by `wardlink card`: its {0} is not as it should be; ask the other site for its card anew")]
    Wrong(&'static str),
}

impl Card {
    /// Makes the card of a site; `address` is one of its own, absent the first one.
    pub fn of(config: &Config, address: Option<IpAddr>) -> Option<Self> {
        let mut own = config.tunnel.addresses.iter().map(ipnet::IpNet::addr);
        Some(Self {
            name: config.site.clone(),
            key: config.tunnel.private_key.public_key(),
            address: own.find(|own| address.is_none_or(|address| address == *own))?,
            endpoint: config.tunnel.endpoint.clone(),
            services: config.services.iter().take(SERVICES_MAX).map(|service| service.name.clone()).collect(),
        })
    }

    /// Returns the words that both admins compare.
    pub fn fingerprint(&self) -> Fingerprint {
        let digest = Sha256::new().chain_update(FINGERPRINT_DOMAIN).chain_update(self.to_string()).finalize();
        let mut bits = digest.iter().flat_map(|byte| (0..8).rev().map(move |bit| usize::from(byte >> bit & 1)));
        let mut word = || {
            let index = bits.by_ref().take(WORD_BITS).fold(0, |index, bit| index << 1 | bit);
            WORD_LIST.lines().nth(index).unwrap_or_default()
        };
        Fingerprint(std::array::from_fn(|_| word()))
    }

    /// Lists the services for people: `orders, results`.
    pub fn offers(&self) -> Option<String> {
        let names: Vec<&str> = self.services.iter().map(Name::as_str).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// Writes all that the check is over.
    fn body(&self) -> String {
        let mut body = format!("{MARK}name={},key={},address={}", self.name, self.key, self.address);
        if let Some(endpoint) = &self.endpoint {
            body.push_str(&format!(",endpoint={endpoint}"));
        }
        if !self.services.is_empty() {
            let names: Vec<&str> = self.services.iter().map(Name::as_str).collect();
            body.push_str(&format!(",services={}", names.join("+")));
        }
        body
    }
}

fn check(body: &str) -> String {
    Sha256::digest(body).iter().take(CHECK_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

impl fmt::Display for Card {
    /// Writes the line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = self.body();
        write!(f, "{body},check={}", check(&body))
    }
}

impl FromStr for Card {
    type Err = CardError;

    /// Reads a card; white space around it and in it (a mail's line breaks) does not count.
    fn from_str(text: &str) -> Result<Self, CardError> {
        let line: String =
            text.chars().filter(|c| !matches!(c, ' ' | '\t' | '\r' | '\n')).take(CARD_BYTES_MAX + 1).collect();
        let Some(fields) = line.strip_prefix(MARK) else {
            let version = line.strip_prefix("wardlink").and_then(|rest| rest.split_once(':'));
            let is_other = version.is_some_and(|(version, _)| version.parse::<u32>().is_ok());
            return Err(if is_other { CardError::OtherVersion } else { CardError::NotACard });
        };
        if line.len() > CARD_BYTES_MAX {
            return Err(CardError::TooLong);
        }
        let (body, found) = line.rsplit_once(",check=").ok_or(CardError::Damaged)?;
        if check(body) != found {
            return Err(CardError::Damaged);
        }
        let card = read(fields.strip_suffix(&format!(",check={found}")).unwrap_or_default())?;
        if card.to_string() == line { Ok(card) } else { Err(CardError::Wrong("form")) }
    }
}

/// Reads the fields before the check.
fn read(fields: &str) -> Result<Card, CardError> {
    let field = |wanted: &str| {
        let mut pairs = fields.split(',').filter_map(|field| field.split_once('='));
        pairs.find(|(key, _)| *key == wanted).map(|(_, value)| value)
    };
    let name = field("name").and_then(Name::new).ok_or(CardError::Wrong("name"))?;
    let key = field("key").and_then(PublicKey::from_base64).filter(|key| !key.is_low_order());
    let endpoint = match field("endpoint") {
        Some(text) => Some(text.parse().map_err(|_| CardError::Wrong("endpoint"))?),
        None => None,
    };
    let services: Option<Vec<Name>> =
        field("services").map_or(Some(Vec::new()), |names| names.split('+').map(Name::new).collect());
    Ok(Card {
        name,
        key: key.ok_or(CardError::Wrong("key"))?,
        address: field("address").and_then(|text| text.parse().ok()).ok_or(CardError::Wrong("address"))?,
        endpoint,
        services: services.filter(|names| names.len() <= SERVICES_MAX).ok_or(CardError::Wrong("services"))?,
    })
}

/// Is the words of a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([&'static str; WORDS]);

impl Fingerprint {
    /// Tells whether these are the words; case, and what is between them, does not count.
    pub fn is(&self, words: &str) -> bool {
        let words = words.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
        words.map(str::to_ascii_lowercase).eq(self.0)
    }
}

impl fmt::Display for Fingerprint {
    /// Writes the words with blanks between them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

/// Makes a site's address inside the tunnel of its public key: `fd`, then the first 15 bytes of SHA-256 over
/// "wardlink tunnel address 1", a line feed and the 32 bytes of the key. It is a unique local address (RFC 4193), of a
/// prefix as random as the key, so that no two sites have the same and nobody has to keep a list.
pub fn address_of(key: &PublicKey) -> Ipv6Addr {
    let digest = Sha256::new().chain_update(ADDRESS_DOMAIN).chain_update(key.0).finalize();
    let mut bytes = [0xfd; 16];
    bytes.iter_mut().skip(1).zip(digest).for_each(|(byte, hashed)| *byte = hashed);
    Ipv6Addr::from(bytes)
}

#[cfg(test)]
mod tests;
