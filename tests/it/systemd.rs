//! `start --foreground` under systemd, played by the test (sd_notify(3)).

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{
    Grid, alive, application, blitz, example, kill, living, node, server, sleeper,
};

/// The manager's end of `NOTIFY_SOCKET`.
struct Manager {
    socket: UnixDatagram,
    /// All lines that came, in order.
    seen: Vec<String>,
}

impl Manager {
    /// Listens, and has the grid told where.
    fn of(grid: &mut Grid) -> Self {
        let path = grid.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        grid.set("NOTIFY_SOCKET", path.as_os_str());
        Self {
            socket,
            seen: Vec::new(),
        }
    }

    /// Takes what has come.
    fn receive(&mut self) {
        let mut bytes = [0; 4096];
        if let Ok(length) = self.socket.recv(&mut bytes) {
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            self.seen.extend(text.lines().map(str::to_owned));
        }
    }

    /// Waits until a line that begins like this has come, and returns its place among all lines.
    #[track_caller]
    fn wait(&mut self, grid: &Grid, start: &str) -> usize {
        let limit = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(at) = self.seen.iter().position(|line| line.starts_with(start)) {
                return at;
            }
            assert!(
                Instant::now() < limit,
                "no {start}: {:?}\n{}",
                self.seen,
                grid.report()
            );
            self.receive();
        }
    }

    fn forget(&mut self) {
        // What has come, not what is yet to come: a watchdog is fed for ever.
        self.socket.set_nonblocking(true).unwrap();
        while self.socket.recv(&mut [0; 4096]).is_ok() {}
        self.socket.set_nonblocking(false).unwrap();
        self.seen.clear();
    }
}

#[test]
fn ready_is_said_when_the_required_servers_are_active_and_not_before() {
    let slow = |id: &str, gate: &str| {
        let script = format!(
            "while ! test -e {gate}; do sleep 0.02; done; exec {} 0",
            example("slow_ready")
        );
        server(id, "/bin/sh")
            .option("-c")
            .option(&script)
            .property("omero.grid.ready", "notify")
    };
    let mut grid = Grid::new(&application(&[node(
        "n",
        &[
            slow("first", "gate1"),
            slow("second", "gate2"),
            sleeper("s"),
        ],
    )]));
    let mut manager = Manager::of(&mut grid);
    let mut master = grid.foreground("grid.xml");
    manager.wait(&grid, "EXTEND_TIMEOUT_USEC=");
    manager.wait(&grid, "STATUS=starting; waiting for first, second");
    grid.wait_state("s", "active");
    grid.write("gate1", "");
    grid.wait_state("first", "active");
    manager.wait(&grid, "STATUS=starting; waiting for second");
    assert!(
        !manager.seen.iter().any(|line| line == "READY=1"),
        "{:?}",
        manager.seen
    );
    grid.write("gate2", "");
    let ready = manager.wait(&grid, "READY=1");
    assert_eq!(grid.server("second").unwrap()["state"], "active");
    let waiting = manager
        .seen
        .iter()
        .rposition(|line| line.starts_with("STATUS=starting"))
        .unwrap();
    assert!(waiting < ready, "{:?}", manager.seen);
    // systemd's own variables are not the servers'.
    let environ = std::fs::read(format!("/proc/{}/environ", grid.pid("s"))).unwrap();
    assert!(!String::from_utf8_lossy(&environ).contains(grid.path("notify").to_str().unwrap()));
    kill(master.pid(), Signal::SIGTERM);
    manager.wait(&grid, "STOPPING=1");
    assert_eq!(master.ended(&grid), Some(0));
    assert_eq!(living(grid.dir()), []);
}

#[test]
fn required_servers_can_be_named() {
    let never = sleeper("never").property("omero.grid.ready", "notify");
    let required = "<variable name=\"omero.grid.required\" value=\"s\"/>\n".to_owned();
    let mut grid = Grid::new(&application(&[
        required,
        node("n", &[never.clone(), sleeper("s")]),
    ]));
    let mut manager = Manager::of(&mut grid);
    let _master = grid.foreground("grid.xml");
    manager.wait(&grid, "READY=1");
    assert_eq!(grid.server("never").unwrap()["state"], "activating");
}

#[test]
fn by_default_the_blitzes_are_required() {
    let never = sleeper("never").property("omero.grid.ready", "notify");
    let mut grid = Grid::new(&application(&[node("n", &[never, blitz("Blitz-0")])]));
    let mut manager = Manager::of(&mut grid);
    let _master = grid.foreground("grid.xml");
    manager.wait(&grid, "READY=1");
    assert_eq!(grid.server("Blitz-0").unwrap()["blitz"]["accepting"], "yes");
    assert_eq!(grid.server("never").unwrap()["state"], "activating");
}

#[test]
fn the_watchdog_is_fed() {
    let mut grid = Grid::new(&application(&[node("n", &[sleeper("s")])]));
    let mut manager = Manager::of(&mut grid);
    grid.set("WATCHDOG_USEC", "200000");
    let master = grid.foreground("grid.xml");
    manager.wait(&grid, "READY=1");
    for _ in 0..3 {
        manager.forget();
        manager.wait(&grid, "WATCHDOG=1");
    }
    // A master that hangs does not feed it.
    kill(master.pid(), Signal::SIGSTOP);
    manager.forget();
    for _ in 0..5 {
        manager.receive();
    }
    assert_eq!(manager.seen, Vec::<String>::new());
    kill(master.pid(), Signal::SIGCONT);
    manager.wait(&grid, "WATCHDOG=1");
}

#[test]
fn a_watchdog_meant_for_another_process_is_not_fed() {
    let mut grid = Grid::new(&application(&[node("n", &[sleeper("s")])]));
    let mut manager = Manager::of(&mut grid);
    grid.set("WATCHDOG_USEC", "50000");
    grid.set("WATCHDOG_PID", "1");
    let _master = grid.foreground("grid.xml");
    manager.wait(&grid, "READY=1");
    for _ in 0..5 {
        manager.receive();
    }
    assert!(
        !manager.seen.iter().any(|line| line == "WATCHDOG=1"),
        "{:?}",
        manager.seen
    );
}

#[test]
fn a_main_process_that_was_killed_is_started_again_and_adopts() {
    let mut grid = Grid::new(&application(&[node(
        "n",
        &[blitz("Blitz-0"), sleeper("s")],
    )]));
    let mut manager = Manager::of(&mut grid);
    let mut first = grid.foreground("grid.xml");
    manager.wait(&grid, "READY=1");
    let session = grid.session();
    let (node, blitz, sleeper) = (grid.node_pid("n"), grid.pid("Blitz-0"), grid.pid("s"));
    first.kill();
    assert!(alive(node) && alive(blitz) && alive(sleeper));
    manager.forget();
    let mut second = grid.foreground("grid.xml");
    manager.wait(&grid, "READY=1");
    assert_eq!(grid.master_pid(), second.pid());
    assert_eq!(
        (grid.node_pid("n"), grid.pid("Blitz-0"), grid.pid("s")),
        (node, blitz, sleeper)
    );
    assert_eq!(
        grid.json(&format!("session join {session}"))["uuid"],
        session
    );
    kill(second.pid(), Signal::SIGTERM);
    assert_eq!(second.ended(&grid), Some(0));
    assert_eq!(living(grid.dir()), []);
}

#[test]
fn systemctl_reload_is_sighup() {
    let mut grid = Grid::new(&application(&[node("n", &[sleeper("s")])]));
    let mut manager = Manager::of(&mut grid);
    let master = grid.foreground("grid.xml");
    manager.wait(&grid, "READY=1");
    grid.write(
        "grid.xml",
        &application(&[node("n", &[sleeper("s"), sleeper("t")])]),
    );
    kill(master.pid(), Signal::SIGHUP);
    grid.wait_state("t", "active");
}

#[test]
fn a_start_that_fails_ends_with_its_code_and_is_never_ready() {
    let mut grid = Grid::new("<icegrid>");
    let mut manager = Manager::of(&mut grid);
    let mut master = grid.foreground("grid.xml");
    assert_eq!(master.ended(&grid), Some(4));
    manager.receive();
    assert!(!manager.seen.iter().any(|line| line == "READY=1"));
    assert!(
        grid.read("foreground.log").contains("grid.xml:1:"),
        "{}",
        grid.report()
    );
}
