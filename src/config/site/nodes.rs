//! `omero.server.nodedescriptors`: which servers run on which node (`omero.md` §5.4).
//!
//! The effect is OMERO's own: in node `master` everything after the first server instance, the front door, is replaced; the other nodes
//! follow it in the order of their names. What is not named is gone.

use std::collections::BTreeMap;

use quick_xml::Reader;
use quick_xml::events::Event;

/// Node descriptors that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NodesError {
    /// A part of it names no node, or no servers.
    #[error("omero.server.nodedescriptors: '{0}' is not of the form NODE:SERVER,SERVER")]
    Part(String),
    /// A name has characters that no name has.
    #[error("omero.server.nodedescriptors: '{0}' is no name")]
    Name(String),
    /// A node is named twice.
    #[error("omero.server.nodedescriptors names node '{0}' twice")]
    Twice(String),
    /// The descriptor has no place for them.
    #[error(
        "omero.server.nodedescriptors: the descriptor has no node 'master' with a server instance"
    )]
    NoMaster,
}

/// The servers of each node, in their order.
type Nodes = BTreeMap<String, Vec<String>>;

/// Reads node descriptors.
pub(super) fn parse(text: &str) -> Result<Nodes, NodesError> {
    let is_name = |name: &str| {
        let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        !name.is_empty() && name.chars().all(fits)
    };
    let mut nodes = Nodes::new();
    for part in text.split_whitespace() {
        let (node, servers) = part
            .split_once(':')
            .ok_or_else(|| NodesError::Part(part.to_owned()))?;
        let servers: Vec<String> = servers.split(',').map(str::to_owned).collect();
        for name in servers.iter().map(String::as_str).chain([node]) {
            if !is_name(name) {
                return Err(NodesError::Name(name.to_owned()));
            }
        }
        if nodes.insert(node.to_owned(), servers).is_some() {
            return Err(NodesError::Twice(node.to_owned()));
        }
    }
    Ok(nodes)
}

/// Puts the nodes into a descriptor. A file without a node `master`, such as that of the templates, stays as it is.
pub(super) fn replace(text: &str, wanted: &str) -> Result<String, NodesError> {
    let nodes = parse(wanted)?;
    let Some(place) = find(text)? else {
        return Ok(text.to_owned());
    };
    let instances =
        |servers: &[String]| -> String { servers.iter().map(|s| instance(s)).collect() };
    let own = nodes.get("master").map(|servers| instances(servers));
    let others: String = nodes
        .iter()
        .filter(|(node, _)| *node != "master")
        .map(|(node, servers)| format!("<node name=\"{node}\">{}</node>", instances(servers)))
        .collect();
    // What was there leaves its lines.
    let lines = text[place.after_first..place.end_of_servers]
        .chars()
        .filter(|c| *c == '\n')
        .collect::<String>();
    Ok(format!(
        "{}{}{lines}{}{others}{}",
        &text[..place.after_first],
        own.unwrap_or_default(),
        &text[place.end_of_servers..place.after_node],
        &text[place.after_node..]
    ))
}

/// Returns the element of a server: its template, its index, and what some templates want besides.
fn instance(server: &str) -> String {
    let (name, index) = match server.rsplit_once('-') {
        Some((name, index)) if index.bytes().all(|b| b.is_ascii_digit()) && !index.is_empty() => {
            (name, format!(" index=\"{index}\""))
        }
        _ => (server, String::new()),
    };
    let more = match name {
        "Blitz" => " config=\"default\"",
        "PixelData" | "Processor" | "Tables" => " dir=\"\"",
        _ => "",
    };
    format!("<server-instance template=\"{name}Template\"{index}{more}/>")
}

/// Offsets in a descriptor.
struct Place {
    after_first: usize,
    /// Where `</node>` begins.
    end_of_servers: usize,
    after_node: usize,
}

/// Finds node `master` outside of targets; `None` if there is no node at all.
fn find(text: &str) -> Result<Option<Place>, NodesError> {
    let mut reader = Reader::from_str(text);
    let mut depth_of_targets = 0;
    let mut in_master = false;
    let (mut any, mut after_first) = (false, None);
    loop {
        let before = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
        // What is no XML is refused with its place by whoever reads the result.
        let Ok(event) = reader.read_event() else {
            return Ok(None);
        };
        let after = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
        match event {
            Event::Eof => break,
            Event::Start(element) => match element.name().as_ref() {
                "target" => depth_of_targets += 1,
                "node" if depth_of_targets == 0 => {
                    any = true;
                    in_master = is_master(&element);
                }
                _ => {}
            },
            Event::Empty(element) => match element.name().as_ref() {
                "node" => any = true,
                "server-instance" if in_master => {
                    after_first.get_or_insert(after);
                }
                _ => {}
            },
            Event::End(element) => match element.name().as_ref() {
                "target" => depth_of_targets -= 1,
                "server-instance" if in_master => {
                    after_first.get_or_insert(after);
                }
                "node" if in_master => {
                    let after_first = after_first.ok_or(NodesError::NoMaster)?;
                    return Ok(Some(Place {
                        after_first,
                        end_of_servers: before,
                        after_node: after,
                    }));
                }
                _ => {}
            },
            _ => {}
        }
    }
    match any {
        true => Err(NodesError::NoMaster),
        false => Ok(None),
    }
}

fn is_master(element: &quick_xml::events::BytesStart<'_>) -> bool {
    let mut attributes = element.attributes().flatten();
    attributes.any(|a| a.key.as_ref() == "name" && a.value.as_ref() == "master")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "<icegrid><application name=\"A\"><target name=\"t\"><node name=\"master\"><server-instance template=\"X\"/></node></target>
<node name=\"master\"><server-instance template=\"Glacier2Template\"
  client-endpoints=\"x\"/>
  <server-instance template=\"StormTemplate\"/>
</node><node name=\"old\"/></application></icegrid>";

    #[test]
    fn the_servers_after_the_front_door_are_replaced_and_other_nodes_follow() {
        let wanted = "master:Blitz-0,Tables-0,Storm  b:Blitz-1 a:Processor-10,Odd-name";
        assert_eq!(
            replace(TEXT, wanted).unwrap(),
            "<icegrid><application name=\"A\"><target name=\"t\"><node name=\"master\"><server-instance template=\"X\"/></node></target>
<node name=\"master\"><server-instance template=\"Glacier2Template\"
  client-endpoints=\"x\"/><server-instance template=\"BlitzTemplate\" index=\"0\" config=\"default\"/><server-instance template=\"TablesTemplate\" index=\"0\" dir=\"\"/><server-instance template=\"StormTemplate\"/>

</node><node name=\"a\"><server-instance template=\"ProcessorTemplate\" index=\"10\" dir=\"\"/><server-instance template=\"Odd-nameTemplate\"/></node><node name=\"b\"><server-instance template=\"BlitzTemplate\" index=\"1\" config=\"default\"/></node><node name=\"old\"/></application></icegrid>"
        );
    }

    #[test]
    fn a_master_that_is_not_named_keeps_the_front_door_only() {
        let text = replace(TEXT, "b:Blitz-1").unwrap();
        assert!(
            !text.contains("StormTemplate") && text.contains("Glacier2Template"),
            "{text}"
        );
    }

    #[test]
    fn what_is_no_descriptor_of_nodes_is_refused() {
        for (text, expected) in [
            ("master", NodesError::Part("master".to_owned())),
            ("master:", NodesError::Name(String::new())),
            ("a:b c:d,\"", NodesError::Name("\"".to_owned())),
            ("a:b a:c", NodesError::Twice("a".to_owned())),
        ] {
            assert_eq!(parse(text), Err(expected));
        }
        let templates = "<icegrid><server-template id=\"T\"/></icegrid>";
        assert_eq!(replace(templates, "master:Blitz-0").unwrap(), templates);
        let other = "<icegrid><node name=\"other\"/></icegrid>";
        assert_eq!(replace(other, "master:Blitz-0"), Err(NodesError::NoMaster));
    }
}
