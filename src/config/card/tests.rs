//! Cards as they are sent, as they arrive, and as somebody would like them to be taken.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::config::SecretKey;

const KEY: &str = "5EQWjucdiwf1NMA8EY5bDhP5w3sKBh91YtPBIE9Nuxs=";

fn card() -> Card {
    Card {
        name: Name::new("city-lab").unwrap(),
        key: PublicKey::from_base64(KEY).unwrap(),
        address: "fd98::2".parse().unwrap(),
        endpoint: Some("lab.example.org:51820".parse().unwrap()),
        services: vec![Name::new("orders").unwrap(), Name::new("images").unwrap()],
    }
}

/// Writes a line with a check that fits.
fn line(body: &str) -> String {
    format!("{body},check={}", check(body))
}

fn config(more: &str) -> Config {
    let text = format!(
        "site: north\ntunnel: {{private_key_file: k, address: [fd98::1/64, 10.98.0.1/24], listen_port: 1}}\n{more}"
    );
    crate::config::parse(&text, Path::new("north.yaml"), &|_: &Path| Ok(SecretKey::new([7; 32]))).unwrap()
}

#[test]
fn a_card_is_one_line_and_is_read_back() {
    let text = card().to_string();
    assert_eq!(
        text,
        format!(
            "wardlink1:name=city-lab,key={KEY},address=fd98::2,endpoint=lab.example.org:51820,services=orders+images,\
             check=caefc909"
        )
    );
    assert_eq!(text.parse(), Ok(card()));
    let bare = Card { endpoint: None, services: Vec::new(), ..card() };
    assert_eq!(bare.to_string().parse(), Ok(bare));
    let wrapped: String = text.chars().flat_map(|c| [c, '\n', ' ']).collect();
    assert_eq!(format!("\r\n\t{wrapped}").parse(), Ok(card()), "as mail wraps it");
}

#[test]
fn the_longest_card_is_within_the_limit() {
    let long = |n: usize| Name::new(&format!("{n:0>63}")).unwrap();
    let host = format!("{}.{}.{}.{}:51820", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61));
    let card = Card {
        name: long(0),
        endpoint: Some(host.parse().unwrap()),
        address: "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap(),
        services: (0..SERVICES_MAX).map(long).collect(),
        ..card()
    };
    assert!(card.to_string().len() <= CARD_BYTES_MAX);
    assert_eq!(card.to_string().parse(), Ok(card));
}

#[test]
fn the_word_list_is_that_of_bip_39() {
    let digest: String = Sha256::digest(WORD_LIST).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digest, "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda");
    assert_eq!(WORD_LIST.lines().count(), 1 << WORD_BITS);
    const { assert!(WORDS * WORD_BITS >= 80) };
}

#[test]
fn the_words_are_of_the_whole_card() {
    let words = card().fingerprint();
    let others = [
        Card { name: Name::new("city-lap").unwrap(), ..card() },
        Card { key: SecretKey::new([9; 32]).public_key(), ..card() },
        Card { address: "fd98::3".parse().unwrap(), ..card() },
        Card { endpoint: None, ..card() },
        Card { services: vec![Name::new("orders").unwrap()], ..card() },
    ];
    for other in others {
        let same = other.fingerprint().0.iter().zip(words.0).filter(|(a, b)| **a == *b).count();
        assert!(same <= 1, "{words} and {}", other.fingerprint());
    }
    assert!(words.is(&words.to_string()));
    assert!(words.is(&format!(" {}\n", words.to_string().to_uppercase().replace(' ', "-"))));
    let (most, last) = words.to_string().rsplit_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    for wrong in
        [most.clone(), String::new(), format!("{words} {last}"), format!("{most} abandon"), format!("{last} {most}")]
    {
        assert!(!words.is(&wrong), "{wrong}");
    }
}

#[test]
fn an_address_is_made_of_the_key() {
    let key = card().key;
    let digest = Sha256::digest([b"wardlink tunnel address 1\n".as_slice(), &key.0].concat());
    let address = address_of(&key);
    assert_eq!(address.octets()[0], 0xfd);
    assert_eq!(address.octets()[1..], digest[..15]);
    assert!(address.is_unique_local());
    assert_ne!(address, address_of(&SecretKey::new([9; 32]).public_key()));
}

#[test]
fn damaged_and_foreign_texts_are_told_apart() {
    let text = card().to_string();
    let read = |text: &str| text.parse::<Card>().unwrap_err();
    assert_eq!(read(""), CardError::NotACard);
    assert_eq!(read(KEY), CardError::NotACard);
    assert_eq!(read("wardlink2:name=city-lab"), CardError::OtherVersion);
    assert_eq!(read(&text.replace("city", "cyti")), CardError::Damaged);
    assert_eq!(read(&text[..text.len() - 1]), CardError::Damaged);
    assert_eq!(read(&text[..40]), CardError::Damaged);
    assert_eq!(read(&format!("{text}{}", "x".repeat(CARD_BYTES_MAX))), CardError::TooLong);
}

#[test]
fn hostile_cards_with_a_good_check_are_refused() {
    let ok = format!("wardlink1:name=city-lab,key={KEY},address=fd98::2");
    assert!(line(&ok).parse::<Card>().is_ok());
    let zeros = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for (body, what) in [
        (ok.replace("city-lab", "city\u{1b}[2Jlab"), "name"),
        (ok.replace("city-lab", "City"), "name"),
        (ok.replace("city-lab", &"a".repeat(64)), "name"),
        (ok.replace(KEY, zeros), "key"),
        (ok.replace(KEY, &KEY[..40]), "key"),
        (ok.replace("fd98::2", "fd98::2/64"), "address"),
        (ok.replace("fd98::2", "fd98::2%eth0"), "address"),
        (ok.replace("fd98::2", "0.0.0.0/0"), "address"),
        (ok.clone() + ",endpoint=\u{1b}]0;x\u{7}:1", "endpoint"),
        (ok.clone() + ",endpoint=lab.example.org", "endpoint"),
        (ok.clone() + ",endpoint=0.0.0.0:1", "endpoint"),
        (ok.clone() + ",services=a+B", "services"),
        (ok.clone() + ",services=", "services"),
        (format!("{ok},services={}a", "a+".repeat(SERVICES_MAX)), "services"),
        // what is in it twice, in another order, or not known: two readers must not read two cards
        (ok.clone() + ",address=fd98::3", "form"),
        (ok.replace("fd98::2", "fd98:0::2"), "form"),
        (ok.clone() + ",services=a,endpoint=lab.example.org:1", "form"),
        (ok.clone() + ",routed=true", "form"),
        (ok.clone() + "\u{202e}", "address"),
    ] {
        let error = line(&body).parse::<Card>().unwrap_err();
        assert_eq!(error, CardError::Wrong(what), "{body:?}");
        assert!(!error.to_string().chars().any(char::is_control));
    }
}

fn judged(card: &Card, more: &str) -> Result<Admitted, String> {
    let routes = [
        ("192.168.10.0/24", "eth0", false),
        ("10.98.0.2/32", "wl0", false),
        ("fd77::/64", "eth\u{1b}", false),
        ("203.0.113.7/32", "eth0", true),
        ("2001:db8::7/128", "eth0", true),
        ("203.0.113.8/32", "eth0", false),
    ];
    let routes = routes.map(|(net, interface, is_own)| Route {
        net: net.parse().unwrap(),
        interface: interface.to_owned(),
        is_own,
    });
    let admission = Admission { card, name: None, may_change_key: false };
    admit(admission, &config(more), &routes).map_err(|refusal| refusal.to_string())
}

#[test]
fn a_new_site_is_admitted_and_a_known_one_known() {
    let named = Name::new("city-lab").unwrap();
    assert_eq!(judged(&card(), ""), Ok(Admitted::New(named.clone())));
    let v4 = Card { address: "10.98.0.2".parse().unwrap(), ..card() };
    assert_eq!(judged(&v4, ""), Ok(Admitted::New(named.clone())), "a network of the tunnel's own is for peers");
    let routed = Card { endpoint: Some("203.0.113.8:1".parse().unwrap()), ..card() };
    assert_eq!(judged(&routed, ""), Ok(Admitted::New(named.clone())), "a host with a route of its own is another one");
    let peer = format!("peers: [{{name: city-lab, public_key: \"{KEY}\", allowed_ips: [fd98::2]}}]\n");
    assert_eq!(judged(&card(), &peer), Ok(Admitted::Known(named)));
}

#[test]
fn a_card_that_claims_what_is_here_is_refused() {
    let other = SecretKey::new([9; 32]).public_key();
    let peer = format!(
        "peers: [{{name: city-lab, public_key: \"{KEY}\", allowed_ips: [fd98::2, 10.1.0.0/16], endpoint: '192.0.2.9:1'}}]\n"
    );
    let parts = format!(
        "{peer}forwards: [{{name: f, listen: '10.4.0.1:1', peer: city-lab, to: '10.1.5.5:1', allow_from: [10.5.0.0/24]}}]\n\
         services: [{{name: s, target: '10.3.0.1:1'}}]\n"
    );
    let at =
        |address: &str| Card { name: Name::new("b").unwrap(), key: other, address: address.parse().unwrap(), ..card() };
    let calls = |endpoint: &str| Card { endpoint: Some(endpoint.parse().unwrap()), ..at("fd98::5") };
    let own = Card { key: SecretKey::new([7; 32]).public_key(), ..card() };
    for (card, why) in [
        (own, "this site's own card"),
        (Card { name: Name::new("north").unwrap(), ..at("fd98::5") }, "a site named north, as this one"),
        (Card { key: other, ..card() }, "--new-key"),
        (Card { name: Name::new("b").unwrap(), ..card() }, "--as city-lab"),
        (at("fd98::1"), "this site's own;"),
        (at("10.98.0.1"), "this site's own;"),
        (at("fd98::2"), "of peer city-lab"),
        (at("10.1.2.3"), "of peer city-lab"),
        (at("10.3.0.1"), "the receiver of service s"),
        (at("10.4.0.1"), "where this host listens for forward f"),
        (at("10.5.0.7"), "among the senders of forward f"),
        (at("192.168.10.40"), "this host reaches 192.168.10.0/24 by eth0"),
        (at("fd77::1"), "by eth\\u{1b};"),
        (at("8.8.8.8"), "not a private one"),
        (at("127.0.0.1"), "not a private one"),
        (at("::1"), "not a private one"),
        (at("::"), "not a private one"),
        (at("fe80::1"), "not a private one"),
        (at("ff02::1"), "not a private one"),
        (at("2001:db8::1"), "not a private one"),
        (at("::ffff:10.98.0.9"), "not a private one"),
        (calls("127.0.0.1:51820"), "that host itself"),
        (calls("[::1]:51820"), "that host itself"),
        (calls("localhost:51820"), "that host itself"),
        (calls("x.LocalHost.:51820"), "that host itself"),
        (calls("[fe80::1%eth0]:51820"), "on its own host only"),
        (calls("203.0.113.7:1"), "is this host"),
        (calls("[::ffff:203.0.113.7]:1"), "is this host"),
        (calls("[2001:db8::7]:51820"), "is this host"),
    ] {
        let refusal = judged(&card, &parts).unwrap_err();
        assert!(refusal.contains(why), "{card}: {refusal}");
        assert!(!refusal.chars().any(char::is_control), "{refusal:?}");
    }
}

#[test]
fn a_name_or_a_key_is_changed_where_that_is_said() {
    let peer = format!("peers: [{{name: lab, public_key: \"{KEY}\", allowed_ips: [fd98::2]}}]\n");
    let (config, lab) = (config(&peer), Name::new("lab").unwrap());
    let admission = Admission { card: &card(), name: Some(&lab), may_change_key: false };
    assert_eq!(admit(admission, &config, &[]), Ok(Admitted::Known(lab.clone())));
    let moved = Card { key: SecretKey::new([9; 32]).public_key(), ..card() };
    let admission = Admission { card: &moved, may_change_key: true, ..admission };
    assert_eq!(admit(admission, &config, &[]), Ok(Admitted::Known(lab.clone())));
    let other = Name::new("other").unwrap();
    let refusal = admit(Admission { name: Some(&other), ..admission }, &config, &[]).unwrap_err().to_string();
    assert!(refusal.contains("take it as that one: --as lab"), "{refusal}");
}

#[test]
fn a_family_that_is_missing_here_is_named() {
    let text = "site: north\ntunnel: {private_key_file: k, address: [10.98.0.1]}\n";
    let config = crate::config::parse(text, Path::new("n"), &|_: &Path| Ok(SecretKey::new([7; 32]))).unwrap();
    let admission = Admission { card: &card(), name: None, may_change_key: false };
    let refusal = admit(admission, &config, &[]).unwrap_err().to_string();
    assert!(refusal.contains("this site has none of IPv6"), "{refusal}");
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,200}|(wardlink1:)?(name=|key=|address=|,|[a-z0-9:=+/]){0,40}") {
        if let Ok(card) = text.parse::<Card>() {
            prop_assert_eq!(card.to_string(), text.trim());
        }
    }

    #[test]
    fn a_change_of_any_byte_is_found(at in 0..120_usize, by in "[a-z0-9=,:+]") {
        let text = card().to_string();
        let mut changed = text.clone();
        changed.replace_range(at..=at, &by);
        prop_assert!(changed == text || changed.parse::<Card>().is_err());
    }
}
