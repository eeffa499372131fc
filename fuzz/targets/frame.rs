//! What a peer sends over a local socket.
#![no_main]

use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use libfuzzer_sys::fuzz_target;
use omero_grid::ipc::message::{blitz::BlitzLink, client::ClientLink, node::NodeLink};
use omero_grid::ipc::{Hello, Link, understand};

fn settles<L: Link>(bytes: &[u8]) {
    // Bytes in memory are always there, so nothing has to be waited for.
    let understand = |bytes: &[u8]| {
        let mut reading = pin!(understand::<L>(bytes));
        match reading
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(result) => result,
            Poll::Pending => panic!("it waits"),
        }
    };
    let Ok(first) = understand(bytes) else {
        return;
    };
    let second = understand(&first).expect("what was written is understood");
    assert_eq!(second, first);
}

fuzz_target!(|data: &[u8]| {
    let Some((link, bytes)) = data.split_first() else {
        return;
    };
    match link % 4 {
        0 => settles::<ClientLink>(bytes),
        1 => settles::<NodeLink>(bytes),
        2 => settles::<BlitzLink>(bytes),
        _ => drop(serde_json::from_slice::<Hello>(bytes)),
    }
});
