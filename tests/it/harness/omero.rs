//! A directory of OMERO's shape, in which the program goes by Ice's names: links that the PATH finds first.

use std::ops::Deref;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::{Grid, Run, free_ports, process};

/// The files in `tests/it/peers/omero/`: templates as OMERO has them, with the tokens that it replaces.
const TEMPLATES: [(&str, &str); 5] = [
    ("internal.cfg", include_str!("../peers/omero/internal.cfg")),
    ("master.cfg", include_str!("../peers/omero/master.cfg")),
    ("ice.config", include_str!("../peers/omero/ice.config")),
    (
        "grid/default.xml",
        include_str!("../peers/omero/grid/default.xml"),
    ),
    (
        "grid/templates.xml",
        include_str!("../peers/omero/grid/templates.xml"),
    ),
];

/// The programs that OMERO starts by their names.
const NAMES: [&str; 2] = ["icegridnode", "icegridadmin"];

/// A site of OMERO's, with ports of its own. Whatever has to do with it ends with this value.
pub(crate) struct OmeroSite {
    grid: Grid,
    /// The ports of the registry, and of the router without and with TLS.
    pub(crate) ports: [u16; 3],
}

impl OmeroSite {
    /// Makes a site that was never started: templates, properties, links.
    pub(crate) fn new() -> Self {
        let mut grid = Grid::at("");
        for (name, text) in TEMPLATES {
            grid.write(&format!("etc/templates/{name}"), text);
        }
        let properties = include_str!("../peers/omero/omero.properties");
        grid.write("etc/omero.properties", properties);
        std::fs::create_dir_all(grid.path("etc/grid")).unwrap();
        let path = format!("{}:/usr/bin:/bin", grid.path("bin").display());
        grid.set("PATH", path);
        let dir = grid.dir().to_owned();
        grid.set("OMERODIR", dir);
        let site = Self {
            grid,
            ports: free_ports(),
        };
        site.link();
        site
    }

    /// Makes the links by which OMERO finds this program.
    pub(crate) fn link(&self) {
        std::fs::create_dir_all(self.path("bin")).unwrap();
        for name in NAMES {
            symlink(
                env!("CARGO_BIN_EXE_omero-grid"),
                self.path("bin").join(name),
            )
            .unwrap();
        }
    }

    /// Takes the links away.
    pub(crate) fn unlink(&self) {
        for name in NAMES {
            std::fs::remove_file(self.path("bin").join(name)).unwrap();
        }
    }

    /// Generates the files of properties, as OMERO does before each start; `more` goes to the node's.
    pub(crate) fn rewrite(&self, more: &str) {
        for name in ["internal.cfg", "master.cfg"] {
            let text = self.read(&format!("etc/templates/{name}"));
            let text = text
                .replace("@omero.master.host@", "127.0.0.1")
                .replace("@omero.ports.prefix@", "")
                .replace("@omero.ports.registry@", &self.ports[0].to_string());
            let more = if name == "master.cfg" { more } else { "" };
            self.write(&format!("etc/{name}"), &format!("{text}{more}"));
        }
    }

    /// Prepares a program that the site's PATH finds, or that is named by its path, in the site's environment.
    pub(crate) fn program(&self, name: &str) -> Command {
        let linked = self.path("bin").join(name);
        // A command is looked up on the PATH of who starts it.
        let program = if linked.exists() {
            linked
        } else {
            Path::new("/usr/bin").join(name)
        };
        let mut command = Command::new(program);
        self.hermetic(&mut command);
        // Its registry listens where its files say.
        command.env_remove("OMERO_GRID_REGISTRY_ENDPOINTS");
        command
    }

    /// Runs `icegridnode` as OMERO does to start a site, with this descriptor and these targets.
    #[track_caller]
    pub(crate) fn icegridnode(&self, deploy: &str) -> Run {
        let files = ["etc/internal.cfg", "etc/master.cfg"].map(|name| self.path(name));
        let [internal, master] = files.map(|path| path.display().to_string());
        let mut command = self.program("icegridnode");
        command
            .args(["--daemon", "--pidfile"])
            .arg(self.path("var/master/master.pid"))
            .args(["--nochdir", &format!("--Ice.Config={internal},{master}")]);
        if !deploy.is_empty() {
            command.arg("--deploy").args(deploy.split_whitespace());
        }
        self.finish(&mut command, "")
    }

    /// Runs `icegridadmin` as OMERO does: the one that the PATH finds, or the one at a path.
    #[track_caller]
    pub(crate) fn icegridadmin(&self, program: &str, command: &str) -> Run {
        let mut admin = self.program(program);
        let config = self.path("etc/internal.cfg");
        admin
            .arg(format!("--Ice.Config={}", config.display()))
            .args(["-e", command]);
        self.finish(&mut admin, "")
    }

    /// Waits until a command of `icegridadmin` answers with this on standard output.
    #[track_caller]
    pub(crate) fn wait_says(&self, command: &str, begins: &str) -> String {
        self.wait(&format!("`{command}` to say {begins:?}"), || {
            let run = self.icegridadmin("icegridadmin", command);
            run.stdout.starts_with(begins).then(|| run.stdout.clone())
        })
    }
}

impl Deref for OmeroSite {
    type Target = Grid;

    fn deref(&self) -> &Grid {
        &self.grid
    }
}

impl Drop for OmeroSite {
    fn drop(&mut self) {
        // ZeroC's programs and what they have started, and ours in the foreground, have no mark: they name files of the site.
        if let Err(left) = process::kill_naming(self.grid.dir())
            && !std::thread::panicking()
        {
            panic!("cannot kill what is left of the site: {left}");
        }
    }
}
