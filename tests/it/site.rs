//! A directory of OMERO's shape: descriptors are made of `etc/templates/` as they are read (`omero.md` §5.4–§5.6).

use crate::harness::Grid;

pub(crate) const DEFAULT: &str = r#"<icegrid>
  <application name="OMERO">
    <properties id="Profile">
      <properties refid="__ACTIVE__"/>
      <property name="omero.example" value="by hand"/>
    </properties>
    <include file="config.xml"/>
    <node name="master">
      <server-instance template="Glacier2Template" endpoints="@omero.client.endpoints@"/>
      <server-instance template="BlitzTemplate" index="0" config="default"/>
      <server-instance template="StormTemplate"/>
    </node>
  </application>
</icegrid>
"#;

pub(crate) const TEMPLATES: &str = r#"<icegrid>
  <properties id="Basics"><property name="omero.a" value="basics"/></properties>
  <server-template id="Glacier2Template">
    <parameter name="endpoints"/>
    <server id="OMERO.Glacier2" exe="/bin/sh" activation="always">
      <option>-c</option><option>exec sleep 1000</option>
      <properties><property name="Glacier2.Client.Endpoints" value="${endpoints}"/>@omero.glacier2.icessl@</properties>
    </server>
  </server-template>
  <server-template id="BlitzTemplate">
    <parameter name="index"/>
    <parameter name="config" default="default"/>
    <server id="Blitz-${index}" exe="/bin/sh" activation="always">
      <option>-c</option><option>exec sleep 1000</option>
      <option>MEMORY:blitz</option>
      <env>KIND=blitz</env>
      <properties>
        <properties refid="Basics"/><properties refid="Profile"/>
        <property name="REPLACEMENT:blitz" value="REPLACEME"/>
      </properties>
    </server>
  </server-template>
  <server-template id="StormTemplate">
    <server id="Storm" exe="/bin/sh" activation="always"><option>-c</option><option>exec sleep 1000</option></server>
  </server-template>
</icegrid>
"#;

fn site() -> Grid {
    let grid = Grid::at("");
    grid.write("etc/templates/grid/default.xml", DEFAULT);
    grid.write("etc/templates/grid/templates.xml", TEMPLATES);
    grid
}

fn server(described: &serde_json::Value, id: &str) -> serde_json::Value {
    let server = &described["servers"][id]["descriptor"];
    assert!(server.is_object(), "{id} in {described}");
    server.clone()
}

#[test]
fn a_site_starts_from_its_templates_and_nothing_is_written_into_etc() {
    let grid = site();
    grid.run("start").ok();
    let status = grid.status();
    assert_eq!(status["descriptor"], "etc/grid/default.xml");
    for id in ["OMERO.Glacier2", "Blitz-0", "Storm"] {
        grid.wait_state(id, "active");
    }
    assert!(!grid.path("etc/grid").exists(), "nothing is written");
    let pid = grid.pid("Blitz-0");
    // A change of the configuration is a change of what the templates make.
    grid.run("config set omero.jvmcfg.heap_size.blitz 77m").ok();
    assert_eq!(grid.pid("Blitz-0"), pid, "nobody has asked for a restart");
    grid.run("restart --rolling --outdated").ok();
    grid.wait_successor("Blitz-0", pid);
    let pid = grid.pid("Blitz-0");
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let words = String::from_utf8_lossy(&words).into_owned();
    // The shell has become what it ran; the option is what the node gave it.
    assert!(words.contains("sleep"), "{words}");
    let described = grid.json("describe etc/grid/default.xml");
    let options = server(&described, "Blitz-0")["options"].clone();
    assert_eq!(
        options,
        serde_json::json!(["-c", "exec sleep 1000", "-Xmx77m"])
    );
    let shown = grid.json("jvmcfg");
    assert_eq!(shown["blitz"], serde_json::json!(["-Xmx77m"]));
}

#[test]
fn what_templates_are_made_into_follows_the_configuration() {
    let grid = site();
    for (key, value) in [
        ("omero.ports.prefix", "1"),
        ("omero.glacier2.IceSSL.Ciphers", "HIGH"),
        ("omero.a.blitz", "of the kind"),
        ("omero.b.blitz", "another"),
        ("omero.example", "configured"),
        ("omero.cluster.read_only.db", "true"),
        ("omero.pixeldata.memoizer.dir.local", "/tmp/memos"),
        (
            "omero.server.nodedescriptors",
            "master:Blitz-0 backup:Blitz-1",
        ),
    ] {
        let mut set = grid.command(&["config", "set", key, value]);
        grid.finish(&mut set, "").ok();
    }
    let described = grid.json("describe etc/grid/default.xml");
    let ids: Vec<&String> = described["servers"].as_object().unwrap().keys().collect();
    assert_eq!(ids, ["Blitz-0", "Blitz-1", "OMERO.Glacier2"]);
    let property = |id: &str, name: &str| {
        let properties = server(&described, id)["propertySet"]["properties"].clone();
        let properties = properties.as_array().unwrap().iter().rev();
        let mut of_name = properties.filter(|pair| pair[0] == name);
        of_name
            .next()
            .map(|pair| pair[1].as_str().unwrap().to_owned())
    };
    assert_eq!(
        property("OMERO.Glacier2", "Glacier2.Client.Endpoints").as_deref(),
        Some("ssl -p 14064:tcp -p 14063")
    );
    assert_eq!(
        property("OMERO.Glacier2", "IceSSL.Ciphers").as_deref(),
        Some("HIGH")
    );
    // Every key of the kind, not only the last.
    assert_eq!(
        property("Blitz-0", "omero.a").as_deref(),
        Some("of the kind")
    );
    assert_eq!(property("Blitz-0", "omero.b").as_deref(), Some("another"));
    // What is in Profile by hand beats the configuration, as with IceGrid.
    assert_eq!(
        property("Blitz-0", "omero.example").as_deref(),
        Some("by hand")
    );
    let checked = grid.run("check etc/grid/default.xml").ok();
    checked.says(&[
        "does not name Storm",
        "omero.a.blitz, omero.b.blitz: each of them counts here",
        "omero.example is written into property set Profile",
    ]);
    // A Blitz of OMERO's own is made read-only by what it expects.
    for (name, value) in [
        ("omero.cluster.read_only.db", "true"),
        ("omero.pixeldata.memoizer.dir.local", "/tmp/memos"),
    ] {
        assert_eq!(property("Blitz-0", name).as_deref(), Some(value), "{name}");
    }
}

#[test]
fn what_is_wrong_in_a_template_is_told_with_its_line() {
    let grid = site();
    let broken = TEMPLATES.replace(
        "sleep 1000</option>\n      <properties>",
        "sleep 1000</oops>\n      <properties>",
    );
    grid.write("etc/templates/grid/templates.xml", &broken);
    grid.run("check etc/grid/default.xml")
        .exits(4)
        .says(&["templates.xml:6:"]);
    grid.write("etc/templates/grid/templates.xml", TEMPLATES);
    grid.run("config set omero.jvmcfg.percent many").ok();
    grid.run("start")
        .exits(4)
        .says(&["omero.jvmcfg.percent", "whole number"]);
    grid.run("jvmcfg").exits(4).says(&["omero.jvmcfg.percent"]);
    grid.run("config set omero.jvmcfg.percent").ok();
    grid.run("config set omero.server.nodedescriptors master")
        .ok();
    grid.run("start").exits(4).says(&["NODE:SERVER"]);
}
