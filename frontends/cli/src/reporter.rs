//! What the status page tells of this process: what grew, and how the nodes of `/zstor` do.

use std::{collections::BTreeMap, fmt, sync::Weak};

use async_trait::async_trait;
use metrics_exporter_prometheus::PrometheusHandle;
use muxfs_http::{Counter, Report};
use serde_json::{Map, Value};

use crate::{instance::Instance, namespace::Namespace as _};

/// What every counter of this program begins with.
const PREFIX: &str = "muxfs_";
/// What counters of bytes end with, and others.
const BYTES: &str = "_bytes_total";
const TOTAL: &str = "_total";

/// Knows how a server does.
pub(crate) struct Reporter {
    /// Gone when the server is.
    pub(crate) instance: Weak<Instance>,
    pub(crate) recorder: PrometheusHandle,
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reporter(..)")
    }
}

#[async_trait]
impl muxfs_http::Reporter for Reporter {
    async fn report(&self) -> Report {
        let mut stores = Map::new();
        if let Some(instance) = self.instance.upgrade() {
            match instance.zstor_status(None).await {
                Ok(statuses) => {
                    for status in statuses {
                        let name = format!("Nodes of {}", status.mount);
                        stores.insert(name, without_places(serde_json::to_value(status).unwrap_or_default()));
                    }
                }
                Err(error) => drop(stores.insert("Nodes".to_owned(), error.kind().as_str().into())),
            }
        }
        Report { counters: counters(&self.recorder.render()), stores }
    }
}

/// Where a node lies on this machine is nothing for whoever may read.
fn without_places(mut status: Value) -> Value {
    for node in status.get_mut("nodes").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(node) = node.as_object_mut() {
            node.remove("place");
        }
    }
    status
}

/// The counters of a text for Prometheus, each summed over its labels.
fn counters(text: &str) -> Vec<Counter> {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with(PREFIX)) {
        let (key, value) = line.rsplit_once(' ').unwrap_or_default();
        let name = key.split('{').next().unwrap_or_default();
        if let (Some(name), Ok(value)) =
            (name.strip_prefix(PREFIX).filter(|name| name.ends_with(TOTAL)), value.parse::<u64>())
        {
            let sum = sums.entry(name).or_default();
            *sum = sum.saturating_add(value);
        }
    }
    let counter = |(name, value): (&str, u64)| {
        let is_bytes = name.ends_with(BYTES);
        let name = name.strip_suffix(BYTES).or_else(|| name.strip_suffix(TOTAL)).unwrap_or(name).replace('_', " ");
        Counter { name: if is_bytes { name + ", bytes" } else { name }, value, is_bytes }
    };
    let mut counters: Vec<Counter> = sums.into_iter().map(counter).collect();
    // What went through comes first.
    counters.sort_by_key(|counter| !counter.is_bytes);
    counters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_over_their_labels() {
        let text = "# TYPE muxfs_http_requests_total counter\nmuxfs_http_requests_total{method=\"GET\",a=\"b c\"} 3\n\
                    muxfs_http_requests_total{method=\"PUT\"} 4\nmuxfs_nfs_read_bytes_total 9\nmuxfs_gauge 5\nother_total 1\n\
                    muxfs_broken_total x\n";
        let counter = |name: &str, value, is_bytes| Counter { name: name.into(), value, is_bytes };
        assert_eq!(counters(text), [counter("nfs read, bytes", 9, true), counter("http requests", 7, false)]);
    }
}
