//! Sessions of clients, which have objects to themselves; and sessions of those whom their certificates name.
//!
//! Skipped, and said so, where Debian's programs and python3-zeroc-ice are not installed, unless `OMERO_GRID_REQUIRE_PEERS=1`.

use std::path::Path;

use nix::unistd::{User, geteuid};

use crate::ice_peer::FOLDER;
use crate::icegrid::installed;
use crate::icegrid_admin::lines;
use crate::icegridadmin::{Served, has_peers};

/// Returns who runs these tests: nodes that are not root start servers of nobody else.
fn user() -> String {
    User::from_uid(geteuid()).unwrap().unwrap().name
}

/// Servers of the program that all of these tests use.
fn allocatables() -> String {
    let server = |id: &str, serves: &str, attributes: &str, objects: &str| {
        format!(
            "<server id=\"{id}\" exe=\"/usr/bin/python3\" {attributes}><option>{FOLDER}/object.py</option><option>Echo</option>\
             <option>{serves}</option><adapter name=\"Echo\" endpoints=\"tcp -h 127.0.0.1\">{objects}</adapter></server>"
        )
    };
    let object = |name: &str, of: &str| format!("<allocatable identity=\"{name}\" type=\"{of}\"/>");
    let one_by_one = format!(
        "<object identity=\"echo\" type=\"::Demo::Plain\"/>{}{}",
        object("a1", "::Demo::Echo"),
        object("a2", "::Demo::Echo")
    );
    let whole = object("b1", "::Demo::B") + &object("b2", "::Demo::B");
    format!(
        "<icegrid><application name=\"App\"><node name=\"node1\">{}{}{}</node></application></icegrid>",
        server("A", "echo", "activation=\"manual\"", &one_by_one),
        server(
            "B",
            "b1",
            "activation=\"manual\" allocatable=\"true\"",
            &whole
        ),
        server(
            "C",
            "c",
            &format!("activation=\"session\" user=\"{}\"", user()),
            &object("c", "::Demo::C")
        ),
    )
}

#[test]
fn objects_are_allocated_as_by_zerocs_registry() {
    if !installed() || !has_peers() {
        return;
    }
    let said = |served: Served| {
        std::fs::write(served.dir.path().join("objects.xml"), allocatables()).unwrap();
        let added = served.admin(Path::new("icegridadmin"), "application add objects.xml");
        assert!(added.status.success(), "{added:?}");
        lines("allocates.py", &[&served.locator(), &user()])
    };
    let (theirs, ours) = (said(Served::zeroc()), said(Served::ours()));
    assert_eq!(theirs, ours);
    assert!(ours.last().unwrap().starts_with("after Inactive"));
}
