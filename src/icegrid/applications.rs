//! Applications: as they are described, added, changed and removed over Ice.

use super::admin::Admin;
use crate::ice::Missing;
use crate::ice::net::{Incoming, Responder, Served};

/// Carries out an operation that has to do with descriptors.
pub(super) fn dispatch(_: &Admin, _: &str, _: &Incoming<'_>, responder: Responder<'_>) -> Served {
    responder.missing(Missing::Operation)
}
