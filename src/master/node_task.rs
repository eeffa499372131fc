//! One task per node: starts its process or finds the one that runs, tells it what to run, hears how that goes.
//!
//! The task owns the link and the node's process; what a node has to do is decided in `plan`, and what becomes of it is
//! published by the core.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use super::plan::Order;
use super::process::{self, NodeProcess};
use super::shared::{NodeHandle, Shared};
use crate::config::Paths;
use crate::ipc::message::node::{Assignment, Event, NodeLink, Reply, Request, ServerReport};
use crate::ipc::{Address, CallError, Client, ConnectError, Hello, Role, RunDir};
use crate::model::{NodeName, NodeState, ServerId};
use crate::sys::lock::Lock;
use crate::sys::process::stat;
use crate::sys::reaper::Reaper;
use crate::sys::spawn::Spawn;
use crate::telemetry::chain;

/// How long a process that holds a node's name may take to show its socket.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it may take to reach a node before it is said what is waited for.
const LONG: Duration = Duration::from_secs(1);

/// The pause after the first failure of a node; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// A node that was up for this long is started again at once.
const HEALTHY: Duration = Duration::from_secs(60);

/// Counts links.
static LINKS: AtomicU64 = AtomicU64::new(0);

/// News of a node.
#[derive(Debug)]
pub(crate) enum News {
    /// Its own state changed.
    State {
        state: NodeState,
        pid: Option<u32>,
        reason: Option<String>,
    },
    /// How these servers are now.
    Servers(Vec<ServerReport>),
    /// These servers are no more.
    Removed(Vec<ServerId>),
}

/// What the task of a node needs.
pub(crate) struct NodeTask {
    pub(crate) name: NodeName,
    pub(crate) paths: Paths,
    pub(crate) run_dir: RunDir,
    pub(crate) order: watch::Receiver<Order>,
    pub(crate) news: mpsc::Sender<(NodeName, News)>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) reaper: Reaper,
}

/// How the time with a node ended.
enum End {
    /// As it was told to.
    Stopped,
    /// Of its own accord.
    Lost(String),
    /// The master itself goes.
    Quit,
}

/// A node that cannot be reached.
#[derive(Debug, thiserror::Error)]
enum ReachError {
    #[error("cannot connect to the node")]
    Connect(#[from] ConnectError),
    #[error("cannot start the node's process")]
    Start(#[from] process::StartError),
    #[error("another process has the name of node {0}, and does not answer")]
    Silent(NodeName),
    #[error("{found} answers in place of node {name}")]
    Impostor { name: NodeName, found: String },
}

type Link = (Client<NodeLink>, Hello, mpsc::Receiver<Event>);

/// A request to the node that is under way.
type Call = Pin<Box<dyn Future<Output = Result<Reply, CallError>> + Send>>;

impl NodeTask {
    /// Runs until the core drops the other end of `order`.
    pub(crate) async fn run(mut self) {
        let mut failures = 0_u32;
        loop {
            let order = self.order.borrow_and_update().clone();
            let end = match order {
                Order::Stop => match self.find_anything().await {
                    None => End::Stopped,
                    Some(link) => self.attend(link).await.1,
                },
                Order::Run(_) => {
                    self.tell_state(NodeState::Starting, None, None).await;
                    match self.reach_telling().await {
                        Ok(link) => {
                            let (up, end) = self.attend(link).await;
                            if up.is_some_and(|up| up.elapsed() >= HEALTHY) {
                                failures = 0;
                            }
                            end
                        }
                        Err(error) => End::Lost(match self.hanging() {
                            Some(hanging) => format!("{hanging}: {}", chain(&error)),
                            None => chain(&error),
                        }),
                    }
                }
            };
            let pause = match end {
                End::Quit => return,
                End::Stopped => {
                    failures = 0;
                    self.tell_state(NodeState::Down, None, None).await;
                    None
                }
                // The same process goes on with another program and has its socket open.
                End::Lost(_) if self.shared.is_giving_way(&self.name) => continue,
                End::Lost(reason) => {
                    warn!(node = %self.name, reason, attempt = failures, "lost a node");
                    self.tell_state(NodeState::Lost, None, Some(reason)).await;
                    let pause = pause_after(failures);
                    failures = failures.saturating_add(1);
                    Some(pause)
                }
            };
            // Cancel safe: both arms only wait.
            tokio::select! {
                changed = self.order.changed() => if changed.is_err() { return },
                () = sleep(pause) => {}
            }
        }
    }

    async fn tell_state(&self, state: NodeState, pid: Option<u32>, reason: Option<String>) {
        self.tell(News::State { state, pid, reason }).await;
    }

    async fn tell(&self, news: News) {
        // The core being gone means that the master ends.
        let _ = self.news.send((self.name.clone(), news)).await;
    }

    fn socket(&self) -> PathBuf {
        self.run_dir.socket(Address::Node(&self.name))
    }

    async fn connect(&self) -> Result<Link, ReachError> {
        let link = Client::connect(&self.socket(), &Hello::new(Role::Master, "master")).await?;
        if link.1.role != Role::Node || link.1.name != self.name.as_str() {
            let found = format!("{:?} {:?}", link.1.role, link.1.name);
            return Err(ReachError::Impostor {
                name: self.name.clone(),
                found,
            });
        }
        Ok(link)
    }

    /// Connects to the node that runs, or starts one. Says what it waits for if that takes long.
    async fn reach_telling(&self) -> Result<Link, ReachError> {
        let reaching = self.reach();
        tokio::pin!(reaching);
        // Cancel safe: `reaching` is polled on.
        tokio::select! {
            reached = &mut reaching => return reached,
            () = tokio::time::sleep(LONG) => {}
        }
        let waits = self
            .hanging()
            .unwrap_or_else(|| "its process is being started".to_owned());
        self.tell_state(NodeState::Starting, None, Some(waits))
            .await;
        reaching.await
    }

    /// Says what is with the process that has the node's name, if there is one.
    fn hanging(&self) -> Option<String> {
        let pid = Lock::holder(&self.paths.node_lock(&self.name))?;
        let stopped = stat(pid).is_some_and(|stat| stat.is_stopped());
        Some(if stopped {
            format!("its process {pid} is stopped")
        } else {
            format!("its process {pid} has not answered yet")
        })
    }

    /// Connects to the node that runs, or starts one.
    async fn reach(&self) -> Result<Link, ReachError> {
        match self.connect().await {
            Err(ReachError::Connect(ConnectError::Nobody { .. })) => {}
            other => return other,
        }
        let socket = self.socket();
        let spawn = |process: &Spawn<'_>| self.reaper.spawn(process).map(|child| child.pid);
        match process::start(&self.name, &self.paths, spawn).await? {
            NodeProcess::Ready { pid } => {
                info!(node = %self.name, pid, "started a node");
                self.connect().await
            }
            // It is on its way up, or on its way down: either it shows its socket or the next try starts one.
            NodeProcess::NameTaken => {
                let appears = crate::sys::watch::appearance(&socket);
                match tokio::time::timeout(PATIENCE, appears).await {
                    Ok(Ok(())) => self.connect().await,
                    _ => Err(ReachError::Silent(self.name.clone())),
                }
            }
        }
    }

    /// Connects to the node if it runs, or starts one if only servers of it are left; `None` if nothing is.
    async fn find_anything(&self) -> Option<Link> {
        match self.connect().await {
            Ok(link) => return Some(link),
            Err(ReachError::Connect(ConnectError::Nobody { .. })) => {}
            Err(error) => {
                warn!(node = %self.name, error = %chain(&error), "cannot reach a node that has to stop")
            }
        }
        if !process::has_leftovers(&self.paths, &self.name) {
            return None;
        }
        match self.reach().await {
            Ok(link) => Some(link),
            Err(error) => {
                warn!(node = %self.name, error = %chain(&error), "cannot stop the servers of a node");
                None
            }
        }
    }

    /// Tells the node what to run and hears how it goes, until it is gone. Returns since when it was up, and how it ended.
    async fn attend(&mut self, (client, hello, mut events): Link) -> (Option<Instant>, End) {
        self.tell_state(NodeState::Starting, Some(hello.pid), None)
            .await;
        let process = process::handle(hello.pid);
        let (generation, configured) = watch::channel(0);
        self.shared.set_link(
            &self.name,
            Some(NodeHandle {
                client: client.clone(),
                configured,
                number: LINKS.fetch_add(1, Ordering::Relaxed),
            }),
        );
        let mut up = None;
        let mut stopping = false;
        let mut calling: Option<Call> = None;
        // The order at hand, which may be older than this link.
        let mut pending = Some(self.order.borrow_and_update().clone());
        let end = loop {
            if calling.is_none()
                && let Some(order) = pending.take()
            {
                let request = match order {
                    Order::Run(assignment) => Request::Configure(Assignment::clone(&assignment)),
                    Order::Stop => {
                        stopping = true;
                        self.tell_state(NodeState::Stopping, Some(hello.pid), None)
                            .await;
                        Request::Stop
                    }
                };
                let client = client.clone();
                calling = Some(Box::pin(async move { client.call(&request).await }));
            }
            // Cancel safe: channels and watches lose nothing, and the call is kept in `calling`.
            tokio::select! {
                result = async { calling.as_mut().expect("guarded by the condition").await }, if calling.is_some() => {
                    calling = None;
                    match result {
                        Ok(Reply::Configured { generation: told }) => drop(generation.send_replace(told)),
                        Ok(_) | Err(CallError::Lost) => {}
                        Err(error) => warn!(node = %self.name, error = %chain(&error), "a node refused an order"),
                    }
                }
                event = events.recv() => match event {
                    Some(Event::Up) => {
                        up = Some(Instant::now());
                        if !stopping {
                            self.tell_state(NodeState::Up, Some(hello.pid), None).await;
                        }
                    }
                    Some(event) => self.hear(event).await,
                    None => break if stopping { End::Stopped } else { End::Lost("its process ended".to_owned()) },
                },
                changed = self.order.changed() => match changed {
                    Ok(()) => pending = Some(self.order.borrow_and_update().clone()),
                    Err(_) => break End::Quit,
                },
            }
        };
        self.shared.set_link(&self.name, None);
        if stopping {
            // Its lock goes with the process, not with the connection.
            process.ended().await;
        }
        (up, end)
    }

    async fn hear(&self, event: Event) {
        match event {
            Event::Servers { servers } => self.tell(News::Servers(servers)).await,
            Event::Removed { servers } => self.tell(News::Removed(servers)).await,
            Event::Opened { server, ids } => self.shared.directory().open(&server, &ids),
            Event::Closed { server, ids } => self.shared.directory().close(&server, &ids),
            Event::Forget { server } => self.shared.directory().forget(&server),
            Event::Up => {}
        }
    }
}

async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

/// Returns the pause before the next try: none after the first failure.
fn pause_after(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => FIRST_PAUSE
            .saturating_mul(1 << doublings.min(16))
            .min(MAX_PAUSE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_a_minute() {
        let pauses: Vec<_> = [0, 1, 2, 3, 10, 11, 1000]
            .map(|n| pause_after(n).as_millis())
            .into();
        assert_eq!(pauses, [0, 100, 200, 400, 51_200, 60_000, 60_000]);
    }
}
