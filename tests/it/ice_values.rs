//! What is in recorded messages: parameters, results and exceptions, by the types that Slice declares.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use omero_grid::ice::{
    Decode, DecodeError, Encapsulation, Encode, Encoding, Exception, Family, Format, Identity,
    Instance, Known, Message, Outcome, Proxy, Ref, Thrown, Writer, throw_with,
};
use omero_grid::icegrid::types::*;
use omero_grid::{class, enumeration, exception, record};
use serde_json::Value;

use crate::ice::{MAX, each, text};

enumeration! {
    enum Color { Red = 0, Green = 1, Blue = 2 }
}

record! {
    struct Point { x: i32, y: i32 }
}

class! {
    struct Base("::Demo::Base") { name: String }
}

class! {
    struct Derived("::Demo::Derived"): Base { value: i32, other: Ref<Base> }
}

class! {
    struct Node("::Demo::Node") { label: String, left: Ref<Node>, right: Ref<Node> }
}

class! {
    struct Opt("::Demo::Opt") { a: i32 } optional { 1 => b: i32, 5 => c: String, 40 => d: Vec<String> }
}

class! {
    struct Compact("::Demo::Compact", 7) { z: i32 }
}

class! {
    struct CompactChild("::Demo::CompactChild"): Compact { extra: String }
}

exception! {
    struct BaseError("::Demo::BaseError") { reason: String }
}

exception! {
    struct DerivedError("::Demo::DerivedError"): BaseError { code: i32 }
}

exception! {
    struct ClassError("::Demo::ClassError"): BaseError { detail: Ref<Base> }
}

const DEMO: Family = &[
    Known::of::<Base>(),
    Known::of::<Derived>(),
    Known::of::<Node>(),
    Known::of::<Opt>(),
    Known::of::<Compact>(),
    Known::of::<CompactChild>(),
];

const ONLY_BASE: Family = &[Known::of::<Base>()];

type Prx = Option<Proxy>;

/// What is in an encapsulation.
pub(crate) struct Decoded {
    /// The value, and the instances of classes that it refers to, as `Debug` writes them.
    pub(crate) text: String,
    /// The same encoded again. Dictionaries that were not in order are, then.
    bytes: Vec<u8>,
}

/// Decodes what is in an encapsulation and encodes it again.
pub(crate) fn again<T>(
    within: &Encapsulation<'_>,
    family: Family,
    format: Format,
) -> Result<Decoded, DecodeError>
where
    T: for<'a> Decode<'a> + Encode + Debug,
{
    let (value, objects) = within.decode_with::<T>(family)?;
    let text = format!("({value:?}, {objects:?})");
    let encoding = Encoding::of(within.version[0], within.version[1])?;
    let mut writer = Writer::new(encoding);
    writer.with_classes(&value, &Arc::new(objects), format);
    let bytes = writer.into_bytes();
    Ok(Decoded { text, bytes })
}

fn thrown_again<E: Exception + Debug>(
    within: &Encapsulation<'_>,
    format: Format,
) -> Option<Decoded> {
    let thrown = Thrown::new(*within).unwrap();
    if thrown.type_id() != E::TYPE_ID {
        return None;
    }
    let (exception, objects) = thrown.cast::<E>(DEMO).unwrap()?;
    let text = format!("({exception:?}, {objects:?})");
    let encoding = Encoding::of(within.version[0], within.version[1]).unwrap();
    let mut writer = Writer::new(encoding);
    throw_with(&exception, &mut writer, &Arc::new(objects), format);
    let bytes = writer.into_bytes();
    Some(Decoded { text, bytes })
}

type ThrownAgain = fn(&Encapsulation<'_>, Format) -> Option<Decoded>;

pub(crate) type Again = fn(&Encapsulation<'_>, Family, Format) -> Result<Decoded, DecodeError>;

/// The parameters and the results of the operations that are recorded; those of one name have the same everywhere.
pub(crate) const OPERATIONS: &[(&str, Again, Again)] = &[
    // Demo
    ("echoString", again::<String>, again::<String>),
    ("upper", again::<String>, again::<(i32, String)>),
    ("fail", again::<i32>, again::<()>),
    ("failSliced", again::<i32>, again::<()>),
    ("echoClass", again::<Ref<Base>>, again::<Ref<Base>>),
    ("echoSliced", again::<Ref<Base>>, again::<Ref<Base>>),
    ("echoNode", again::<Ref<Node>>, again::<Ref<Node>>),
    ("nextColor", again::<Color>, again::<Color>),
    (
        "dict",
        again::<(BTreeMap<String, i32>, Vec<Point>)>,
        again::<BTreeMap<String, i32>>,
    ),
    ("proxies", again::<Prx>, again::<Prx>),
    ("log", again::<String>, again::<()>),
    ("blob", again::<Vec<u8>>, again::<Vec<u8>>),
    ("callMe", again::<Prx>, again::<()>),
    // Every object
    ("ice_ping", again::<()>, again::<()>),
    ("ice_isA", again::<String>, again::<bool>),
    ("ice_id", again::<()>, again::<String>),
    ("ice_ids", again::<()>, again::<Vec<String>>),
    // Locator, LocatorRegistry, Query
    ("findObjectById", again::<Identity>, again::<Prx>),
    ("findAdapterById", again::<String>, again::<Prx>),
    ("getRegistry", again::<()>, again::<Prx>),
    ("getLocalRegistry", again::<()>, again::<Prx>),
    ("getLocator", again::<()>, again::<Prx>),
    ("findObjectByType", again::<String>, again::<Prx>),
    ("findAllObjectsByType", again::<String>, again::<Vec<Prx>>),
    ("findAllReplicas", again::<Prx>, again::<Vec<Prx>>),
    ("setAdapterDirectProxy", again::<(String, Prx)>, again::<()>),
    (
        "setReplicatedAdapterDirectProxy",
        again::<(String, String, Prx)>,
        again::<()>,
    ),
    ("setServerProcessProxy", again::<(String, Prx)>, again::<()>),
    // Registry, AdminSession
    (
        "createAdminSession",
        again::<(String, String)>,
        again::<Prx>,
    ),
    ("createSession", again::<(String, String)>, again::<Prx>),
    ("getACMTimeout", again::<()>, again::<i32>),
    ("getAdmin", again::<()>, again::<Prx>),
    ("destroy", again::<()>, again::<()>),
    // Session
    ("setAllocationTimeout", again::<i32>, again::<()>),
    ("allocateObjectById", again::<Identity>, again::<Prx>),
    ("allocateObjectByType", again::<String>, again::<Prx>),
    ("releaseObject", again::<Identity>, again::<()>),
    ("getAdminCallbackTemplate", again::<()>, again::<Prx>),
    (
        "setObserversByIdentity",
        again::<(Identity, Identity, Identity, Identity, Identity)>,
        again::<()>,
    ),
    ("startUpdate", again::<()>, again::<i32>),
    ("finishUpdate", again::<()>, again::<()>),
    ("getReplicaName", again::<()>, again::<String>),
    ("openServerStdOut", again::<(String, i32)>, again::<Prx>),
    ("read", again::<i32>, again::<(Vec<String>, bool)>),
    // Admin
    (
        "addApplication",
        again::<ApplicationDescriptor>,
        again::<()>,
    ),
    ("removeApplication", again::<String>, again::<()>),
    (
        "getApplicationInfo",
        again::<String>,
        again::<ApplicationInfo>,
    ),
    (
        "getDefaultApplicationDescriptor",
        again::<()>,
        again::<ApplicationDescriptor>,
    ),
    ("getAllApplicationNames", again::<()>, again::<Vec<String>>),
    ("getServerInfo", again::<String>, again::<ServerInfo>),
    ("getServerState", again::<String>, again::<ServerState>),
    ("getServerPid", again::<String>, again::<i32>),
    ("getServerAdminCategory", again::<()>, again::<String>),
    ("getServerAdmin", again::<String>, again::<Prx>),
    ("enableServer", again::<(String, bool)>, again::<()>),
    ("isServerEnabled", again::<String>, again::<bool>),
    ("startServer", again::<String>, again::<()>),
    ("stopServer", again::<String>, again::<()>),
    ("getAllServerIds", again::<()>, again::<Vec<String>>),
    ("getAdapterInfo", again::<String>, again::<Vec<AdapterInfo>>),
    ("getAllAdapterIds", again::<()>, again::<Vec<String>>),
    ("addObjectWithType", again::<(Prx, String)>, again::<()>),
    (
        "getObjectInfosByType",
        again::<String>,
        again::<Vec<ObjectInfo>>,
    ),
    (
        "getAllObjectInfos",
        again::<String>,
        again::<Vec<ObjectInfo>>,
    ),
    ("pingNode", again::<String>, again::<bool>),
    ("getNodeLoad", again::<String>, again::<LoadInfo>),
    ("getAllNodeNames", again::<()>, again::<Vec<String>>),
    ("getAllRegistryNames", again::<()>, again::<Vec<String>>),
    ("shutdownRegistry", again::<String>, again::<()>),
    // Observers
    ("registryInit", again::<Vec<RegistryInfo>>, again::<()>),
    ("nodeInit", again::<Vec<NodeDynamicInfo>>, again::<()>),
    (
        "updateServer",
        again::<(String, ServerDynamicInfo)>,
        again::<()>,
    ),
    (
        "applicationInit",
        again::<(i32, Vec<ApplicationInfo>)>,
        again::<()>,
    ),
    ("adapterInit", again::<Vec<AdapterInfo>>, again::<()>),
    ("objectInit", again::<Vec<ObjectInfo>>, again::<()>),
    ("objectAdded", again::<ObjectInfo>, again::<()>),
    // The facets of a server
    ("getProperty", again::<String>, again::<String>),
    ("getPropertiesForPrefix", again::<String>, again::<Texts>),
    ("writeMessage", again::<(String, i32)>, again::<()>),
    ("shutdown", again::<()>, again::<()>),
    // Glacier2
    (
        "checkPermissions",
        again::<(String, String)>,
        again::<(String, bool)>,
    ),
    ("create", again::<(String, Prx)>, again::<Prx>),
];

/// Decodes an exception, if it is known.
pub(crate) fn throws(within: &Encapsulation<'_>, format: Format) -> Option<Decoded> {
    let all: &[ThrownAgain] = &[
        thrown_again::<BaseError>,
        thrown_again::<DerivedError>,
        thrown_again::<ClassError>,
        thrown_again::<ApplicationNotExistException>,
        thrown_again::<ServerNotExistException>,
        thrown_again::<DeploymentException>,
        thrown_again::<AdapterNotFoundException>,
        thrown_again::<ObjectNotFoundException>,
        thrown_again::<ServerNotFoundException>,
        thrown_again::<AccessDeniedException>,
        thrown_again::<ObjectExistsException>,
        thrown_again::<SessionPermissionDeniedException>,
        thrown_again::<CannotCreateSessionException>,
        thrown_again::<AllocationException>,
        thrown_again::<ObjectNotRegisteredException>,
        thrown_again::<ServerStartException>,
        thrown_again::<ServerStopException>,
    ];
    all.iter().find_map(|again| again(within, format))
}

/// Whether anything in what is known of a message was in the sliced format.
fn format_of(known: &Value) -> Format {
    match known.to_string().contains(r#""fmt":"sliced""#) {
        true => Format::Sliced,
        false => Format::Compact,
    }
}

#[test]
fn recorded_values_are_understood_and_written_to_the_byte() {
    let (mut values, mut exceptions) = (0, 0);
    let all = each(|bytes, known, place| {
        let (message, _) = Message::decode(bytes, MAX).unwrap();
        // Glacier2's router has operations of the same names with other types; it is not the registry's matter.
        let operation = OPERATIONS
            .iter()
            .find(|(name, _, _)| *name == text(known, "op"));
        let format = format_of(known);
        let (within, again) = match &message {
            Message::Request(request) => match operation {
                Some((_, params, _)) => (request.params, params),
                None => return,
            },
            Message::Reply(reply) => match (&reply.outcome, operation) {
                (Outcome::Done(within), Some((_, _, result))) => (*within, result),
                (Outcome::Exception(within), _) => {
                    if let Some(again) = throws(within, format) {
                        assert_eq!(again.bytes, within.bytes, "{place}");
                        exceptions += 1;
                    }
                    return;
                }
                _ => return,
            },
            _ => return,
        };
        let family: Family = if text(known, "op").starts_with("echo") {
            DEMO
        } else {
            DESCRIPTORS
        };
        let written = again(&within, family, format)
            .unwrap_or_else(|error| panic!("{place}: {error}"))
            .bytes;
        if written != within.bytes {
            // Dictionaries may come in any order.
            let ordered = Encapsulation {
                version: within.version,
                bytes: &written,
            };
            assert_eq!(written.len(), within.bytes.len(), "{place}");
            assert_eq!(
                again(&ordered, family, format).unwrap().bytes,
                written,
                "{place}"
            );
            assert!(text(known, "op") == "dict", "{place} is written otherwise");
        }
        // Every beginning of it is an error, or leaves optional values out.
        for end in 0..within.bytes.len() {
            let cut = Encapsulation {
                version: within.version,
                bytes: &within.bytes[..end],
            };
            assert!(again(&cut, family, format).is_err(), "{place}, {end} bytes");
        }
        values += 1;
    });
    assert!(
        all == 0 || (values > 100 && exceptions > 5),
        "{values} values, {exceptions} exceptions"
    );
    println!("{values} values, {exceptions} exceptions");
}

/// In 1.0 the pending instances follow where the signature has classes, though there are none; and nowhere else.
#[test]
fn what_follows_in_the_older_encoding_depends_on_the_signature() {
    let nil = |bytes: &'static [u8]| Encapsulation {
        version: [1, 0],
        bytes,
    };
    let with = nil(&[0, 0, 0, 0, 0]);
    let (node, _) = with.decode_with::<Ref<Node>>(DEMO).unwrap();
    assert_eq!(node, Ref::NIL);
    assert_eq!(
        again::<Ref<Node>>(&with, DEMO, Format::Compact)
            .unwrap()
            .bytes,
        with.bytes
    );
    assert!(nil(&[0, 0, 0, 0]).decode_with::<Ref<Node>>(DEMO).is_err());
    assert_eq!(nil(&[0, 0, 0, 0]).decode::<i32>(), Ok(0));
    // One stray byte is let pass, as Ice does; more are not.
    assert_eq!(with.decode::<i32>(), Ok(0));
    assert!(nil(&[0; 6]).decode::<i32>().is_err());
}

/// A graph that shares and is a circle: what refers to what stays so, in both encodings and both formats.
#[test]
fn a_graph_keeps_its_shape() {
    for encoding in [Encoding::V10, Encoding::V11] {
        for format in [Format::Compact, Format::Sliced] {
            let mut first = omero_grid::ice::Objects::default();
            // Nodes are added from the leaves, so the circle is closed by the place that the root will have.
            let shared = first.add(Node {
                label: "shared".into(),
                left: Ref::NIL,
                right: Ref::NIL,
            });
            let root = first.add(Node {
                label: "root".into(),
                left: shared,
                right: shared,
            });
            let mut writer = Writer::new(encoding);
            writer.with_classes(&(root, shared), &Arc::new(first), format);
            let bytes = writer.into_bytes();
            let within = Encapsulation {
                version: encoding.bytes(),
                bytes: &bytes,
            };
            let ((root, shared), objects) =
                within.decode_with::<(Ref<Node>, Ref<Node>)>(DEMO).unwrap();
            let root = objects.get(root).unwrap().unwrap();
            assert_eq!((root.left, root.right), (shared, shared));
            assert_eq!(objects.get(shared).unwrap().unwrap().label, "shared");
        }
    }
}

#[test]
fn what_is_derived_from_what_is_known_is_taken_for_that_and_what_is_not_known_is_kept() {
    let mut objects = omero_grid::ice::Objects::default();
    let inner = objects.add(Base {
        name: "inner".into(),
    });
    let outer = Derived {
        base: Base {
            name: "outer".into(),
        },
        value: 7,
        other: inner,
    };
    let outer: Ref<Base> = objects.add(outer).cast();
    let objects = Arc::new(objects);
    for (encoding, format) in [
        (Encoding::V10, Format::Compact),
        (Encoding::V11, Format::Sliced),
    ] {
        let mut writer = Writer::new(encoding);
        writer.with_classes(&outer, &objects, format);
        let bytes = writer.into_bytes();
        let within = Encapsulation {
            version: encoding.bytes(),
            bytes: &bytes,
        };
        let (found, read) = within.decode_with::<Ref<Base>>(ONLY_BASE).unwrap();
        assert_eq!(read.get(found).unwrap().unwrap().name, "outer");
        // Of a family of none, bytes are what is known; they come out as they went in.
        if format == Format::Sliced {
            let again = again::<Ref<Base>>(&within, &[], format).unwrap();
            assert_eq!(again.bytes, bytes);
        }
        let (found, read) = within.decode_with::<Ref<Base>>(&[]).unwrap();
        assert!(matches!(read.get(found), Err(DecodeError::NotA { .. })));
    }
    let mut writer = Writer::new(Encoding::V11);
    writer.with_classes(&outer, &objects, Format::Compact);
    let bytes = writer.into_bytes();
    let within = Encapsulation {
        version: [1, 1],
        bytes: &bytes,
    };
    let unknown = within.decode_with::<Ref<Base>>(ONLY_BASE);
    assert_eq!(
        unknown.err(),
        Some(DecodeError::Class("::Demo::Derived".into()))
    );
}

#[test]
fn optional_members_compact_ids_and_bases_come_back() {
    for value in [
        Opt {
            a: 1,
            b: None,
            c: None,
            d: None,
        },
        Opt {
            a: 1,
            b: Some(2),
            c: Some("c".into()),
            d: Some(vec!["d".into()]),
        },
        Opt {
            a: 1,
            b: None,
            c: None,
            d: Some(vec![]),
        },
    ] {
        for format in [Format::Compact, Format::Sliced] {
            let mut objects = omero_grid::ice::Objects::default();
            let opt = objects.add(value.clone());
            let child = CompactChild {
                base: Compact { z: 6 },
                extra: "x".into(),
            };
            let child = objects.add(child.clone());
            let mut writer = Writer::new(Encoding::V11);
            writer.with_classes(&(opt, child), &Arc::new(objects), format);
            let bytes = writer.into_bytes();
            let within = Encapsulation {
                version: [1, 1],
                bytes: &bytes,
            };
            let ((opt, child), read) = within
                .decode_with::<(Ref<Opt>, Ref<Compact>)>(DEMO)
                .unwrap();
            assert_eq!(read.get(opt).unwrap().unwrap(), &value);
            assert_eq!(read.get(child).unwrap().unwrap().z, 6);
            let whole = read.find::<CompactChild, _>(child).unwrap();
            assert_eq!(whole.class_id(), "::Demo::CompactChild");
            assert_eq!(whole.extra, "x");
        }
    }
}

/// A graph that is a circle, a tower of instances, an instance that never comes: each is an answer, none is a crash.
#[test]
fn graphs_that_lie_are_refused() {
    // In 1.0 a node may refer to itself, and nothing owns itself by that.
    let mut circle = vec![0xff, 0xff, 0xff, 0xff, 1, 1, 0, 0, 0, 0, 12];
    circle.extend(b"::Demo::Node");
    circle.extend([14, 0, 0, 0, 1, b'a', 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    circle.extend([0, 13]);
    circle.extend(b"::Ice::Object");
    circle.extend([5, 0, 0, 0, 0, 0]);
    let within = Encapsulation {
        version: [1, 0],
        bytes: &circle,
    };
    let (node, objects) = within.decode_with::<Ref<Node>>(DEMO).unwrap();
    assert_eq!(objects.get(node).unwrap().unwrap().left, node);
    assert_eq!(
        again::<Ref<Node>>(&within, DEMO, Format::Compact)
            .unwrap()
            .bytes,
        circle
    );

    // An instance that is referred to and does not come.
    let missing = [0xff, 0xff, 0xff, 0xff, 0];
    let within = Encapsulation {
        version: [1, 0],
        bytes: &missing,
    };
    let error = within.decode_with::<Ref<Node>>(DEMO).err();
    assert_eq!(error, Some(DecodeError::Instance(1)));
    // One of 1.1 that is not there yet.
    for number in [2, 3, 200] {
        let within = Encapsulation {
            version: [1, 1],
            bytes: &[number],
        };
        let error = within.decode_with::<Ref<Node>>(DEMO).err();
        assert_eq!(error, Some(DecodeError::Instance(i64::from(number))));
    }

    // In 1.1 too a node may refer to itself: it has its number before its members are read.
    let mut circle = vec![1, 0x21, 12];
    circle.extend(b"::Demo::Node");
    circle.extend([1, b'a', 2, 0]);
    let within = Encapsulation {
        version: [1, 1],
        bytes: &circle,
    };
    let (node, objects) = within.decode_with::<Ref<Node>>(DEMO).unwrap();
    assert_eq!(objects.get(node).unwrap().unwrap().left, node);
    // Types that were not named yet: numbers begin with 1 in either encoding.
    for index in [0, 1, 200] {
        let within = Encapsulation {
            version: [1, 1],
            bytes: &[1, 0x22, index, 0, 0, 0],
        };
        assert!(within.decode_with::<Ref<Node>>(DEMO).is_err(), "{index}");
        let within = Encapsulation {
            version: [1, 0],
            bytes: &[255, 255, 255, 255, 1, 1, 0, 0, 0, 1, index, 4, 0, 0, 0, 0],
        };
        assert!(within.decode_with::<Ref<Node>>(DEMO).is_err(), "{index}");
    }

    // A tower.
    let mut tower = vec![1, 0x21, 12];
    tower.extend(b"::Demo::Node");
    for _ in 0..10_000 {
        tower.extend([0, 1, 0x22, 1]);
    }
    let within = Encapsulation {
        version: [1, 1],
        bytes: &tower,
    };
    let error = within.decode_with::<Ref<Node>>(DEMO).err();
    assert_eq!(error, Some(DecodeError::Depth));

    // So many that they cannot be there.
    let claim = [255, 0, 0, 0, 0x40];
    for version in [[1, 0], [1, 1]] {
        let within = Encapsulation {
            version,
            bytes: &claim,
        };
        assert!(within.decode_with::<Vec<Ref<Node>>>(DEMO).is_err());
    }
}
