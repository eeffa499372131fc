//! A server of Ice that the peer tests call: `Demo::Echo` of `tests/it/peers/Demo.ice`.
//!
//! Usage: `ice_echo ENDPOINT… --IceSSL.NAME=VALUE…`. Prints the proxy of its object, and ends in good order when its standard input does.

use std::io::Read as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use omero_grid::ice::net::{
    Adapter, Answer, Call, Incoming, Responder, Servant, Servants, Served, Settings, Tls,
    TlsSettings,
};
use omero_grid::ice::{
    Decode as _, DecodeError, Endpoint, Identity, Missing, Mode, Proxy, Reference,
};
use tokio::sync::watch;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Default)]
struct Echo {
    logged: Mutex<String>,
}

impl Servant for Echo {
    fn types(&self) -> &[&str] {
        &["::Demo::Echo"]
    }

    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        match incoming.target().operation {
            "say" => match text(incoming) {
                Ok(text) => responder.done(|writer| writer.text(text)),
                Err(error) => responder.malformed(&error),
            },
            "fail" => match text(incoming) {
                Ok(reason) => responder.exception(|writer| {
                    // The compact format: the last slice, without a size.
                    writer.byte(0x20);
                    writer.text("::Demo::Refused");
                    writer.text(reason);
                }),
                Err(error) => responder.malformed(&error),
            },
            "log" => match text(incoming) {
                Ok(text) => {
                    self.logged
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push_str(text);
                    responder.done(|_| {})
                }
                Err(error) => responder.malformed(&error),
            },
            "logged" => {
                let logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
                responder.done(|writer| writer.text(&logged))
            }
            "sleep" => {
                let millis = incoming.params().and_then(|mut params| params.int());
                let millis = match millis.map(u64::try_from) {
                    Ok(millis) => millis.unwrap_or(0),
                    Err(error) => return responder.malformed(&error),
                };
                let encoding = responder.encoding();
                responder.later(async move {
                    tokio::time::sleep(Duration::from_millis(millis)).await;
                    Answer::done(encoding, |_| {})
                })
            }
            "callMe" => match sink(incoming) {
                Ok((sink, times)) => {
                    let connection = incoming.connection.clone();
                    let encoding = responder.encoding();
                    responder.later(async move {
                        for number in 0..times {
                            let call = Call::new(&sink, "tell", Mode::Normal)
                                .with(|writer| writer.text(&format!("call {number}")));
                            if let Err(error) = connection.invoke(&call, None).await {
                                return Answer::Unknown(7, error.to_string());
                            }
                        }
                        Answer::done(encoding, |_| {})
                    })
                }
                Err(error) => responder.malformed(&error),
            },
            _ => responder.missing(Missing::Operation),
        }
    }
}

fn text<'a>(incoming: &Incoming<'a>) -> Result<&'a str, DecodeError> {
    let mut params = incoming.params()?;
    let text = params.text()?;
    params.finish()?;
    Ok(text)
}

fn sink(incoming: &Incoming<'_>) -> Result<(Proxy, i32), DecodeError> {
    let mut params = incoming.params()?;
    let sink = Option::<Proxy>::decode(&mut params)?;
    let times = params.int()?;
    params.finish()?;
    sink.map(|sink| (sink, times)).ok_or(DecodeError::Identity)
}

fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve())
}

async fn serve() -> Result<(), Failure> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    let (properties, texts): (Vec<String>, Vec<String>) = std::env::args()
        .skip(1)
        .partition(|argument| argument.starts_with("--"));
    for text in texts {
        let proxy: Proxy = format!("x:{text}").parse()?;
        if let Reference::Direct(all) = proxy.reference {
            endpoints.extend(all);
        }
    }
    let mut settings = Settings::default();
    if !properties.is_empty() {
        let get = |name: &str| {
            let mut values = properties
                .iter()
                .filter_map(|property| property.strip_prefix("--")?.split_once('='));
            values
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.to_owned())
        };
        settings.tls = Tls::new(&TlsSettings::of(get)?)?;
    }
    let servants = Arc::new(Servants::new());
    servants.add(&Identity::new("echo"), "", Arc::new(Echo::default()));
    let adapter = Adapter::bind(&endpoints, Arc::new(settings), servants).await?;
    println!("{}", adapter.proxy(Identity::new("echo")));
    let (stop, stopped) = watch::channel(false);
    let (served, ()) = tokio::join!(
        async {
            adapter.serve(stopped).await;
            Ok(())
        },
        async {
            let wait = || std::io::stdin().read_to_end(&mut Vec::new());
            // Whatever ends it.
            let _ = tokio::task::spawn_blocking(wait).await;
            stop.send_replace(true);
        }
    );
    served
}
