//! Tests of how values are read.

use super::*;

#[test]
fn a_bare_address_is_a_host_prefix() {
    assert_eq!(prefix("10.98.0.2"), Ok("10.98.0.2/32".parse().unwrap()));
    assert_eq!(prefix("fd98::2"), Ok("fd98::2/128".parse().unwrap()));
    assert_eq!(interface_address("10.98.0.1/24").unwrap().prefix_len(), 24);
    assert!(prefix("10.98.0.1/24").unwrap_err().contains("10.98.0.0/24"));
}

#[test]
fn durations_and_sizes_are_as_people_write_them() {
    let range = Duration::from_secs(1)..=Duration::from_secs(3600);
    assert_eq!(duration("25s", range.clone()), Ok(Duration::from_secs(25)));
    assert_eq!(duration("5m", range.clone()), Ok(Duration::from_secs(300)));
    assert_eq!(duration("1m 30s", range.clone()), Ok(Duration::from_secs(90)));
    for wrong in ["", "0", "-1s", "61m", "s", "1 fortnight", "99999999999999999999s", "1e9s"] {
        assert!(duration(wrong, range.clone()).is_err(), "{wrong}");
    }
    assert!(duration("25", range.clone()).unwrap_err().ends_with("such as 25s"));
    let zero = duration("0", range.clone()).unwrap_err();
    assert!(zero.contains("has no unit") && !zero.contains("such as"), "what is suggested is taken: {zero}");
    let range = 1024..=1 << 30;
    assert_eq!(size_bytes("64MiB", range.clone()), Ok(64 << 20));
    assert_eq!(size_bytes("1 GiB", range.clone()), Ok(1 << 30));
    assert_eq!(size_bytes("2048B", range.clone()), Ok(2048));
    for wrong in ["", "64", "MiB", "-1MiB", "1.5MiB", "1B", "99999999999999999999GiB", "18446744073709551615GiB"] {
        assert!(size_bytes(wrong, range.clone()).is_err(), "{wrong}");
    }
}

#[test]
fn numbers_are_decimal_or_hexadecimal() {
    assert_eq!(number("51820", 0..=65535), Ok(51820));
    assert_eq!(number("0xca6c", 0..=65535), Ok(0xca6c));
    for wrong in ["", "-1", "65536", "0x", "1.0", "1_000", " 1", "0x-1"] {
        assert!(number(wrong, 0..=65535).is_err(), "{wrong}");
    }
}

#[test]
fn an_endpoint_is_a_name_or_an_address_with_a_port() {
    for right in [
        "lab.example.org:51820",
        "localhost:1",
        "10.0.0.1:51820",
        "[fd98::1]:51820",
        "emr_1.lan.:6661",
        "[fe80::1%eth0]:51820",
        "[fe80::1%2]:1",
    ] {
        assert!(endpoint(right).is_ok(), "{right}");
    }
    assert_eq!(endpoint("[::ffff:192.0.2.2]:7"), endpoint("192.0.2.2:7"));
    let wrong = [
        "",
        ":1",
        "lab",
        "lab:0",
        "lab:65536",
        "lab:",
        "10.0.0.256:1",
        "0.0.0.0:51820",
        "255.255.255.255:51820",
        "224.0.0.1:51820",
        "[::]:51820",
        "[ff02::1]:51820",
        "[::ffff:0.0.0.0]:51820",
        "[::ffff:224.0.0.1]:51820",
        "fd98::1:51820",
        "[fd98::1]",
        "[fd98::1%eth0]:1",
        "[fe80::1%eth0]:0",
        "[fe80::1%]:1",
        "[fe80::1]:1",
        "[fe80::1%a b]:1",
        "[10.0.0.1%eth0]:1",
        "fe80::1%eth0:1",
        "-lab:1",
        "la b:1",
        "lab..org:1",
        "http://lab:1",
        "1234:1",
    ];
    for wrong in wrong {
        assert!(endpoint(wrong).is_err(), "{wrong}");
    }
    assert!(endpoint(&format!("{}:1", "a.".repeat(128))).is_err(), "longer than a name may be");
}

#[test]
fn an_endpoint_is_written_as_it_is_read() {
    for text in ["lab.example.org:51820", "10.0.0.1:51820", "[fd98::1]:51820", "[fe80::1%eth0]:51820"] {
        assert_eq!(endpoint(text).map(|endpoint| endpoint.to_string()), Ok(text.to_owned()));
    }
}

#[test]
fn quotes_are_short_and_on_one_line() {
    assert_eq!(quote("a\n\u{1b}[31mb"), r#""a\n\u{1b}[31mb""#);
    assert_eq!(quote(&"é".repeat(65)), format!("\"{}\"...", "é".repeat(64)));
}
