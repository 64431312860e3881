//! kith verify: two people compare numbers, and know that nobody is in between.

use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use serde_json::json;

use crate::cli::Verify;
use crate::daemon::control::Request;
use crate::error::{Code, Error, Result, printable};
use crate::{secrets, vault};

pub fn run(args: &Verify, json: bool) -> Result<()> {
    let store = vault::store(args.store.as_deref())?;
    let numbers = super::ask(&store, &Request::Safety { jid: args.jid.clone() })?;
    let of = |key: &str| numbers[key].as_str().unwrap_or_default().to_owned();
    let jid = printable(&args.jid);
    let text = format!(
        "Your number, which {jid} must see as yours:\n\n{}\n\n{}\n\
         The number of {jid}, which they must see as their own:\n\n{}\n\n\
         Compare both with them by telephone or face to face, not by chat.{}",
        lines(&of("own")),
        qr(&of("own_account")),
        lines(&of("theirs")),
        match (numbers["verified"] == true, numbers["changed"] == true) {
            (true, _) => "\nYou have compared them before.",
            (_, true) => "\nThis is another account than the one that you knew under this address.",
            _ => "",
        }
    );
    if !args.yes {
        if json {
            super::done(json, "", &numbers);
            return Ok(());
        }
        println!("{text}");
        if numbers["verified"] == true {
            return Ok(());
        }
        let typed = secrets::line("Are they the same? Type yes: ")?;
        if typed.trim() != "yes" {
            return Err(Error::new(
                Code::KeyChanged,
                format!("{jid} is not verified."),
                "If the numbers differ, somebody may be in between: share nothing with this address.",
            ));
        }
    }
    let request = Request::Verified { jid: args.jid.clone(), account: of("account") };
    super::ask(&store, &request)?;
    let value = json!({ "jid": args.jid, "verified": true, "theirs": of("theirs"), "own": of("own") });
    super::done(json, &format!("{jid} is verified, with all devices, now and later."), &value);
    Ok(())
}

/// Four groups a line.
fn lines(number: &str) -> String {
    let groups: Vec<&str> = number.split(' ').collect();
    groups.chunks(4).map(|line| format!("    {}", line.join(" "))).collect::<Vec<_>>().join("\n")
}

/// The account as a code that a telephone reads: the same on both screens, or not.
fn qr(account: &str) -> String {
    QrCode::new(format!("kith:{account}").as_bytes())
        .map(|code| code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_fits_a_terminal() {
        let code = qr(&"ab".repeat(32));
        let (height, width) = (code.lines().count(), code.lines().map(|l| l.chars().count()).max());
        assert!(height > 10 && height < 24 && width.is_some_and(|w| w < 60), "{height} {width:?}");
        assert_eq!(lines("1 2 3 4 5 6 7 8"), "    1 2 3 4\n    5 6 7 8");
    }
}
