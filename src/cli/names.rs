//! The names of Ice's programs (DESIGN.md §5): called by one of them, this program is what the name says.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use super::icegridnode::Program;
use super::{icegridadmin, icegridnode};
use crate::config::{Properties, ice};

/// Is the program that this one was called as, if that is one of Ice's; `None` if it is not.
pub(super) fn run() -> Option<ExitCode> {
    let mut arguments = std::env::args_os();
    let called = arguments.next()?;
    let name = Path::new(&called).file_name()?.to_str()?.to_owned();
    let text = |word: OsString| word.to_string_lossy().into_owned();
    let arguments: Vec<String> = arguments.map(text).collect();
    match name.as_str() {
        "icegridadmin" => Some(icegridadmin::main(&name, arguments)),
        "icegridnode" => Some(icegridnode::main(&name, Program::Node, arguments)),
        "icegridregistry" => Some(icegridnode::main(&name, Program::Registry, arguments)),
        // What OMERO asks it: the rest of it is to come.
        "glacier2router"
            if arguments
                .iter()
                .any(|word| word == "--version" || word == "-v") =>
        {
            let read = Properties::of_arguments(&["Ice", "OmeroGrid"], arguments);
            let (properties, _) = read.unwrap_or_default();
            let _ = writeln!(std::io::stderr(), "{}", ice::version(&properties));
            Some(ExitCode::SUCCESS)
        }
        _ => None,
    }
}
