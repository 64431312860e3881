//! The command line, as kith(1) describes it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "kith",
    version,
    about = "A folder that looks like plain files, encrypted file by file, kept in step with your other devices over XMPP.",
    disable_help_subcommand = true,
    after_help = "Secrets are typed or read from a file, never given as arguments. See kith(1)."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Print JSON, one object.
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Subcommand)]
pub enum Command {
    /// Make a vault: an encrypted store and its keys.
    Init(Init),
    /// Mount a vault at a folder and leave its daemon running; with an account it syncs too.
    Mount(Mount),
    /// Unmount, after everything is written and recorded.
    Umount {
        /// The folder where the vault is mounted.
        mountpoint: PathBuf,
    },
    /// The XMPP account that finds the other devices.
    #[command(subcommand)]
    Account(Account),
    /// Let another device of yours in: shows a one-time code for `kith join` there.
    Pair(Pair),
    /// Make this device one of yours, with the code that `kith pair` shows on another one.
    Join(Join),
    /// Your devices; `peers remove NAME` removes one.
    Peers(Peers),
    /// Share a folder with somebody else who uses kith.
    Share(Share),
    /// What others want to share with you.
    Invites(StoreArg),
    /// Take an invitation: the folder appears in yours.
    Accept(Accept),
    /// Turn an invitation down.
    Decline(Decline),
    /// Leave a folder that somebody shares with you.
    Leave(Leave),
    /// Take a shared folder from somebody, or from everybody.
    Unshare(Unshare),
    /// Make sure that a contact is who you think it is.
    Verify(Verify),
    /// The account's key: the recovery sheet.
    #[command(subcommand)]
    Key(Key),
    /// What is mounted, synced, pending, refused.
    Status(StoreArg),
    /// Files that were changed apart on two devices.
    Conflicts(StoreArg),
    /// Sync a vault without mounting it; leaves a daemon running.
    Sync(Sync),
    /// Check that every file is readable and is what its record says.
    Fsck(Fsck),
}

#[derive(Args, Clone)]
pub struct StoreArg {
    /// The store [default: $XDG_DATA_HOME/kith/store].
    pub store: Option<PathBuf>,
}

/// How a vault is unlocked.
#[derive(Args, Clone)]
pub struct Unlock {
    /// A file whose first line is the passphrase.
    #[arg(long, env = "KITH_PASSFILE", hide_env_values = true, value_name = "FILE")]
    pub passfile: Option<PathBuf>,
    /// Where slots and keyring lie, if not in the store.
    #[arg(long, value_name = "DIR")]
    pub keys: Option<PathBuf>,
}

#[derive(Args)]
pub struct Init {
    /// The new store [default: $XDG_DATA_HOME/kith/store].
    pub store: Option<PathBuf>,
    #[command(flatten)]
    pub unlock: Unlock,
    /// What this device is called on the list of your devices [default: the host's name].
    #[arg(long)]
    pub name: Option<String>,
    /// Make it from the store of a device of yours, a blind one too, and the words of the recovery sheet.
    #[arg(long, value_name = "STORE")]
    pub recover: Option<PathBuf>,
    /// Take the words of the recovery sheet from this file instead of the terminal.
    #[arg(long, value_name = "FILE", requires = "recover")]
    pub words_file: Option<PathBuf>,
}

#[derive(Args)]
pub struct Mount {
    /// The store, then the mountpoint; with one argument it is the mountpoint.
    #[arg(required = true, num_args = 1..=2, value_names = ["STORE", "MOUNTPOINT"])]
    pub paths: Vec<PathBuf>,
    #[command(flatten)]
    pub unlock: Unlock,
    /// Stay in the foreground.
    #[arg(long)]
    pub foreground: bool,
    /// Let other users in (needs user_allow_other in /etc/fuse.conf).
    #[arg(long)]
    pub allow_other: bool,
    /// Mount read-only.
    #[arg(long)]
    pub read_only: bool,
}

#[derive(Subcommand)]
pub enum Account {
    /// Set the account of this device.
    Add(AccountAdd),
}

/// How to reach an XMPP account.
#[derive(Args, Clone)]
pub struct Login {
    /// A file whose first line is the account's password.
    #[arg(long, env = "KITH_PASSWORD_FILE", hide_env_values = true, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Make the account at the broker first (XEP-0077), where it allows that.
    #[arg(long)]
    pub register: bool,
    /// Trust this CA (PEM) for the broker, and no other.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The broker's address, if DNS does not tell it.
    #[arg(long, value_name = "HOST:PORT")]
    pub server: Option<String>,
    /// Talk to a broker on this machine's loopback without TLS.
    #[arg(long)]
    pub plaintext_loopback: bool,
}

#[derive(Args)]
pub struct AccountAdd {
    /// user@domain, or user@domain/resource.
    pub jid: String,
    pub store: Option<PathBuf>,
    #[command(flatten)]
    pub unlock: Unlock,
    #[command(flatten)]
    pub login: Login,
}

#[derive(Args)]
pub struct Pair {
    pub store: Option<PathBuf>,
    /// The only JID that may use the code [default: whoever tries is shown and must be confirmed; your own account is not asked for].
    #[arg(long)]
    pub jid: Option<String>,
    /// Seconds for which the code holds.
    #[arg(long, default_value_t = 600)]
    pub timeout: u64,
}

#[derive(Args)]
pub struct Join {
    /// What `kith pair` shows.
    pub code: String,
    /// The new store [default: $XDG_DATA_HOME/kith/store].
    pub store: Option<PathBuf>,
    /// This device's own account.
    #[arg(long)]
    pub jid: String,
    /// Hold ciphertext only: no key that opens a file comes here.
    #[arg(long)]
    pub blind: bool,
    #[command(flatten)]
    pub unlock: Unlock,
    #[command(flatten)]
    pub login: Login,
    /// What this device is called on the list of your devices [default: the host's name].
    #[arg(long)]
    pub name: Option<String>,
}

#[derive(Args)]
pub struct Peers {
    #[command(subcommand)]
    pub command: Option<PeersCommand>,
    pub store: Option<PathBuf>,
}

#[derive(Subcommand)]
pub enum PeersCommand {
    /// Remove a device: it gets nothing written from now on.
    Remove(PeersRemove),
}

#[derive(Args)]
pub struct PeersRemove {
    /// The device's name as `kith peers` shows it, or the beginning of its id.
    pub name: String,
    pub store: Option<PathBuf>,
    /// It is in strange hands: what it signs after what is known now counts nowhere.
    #[arg(long)]
    pub lost: bool,
}

#[derive(Args)]
pub struct Share {
    /// A folder in the mounted vault.
    pub dir: PathBuf,
    /// With whom: user@domain.
    pub jid: String,
    /// writer, reader, or blind: keeps a copy and can read nothing of it.
    #[arg(long, default_value = "writer", value_parser = ["writer", "reader", "blind"])]
    pub role: String,
    /// They may pass it on to others, with no more than their own role.
    #[arg(long)]
    pub may_invite: bool,
    /// The store, if it is not the default one.
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

#[derive(Args)]
pub struct Accept {
    /// Whose invitation (a JID), or the share's number as `kith invites` shows it; needless where there is one only.
    pub which: Option<String>,
    /// Where it is to appear [default: Shared/JID/NAME in the vault].
    #[arg(long, value_name = "PATH")]
    pub at: Option<PathBuf>,
    /// The store, if it is not the default one.
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

#[derive(Args)]
pub struct Decline {
    /// Whose invitation (a JID), or the share's number as `kith invites` shows it; needless where there is one only.
    pub which: Option<String>,
    /// The store, if it is not the default one.
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

#[derive(Args)]
pub struct Leave {
    /// The shared folder.
    pub dir: PathBuf,
    /// The store, if it is not the default one.
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

#[derive(Args)]
pub struct Unshare {
    /// The shared folder.
    pub dir: PathBuf,
    /// From whom.
    #[arg(required_unless_present = "all")]
    pub jid: Option<String>,
    /// From everybody; the folder stays with you.
    #[arg(long, conflicts_with = "jid")]
    pub all: bool,
    /// The store, if it is not the default one.
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

#[derive(Args)]
pub struct Verify {
    /// The contact: user@domain.
    pub jid: String,
    /// The numbers were compared and are the same: mark the contact as verified without asking.
    #[arg(long)]
    pub yes: bool,
    /// The store, if it is not the default one.
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

#[derive(Subcommand)]
pub enum Key {
    /// Print the 24 words that everything can be had back with; once they are typed back, the key is on paper only.
    Recovery(Recovery),
}

#[derive(Args)]
pub struct Recovery {
    pub store: Option<PathBuf>,
    /// Write the printable page here instead of showing the words.
    #[arg(long, value_name = "FILE")]
    pub page: Option<PathBuf>,
    /// Take the words typed back from this file instead of the terminal.
    #[arg(long, value_name = "FILE")]
    pub words_file: Option<PathBuf>,
}

#[derive(Args)]
pub struct Sync {
    pub store: Option<PathBuf>,
    #[command(flatten)]
    pub unlock: Unlock,
    /// Stay in the foreground.
    #[arg(long)]
    pub foreground: bool,
    /// End the daemon that syncs this vault.
    #[arg(long, conflicts_with = "foreground")]
    pub stop: bool,
}

#[derive(Args)]
pub struct Fsck {
    pub store: Option<PathBuf>,
    #[command(flatten)]
    pub unlock: Unlock,
    /// Mend what can be mended without a peer; what cannot goes to quarantine.
    #[arg(long)]
    pub repair: bool,
}
