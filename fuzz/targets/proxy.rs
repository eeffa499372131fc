//! Proxies, endpoints and identities as bytes; whatever they are, they can be written for people.
#![no_main]

use std::fmt::{Debug, Display};

use libfuzzer_sys::fuzz_target;
use omero_grid::ice::{Decode, Encode, Encoding, Endpoint, Identity, Proxy, Reader, Writer};
use omero_grid_fuzz::choices;

fn same<T>(bytes: &[u8], encoding: Encoding) -> Option<T>
where
    T: for<'a> Decode<'a> + Encode + PartialEq + Debug,
{
    let value = T::decode(&mut Reader::new(bytes, encoding)).ok()?;
    let mut writer = Writer::new(encoding);
    value.encode(&mut writer);
    let mut reader = Reader::new(writer.bytes(), encoding);
    assert_eq!(T::decode(&mut reader).as_ref(), Ok(&value));
    reader.finish().expect("nothing else was written");
    Some(value)
}

fn shown(value: &impl Display) {
    assert!(!value.to_string().contains('\n'));
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, encoding, _, bytes)) = choices(data) else {
        return;
    };
    match choice % 4 {
        0 => {
            if let Some(Some(proxy)) = same::<Option<Proxy>>(bytes, encoding) {
                let _ = proxy.to_string().parse::<Proxy>();
            }
        }
        1 => {
            if let Some(endpoint) = same::<Endpoint>(bytes, encoding) {
                let _ = endpoint.to_string();
            }
        }
        2 => {
            if let Some(identity) = same::<Identity>(bytes, encoding) {
                shown(&identity);
                assert_eq!(identity.to_string().parse(), Ok(identity));
            }
        }
        _ => drop(same::<Vec<Option<Proxy>>>(bytes, encoding)),
    }
});
