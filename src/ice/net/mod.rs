#![doc = include_str!("LIFECYCLE.md")]

mod adapter;
mod call;
mod client;
mod connect;
mod connection;
mod dispatch;
mod driver;
mod error;
mod flights;
mod locate;
mod publish;
mod servants;
mod settings;
mod squeeze;
mod timers;
mod tls;

pub use adapter::{Adapter, BindError};
pub use call::{Answer, Call};
pub use client::{Client, ClientSettings};
pub use connect::Driving;
pub use connection::Connection;
pub use dispatch::{Dispatcher, Incoming, Responder, Served, Work, malformed};
pub use error::{ConnectError, Ended, InvokeError};
pub use servants::{Servant, Servants, serve};
pub use settings::{Acm, Heartbeat, IdleClose, Settings};
pub use tls::{Encryption, Tls, TlsError, TlsSettings, VerifyPeer};
