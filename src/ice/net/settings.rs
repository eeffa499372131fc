//! How connections behave: limits, time limits, and the care for idle ones.

use std::time::Duration;

use super::tls::Tls;

/// When a connection on which nothing happens is closed (`Ice.ACM.*.Close`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleClose {
    /// Never.
    Off = 0,
    /// In good order, when neither side waits for anything.
    OnIdle = 1,
    /// At once, when calls wait for their answers and nothing is heard.
    OnInvocation = 2,
    /// Either.
    OnInvocationAndIdle = 3,
    /// At once, whatever it is used for, when nothing is heard.
    Forceful = 4,
}

/// When the other side is told that this one is still there (`Ice.ACM.*.Heartbeat`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heartbeat {
    /// Never.
    Off = 0,
    /// While it waits for an answer.
    OnDispatch = 1,
    /// When nothing else is sent.
    OnIdle = 2,
    /// Always.
    Always = 3,
}

/// The care for idle connections: what Ice calls active connection management.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acm {
    /// How long nothing may happen; zero turns everything off. Heartbeats come after a quarter of it.
    pub timeout: Duration,
    /// What happens then.
    pub close: IdleClose,
    /// When heartbeats are sent.
    pub heartbeat: Heartbeat,
}

impl Acm {
    /// What Ice does at the end that connects.
    pub const CLIENT: Self = Self {
        timeout: Duration::from_secs(60),
        close: IdleClose::OnInvocationAndIdle,
        heartbeat: Heartbeat::OnDispatch,
    };

    /// What Ice does at the end that accepts.
    pub const SERVER: Self = Self {
        close: IdleClose::OnInvocation,
        ..Self::CLIENT
    };

    /// Nothing.
    pub const OFF: Self = Self {
        timeout: Duration::ZERO,
        close: IdleClose::Off,
        heartbeat: Heartbeat::Off,
    };
}

/// How connections behave.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The largest message that is accepted or sent, in bytes (`Ice.MessageSizeMax`, which is in kilobytes).
    pub message_max: usize,
    /// The care for connections that this side opened.
    pub client_acm: Acm,
    /// The care for connections that this side accepted.
    pub server_acm: Acm,
    /// How long it may take to connect, in place of the endpoint's own time limit.
    pub connect: Option<Duration>,
    /// How long a connection may stand still in the middle of a message, in either direction.
    pub stall: Duration,
    /// How long the other side may take to close a connection that is being closed.
    pub close: Duration,
    /// How many requests of one connection may be under way; further ones wait to be read.
    pub dispatch_max: usize,
    /// How many bytes may wait to be written to one connection. Beyond, nothing is read from it and who calls over it waits.
    pub output_max: usize,
    /// How many connections an adapter has; further ones wait to be accepted.
    pub connections_max: usize,
    /// The host of endpoints that name none (`Ice.Default.Host`).
    pub default_host: Option<String>,
    /// Keys, certificates, and whose are believed.
    pub tls: Tls,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            message_max: 1024 * 1024,
            client_acm: Acm::CLIENT,
            server_acm: Acm::SERVER,
            connect: None,
            stall: Duration::from_secs(60),
            close: Duration::from_secs(10),
            dispatch_max: 256,
            output_max: 256 * 1024,
            connections_max: 10_000,
            default_host: None,
            tls: Tls::default(),
        }
    }
}
