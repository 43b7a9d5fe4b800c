//! The server itself.

use std::time::SystemTime;

use crate::{
    client::Client,
    info,
    refusal::{Done, refuse},
};

/// `PING`
pub(crate) fn ping(client: &mut Client) -> Done {
    client.output.simple("PONG");
    Ok(())
}

/// `TIME`: seconds and microseconds.
pub(crate) fn time(client: &mut Client) -> Done {
    let now = (client.server.options.env.now)();
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    client.output.array(2);
    client.output.bulk(since.as_secs().to_string().as_bytes());
    client.output.bulk(since.subsec_micros().to_string().as_bytes());
    Ok(())
}

/// `INFO`
pub(crate) fn info(client: &mut Client) -> Done {
    let text = info::of_server(&client.server);
    client.output.bulk(text.as_bytes());
    Ok(())
}

/// `STOP`: where the server was told that it may be, by an administrator.
pub(crate) fn stop(client: &mut Client) -> Done {
    if !client.server.options.stop_allowed {
        return refuse("Unauthorized");
    }
    client.check_admin()?;
    client.output.simple("Stopping");
    client.server.asked_to_stop.cancel();
    Ok(())
}
