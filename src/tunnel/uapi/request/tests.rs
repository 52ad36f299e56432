//! What is understood of a request, and what is refused before anything changes.

use proptest::prelude::*;

use super::*;

const KEY: &str = "a6b9b1f8e7c2d3a4b5c6d7e8f90102030405060708090a0b0c0d0e0f10111213";
const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn set(lines: &str) -> Result<Set, Refusal> {
    match parse(format!("set=1\n{lines}").as_bytes())? {
        Request::Set(set) => Ok(set),
        Request::Get => panic!("a get"),
    }
}

fn peer(lines: &str) -> Result<SetPeer, Refusal> {
    set(&format!("public_key={KEY}\n{lines}")).map(|mut set| set.peers.pop().unwrap())
}

#[test]
fn everything_that_wg_sends_is_understood() {
    let text = format!(
        "private_key={KEY}\nlisten_port=51820\nfwmark=4660\nreplace_peers=true\n\
         public_key={KEY}\nupdate_only=true\npreshared_key={KEY}\nendpoint=[2001:db8::1]:443\n\
         persistent_keepalive_interval=25\nreplace_allowed_ips=true\nallowed_ip=10.98.0.2/32\nallowed_ip=-fd98::/64\n\
         protocol_version=1\npublic_key={}\nremove=true\n",
        KEY.to_uppercase().replace("A6B9", "A6BA")
    );
    let set = set(&text).unwrap();
    assert_eq!(set.private_key.unwrap().unwrap().expose()[..3], [0xa6, 0xb9, 0xb1]);
    assert_eq!((set.listen_port, set.fwmark, set.replace_peers), (Some(51820), Some(4660), true));
    let [first, second] = &set.peers[..] else { panic!("two peers") };
    assert_eq!(first.public_key.0[31], 0x13);
    assert_eq!(first.preshared_key.as_ref().unwrap().as_ref().unwrap().expose(), &first.public_key.0);
    assert_eq!(first.endpoint, Some("[2001:db8::1]:443".parse().unwrap()));
    assert_eq!(first.persistent_keepalive, Some(Some(Duration::from_secs(25))));
    let prefixes = [AllowedIp::Add("10.98.0.2/32".parse().unwrap()), AllowedIp::Remove("fd98::/64".parse().unwrap())];
    assert_eq!(first.allowed_ips, prefixes);
    assert!(first.update_only && first.replace_allowed_ips && !first.remove);
    assert_eq!(second.public_key.0[..2], [0xa6, 0xba]);
    assert!(second.remove && second.preshared_key.is_none() && second.allowed_ips.is_empty(), "nothing leaks on");
}

#[test]
fn what_is_not_said_is_left_alone_and_zeros_take_away() {
    let nothing = set("").unwrap();
    assert!(nothing.private_key.is_none() && nothing.listen_port.is_none() && nothing.fwmark.is_none());
    assert!(nothing.peers.is_empty() && !nothing.replace_peers);
    assert!(matches!(set(&format!("private_key={ZEROS}\n")).unwrap().private_key, Some(None)));
    let peer = peer(&format!("preshared_key={ZEROS}\npersistent_keepalive_interval=0\n")).unwrap();
    assert!(matches!(peer.preshared_key, Some(None)));
    assert_eq!(peer.persistent_keepalive, Some(None));
}

#[test]
fn prefixes_lose_their_host_bits() {
    let peer = peer("allowed_ip=10.98.7.9/16\n").unwrap();
    assert_eq!(peer.allowed_ips, [AllowedIp::Add("10.98.0.0/16".parse().unwrap())]);
}

#[test]
fn get_is_get() {
    assert!(matches!(parse(b"get=1\n"), Ok(Request::Get)));
    assert!(matches!(parse(b"get=1"), Ok(Request::Get)));
    assert!(parse(b"get=1\nlisten_port=1\n").is_err());
}

#[test]
fn what_is_none_of_the_protocols_is_refused_by_its_kind() {
    for text in ["", "\n", "get", "get=2\n", "set=0\n", "show=1\n", "set=1\nlisten_port\n", "set=1\n\u{e9}=\n"] {
        let refusal = parse(text.as_bytes()).unwrap_err();
        assert!(matches!(refusal, Refusal::Protocol { .. }) || text.contains('\u{e9}'), "{text:?} {refusal:?}");
    }
    assert!(matches!(parse(b"set=1\n\xff=1\n").unwrap_err(), Refusal::Protocol { .. }));
    let long = format!("set=1\nlisten_port={:0>300}\n", 1);
    assert!(matches!(parse(long.as_bytes()).unwrap_err(), Refusal::Protocol { .. }));
    for line in [
        "listen_port=65536",
        "listen_port=",
        "listen_port=+1",
        "listen_port=-1",
        "listen_port= 1",
        "fwmark=4294967296",
        "fwmark=0x1",
        "replace_peers=false",
        "replace_peers=1",
        "private_key=00",
        "allowed_ip=10.0.0.0/8",
        "errno=0",
    ] {
        assert!(matches!(set(line), Err(Refusal::Invalid { .. })), "{line}");
    }
    for line in [
        "endpoint=example.org:1",
        "endpoint=192.0.2.1",
        "endpoint=192.0.2.1:0",
        "endpoint=[::1",
        "remove=yes",
        "persistent_keepalive_interval=65536",
        "persistent_keepalive_interval=off",
        "allowed_ip=10.98.0.2",
        "allowed_ip=10.98.0.2/33",
        "allowed_ip=--10.0.0.0/8",
        "allowed_ip=",
        "protocol_version=2",
        "listen_port=1",
        "private_key=1",
        "preshared_key=xyz",
        "update_only=false",
    ] {
        assert!(matches!(peer(line), Err(Refusal::Invalid { .. })), "{line}");
    }
    let not_hexadecimal = KEY.replace('f', "g");
    assert!(set(&format!("public_key={not_hexadecimal}")).is_err());
    assert!(set(&format!("public_key={ZEROS}")).is_err(), "anybody could pass for it");
}

#[test]
fn a_key_that_is_nobodys_can_be_removed_beside_others() {
    let asked = set(&format!("public_key={ZEROS}\nremove=true\npublic_key={KEY}\nremove=true")).unwrap();
    assert_eq!(asked.peers.len(), 1);
    assert!(set(&format!("public_key={KEY}\nremove=true\npublic_key={ZEROS}")).is_err());
}

#[test]
fn an_endpoint_on_a_link_has_its_interface() {
    for endpoint in ["[fe80::1%7]:5", "[fe80::1%lo]:5"] {
        let asked = set(&format!("public_key={KEY}\nendpoint={endpoint}")).unwrap();
        assert_eq!(asked.peers[0].endpoint.as_ref().unwrap().to_string(), endpoint);
    }
    assert!(set(&format!("public_key={KEY}\nendpoint=[fd98::1%lo]:5")).is_err(), "it is on no link");
}

#[test]
fn no_refusal_shows_what_was_said() {
    let secret = KEY.replace('f', "g");
    for lines in
        [format!("private_key={secret}"), format!("preshared_key={secret}"), format!("{secret}=1"), secret.clone()]
    {
        for text in [format!("set=1\n{lines}\n"), format!("set=1\npublic_key={KEY}\n{lines}\n"), lines] {
            let refusal = parse(text.as_bytes()).unwrap_err();
            let told = format!("{refusal} {refusal:?}");
            assert!(!told.contains(&secret[..16]), "{told}");
        }
    }
    let whole = format!("{:?}", parse(format!("set=1\nprivate_key={KEY}\n").as_bytes()).unwrap());
    assert!(!whole.contains("a6") && !whole.contains("166"), "{whole}");
}

#[test]
fn a_request_ends_with_an_empty_line() {
    assert_eq!(find_end(b"get=1\n\nget", 0), Some((6, 7)));
    assert_eq!(find_end(b"get=1\n", 0), None);
    assert_eq!(find_end(b"\nget", 0), Some((0, 1)));
    assert_eq!(find_end(b"", 0), None);
    assert_eq!(find_end(b"a\n\n", 2), Some((2, 3)), "the end may lie across two reads");
}

proptest! {
    #[test]
    fn any_cut_finds_the_same_end(text in "[a=\n]{0,40}", cut in 0usize..40) {
        let data = text.as_bytes();
        let cut = cut.min(data.len());
        if find_end(&data[..cut], 0).is_none() {
            prop_assert_eq!(find_end(data, cut), find_end(data, 0));
        }
        if let Some((request_bytes, taken_bytes)) = find_end(data, 0) {
            prop_assert_eq!(data[taken_bytes - 1], b'\n');
            prop_assert!(!data[..request_bytes].windows(2).any(|two| two == b"\n\n"));
        }
    }

    #[test]
    fn any_bytes_are_survived(data in prop::collection::vec(any::<u8>(), 0..200)) {
        crate::tunnel::fuzz_uapi(&data);
    }

    #[test]
    fn any_lines_keep_the_promises(lines in prop::collection::vec(line(), 0..30)) {
        crate::tunnel::fuzz_uapi(format!("set=1\n{}\n", lines.concat()).as_bytes());
    }
}

/// Makes lines of few keys and prefixes, so that they meet.
fn line() -> impl Strategy<Value = String> {
    let key = (2u8..6).prop_map(|seed| {
        let key = SecretKey::new([seed; 32]).public_key();
        key.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    });
    let secret = (0u8..4).prop_map(|seed| format!("{seed:02x}").repeat(32));
    prop_oneof![
        4 => key.prop_map(|key| format!("public_key={key}\n")),
        1 => secret.clone().prop_map(|key| format!("private_key={key}\n")),
        1 => secret.prop_map(|key| format!("preshared_key={key}\n")),
        1 => Just("remove=true\n".to_owned()),
        1 => Just("update_only=true\n".to_owned()),
        1 => Just("replace_allowed_ips=true\n".to_owned()),
        1 => Just("replace_peers=true\n".to_owned()),
        1 => (0u16..3).prop_map(|seconds| format!("persistent_keepalive_interval={seconds}\n")),
        1 => (1u16..3).prop_map(|port| format!("endpoint=192.0.2.1:{port}\n")),
        4 => (0u8..4, 30u8..33, any::<bool>()).prop_map(|(host, length, is_removed)| {
            format!("allowed_ip={}10.98.0.{host}/{length}\n", if is_removed { "-" } else { "" })
        }),
    ]
}
