//! kith fsck: every file opened and compared with its record.

use crate::cli::Fsck;
use crate::daemon::control::Request;
use crate::daemon::offline;
use crate::error::{Code, Error, Result, printable};
use crate::vault;

pub fn run(args: &Fsck, json: bool) -> Result<()> {
    let store = vault::store(args.store.as_deref())?;
    let value = match super::running(&store)? {
        Some(mut client) => client.ask(&Request::Fsck { repair: args.repair })?,
        None => {
            let secret = vault::secret(&store, &args.unlock)?;
            offline::fsck(vault::open(&store, args.unlock.keys.as_deref(), &secret)?, args.repair)?
        }
    };
    let findings: Vec<String> =
        value["findings"].as_array().into_iter().flatten().filter_map(|f| f.as_str()).map(printable).collect();
    if findings.is_empty() {
        let text = format!("{} files are what their records say.", value["checked"]);
        super::done(json, &text, &value);
        return Ok(());
    }
    super::done(json, &findings.join("\n"), &value);
    let todo = if args.repair {
        "What could not be verified lies in quarantine/ and is fetched again as soon as a device has it."
    } else {
        "`kith fsck --repair` puts it into quarantine/, from where it is fetched again as soon as a device has it."
    };
    Err(Error::new(Code::Findings, format!("{} findings.", findings.len()), todo))
}
