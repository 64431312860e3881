//! A daemon in the background: the same program again, told on standard input what it must know, saying on
//! standard output whether it came up. The command returns when the daemon is ready, or with its error.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use zeroize::Zeroizing;

use crate::error::{Code, Error, Result};

/// Set in the daemon's environment; it then reads its secret from standard input and reports on standard output.
const CHILD: &str = "KITH_DAEMON_CHILD";

/// Starts this program again with the same arguments and waits until it is ready. `log` takes its standard error.
pub fn start(secret: &[u8], log: &Path) -> Result<()> {
    let exe = std::env::current_exe().map_err(|e| Error::io("/proc/self/exe", &e))?;
    let open = std::fs::OpenOptions::new().create(true).append(true).open(log).map_err(|e| Error::io(log, &e))?;
    let mut command = Command::new(&exe);
    command.args(std::env::args_os().skip(1)).env(CHILD, "1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(open);
    // SAFETY: setsid is async-signal-safe; the daemon must not die with the terminal.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            Ok(())
        })
    };
    let mut child = command.spawn().map_err(|e| Error::io(&exe, &e))?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(secret);
    }
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        let _ = BufReader::new(stdout).read_line(&mut line);
    }
    match serde_json::from_str::<Report>(&line) {
        Ok(Report::Ready) => Ok(()),
        Ok(Report::Failed { what, todo, code }) => {
            let _ = child.wait();
            Err(Error { code: code_of(code), what, todo })
        }
        Err(_) => {
            let status = child.wait().map(|s| s.to_string()).unwrap_or_default();
            Err(Error::new(
                Code::Other,
                format!("The daemon ended before it was ready ({status})."),
                format!("Look at the end of {}.", log.display()),
            ))
        }
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Report {
    Ready,
    Failed { what: String, todo: String, code: u8 },
}

/// The code with this number; the number is our own, from the same program.
pub fn code_of(number: u8) -> Code {
    use Code::*;
    [
        Other,
        Usage,
        NotAVault,
        NewerFormat,
        WrongPassphrase,
        Damaged,
        NotEmpty,
        MountpointMissing,
        MountpointNotEmpty,
        MountpointInUse,
        MountFailed,
        BrokerUnreachable,
        BrokerCertificate,
        LoginRefused,
        NoSuchAccount,
        RegistrationRefused,
        PlaintextRefused,
        PairingFailed,
        PairingTimedOut,
        NotKith,
        AlreadyShared,
        ReadOnlyShare,
        NotShared,
        NotAllowed,
        KeyChanged,
        BadWords,
        OwnerGone,
        DiskFull,
        NotRunning,
        AlreadyRunning,
        Findings,
    ]
    .into_iter()
    .find(|c| *c as u8 == number)
    .unwrap_or(Other)
}

/// Whether this process is a daemon that another kith started.
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// What the starter gave on standard input.
pub fn secret() -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    let _ = std::io::Read::read_to_end(&mut std::io::Read::take(std::io::stdin(), 4096), &mut bytes);
    bytes
}

/// Tells the starter how it went, and lets go of its terminal. Does nothing in the foreground.
pub fn report(outcome: Result<(), &Error>) {
    if !is_child() {
        return;
    }
    let report = match outcome {
        Ok(()) => Report::Ready,
        Err(e) => Report::Failed { what: e.what.clone(), todo: e.todo.clone(), code: e.code as u8 },
    };
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{}", serde_json::to_string(&report).unwrap_or_default());
    let _ = out.flush();
    if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
    }
}
