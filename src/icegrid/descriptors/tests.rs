//! Small applications through Slice and back.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::descriptor::{Application, Request, expand_application, load};
use crate::ice::{Encapsulation, Encode, Encoding, Format, Objects, Ref, Writer};
use crate::icegrid::types::*;

/// Everything that a descriptor can have.
const EVERYTHING: &str = r#"<icegrid><application name="A">
  <description>of all</description>
  <distrib icepatch="P/server"><directory>d</directory></distrib>
  <variable name="v" value="${x}"/><variable name="x" value="1"/>
  <properties id="One"><property name="a" value="${v}"/></properties>
  <properties id="Two"><properties refid="One"/><property name="b" value=""/></properties>
  <replica-group id="G" proxy-options="-o"><load-balancing type="adaptive" n-replicas="2" load-sample="5"/>
    <object identity="cat/it's" type="::T" proxy-options="-t"/><description>group</description></replica-group>
  <replica-group id="H"><load-balancing type="ordered"/></replica-group>
  <replica-group id="I"><load-balancing type="round-robin" n-replicas="0"/></replica-group>
  <replica-group id="J" filter="f"/>
  <server-template id="S"><parameter name="i"/><parameter name="j" default=""/>
    <server id="s${i}" exe="e" activation="on-demand" activation-timeout="7" user="" allocatable="true" application-distrib="false">
      <option>--x</option><option/><env>E=${j}</env><log path="l"/>
      <adapter name="Ad" replica-group="G" priority="3" register-process="true" server-lifetime="false" endpoints="tcp">
        <object identity="o${i}" property="p"/><allocatable identity="al${i}" type="::U"/></adapter>
      <dbenv name="db"><dbproperty name="k" value="v"/></dbenv>
    </server></server-template>
  <service-template id="V"><parameter name="n"/><service name="${n}" entry="lib"><adapter name="Sv" endpoints="tcp"/></service></service-template>
  <server-template id="B"><parameter name="n"/>
    <icebox id="b${n}" exe="icebox"><service-instance template="V" n="one"><properties><property name="q" value="1"/></properties></service-instance>
      <service name="two" entry="lib2"/></icebox></server-template>
  <node name="n1" load-factor="1.5"><description>node</description><variable name="w" value="2"/>
    <properties id="Own"><property name="c" value="${w}"/></properties>
    <server-instance template="S" i="1"><properties><properties refid="Own"/></properties></server-instance>
    <server-instance template="B" n="1"><properties service="one"><property name="z" value="2"/></properties></server-instance>
    <server id="plain" exe="prog"><properties><properties refid="Two"/></properties></server>
  </node><node name="n2"/>
</application></icegrid>"#;

fn request() -> Request {
    Request {
        file: PathBuf::from("a.xml"),
        ..Request::default()
    }
}

/// Reads what `body` makes of an application.
fn written(xml: &str) -> Application {
    let files = BTreeMap::from([(PathBuf::from("a.xml"), xml.as_bytes().to_vec())]);
    load(&files, &request())
        .unwrap_or_else(|e| panic!("{e}"))
        .definition
}

/// Sends a value, and returns what arrives.
fn sent<T>(value: &T, objects: Objects) -> (T, Objects)
where
    T: Encode + for<'a> crate::ice::Decode<'a>,
{
    let mut writer = Writer::new(Encoding::V11);
    writer.with_classes(value, &Arc::new(objects), Format::Compact);
    let bytes = writer.into_bytes();
    let within = Encapsulation {
        version: [1, 1],
        bytes: &bytes,
    };
    within.decode_with(DESCRIPTORS).unwrap()
}

#[test]
fn everything_comes_back_and_means_the_same() {
    let application = written(EVERYTHING);
    let mut objects = Objects::default();
    let descriptor = application_to_slice(&application, &mut objects);
    assert_eq!(descriptor.nodes["n1"].servers.len(), 1);
    assert_eq!(descriptor.replica_groups[0].objects[0].id.name, "it's");
    let (descriptor, objects) = sent(&descriptor, objects);
    let back = application_from_slice(&descriptor, &objects).unwrap();
    assert_eq!(back, application);
    let none: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    let meant = expand_application(back, &none, &request()).unwrap();
    let files = BTreeMap::from([(PathBuf::from("a.xml"), EVERYTHING.as_bytes().to_vec())]);
    let read = load(&files, &request()).unwrap();
    assert_eq!(meant.deployment, read.deployment);
}

#[test]
fn a_resolved_server_is_of_its_class() {
    let files = BTreeMap::from([(PathBuf::from("a.xml"), EVERYTHING.as_bytes().to_vec())]);
    let deployment = load(&files, &request()).unwrap().deployment;
    let mut objects = Objects::default();
    let mut of = |id: &str| {
        let server = &deployment.servers[&id.parse().unwrap()].descriptor;
        server_to_slice(server, &mut objects)
    };
    let (plain, icebox) = (of("s1"), of("b1"));
    let ((plain, icebox), objects) = sent(&(plain, icebox), objects);
    let found = objects.get(plain).unwrap().unwrap();
    assert_eq!(
        (found.id.as_str(), found.activation.as_str()),
        ("s1", "on-demand")
    );
    assert_eq!(found.base.adapters[0].id, "s1.Ad");
    assert!(objects.find::<IceBoxDescriptor, _>(plain).is_none());
    let found = objects.find::<IceBoxDescriptor, _>(icebox).unwrap();
    let service = objects.get(found.services[0].descriptor).unwrap().unwrap();
    let last = service.base.property_set.properties.last().unwrap();
    assert_eq!((service.name.as_str(), last.name.as_str()), ("one", "z"));
}

/// An application with one server, and what it refers to.
fn of_server(server: Ref<ServerDescriptor>) -> ApplicationDescriptor {
    let node = NodeDescriptor {
        servers: vec![server],
        ..NodeDescriptor::default()
    };
    ApplicationDescriptor {
        name: "A".to_owned(),
        nodes: BTreeMap::from([("n".to_owned(), node)]),
        ..ApplicationDescriptor::default()
    }
}

fn refusal(descriptor: &ApplicationDescriptor, objects: &Objects) -> String {
    let error = application_from_slice(descriptor, objects).unwrap_err();
    error.exception().reason
}

#[test]
fn what_is_missing_or_of_the_wrong_class_is_refused() {
    let mut objects = Objects::default();
    let service = objects.add(ServiceDescriptor::default());
    assert_eq!(
        refusal(&of_server(Ref::NIL), &objects),
        "the descriptor of a server is missing"
    );
    let wrong = refusal(&of_server(service.cast()), &objects);
    assert!(
        wrong.starts_with("the descriptor of a server is of the wrong class")
            && wrong.contains("::IceGrid::ServiceDescriptor"),
        "{wrong}"
    );
    let policy = objects.add(LoadBalancingPolicy {
        n_replicas: "1".to_owned(),
    });
    let boxed = objects.add(BoxedString {
        value: String::new(),
    });
    for (policy, expected) in [
        (Ref::NIL, "of replica group `G' is missing"),
        (policy, "unknown load balancing policy"),
        (boxed.cast(), "is of the wrong class"),
    ] {
        let group = ReplicaGroupDescriptor {
            id: "G".to_owned(),
            load_balancing: policy,
            proxy_options: String::new(),
            objects: Vec::new(),
            description: String::new(),
            filter: String::new(),
        };
        let application = ApplicationDescriptor {
            replica_groups: vec![group],
            ..ApplicationDescriptor::default()
        };
        let reason = refusal(&application, &objects);
        assert!(reason.contains(expected), "{reason}");
    }
    let template = TemplateDescriptor {
        descriptor: service.cast(),
        parameters: Vec::new(),
        parameter_defaults: BTreeMap::new(),
    };
    let application = ApplicationDescriptor {
        server_templates: BTreeMap::from([("T".to_owned(), template)]),
        ..ApplicationDescriptor::default()
    };
    let reason = refusal(&application, &objects);
    assert!(
        reason.contains("server template `T' is of the wrong class"),
        "{reason}"
    );
}

#[test]
fn few_bytes_that_mean_many_are_refused() {
    let mut objects = Objects::default();
    let server = objects.add(ServerDescriptor {
        exe: "x".repeat(1 << 20),
        ..ServerDescriptor::default()
    });
    let mut application = of_server(server);
    application_from_slice(&application, &objects).unwrap();
    let node = application.nodes.get_mut("n").unwrap();
    node.servers = vec![server; 100];
    assert_eq!(
        refusal(&application, &objects),
        "the descriptor is too large"
    );
    let empty = objects.add(ServerDescriptor::default());
    let node = application.nodes.get_mut("n").unwrap();
    node.servers = vec![empty; 1 << 20];
    assert_eq!(
        refusal(&application, &objects),
        "the descriptor is too large"
    );
    application.name = "a\0b".to_owned();
    assert!(refusal(&application, &objects).contains("NUL"));
}

/// Changes the old application into the new one over Slice, and says what was sent.
fn updated(old: &Application, new: &Application) -> (Application, ApplicationUpdateDescriptor) {
    let mut objects = Objects::default();
    let update = difference(old, new, &mut objects);
    let (update, objects) = sent(&update, objects);
    (update_application(old, &update, &objects).unwrap(), update)
}

#[test]
fn an_update_has_what_differs_and_no_more() {
    let old = written(EVERYTHING);
    let (same, update) = updated(&old, &old);
    let nothing = ApplicationUpdateDescriptor {
        name: "A".to_owned(),
        ..ApplicationUpdateDescriptor::default()
    };
    assert_eq!((same, update), (old.clone(), nothing));
    let xml = EVERYTHING
        .replace("of all", "of most")
        .replace(r#"<variable name="v" value="${x}"/>"#, "")
        .replace("value=\"${v}\"", "value=\"${x}\"")
        .replace(r#"n-replicas="2""#, r#"n-replicas="3""#)
        .replace(r#"<replica-group id="J" filter="f"/>"#, "")
        .replace(r#"template="S" i="1""#, r#"template="S" i="1" j="2""#)
        .replace(r#"id="plain""#, r#"id="other""#)
        .replace(r#"<node name="n2"/>"#, r#"<node name="n3"/>"#);
    let new = written(&xml);
    let (after, update) = updated(&old, &new);
    assert_eq!(after, new);
    assert_eq!(update.remove_variables, ["v"]);
    assert_eq!(update.remove_replica_groups, ["J"]);
    assert_eq!(update.replica_groups.len(), 1);
    assert!(update.distrib.is_nil() && !update.description.is_nil());
    assert!(update.server_templates.is_empty());
    assert_eq!(update.remove_nodes, ["n2"]);
    let names: Vec<&str> = update.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["n1", "n3"]);
    assert_eq!(update.nodes[0].remove_servers, ["plain"]);
    assert_eq!(update.nodes[0].server_instances.len(), 1);
    assert_eq!(updated(&new, &old).0, old);
}

#[test]
fn a_server_is_removed_by_its_id_and_may_become_one_of_a_template() {
    let old = written(EVERYTHING);
    let node = |change: NodeUpdateDescriptor| ApplicationUpdateDescriptor {
        name: "A".to_owned(),
        nodes: vec![NodeUpdateDescriptor {
            name: "n1".to_owned(),
            ..change
        }],
        ..ApplicationUpdateDescriptor::default()
    };
    let removal = node(NodeUpdateDescriptor {
        remove_servers: vec!["s1".to_owned(), "plain".to_owned(), "nobody".to_owned()],
        ..NodeUpdateDescriptor::default()
    });
    let new = update_application(&old, &removal, &Objects::default()).unwrap();
    let left = &new.nodes["n1"];
    assert_eq!((left.server_instances.len(), left.servers.len()), (1, 0));
    let mut objects = Objects::default();
    let server = objects.add(ServerDescriptor {
        id: "s1".to_owned(),
        exe: "y".to_owned(),
        ..ServerDescriptor::default()
    });
    let written_out = node(NodeUpdateDescriptor {
        servers: vec![server],
        ..NodeUpdateDescriptor::default()
    });
    let new = update_application(&old, &written_out, &objects).unwrap();
    let left = &new.nodes["n1"];
    assert_eq!((left.server_instances.len(), left.servers.len()), (1, 2));
}

#[test]
fn an_instance_is_added_to_a_node_that_is_there() {
    let old = written(EVERYTHING);
    let instance = ServerInstanceDescriptor {
        template: "S".to_owned(),
        parameter_values: BTreeMap::from([("i".to_owned(), "9".to_owned())]),
        property_set: PropertySetDescriptor::default(),
        service_property_sets: BTreeMap::new(),
    };
    let new = instantiate_server(&old, "n2", &instance).unwrap();
    let none: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    let deployment = expand_application(new, &none, &request())
        .unwrap()
        .deployment;
    assert!(deployment.servers.contains_key(&"s9".parse().unwrap()));
    let error = instantiate_server(&old, "n9", &instance).unwrap_err();
    assert_eq!(error.exception().reason, "node `n9' doesn't exist");
}
