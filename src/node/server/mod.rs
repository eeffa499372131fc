//! One server: its state machine, its task, its processes.

pub(crate) mod admin;
pub(crate) mod launch;
pub(crate) mod record;
pub(crate) mod restart;
pub(crate) mod step;
pub(crate) mod sweep;
pub(crate) mod tail;
pub(crate) mod task;
