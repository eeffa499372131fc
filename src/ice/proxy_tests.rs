use proptest::prelude::*;

use super::*;
use crate::ice::Address;

fn tcp(host: &str, port: i32) -> Endpoint {
    Endpoint::Tcp(Address {
        host: host.to_owned(),
        port,
        timeout: 60_000,
        compress: false,
    })
}

fn encoded(proxy: &Option<Proxy>, encoding: Encoding) -> Vec<u8> {
    let mut writer = Writer::new(encoding);
    proxy.encode(&mut writer);
    writer.into_bytes()
}

fn decoded(bytes: &[u8], encoding: Encoding) -> Result<Option<Proxy>, DecodeError> {
    let mut reader = Reader::new(bytes, encoding);
    let proxy = Option::<Proxy>::decode(&mut reader)?;
    reader.finish()?;
    Ok(proxy)
}

#[test]
fn a_proxy_is_on_the_wire_as_the_reference_has_it() {
    let reference = Reference::Direct(vec![tcp("127.0.0.1", 1)]);
    let proxy = Some(Proxy::new(Identity::new("t1"), reference));
    let bytes = [
        2, b't', b'1', 0, 0, 0, 0, 1, 0, 1, 1, 1, 1, 0, 0x19, 0, 0, 0, 1, 1, 9, b'1', b'2', b'7',
        b'.', b'0', b'.', b'0', b'.', b'1', 1, 0, 0, 0, 0x60, 0xea, 0, 0, 0,
    ];
    assert_eq!(encoded(&proxy, Encoding::V11), bytes);
    assert_eq!(decoded(&bytes, Encoding::V11), Ok(proxy));
    assert_eq!(encoded(&None, Encoding::V11), [0, 0]);
    assert_eq!(decoded(&[0, 0], Encoding::V10), Ok(None));
}

#[test]
fn a_proxy_of_the_older_encoding_has_no_versions_and_its_endpoints_are_of_that_encoding() {
    let reference = Reference::Direct(vec![tcp("h", 1)]);
    let proxy = Proxy {
        encoding: [1, 0],
        ..Proxy::new(Identity::new("t"), reference)
    };
    let bytes = [
        1, b't', 0, 0, 0, 0, 1, 1, 0, 0x11, 0, 0, 0, 1, 0, 1, b'h', 1, 0, 0, 0, 0x60, 0xea, 0, 0, 0,
    ];
    assert_eq!(encoded(&Some(proxy.clone()), Encoding::V10), bytes);
    assert_eq!(decoded(&bytes, Encoding::V10), Ok(Some(proxy)));
    // The bytes of one encoding are none of the other's.
    assert!(decoded(&bytes, Encoding::V11).is_err());
}

#[test]
fn proxies_are_written_as_ice_writes_them() {
    for text in [
        "echo -t -e 1.1 @ EchoGroup",
        "cat/t2 -f fac -o -e 1.1:tcp -h 127.0.0.1 -p 1 -t 1000 -z:udp -h 127.0.0.1 -p 2",
        "\"two words\" -t -s -e 1.0 @ \"an adapter\"",
        "a\\/b -t -p 1.1 -e 1.1",
        "x -D -e 1.1:ssl -h \"::1\" -p 4064 -t infinite:wss -h h -p 4066 -t 60000 -r /omero",
        "x -t -e 1.1:opaque -t 99 -e 1.1 -v AQID",
        "x -t -e 1.1:wss -h '\"h\"' -p 0 -t 5 -r \"/b c\"",
    ] {
        let proxy: Proxy = text
            .parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(proxy.to_string(), text);
    }
    let short: Proxy = "IceGrid/Registry:tcp -p 4061".parse().unwrap();
    assert_eq!(
        short.to_string(),
        "IceGrid/Registry -t -e 1.1:tcp -p 4061 -t 60000"
    );
    let single: Proxy = "'a b' @ 'c d'".parse().unwrap();
    assert_eq!(single.reference, Reference::Indirect("c d".to_owned()));
}

#[test]
fn what_is_no_proxy_is_refused_with_its_place() {
    for (text, at) in [
        ("", 0),
        (":tcp", 0),
        ("x -y", 2),
        ("x -e one", 2),
        ("x @", 2),
        ("x @ \"\"", 5),
        ("x @ a b", 6),
        ("x:tcp -h \"\"", 6),
        ("x:", 2),
        ("x:tcp -p", 6),
        ("x:tcp -p 70000", 2),
        ("x:tcp -q 1", 6),
        ("x:smoke -h h", 2),
        ("x:opaque -v AQID", 2),
        ("x:opaque -t 9 -v !", 14),
        ("\"x", 0),
    ] {
        let error = text.parse::<Proxy>().unwrap_err();
        assert_eq!(error.at, at, "{text}: {error}");
    }
}

#[test]
fn what_nobody_knows_is_passed_on() {
    // An endpoint of a newer kind, and one of a known kind with more in it.
    for (kind, body) in [
        (42i16, vec![1, 2, 3]),
        (1, vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 77]),
    ] {
        let endpoint = Endpoint::Opaque {
            kind,
            version: [1, 1],
            body,
        };
        let proxy = Some(Proxy::new(
            Identity::new("x"),
            Reference::Direct(vec![endpoint]),
        ));
        let bytes = encoded(&proxy, Encoding::V11);
        assert_eq!(decoded(&bytes, Encoding::V11), Ok(proxy));
    }
}

fn endpoints() -> impl Strategy<Value = Endpoint> {
    let address = ("[a-z0-9.:]{1,12}", 0..65_536, -1..100_000i32, any::<bool>()).prop_map(
        |(host, port, timeout, compress)| Address {
            host,
            port,
            timeout,
            compress,
        },
    );
    (0..5, address, "/[a-z]{1,5}").prop_map(|(kind, address, resource)| match kind {
        0 => Endpoint::Tcp(address),
        1 => Endpoint::Ssl(address),
        2 => Endpoint::Udp(Address {
            timeout: -1,
            ..address
        }),
        3 => Endpoint::Ws(address, resource),
        _ => Endpoint::Wss(address, resource),
    })
}

fn proxies() -> impl Strategy<Value = Proxy> {
    let reference = prop_oneof![
        Just(Reference::WellKnown),
        "[a-zA-Z @:\"\\\\]{1,9}".prop_map(Reference::Indirect),
        proptest::collection::vec(endpoints(), 1..4).prop_map(Reference::Direct),
    ];
    (
        ".{1,10}",
        ".{0,5}",
        "[a-z :]{0,6}",
        0..5usize,
        any::<bool>(),
        reference,
    )
        .prop_map(|(name, category, facet, mode, secure, reference)| Proxy {
            facet,
            mode: ProxyMode::LETTERS[mode].0,
            secure,
            ..Proxy::new(Identity { name, category }, reference)
        })
}

proptest! {
    #[test]
    fn every_proxy_comes_back_from_bytes_and_from_text(proxy in proxies()) {
        let bytes = encoded(&Some(proxy.clone()), Encoding::V11);
        prop_assert_eq!(decoded(&bytes, Encoding::V11), Ok(Some(proxy.clone())));
        for end in 0..bytes.len() {
            prop_assert!(decoded(&bytes[..end], Encoding::V11).is_err());
        }
        let old = encoded(&Some(proxy.clone()), Encoding::V10);
        let expected = Proxy { encoding: [1, 0], ..proxy.clone() };
        prop_assert_eq!(decoded(&old, Encoding::V10), Ok(Some(expected)));
        let text = proxy.to_string();
        prop_assert_eq!(text.parse::<Proxy>(), Ok(proxy), "{}", text);
    }

    #[test]
    fn any_text_is_a_proxy_or_refused(text in "[a-z:@ \"'\\\\-]{0,40}") {
        // Whatever comes of it.
        let _ = text.parse::<Proxy>();
    }

    #[test]
    fn any_bytes_are_a_proxy_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        for encoding in [Encoding::V10, Encoding::V11] {
            let _ = decoded(&bytes, encoding);
        }
    }
}
