//! OMERO's own configuration store in Python and ours, taking turns on one file.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::Grid;

/// Carries out one operation per line with the class that `omero config` works with.
const DRIVER: &str = r#"
import importlib.util, json, os, sys, omero_ext
# The module alone: the package as a whole needs Ice.
site = os.path.dirname(list(omero_ext.__path__)[0])
spec = importlib.util.spec_from_file_location("omero_config", os.path.join(site, "omero", "config.py"))
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
for line in sys.stdin:
    words = json.loads(line)
    config = module.ConfigXml(sys.argv[1])
    try:
        if words[0] == "set":
            config[words[1]] = words[2]
        elif words[0] == "unset":
            if words[1] in config.keys():
                del config[words[1]]
        elif words[0] == "def":
            config.default(words[1])
        elif words[0] == "drop":
            config.remove(words[1])
        internal = ("omero.config.profile", "omero.config.version")
        answer = {k: v for k, v in config.as_map().items() if k not in internal}
        answer = [config.default(), answer]
    finally:
        config.close()
    print(json.dumps(answer), flush=True)
"#;

/// The other side.
struct Stock {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Stock {
    /// `None`, visibly, where OMERO's Python is not installed.
    fn start(grid: &Grid) -> Option<Self> {
        let python = std::env::var("OMERO_GRID_OMERO_PY").unwrap_or_else(|_| "python3".to_owned());
        let there = Command::new(&python)
            .args(["-c", "import omero_ext, portalocker"])
            .output();
        if !there.is_ok_and(|output| output.status.success()) {
            let required = std::env::var("OMERO_GRID_REQUIRE_PEERS").is_ok_and(|v| v == "1");
            assert!(!required, "omero-py is not installed for {python}");
            println!("skipped: omero-py is not installed (OMERO_GRID_OMERO_PY names its python)");
            return None;
        }
        grid.write("driver.py", DRIVER);
        let mut child = Command::new(&python)
            .arg(grid.path("driver.py"))
            .arg(grid.path("etc/grid/config.xml"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Some(Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        })
    }

    /// Does something, and returns the active profile and what is in it then.
    fn ask(&mut self, words: &Value) -> Value {
        writeln!(self.input, "{words}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{words}: {line}"))
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Draws numbers that are the same each time for the same seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        // The constants of Knuth's MMIX.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn one<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }
}

#[test]
fn both_agree_after_each_of_two_hundred_operations() {
    let grid = Grid::at("");
    grid.run("config set omero.first 1").ok();
    let Some(mut stock) = Stock::start(&grid) else {
        return;
    };
    let seed = std::env::var("OMERO_GRID_SEED").ok();
    let seed = seed.map_or(20_261_124, |seed| seed.parse().unwrap());
    println!("OMERO_GRID_SEED={seed}");
    let mut draw = Draw(seed);
    let keys = [
        "omero.a",
        "omero.b.c",
        "omero.db.pass",
        "omero.web.apps",
        "x",
    ];
    let values = [
        "",
        "1",
        "two words",
        "a&b<c>\"d\"",
        "Ünïcode µ",
        "${x}",
        "[\"j\", 1]",
        "tab\there",
        "back\\slash",
        " lead and trail ",
    ];
    let profiles = ["default", "test", "third"];
    for step in 0..200 {
        let operation = match draw.below(10) {
            0..=5 => json!(["set", draw.one(&keys), draw.one(&values)]),
            6..=7 => json!(["unset", draw.one(&keys)]),
            8 => json!(["def", draw.one(&profiles)]),
            _ => json!(["look"]),
        };
        let words: Vec<&str> = operation
            .as_array()
            .unwrap()
            .iter()
            .map(|word| word.as_str().unwrap())
            .collect();
        let theirs = if step % 2 == 0 {
            stock.ask(&operation)
        } else {
            let mut command = match words[..] {
                ["set", key, value] => {
                    // An empty value is none for either side's command.
                    grid.write("value", value);
                    grid.command(&["config", "set", key, "-f", "value"])
                }
                ["unset", key] => grid.command(&["config", "set", key]),
                ["def", profile] => grid.command(&["config", "def", profile]),
                _ => grid.command(&["config", "path"]),
            };
            grid.finish(&mut command, "").ok();
            stock.ask(&json!(["look"]))
        };
        let profile = grid.json("config def");
        let ours = grid.json("config get --show-password");
        assert_eq!(
            theirs,
            json!([profile, ours]),
            "after step {step}, {operation}\n{}",
            grid.read("etc/grid/config.xml")
        );
    }
}
