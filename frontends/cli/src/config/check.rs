//! What types cannot say of a configuration: parts that do not go together, and names that are there twice.

use std::collections::BTreeSet;

use muxfs::{Error, ErrorKind, Result};

use super::{Config, Hub, IpfsSource, Mount, PrefixText};

impl Config {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the key.
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |why: String| Err(Error::new(ErrorKind::InvalidArgument, "config.check").because(why));
        let mut seen = BTreeSet::new();
        for (at, mount) in self.mount.iter().enumerate() {
            if !seen.insert(mount.prefix()) {
                return refuse(format!("mount: the prefix {:?} is there twice", mount.prefix().as_str()));
            }
            if let Mount::Zstor(zstor) = mount
                && let Some(why) = zstor.fault()
            {
                return refuse(why);
            }
            if let Mount::S3(bucket) = mount
                && let Some(why) = bucket.fault()
            {
                return refuse(format!("mount: {why}"));
            }
            if let Mount::Vault(vault) = mount
                && let Some(why) = vault.fault()
            {
                return refuse(format!("mount: {why}"));
            }
            if let Mount::Overlay(overlay) = mount
                && let Some(why) = overlay.fault(self.mount.get(..at).unwrap_or_default())
            {
                return refuse(why);
            }
        }
        if let Some(PrefixText(default)) = self.default
            && !seen.contains(&default)
        {
            return refuse(format!("default: there is no mount {:?}", default.as_str()));
        }
        if let Some(why) = self.ipfs.sources.iter().find_map(IpfsSource::fault) {
            return refuse(why);
        }
        if let Some(why) = self.http.hub.as_ref().and_then(Hub::fault) {
            return refuse(why);
        }
        for point in &self.fuse.mounts {
            point.fuse_options().map_err(|error| error.at(point.dir.display()))?;
        }
        if self.scrub.max_rate.0 == 0 {
            return refuse(
                "scrub: with a max_rate of 0 nothing would ever be read: to turn it off, enabled = false".into(),
            );
        }
        if self.ftp.tls_cert.is_some() != self.ftp.tls_key.is_some() {
            return refuse("ftp: tls_cert and tls_key go together".into());
        }
        if self.ftp.tls_cert.is_some() && self.ftp.tls_self_signed {
            return refuse("ftp: tls_self_signed is for those who have no tls_cert".into());
        }
        if self.ftp.passive_ports[0] > self.ftp.passive_ports[1] || self.ftp.passive_ports[0] == 0 {
            return refuse("ftp: passive_ports are the first and the last port, as [49152, 65535]".into());
        }
        Ok(())
    }
}
