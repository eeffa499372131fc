//! Tests that run the program.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod allocation;
mod bad_input;
mod blitz_ice;
mod chaos;
mod config;
mod deploy;
mod descriptor;
mod documents;
mod drain;
mod events;
mod files;
mod generated;
mod harness;
mod ice;
mod ice_peer;
mod ice_values;
mod icegrid_descriptors;
mod moving;
mod omero_name;
mod omero_py;
mod read_only;
mod reconnect;
mod rolling;
mod scripts;
mod sessions;
mod site;
mod sockets;
mod start;
mod store;
mod supervision;
mod survival;
mod systemd;
mod systemd_unit;
mod upgrade;
