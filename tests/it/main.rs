//! Tests that run the program.

mod descriptor;
mod documents;
mod generated;
mod systemd_unit;
