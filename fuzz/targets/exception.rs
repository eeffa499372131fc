//! Exceptions, taken for what they are and for what they are not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use omero_grid::ice::{Encapsulation, Thrown};
use omero_grid::icegrid::types::{
    AccessDeniedException, DeploymentException, ObjectExistsException, PatchException,
    ServerStartException,
};
use omero_grid_fuzz::{BaseError, ClassError, DEMO, DerivedError, choices, exception_settles};

fuzz_target!(|data: &[u8]| {
    let Some((_, encoding, format, bytes)) = choices(data) else {
        return;
    };
    let version = encoding.bytes();
    if let Ok(thrown) = Thrown::new(Encapsulation { version, bytes }) {
        assert!(thrown.type_id().len() < bytes.len());
    }
    exception_settles::<BaseError>(bytes, encoding, format, DEMO);
    exception_settles::<DerivedError>(bytes, encoding, format, DEMO);
    exception_settles::<ClassError>(bytes, encoding, format, DEMO);
    exception_settles::<DeploymentException>(bytes, encoding, format, &[]);
    exception_settles::<ServerStartException>(bytes, encoding, format, &[]);
    exception_settles::<ObjectExistsException>(bytes, encoding, format, &[]);
    exception_settles::<AccessDeniedException>(bytes, encoding, format, &[]);
    exception_settles::<PatchException>(bytes, encoding, format, &[]);
});
