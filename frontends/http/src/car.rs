//! A DAG as a CAR: which blocks are wanted.
//!
//! What the blocks are and in which order is the library's ([`Dag::export`]); here is how a request says which. The
//! address wins over the parameters of `Accept` (IPIP-523). Spec: spec/http.md #car.

use muxfs::{
    Cid,
    dag::{EntityBytes, ExportOptions, Scope, murmur3_x64_64},
};

use crate::{
    failure::{Failure, cause_of},
    format::Wanted,
    target::{Query, Target, path_of},
};

const ADVICE: &str = "A CAR has car-version=1, car-order=dfs or unk, car-dups=y or n, dag-scope=block, entity or all, and \
                      entity-bytes=from:to.";

/// Which blocks a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Selection {
    scope: Scope,
    bytes: Option<EntityBytes>,
    duplicates: bool,
}

impl Selection {
    pub(crate) fn of(query: &Query, wanted: &Wanted) -> Result<Self, Failure> {
        let accepted = |key: &str| wanted.car.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_str());
        let said = |key: &str| query.get(&format!("car-{key}")).or_else(|| accepted(key));
        let refuse = |what: &str| Failure::bad(format!("There is no such CAR: {what}."), ADVICE);
        if said("version").is_some_and(|version| version != "1") {
            return Err(refuse("versions other than 1 are not written"));
        }
        // Who does not care about the order gets the one that there is.
        if said("order").is_some_and(|order| !matches!(order, "dfs" | "unk")) {
            return Err(refuse("the order is not known"));
        }
        let duplicates = match said("dups") {
            None | Some("n") => false,
            Some("y") => true,
            Some(_) => return Err(refuse("dups are y or n")),
        };
        let scope = match query.get("dag-scope") {
            Some("block") => Scope::Block,
            Some("entity") => Scope::Entity,
            None | Some("all") => Scope::All,
            Some(_) => return Err(refuse("the scope is not known")),
        };
        let bytes = query.get("entity-bytes").map(str::parse::<EntityBytes>).transpose();
        let bytes = bytes.map_err(|error| {
            let why = cause_of(&error);
            refuse(&why)
        })?;
        Ok(Self { scope, bytes, duplicates })
    }

    pub(crate) fn options(self) -> ExportOptions {
        let Self { scope, bytes, duplicates } = self;
        ExportOptions { scope, bytes, duplicates, ..ExportOptions::default() }
    }

    pub(crate) fn content_type(self) -> &'static str {
        if self.duplicates {
            "application/vnd.ipld.car; version=1; order=dfs; dups=y"
        } else {
            "application/vnd.ipld.car; version=1; order=dfs; dups=n"
        }
    }

    /// Weak: the same blocks could come in another order one day.
    pub(crate) fn etag(self, root: &Cid, target: &Target) -> String {
        let text = format!("{}{self:?}", path_of(&target.parts));
        format!("W/\"{root}.car.{:x}\"", murmur3_x64_64(text.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_selects() {
        let select = |query: &str, accept: &[(&str, &str)]| {
            let car = accept.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let wanted = Wanted { car, ..Wanted::default() };
            Selection::of(&Query::parse(query).expect("a query"), &wanted).ok()
        };
        let all = Selection { scope: Scope::All, bytes: None, duplicates: false };
        let duplicates = Selection { duplicates: true, ..all };
        for (query, accept, selection) in [
            ("", &[][..], Some(all)),
            ("car-order=unk&car-version=1&car-dups=n&dag-scope=all", &[], Some(all)),
            ("", &[("dups", "y")], Some(duplicates)),
            ("car-dups=y", &[("dups", "n")], Some(duplicates)),
            ("car-order=dfs", &[("order", "sideways")], Some(all)),
            ("dag-scope=block", &[], Some(Selection { scope: Scope::Block, ..all })),
            ("entity-bytes=0:*", &[], Some(Selection { bytes: Some(EntityBytes { from: 0, to: None }), ..all })),
            ("", &[("version", "2")], None),
            ("car-version=2", &[("version", "1")], None),
            ("car-order=sideways", &[], None),
            ("car-dups=maybe", &[], None),
            ("dag-scope=everything", &[], None),
            ("entity-bytes=5", &[], None),
            ("entity-bytes=5:3", &[], None),
        ] {
            assert_eq!(select(query, accept), selection, "{query} {accept:?}");
        }
    }
}
