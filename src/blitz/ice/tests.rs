//! A whole Blitz in this process, with a registry that is not much of one.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::answer;
use crate::blitz::properties::{Properties, Settings};
use crate::blitz::{BlitzError, Setup, serve};
use crate::config::Paths;
use crate::ice::net::{
    Adapter, Answer, Call, Client, ClientSettings, Incoming, Responder, Servant, Servants, Served,
    Settings as NetSettings,
};
use crate::ice::{Encode as _, Endpoint, Identity, Missing, Mode, Proxy, Reference};
use crate::ipc::message::blitz::{Authority, BlitzLink, Reply, Request, Session, Target};
use crate::ipc::{Address, Client as Link, Hello, Role, RunDir};
use crate::model::{Secret, SessionId};

const PATIENCE: Duration = Duration::from_secs(30);

/// What the registry was told: the adapter, its group, and where it listens.
type Told = (String, String, Option<Proxy>);

/// Says where the registry is, and takes what it is told.
struct Registry {
    me: Mutex<Option<Proxy>>,
    told: mpsc::Sender<Told>,
}

impl Servant for Registry {
    fn types(&self) -> &[&str] {
        &["::Ice::Locator", "::Ice::LocatorRegistry"]
    }

    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        match incoming.target().operation {
            "getRegistry" => {
                let me = self.me.lock().unwrap().clone();
                responder.done(|writer| me.encode(writer))
            }
            "setReplicatedAdapterDirectProxy" => {
                let told = incoming.request.params.decode::<Told>().unwrap();
                self.told.try_send(told).unwrap();
                responder.done(|_| {})
            }
            _ => responder.missing(Missing::Operation),
        }
    }
}

/// A registry on a port.
struct Running {
    endpoints: Vec<Endpoint>,
    told: mpsc::Receiver<Told>,
    _stop: watch::Sender<bool>,
}

impl Running {
    async fn start(at: &str) -> Self {
        let (to, told) = mpsc::channel(16);
        let registry = Arc::new(Registry {
            me: Mutex::default(),
            told: to,
        });
        let identity: Identity = "IceGrid/Locator".parse().unwrap();
        let servants = Arc::new(Servants::new());
        servants.add(&identity, "", registry.clone());
        let endpoints = Endpoint::parse_all(at).unwrap();
        let adapter = Adapter::bind(&endpoints, Arc::new(NetSettings::default()), servants)
            .await
            .unwrap();
        *registry.me.lock().unwrap() = Some(adapter.proxy(identity));
        let (stop, stopping) = watch::channel(false);
        let endpoints = adapter.endpoints().to_vec();
        tokio::spawn(adapter.serve(stopping));
        Self {
            endpoints,
            told,
            _stop: stop,
        }
    }

    async fn next(&mut self) -> Told {
        let told = timeout(PATIENCE, self.told.recv()).await;
        told.expect("the registry is told").unwrap()
    }
}

/// A Blitz that knows a locator.
struct Blitz {
    temp: TempDir,
    password: Secret,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), BlitzError>>,
}

impl Blitz {
    async fn start(locator: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let paths = Paths::new(temp.path().to_owned(), temp.path().to_owned());
        let made = crate::store::bootstrap(&paths.store(), &paths.root_password());
        let properties = format!(
            "BlitzAdapter.Endpoints=tcp -h 127.0.0.1\nBlitzAdapter.AdapterId=Blitz-0.BlitzAdapter\n\
             BlitzAdapter.ReplicaGroupId=BlitzAdapters\nIce.Default.Locator={locator}\n"
        );
        let setup = Setup {
            server: "Blitz-0".parse().unwrap(),
            paths,
            settings: Settings::of(&Properties::parse(&properties)).unwrap(),
            cores: 2,
            probe: None,
        };
        let stop = watch::Sender::new(false);
        let (ready, is_ready) = oneshot::channel();
        let task = tokio::spawn(serve(setup, stop.clone(), move || ready.send(()).unwrap()));
        is_ready.await.expect("the Blitz starts");
        Self {
            password: made.unwrap().created_root.unwrap(),
            temp,
            stop,
            task,
        }
    }

    async fn link(&self) -> Link<BlitzLink> {
        let server = "Blitz-0".parse().unwrap();
        let dir = RunDir::find(self.temp.path()).unwrap();
        let path = dir.socket(Address::Blitz(&server));
        let hello = Hello::new(Role::Client, "test");
        Link::connect(&path, &hello).await.unwrap().0
    }

    async fn sessions(&self) -> Vec<Session> {
        let list = Request::List {
            after: None,
            limit: 10,
            filter: crate::ipc::message::blitz::Filter::default(),
        };
        match self.link().await.call(&list).await.unwrap() {
            Reply::Sessions { sessions, .. } => sessions,
            other => panic!("{other:?}"),
        }
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap().unwrap();
    }
}

/// A client that says what it is called.
struct Caller {
    client: Client,
    at: Proxy,
    name: Option<&'static str>,
}

impl Caller {
    async fn call(
        &self,
        identity: Identity,
        operation: &str,
        fill: impl FnOnce(&mut crate::ice::Writer),
    ) -> Answer {
        let proxy = Proxy {
            identity,
            ..self.at.clone()
        };
        let mut call = Call::new(&proxy, operation, Mode::Normal).with(fill);
        if let Some(name) = self.name {
            let pairs = [("omero.client.uuid", name), ("omero.agent", "test")];
            let owned = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
            call.context.extend(owned);
        }
        self.client
            .invoke(&proxy, &call, Some(PATIENCE))
            .await
            .unwrap()
    }

    async fn check(&self, user: &str, password: &str) -> (String, bool) {
        let verifier = Identity::new("BlitzVerifier");
        let pair = (user, password);
        let answer = self.call(verifier, "checkPermissions", |w| pair.encode(w));
        answer::results(&answer.await).unwrap()
    }

    async fn create(&self, user: &str) -> Result<Proxy, String> {
        let manager = Identity::new("BlitzManager");
        let params = (user, None::<Proxy>);
        let answer = self.call(manager, "create", |w| params.encode(w));
        answer::proxy(&answer.await)
    }

    async fn ask(&self, session: &Proxy, operation: &str) -> Result<(), String> {
        let identity = session.identity.clone();
        match self.call(identity, operation, |_| {}).await {
            Answer::Done { .. } => Ok(()),
            other => answer::results::<()>(&other),
        }
    }
}

fn caller(at: &Proxy, name: Option<&'static str>) -> Caller {
    Caller {
        client: Client::new(ClientSettings::default()),
        at: at.clone(),
        name,
    }
}

#[tokio::test]
async fn it_registers_when_there_is_a_registry_and_leaves_it_at_the_end() {
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let place = format!("tcp -h 127.0.0.1 -p {port}");
    // It is ready without one.
    let blitz = Blitz::start(&format!("IceGrid/Locator:{place}")).await;
    assert!(blitz.sessions().await.is_empty());
    let mut registry = Running::start(&place).await;
    let (adapter, group, at) = registry.next().await;
    assert_eq!(
        (adapter.as_str(), group.as_str()),
        ("Blitz-0.BlitzAdapter", "BlitzAdapters")
    );
    let at = at.expect("a proxy");
    assert_eq!(at.identity.name, "dummy");
    assert!(matches!(at.reference, Reference::Direct(_)));
    blitz.stop().await;
    assert!(matches!(registry.next().await, (_, _, None)));
    assert!(registry.told.try_recv().is_err(), "told twice");
}

#[tokio::test]
async fn only_who_was_verified_gets_a_session_and_once() {
    let mut registry = Running::start("tcp -h 127.0.0.1 -p 0").await;
    let locator = format!("IceGrid/Locator:{}", registry.endpoints[0]);
    let blitz = Blitz::start(&locator).await;
    let at = registry.next().await.2.unwrap();
    let password = blitz.password.clone();
    let (one, two) = (caller(&at, Some("one")), caller(&at, Some("two")));

    let cannot = "::Glacier2::CannotCreateSessionException";
    assert_eq!(one.create("root").await, Err(cannot.to_owned()));
    let nameless = caller(&at, None);
    let wrapped = "::omero::WrappedCreateSessionException".to_owned();
    assert_eq!(nameless.create("root").await, Err(wrapped));
    let (reason, right) = one.check("root", "wrong").await;
    assert_eq!(
        (reason.as_str(), right),
        ("wrong user name or password", false)
    );
    assert_eq!(one.create("root").await, Err(cannot.to_owned()));

    assert_eq!(
        one.check("root", password.reveal()).await,
        (String::new(), true)
    );
    assert_eq!(two.create("root").await, Err(cannot.to_owned()));
    let session = one.create("root").await.unwrap();
    assert_eq!(one.create("root").await, Err(cannot.to_owned()));
    assert_eq!(session.identity.category, "session-one");
    assert_eq!(session.reference, at.reference);
    let list = blitz.sessions().await;
    assert_eq!(list.len(), 1);
    assert_eq!(
        (list[0].user.as_str(), list[0].agent.as_str()),
        ("root", "test")
    );
    let uuid = session.identity.name.clone();
    assert_eq!(list[0].uuid.reveal(), uuid);

    // Another client joins, and leaves it to the first.
    assert_eq!(two.check(&uuid, &uuid).await, (String::new(), true));
    let joined = two.create(&uuid).await.unwrap();
    assert_eq!(joined.identity.category, "session-two");
    assert_eq!(blitz.sessions().await[0].references, 2);
    two.ask(&joined, "destroy").await.unwrap();
    assert!(two.ask(&joined, "keepAlive").await.is_err());
    assert_eq!(blitz.sessions().await[0].references, 1);
    one.ask(&session, "keepAlive").await.unwrap();
    assert!(one.ask(&session, "getAdminService").await.is_err());

    // A client that comes again while its first connection is lost leaves once for each.
    assert!(one.check(&uuid, &uuid).await.1);
    let second = one.create(&uuid).await.unwrap();
    assert_eq!(second.identity, session.identity);
    one.ask(&session, "destroy").await.unwrap();
    one.ask(&second, "keepAlive").await.unwrap();
    assert_eq!(blitz.sessions().await[0].references, 1);

    // Left behind, it waits for who joins it.
    one.ask(&session, "detachOnDestroy").await.unwrap();
    one.ask(&session, "destroy").await.unwrap();
    assert_eq!(blitz.sessions().await.len(), 1);
    assert!(one.check(&uuid, &uuid).await.1);
    let again = one.create(&uuid).await.unwrap();
    let close = Request::Close {
        target: Target::Uuid {
            session: SessionId::parse(&uuid).unwrap(),
        },
        authority: Authority::Owner,
    };
    blitz.link().await.call(&close).await.unwrap();
    let gone = one.ask(&again, "keepAlive").await;
    assert_eq!(gone, Err("Object is missing".to_owned()));
    let (_, right) = one.check(&uuid, &uuid).await;
    assert!(!right, "it has ended");
    blitz.stop().await;
}
