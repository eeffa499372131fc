//! omero-grid: one program that runs an OMERO cluster.
//!
//! Data flows one way: descriptor → deployment → plan → effects. Imports go downward only:
//!
//! | layer | modules | what they know |
//! | --- | --- | --- |
//! | assembly | [`cli`] | every role; turns errors into exit codes |
//! | roles | [`master`], [`node`], [`blitz`] | processes: they share messages, not code |
//! | edges | [`store`], [`ipc`], [`ice::net`], [`config`] | disk and sockets |
//! | pure | [`descriptor`], [`ice`] | bytes and text in, values out |
//! | leaves | [`model`], [`sys`], [`telemetry`] | shared words, the kernel, logs |

pub mod blitz;
pub mod cli;
pub mod config;
pub mod descriptor;
pub mod ice;
pub mod icegrid;
pub mod ipc;
pub mod master;
pub mod model;
pub mod node;
pub mod store;
pub mod sys;
pub mod telemetry;
