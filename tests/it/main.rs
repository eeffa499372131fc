//! Tests that run the program.

mod descriptor;
