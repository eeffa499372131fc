//! Decoded messages without what is another each time: ids, ports, process numbers, times, paths, and what a host is like.

use std::collections::BTreeMap;

use omero_grid::ice::{Encapsulation, Format, Outcome, Proxy, Reference, Request, Thrown};
use omero_grid::icegrid::types::DESCRIPTORS;

use super::tree::{Part, Tree};
use crate::ice_values::{Again, OPERATIONS, again, throws};

/// Operations that have other types elsewhere: what a session of the registry means by them.
const REGISTRY: &[(&str, Again, Again)] = &[
    ("keepAlive", again::<()>, again::<()>),
    ("getSessionTimeout", again::<()>, again::<i32>),
];

/// What values are called in Slice that have no name on the wire: of which operation, in which place.
const CALLED: &[(&str, &str, &str)] = &[
    ("getServerPid", "result", "pid"),
    ("startUpdate", "result", "serial"),
    ("applicationInit", "0", "serial"),
];

/// Names of values that say what a host is like.
const HOST: &[&str] = &["hostname", "release", "version", "machine", "n_processors"];

/// Makes trees of what one side says.
#[derive(Default)]
pub(super) struct Reader {
    /// The first numbers of what counts on.
    first: BTreeMap<String, i64>,
}

impl Reader {
    /// Writes a number of what counts on by how much it is after the first.
    fn count(&mut self, of: &str, number: &str) -> Part {
        Part::Text(match number.parse::<i64>() {
            Ok(number) => {
                let first = *self.first.entry(of.to_owned()).or_insert(number);
                format!("<+{}>", number - first)
            }
            Err(_) => number.to_owned(),
        })
    }

    fn normal(&mut self, mut tree: Tree) -> Tree {
        let text = |text: &str| vec![Part::Text(text.to_owned())];
        let name = |kind, name: &str| vec![Part::Name(kind, name.to_owned())];
        tree.each_text("", &mut |called, value| match called {
            "port" => name("port", value),
            "pid" if value != "0" => text("<pid>"),
            "avg1" | "avg5" | "avg15" => text("<load>"),
            "create_time" | "update_time" => name("time", value),
            "serial" => vec![self.count("serial", value)],
            called if HOST.contains(&called) => text("<host>"),
            _ => parts(value),
        });
        tree
    }

    /// Returns what was asked, and with what.
    pub(super) fn request(&mut self, request: &Request<'_>) -> Tree {
        let target = &request.target;
        let params = decode(target.operation, "params", &request.params);
        let whose = format!("{}/{}", target.category, target.name);
        let context = request.context.iter().map(|(key, value)| {
            let counted = self.count(&format!("{whose} {key}"), value);
            ((*key).to_owned(), Tree::Leaf(vec![counted]))
        });
        let context = Tree::Fields(String::new(), context.collect());
        let target = [target.category, target.name, target.facet, target.operation];
        let target = target.map(Tree::leaf).to_vec();
        let mode = Tree::leaf(format!("{:?}", request.mode));
        Tree::fields([
            ("target", self.normal(Tree::List(target))),
            ("mode", mode),
            ("context", context),
            ("params", self.normal(params)),
        ])
    }

    /// Returns what an operation came to.
    pub(super) fn outcome(&mut self, operation: &str, outcome: &Outcome<'_>) -> Tree {
        let tree = match outcome {
            Outcome::Done(within) => decode(operation, "result", within),
            Outcome::Exception(within) => {
                let thrown = Thrown::new(*within);
                let id = thrown.map_or_else(|error| error.to_string(), |t| t.type_id().to_owned());
                let known = throws(within, Format::Compact).into_iter();
                let members = known.map(|known| Tree::of_debug(&known.text));
                let members = members.map(|tree| ("members".to_owned(), tree));
                Tree::Fields(id, members.collect())
            }
            Outcome::Missing(what, _) => Tree::leaf(format!("no such {what:?}")),
            Outcome::Unknown(status, said) => Tree::leaf(format!("failure {status}: {said}")),
        };
        self.normal(tree)
    }
}

/// Decodes parameters or results by the types of their operation.
fn decode(operation: &str, what: &str, within: &Encapsulation<'_>) -> Tree {
    let mut known = REGISTRY.iter().chain(OPERATIONS);
    let found = known.find(|(name, _, _)| *name == operation);
    let (_, params, result) = found.unwrap_or_else(|| panic!("{operation} is not known"));
    let again = if what == "result" { result } else { params };
    let decoded = match again(within, DESCRIPTORS, Format::Compact) {
        Ok(decoded) => decoded,
        Err(error) => return Tree::leaf(format!("cannot be read: {error}")),
    };
    // The value, and the instances of classes in it.
    let Tree::Fields(_, mut both) = Tree::of_debug(&decoded.text) else {
        panic!("{} is no pair", decoded.text);
    };
    let called = |place: &str| {
        let mut called = CALLED.iter();
        called.find(|(of, at, _)| (*of, *at) == (operation, place))
    };
    both[0].0 = called(what).map_or(what, |(_, _, name)| name).to_owned();
    both[1].0 = "objects".to_owned();
    if let Tree::Fields(_, places) = &mut both[0].1 {
        for (name, _) in places {
            if let Some((_, _, called)) = called(name) {
                *name = (*called).to_owned();
            }
        }
    }
    Tree::Fields(String::new(), both)
}

/// Finds the names in a text.
fn parts(text: &str) -> Vec<Part> {
    if text.starts_with('/') {
        let file = text.rsplit('/').next().unwrap_or_default();
        return vec![Part::Text(format!("<path>/{file}"))];
    }
    // Proxies may be written in several ways.
    let proxy = text.parse::<Proxy>().ok();
    let direct = proxy.filter(|proxy| matches!(proxy.reference, Reference::Direct(_)));
    let text = direct.map_or_else(|| text.to_owned(), |proxy| proxy.to_string());
    let mut parts = Vec::new();
    let mut rest = text.as_str();
    let mut take = |kind, lead: &str, name: &str| {
        let found = rest.split_once(&format!("{lead}{name}"));
        let (before, after) = found.unwrap_or((rest, ""));
        parts.push(Part::Text(format!("{before}{lead}")));
        parts.push(Part::Name(kind, name.to_owned()));
        rest = after;
    };
    let mut words = text.split(' ');
    while let Some(word) = words.next() {
        for id in uuids(word) {
            take("uuid", "", &id);
        }
        // In what is written of an endpoint.
        if word == "-p"
            && let Some(port) = words.next()
        {
            take("port", "-p ", port);
        }
    }
    parts.push(Part::Text(rest.to_owned()));
    parts
}

/// Finds the ids in a text: UUIDs, with what is appended to them.
pub(super) fn uuids(text: &str) -> Vec<String> {
    const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];
    let is_uuid = |text: &str| {
        let groups: Vec<&str> = text.split('-').collect();
        groups.len() == GROUPS.len()
            && groups.iter().zip(GROUPS).all(|(group, length)| {
                group.len() == length && group.bytes().all(|b| b.is_ascii_hexdigit())
            })
    };
    let mut found = Vec::new();
    let mut until = 0;
    for (at, _) in text.char_indices() {
        if at < until || !text.get(at..at + 36).is_some_and(is_uuid) {
            continue;
        }
        let appended = match text[at + 36..].strip_prefix('-') {
            Some(word) => 1 + word.bytes().take_while(u8::is_ascii_lowercase).count(),
            None => 0,
        };
        until = at + 36 + appended;
        found.push(text[at..until].to_owned());
    }
    found
}

#[test]
fn ids_are_found_in_texts() {
    let id = "38F46C16-5B8B-497E-A372-CF693293E91C";
    assert_eq!(uuids(&format!("IceGrid/{id}")), [id]);
    assert_eq!(
        uuids(&format!("é{id}-admin/x {id}")),
        [format!("{id}-admin"), id.to_owned()]
    );
    assert!(uuids("IceGrid/Registry, and nothing of that kind in it").is_empty());
}
