//! kith: the command line. Everything that it does is done by fs, sync and keymgr.

mod cli;
mod commands;
mod daemon;
mod error;
mod paths;
mod secrets;
mod vault;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    secrets::harden();
    // A reader of ours that goes away (`kith status | head`) ends us quietly, as it does every filter.
    // SAFETY: no other thread runs yet.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { error::Code::Usage as u8 } else { 0 });
        }
    };
    match commands::run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            if cli.json {
                println!("{}", serde_json::json!({ "error": e.what, "todo": e.todo, "code": e.code as u8 }));
            } else {
                eprintln!("{e}");
            }
            ExitCode::from(e.code as u8)
        }
    }
}
