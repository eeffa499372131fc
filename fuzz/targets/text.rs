//! The written forms of identities, proxies and endpoints: what is understood is written again and means the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use omero_grid::ice::{
    Decode as _, Encode as _, Encoding, Endpoint, Identity, Proxy, Reader, Reference, Writer,
};

fuzz_target!(|text: &str| {
    if let Ok(identity) = text.parse::<Identity>() {
        assert_eq!(identity.to_string().parse(), Ok(identity));
    }
    match text.parse::<Proxy>() {
        Ok(proxy) => {
            let written = proxy.to_string();
            assert_eq!(written.parse().as_ref(), Ok(&proxy), "{written:?}");
            on_the_wire(proxy);
        }
        Err(error) => assert!(error.at <= text.len(), "{error}"),
    }
});

/// What is understood can also be sent.
fn on_the_wire(proxy: Proxy) {
    if let Reference::Direct(endpoints) = &proxy.reference
        && endpoints
            .iter()
            .any(|e| matches!(e, Endpoint::Opaque { .. }))
    {
        // The bytes may be those of an endpoint of a known kind.
        return;
    }
    let mut writer = Writer::new(Encoding::V11);
    let proxy = Some(proxy);
    proxy.encode(&mut writer);
    let read = Option::<Proxy>::decode(&mut Reader::new(writer.bytes(), Encoding::V11));
    assert_eq!(read, Ok(proxy));
}
