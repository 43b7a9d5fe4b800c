//! `zstor plan`: what could be read and written without some nodes.

use std::process::ExitCode;

use muxfs::{Prefix, Result, block::BlockShare};
use muxfs_zstor::ZstorPlan;
use serde::{Deserialize, Serialize};

use super::look::Looker;
use crate::output::Output;

/// What would be, as the control protocol and `--json` tell it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) mount: String,
    /// The names of the nodes that are taken for lost, and of those besides that are lost now.
    pub(crate) lose: Vec<String>,
    pub(crate) lost_now: Vec<String>,
    /// Which part of all blocks, 0 to 1; between those about so many.
    pub(crate) readable: f64,
    pub(crate) writable: f64,
    /// So many nodes more may be lost, whichever they are; absent where not everything can be read as it is.
    pub(crate) spare: Option<usize>,
}

impl Plan {
    pub(crate) fn of(prefix: Prefix, plan: ZstorPlan) -> Self {
        let ZstorPlan { lose, lost_now, loss } = plan;
        Self {
            mount: prefix.to_string(),
            lose,
            lost_now,
            readable: part(loss.readable),
            writable: part(loss.writable),
            spare: loss.spare,
        }
    }
}

/// A share as a part of a whole, which is 0 and 1 only of none and all.
pub(super) fn part(share: BlockShare) -> f64 {
    /// As near as a count of some thousand tells.
    const NEAR: f64 = 0.0001;
    match share {
        BlockShare::None => 0.0,
        BlockShare::Some(part) => part.clamp(NEAR, 1.0 - NEAR),
        BlockShare::All => 1.0,
    }
}

/// A part for people.
pub(super) fn of_blocks(part: f64) -> String {
    if part >= 1.0 {
        "everything".into()
    } else if part <= 0.0 {
        "nothing".into()
    } else {
        format!("about {:.1} % of blocks, so hardly a whole file", part * 100.0)
    }
}

/// Tells what would be; the exit code says whether all could be read and written.
pub(crate) async fn plan(looker: &Looker, mount: Option<Prefix>, lose: &[String], output: Output) -> Result<ExitCode> {
    let plan = looker.plan(mount, lose).await?;
    output.result(text(&plan).as_bytes(), &plan)?;
    Ok(ExitCode::from(exit_code_of(&plan)))
}

/// 0 where all could be read and written, 6 where all could be read, else 5: spec/cli.md.
fn exit_code_of(plan: &Plan) -> u8 {
    match (plan.readable >= 1.0, plan.writable >= 1.0) {
        (true, true) => 0,
        (true, false) => 6,
        (false, _) => 5,
    }
}

fn text(plan: &Plan) -> String {
    let besides = match plan.lost_now.as_slice() {
        [] => String::new(),
        lost => format!(", and {} lost now", lost.join(", ")),
    };
    let spare = match plan.spare {
        None => "some blocks would be out of reach until nodes are back".into(),
        Some(0) => "no more node might be lost then".into(),
        Some(1) => "1 more node might be lost then".into(),
        Some(spare) => format!("{spare} more nodes might be lost then, whichever they are"),
    };
    format!(
        "/{} without {}{besides}\n  readable  {}\n  writable  {}\n  {spare}\n  of blocks at full strength: muxfs zstor status tells what waits for repair",
        plan.mount,
        plan.lose.join(", "),
        of_blocks(plan.readable),
        of_blocks(plan.writable),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_all_is_a_whole() {
        assert!(part(BlockShare::All) >= 1.0 && part(BlockShare::None) <= 0.0);
        for some in [0.0, 0.3, 1.0] {
            let part = part(BlockShare::Some(some));
            assert!(part > 0.0 && part < 1.0, "{some}");
        }
    }
}
