//! `node …` and `registry …`: where servers run, and who knows them.

use std::collections::BTreeMap;

use super::output::Output;
use super::run::{Console, Result, list};
use crate::ice::Mode;
use crate::icegrid::client::{Admin, Fault, Raised};
use crate::icegrid::types::*;

pub(super) async fn list_nodes(admin: &Admin, console: &mut Console<'_>) -> Result<()> {
    let names: Vec<String> = admin.call("getAllNodeNames", Mode::Nonmutating, ()).await?;
    list(console, names)
}

async fn node(admin: &Admin, name: &str) -> Result<NodeInfo> {
    Ok(admin
        .call("getNodeInfo", Mode::Nonmutating, (name,))
        .await?)
}

pub(super) async fn describe_node(
    admin: &Admin,
    console: &mut Console<'_>,
    name: &str,
) -> Result<()> {
    let info = node(admin, name).await?;
    let mut out = Output::default();
    out.block(format!("node `{name}'"), |out| {
        out.value("operating system", &info.os);
        out.value("host name", &info.hostname);
        out.value("release", &info.release);
        out.value("version", &info.version);
        out.value("machine type", &info.machine);
        out.value("number of threads", &info.n_processors.to_string());
    });
    console.print(&out.end())
}

pub(super) async fn ping_node(admin: &Admin, console: &mut Console<'_>, name: &str) -> Result<()> {
    let up: bool = admin.call("pingNode", Mode::Nonmutating, (name,)).await?;
    console.print(if up { "node is up\n" } else { "node is down\n" })
}

pub(super) async fn load(admin: &Admin, console: &mut Console<'_>, name: &str) -> Result<()> {
    let load: LoadInfo = admin
        .call("getNodeLoad", Mode::Nonmutating, (name,))
        .await?;
    let [a, b, c] = [load.avg1, load.avg5, load.avg15].map(significant);
    console.print(&format!("load average (1/5/15): {a} / {b} / {c}\n"))
}

/// Writes a number with six digits that count, as streams of C++ do.
fn significant(number: f32) -> String {
    let number = f64::from(number);
    if number == 0.0 || !number.is_finite() {
        return number.to_string();
    }
    let before = number.abs().log10().floor();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the logarithm of a float is small"
    )]
    let digits = usize::try_from(5 - before as i64).unwrap_or(0);
    let text = format!("{number:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

pub(super) async fn sockets(
    admin: &Admin,
    console: &mut Console<'_>,
    name: Option<&str>,
) -> Result<()> {
    if let Some(name) = name {
        let count: i32 = admin
            .call("getNodeProcessorSocketCount", Mode::Nonmutating, (name,))
            .await?;
        return console.print(&format!("{count}\n"));
    }
    let names: Vec<String> = admin.call("getAllNodeNames", Mode::Nonmutating, ()).await?;
    let mut hosts: BTreeMap<String, (i32, Vec<String>)> = BTreeMap::new();
    for name in names {
        // Nodes that are down are on no host.
        let count = admin
            .call::<i32>(
                "getNodeProcessorSocketCount",
                Mode::Nonmutating,
                (name.as_str(),),
            )
            .await;
        let count = match count {
            Ok(count) => count,
            Err(Fault::Raised(Raised::NodeUnreachable { .. } | Raised::NodeNotExist(_))) => {
                continue;
            }
            Err(fault) => return Err(fault.into()),
        };
        let info = node(admin, &name).await?;
        let host = hosts.entry(info.hostname).or_default();
        host.0 = count;
        host.1.push(name);
    }
    let mut text = format!(
        "{:<20}| {:<18}| {:<37}\n",
        "Hostname", "# of sockets", "Nodes"
    );
    text.push_str(&format!("{:<79}\n", "=".repeat(69)));
    for (host, (count, nodes)) in hosts {
        text.push_str(&format!(
            "{host:<20}| {count:<18}| {:<37}\n",
            nodes.join(", ")
        ));
    }
    console.print(&text)
}

pub(super) async fn shutdown_node(admin: &Admin, name: &str) -> Result<()> {
    Ok(admin.call("shutdownNode", Mode::Normal, (name,)).await?)
}

pub(super) async fn list_registries(admin: &Admin, console: &mut Console<'_>) -> Result<()> {
    let names: Vec<String> = admin
        .call("getAllRegistryNames", Mode::Idempotent, ())
        .await?;
    list(console, names)
}

pub(super) async fn describe_registry(
    admin: &Admin,
    console: &mut Console<'_>,
    name: &str,
) -> Result<()> {
    let info: RegistryInfo = admin
        .call("getRegistryInfo", Mode::Idempotent, (name,))
        .await?;
    let mut out = Output::default();
    out.block(format!("registry `{name}'"), |out| {
        out.value("host name", &info.hostname)
    });
    console.print(&out.end())
}

pub(super) async fn ping_registry(
    admin: &Admin,
    console: &mut Console<'_>,
    name: &str,
) -> Result<()> {
    let up: bool = admin
        .call("pingRegistry", Mode::Idempotent, (name,))
        .await?;
    console.print(if up {
        "registry is up\n"
    } else {
        "registry is down\n"
    })
}

pub(super) async fn shutdown_registry(admin: &Admin, name: &str) -> Result<()> {
    Ok(admin
        .call("shutdownRegistry", Mode::Idempotent, (name,))
        .await?)
}

#[cfg(test)]
mod tests {
    use super::significant;

    #[test]
    fn numbers_have_six_digits_at_most() {
        let table = [
            (5.560_547, "5.56055"),
            (0.0, "0"),
            (0.5, "0.5"),
            (12.0, "12"),
            (0.012_345_67, "0.0123457"),
            (123_456.7, "123457"),
        ];
        for (number, text) in table {
            assert_eq!(significant(number), text);
        }
    }
}
