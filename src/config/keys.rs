//! Properties that this program knows, as far as it matters whether a running server has to be restarted for them.

/// Properties that are read by the master alone, or that a running Blitz is told, so that no server has to be restarted when they change.
/// A name that ends in a dot stands for all that begin so.
const LIVE: [&str; 9] = [
    "omero.cluster.redirector",
    "omero.grid.route.",
    "omero.grid.weight",
    "omero.grid.create.wait",
    "omero.grid.resume.grace",
    "omero.grid.sessions.max",
    "omero.grid.sessions.max_per_user",
    "omero.grid.internal_agents",
    "omero.sessions.",
];

/// Returns whether a change of this property takes effect without a restart of the servers that have it.
pub fn is_live(name: &str) -> bool {
    LIVE.iter().any(|live| match live.strip_suffix('.') {
        Some(_) => name.starts_with(live),
        None => name == *live,
    })
}

#[cfg(test)]
mod tests {
    use super::is_live;

    #[test]
    fn a_name_is_live_by_itself_or_by_its_family() {
        assert!(is_live("omero.cluster.redirector"));
        assert!(is_live("omero.grid.route.1"));
        assert!(!is_live("omero.grid.route"));
        assert!(!is_live("omero.cluster.redirectors"));
        assert!(!is_live("omero.data.dir"));
    }
}
