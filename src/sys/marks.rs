//! Marks: the variable in the environment of a server's processes that says whose they are.
//!
//! An environment is inherited and outlives parents, groups and sessions, so that a mark finds what nothing else does.
//! Owns the form of a mark and the search for its carriers; what is done about them is their callers' business.

use std::path::Path;

use super::process::{Stat, Table, environment_variable};
use crate::model::ServerId;

/// The variable that holds a mark: `OMERODIR/ID/INSTANCE` (DESIGN.md §3).
pub const MARK: &str = "OMERO_GRID_SERVER";

/// What a mark of a known OMERODIR says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The server.
    pub server: ServerId,
    /// Which of its runs.
    pub instance: String,
}

impl Mark {
    /// Reads the value of [`MARK`]; `None` if it is no mark or one of another OMERODIR.
    pub fn parse(value: &[u8], dir: &Path) -> Option<Self> {
        let value = String::from_utf8_lossy(value);
        let (own, instance) = value.rsplit_once('/')?;
        let (own, server) = own.rsplit_once('/')?;
        if own != dir.to_string_lossy() {
            return None;
        }
        Some(Self {
            server: server.parse().ok()?,
            instance: instance.to_owned(),
        })
    }
}

/// Returns the value of [`MARK`] for a run of a server.
pub fn value(dir: &Path, server: &ServerId, instance: &str) -> String {
    format!("{}/{server}/{instance}", dir.display())
}

/// Returns the living processes that carry a mark of this OMERODIR, in no order.
///
/// A process whose environment may not be seen has none.
pub fn carriers<'a>(table: &'a Table, dir: &'a Path) -> impl Iterator<Item = (&'a Stat, Mark)> {
    table
        .iter()
        .filter(|stat| stat.is_alive())
        .filter_map(move |stat| {
            let value = environment_variable(stat.pid, MARK)?;
            Some((stat, Mark::parse(&value, dir)?))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        let server: ServerId = "Blitz-0".parse().unwrap();
        for dir in ["/srv/omero", "/srv/with blank/ü"] {
            let dir = Path::new(dir);
            let value = value(dir, &server, "17");
            let mark = Mark::parse(value.as_bytes(), dir).unwrap();
            assert_eq!(
                (mark.server, mark.instance.as_str()),
                (server.clone(), "17")
            );
        }
    }

    #[test]
    fn refuses_other_grids_and_what_is_no_mark() {
        let dir = Path::new("/srv/omero");
        for value in [
            "",
            "/",
            "Blitz-0",
            "Blitz-0/1",
            "/srv/omero",
            "/srv/omero/Blitz-0",
            "/srv/omero//1",
            "/srv/omero/../1",
            "/srv/omero/below/Blitz-0/1",
            "/srv/omero2/Blitz-0/1",
            "/srv/Blitz-0/1",
        ] {
            assert_eq!(Mark::parse(value.as_bytes(), dir), None, "{value:?}");
        }
    }
}
