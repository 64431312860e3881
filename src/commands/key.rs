//! kith key recovery: the account key on paper, and from then on only there.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use keymgr::account::AccountKey;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::cli::Recovery;
use crate::daemon::control::Request;
use crate::daemon::peers::from_words;
use crate::error::{Code, Error, Result};
use crate::{secrets, vault};

pub fn recovery(args: &Recovery, json: bool) -> Result<()> {
    let store = vault::store(args.store.as_deref())?;
    let made = super::ask(&store, &Request::Recovery)?;
    let words = Zeroizing::new(made["words"].as_str().unwrap_or_default().to_owned());
    match &args.page {
        Some(path) => write(path, &page(&words, &made))?,
        None if !json && args.words_file.is_none() => print!("{}", *page(&words, &made)),
        None => {}
    }
    let typed = match &args.words_file {
        Some(path) => {
            let bytes = Zeroizing::new(std::fs::read(path).map_err(|e| Error::io(path, &e))?);
            Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned())
        }
        // A page that was only written is typed back another time.
        None if json || args.page.is_some() && !std::io::IsTerminal::is_terminal(&std::io::stdin()) => {
            super::done(json, "Print the page, then type it back: kith key recovery", &json!({ "page": args.page }));
            return Ok(());
        }
        None => secrets::line("Now type the 24 words from the paper: ")?,
    };
    let key = from_words(&typed)?;
    let account = made["account"].as_str().unwrap_or_default();
    if key.id().to_string() != account {
        return Err(Error::new(
            Code::BadWords,
            "These are the words of another account.",
            "Type those that were shown just now.",
        ));
    }
    if let Some(wrong) = differs(&key, &words) {
        return Err(Error::new(Code::BadWords, format!("Word {wrong} differs."), "Compare it with the sheet."));
    }
    super::ask(&store, &Request::RecoveryDone)?;
    let text = "The key of your account is on the paper now and nowhere else. Keep it where you keep a passport: \
                who finds it has your account; without it a lost last device cannot be replaced.";
    super::done(json, text, &json!({ "account": account, "erased": true }));
    Ok(())
}

fn differs(key: &AccountKey, words: &str) -> Option<usize> {
    let typed = key.words();
    typed.split(' ').zip(words.split(' ')).position(|(a, b)| a != b).map(|at| at + 1)
}

/// What is to be printed.
fn page(words: &str, made: &Value) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(4096));
    let of = |key: &str| made[key].as_str().unwrap_or_default();
    text.push_str("KITH RECOVERY SHEET\n\n");
    if !of("jid").is_empty() {
        text.push_str(&format!("Account   {}\n", of("jid")));
    }
    text.push_str(&format!("Number    {}\n\n", of("safety_number")));
    for (i, word) in words.split(' ').enumerate() {
        text.push_str(&format!("{:>4}. {word:<10}", i + 1));
        if i % 4 == 3 {
            text.push('\n');
        }
    }
    text.push_str(
        "\nWith these words and the store of any device of yours, also of one that cannot read\n\
         (a Pi at home), everything is had back: kith init --recover STORE\n\
         Who finds this paper has your account. Keep no photograph and no file of it.\n\n",
    );
    text
}

fn write(path: &Path, text: &str) -> Result<()> {
    let open = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
    let mut file = open.map_err(|e| Error::io(path, &e))?;
    file.write_all(text.as_bytes()).map_err(|e| Error::io(path, &e))
}
