//! How and to whom the health endpoints answer beyond this host. Pure.
//!
//! Never shows a token.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::tls;

/// Says how the health endpoints are reached, and who may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// Is what who asks meets; it may require a certificate of them.
    pub tls: Arc<tls::Listener>,
    /// Is what who asks must show; absent: nothing more than TLS demands.
    pub token: Option<Token>,
}

/// Is what who asks for health must show.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Zeroizing<String>);

/// Is the shortest token, in bits: nobody guesses it.
const TOKEN_BITS_MIN: usize = 128;
/// Is the longest token, in bytes: it goes in a header of each request.
const TOKEN_BYTES_MAX: usize = 256;
/// Is how many different characters a token has at least: one drawn at random has more, a word typed in place of it fewer.
const TOKEN_CHARACTERS_MIN: usize = 8;

impl Token {
    /// Reads what is in a file: one line of the characters that a bearer token has (RFC 6750, section 2.1).
    ///
    /// # Errors
    /// Says what is wrong, and never what is in it.
    pub fn new(bytes: &[u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(bytes).unwrap_or_default().trim_ascii();
        let is_one = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        if text.is_empty() || text.len() > TOKEN_BYTES_MAX || !text.bytes().all(is_one) {
            return Err("does not hold a token: one line out of A-Z a-z 0-9 - . _ ~ + / =");
        }
        let body = text.trim_end_matches('=');
        let bits_each = if body.bytes().all(|byte| byte.is_ascii_hexdigit()) { 4 } else { 6 };
        let mut seen = body.as_bytes().to_vec();
        seen.sort_unstable();
        seen.dedup();
        let is_varied = seen.len() >= TOKEN_CHARACTERS_MIN;
        zeroize::Zeroize::zeroize(&mut seen);
        if body.len() * bits_each < TOKEN_BITS_MIN || !is_varied {
            return Err("holds a token that can be guessed: it needs 128 bits of chance");
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// Returns the token, to be compared.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_line_that_nobody_guesses() {
        let by_psk = "4Jd9/rW0gBfQmW2l0u5rYxkq7dPo1hC3nTz8vEaSbGI=\n";
        let hex = "0123456789abcdef0123456789abcdef";
        for good in [by_psk, hex, "aB3dE5gH7jK9mN1pQ2sT4v", "  aB3dE5gH7jK9mN1pQ2sT4v\r\n"] {
            assert_eq!(Token::new(good.as_bytes()).unwrap().expose(), good.trim());
            assert_eq!(format!("{:?}", Token::new(good.as_bytes()).unwrap()), "Token(hidden)");
        }
        let guessed = [&hex[1..], "aB3dE5gH7jK9mN1pQ2sT4", "secret", &"a".repeat(200), &"abcdefg".repeat(20)];
        for bad in guessed {
            assert!(Token::new(bad.as_bytes()).unwrap_err().starts_with("holds a token that can be guessed"), "{bad}");
        }
        for bad in [
            "",
            "\n",
            "two words of a long sentence, which is none",
            "aB3dE5gH7jK9mN1pQ2sT4v\naB3dE5gH7",
            &hex.repeat(9),
        ] {
            assert!(Token::new(bad.as_bytes()).unwrap_err().starts_with("does not hold a token"), "{bad}");
        }
        assert!(Token::new(&[0xff; 64]).is_err());
    }
}
