//! Values within encapsulations, with classes, in both encodings.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use omero_grid::ice::{Encoding, Family, Format, Ref};
use omero_grid::icegrid::types::*;
use omero_grid_fuzz::{Base, Color, DEMO, Node, Point, choices, value_settles};

type Settles = fn(&[u8], Encoding, Format, Family);

/// The corpus counts on this order.
const TYPES: &[(Settles, Family)] = &[
    (value_settles::<ApplicationDescriptor>, DESCRIPTORS),
    (value_settles::<ApplicationUpdateDescriptor>, DESCRIPTORS),
    (value_settles::<ServerInfo>, DESCRIPTORS),
    (value_settles::<Vec<NodeDynamicInfo>>, DESCRIPTORS),
    (value_settles::<Ref<Base>>, DEMO),
    (value_settles::<Ref<Node>>, DEMO),
    (
        value_settles::<(BTreeMap<String, i32>, Vec<Point>, Vec<Color>)>,
        &[],
    ),
    (value_settles::<ApplicationInfo>, &DESCRIPTORS.split_at(2).0),
];

fuzz_target!(|data: &[u8]| {
    if let Some((choice, encoding, format, bytes)) = choices(data) {
        let (settles, family) = TYPES[choice % TYPES.len()];
        settles(bytes, encoding, format, family);
    }
});
