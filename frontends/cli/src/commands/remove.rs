//! `rm`: removes from a location-addressed mount, unpins in a content-addressed one.

use muxfs::{Error, ErrorKind, QfsPath, Result};
use serde_json::json;

use crate::{namespace::Namespace, output::Output};

/// Removes each path; the first that is not there ends the work.
pub(crate) async fn rm(namespace: &dyn Namespace, paths: &[QfsPath], output: Output) -> Result<()> {
    for path in paths {
        if !namespace.delete(path).await? {
            let why = match path.cid() {
                Some(_) => "it is not pinned; content without a pin goes by itself",
                None => "nothing of that name",
            };
            return Err(Error::new(ErrorKind::NotFound, "rm").at(path).because(why));
        }
        let text = format!("removed {path}");
        if output.json {
            output.result(b"", &json!({ "removed": path.to_string() }))?;
        } else {
            output.notice(&text);
        }
    }
    Ok(())
}
