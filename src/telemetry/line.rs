//! Lines in the shape of OMERO's logs: `2026-01-01 12:00:00,123 INFO  [module] (thread) message key=value`.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::Filter;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

/// Returns a layer that writes such lines.
pub(super) fn layer<W>(
    writer: W,
    filter: impl Filter<Registry> + Send + Sync + 'static,
) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .event_format(Line)
        .with_writer(writer)
        .with_filter(filter)
        .boxed()
}

struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let now = jiff::ZonedDateTime::now();
        let metadata = event.metadata();
        let module = metadata.target().rsplit("::").next().unwrap_or_default();
        let thread = std::thread::current();
        write!(
            writer,
            "{},{:03} {:<5} [{module}] ({}) ",
            now.strftime("%Y-%m-%d %H:%M:%S"),
            now.millisecond(),
            metadata.level(),
            thread.name().unwrap_or("-"),
        )?;
        ctx.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
