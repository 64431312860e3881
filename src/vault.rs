//! A vault as a command opens it: found, locked against a second process, unlocked.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use keymgr::keyring::Keyring;
use keymgr::slot::{self, Unlock};
use keymgr::vault::{self, Vault};
use nix::fcntl::{Flock, FlockArg};
use zeroize::Zeroizing;

use crate::cli;
use crate::error::{Code, Error, Result};
use crate::{paths, secrets};

/// The key file of a blind device, which starts without a person; it lies with the slots.
const DEVICE_KEY: &str = "device.key";

/// The store that a command means.
pub fn store(given: Option<&Path>) -> Result<PathBuf> {
    match given {
        Some(path) => paths::absolute(path),
        None => paths::default_store(),
    }
}

/// The vault's id as text, which names its socket and its log. Needs no key.
pub fn id(store: &Path) -> Result<String> {
    Vault::id_of(store).map(|id| id.to_string()).map_err(|e| told(store, e))
}

/// A vault that this process alone has open.
pub struct Opened {
    pub store: PathBuf,
    pub vault: Vault,
    pub keyring: Keyring,
    pub lock: Lock,
}

/// Held while a process has the vault open; the file holds its pid.
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    pub fn take(store: &Path) -> Result<Self> {
        let path = store.join("lock");
        let open =
            std::fs::OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(&path);
        let file = open.map_err(|e| Error::io(&path, &e))?;
        // Who only looks whether it is free must not write its pid over a daemon's: it is written under the lock.
        let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
            Error::new(
                Code::AlreadyRunning,
                format!("{} is in use by another kith.", store.display()),
                "`kith status` says what runs; `kith umount` or `kith sync --stop` ends it.",
            )
        })?;
        let write = file.set_len(0).and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
        write.map_err(|e| Error::io(&path, &e))?;
        Ok(Self { _file: file })
    }
}

/// Waits until the daemon that ends has let go of the vault.
pub fn wait_free(store: &Path) {
    for _ in 0..500 {
        if Lock::take(store).is_ok() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Whether this device starts without a person.
pub fn opens_by_itself(store: &Path, keys: Option<&Path>) -> bool {
    keys_dir(store, keys).join(DEVICE_KEY).exists()
}

fn keys_dir(store: &Path, keys: Option<&Path>) -> PathBuf {
    keys.map_or_else(|| store.join("keys"), Path::to_path_buf)
}

/// What unlocks the vault: the device's key file, the passfile, or what is typed.
pub fn secret(store: &Path, args: &cli::Unlock) -> Result<Zeroizing<Vec<u8>>> {
    id(store)?; // not a vault, or a newer one: said before anybody types
    if opens_by_itself(store, args.keys.as_deref()) {
        let path = keys_dir(store, args.keys.as_deref()).join(DEVICE_KEY);
        return std::fs::read(&path).map(Zeroizing::new).map_err(|e| Error::io(&path, &e));
    }
    secrets::ask(args.passfile.as_deref(), "Passphrase", "--passfile")
}

/// Opens with a secret that [`secret`] gave.
pub fn open(store: &Path, keys: Option<&Path>, secret: &Zeroizing<Vec<u8>>) -> Result<Opened> {
    id(store)?;
    let lock = Lock::take(store)?;
    let unlock =
        if opens_by_itself(store, keys) { Unlock::KeyFile(secret.clone()) } else { Unlock::Passphrase(secret.clone()) };
    let (vault, keyring) = Vault::open(store, keys, &unlock).map_err(|e| told(store, e))?;
    Ok(Opened { store: store.to_owned(), vault, keyring, lock })
}

/// Refuses a place where something is already.
pub fn must_be_new(store: &Path) -> Result<()> {
    let taken = match std::fs::read_dir(store) {
        Ok(mut entries) => entries.next().is_some(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => return Err(Error::io(store, &e)),
    };
    if taken {
        return Err(Error::new(
            Code::NotEmpty,
            format!("{} exists already and is not empty.", store.display()),
            "Name another folder for the new store, or mount the one that is there.",
        ));
    }
    Ok(())
}

/// Makes a vault for a person: under a passphrase.
pub fn create(store: &Path, args: &cli::Unlock, keyring: &Keyring) -> Result<Opened> {
    let passphrase = new_secret(false, args)?;
    create_joined(store, args, &passphrase, false, keyring)
}

/// The passphrase of a new vault; a blind device, which starts without a person, gets a random key file instead.
pub fn new_secret(blind: bool, args: &cli::Unlock) -> Result<Zeroizing<Vec<u8>>> {
    if blind {
        Ok(Unlock::new_key_file())
    } else {
        secrets::ask_new(args.passfile.as_deref(), "New passphrase", "--passfile")
    }
}

/// Makes a vault under what [`new_secret`] gave.
pub fn create_joined(
    store: &Path,
    args: &cli::Unlock,
    secret: &Zeroizing<Vec<u8>>,
    blind: bool,
    keyring: &Keyring,
) -> Result<Opened> {
    let keys = args.keys.as_deref();
    if !blind {
        return create_with(store, keys, &Unlock::Passphrase(secret.clone()), keyring);
    }
    let opened = create_with(store, keys, &Unlock::KeyFile(secret.clone()), keyring)?;
    let path = keys_dir(store, keys).join(DEVICE_KEY);
    let open = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path);
    let written = open.and_then(|mut f| f.write_all(secret).and_then(|()| f.sync_all()));
    written.map_err(|e| Error::io(&path, &e))?;
    Ok(opened)
}

fn create_with(store: &Path, keys: Option<&Path>, unlock: &Unlock, keyring: &Keyring) -> Result<Opened> {
    // The least cost that is accepted: for tests, and machines with little memory.
    let least = std::env::var_os("KITH_SLOT_COST").is_some_and(|v| v == "minimum");
    let cost = if least { slot::Cost::minimum() } else { slot::Cost::calibrate() };
    std::fs::create_dir_all(store).map_err(|e| Error::io(store, &e))?;
    let vault = Vault::create(store, keys, unlock, keyring, cost).map_err(|e| told(store, e))?;
    let lock = Lock::take(store)?;
    Ok(Opened { store: store.to_owned(), vault, keyring: keyring.clone(), lock })
}

/// A device's name where none is given.
pub fn device_name(given: Option<&str>) -> String {
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    given.map_or_else(host, str::to_owned)
}

/// Seconds since 1970.
pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// What a person is told of a vault that does not open.
pub fn told(store: &Path, error: vault::Error) -> Error {
    let what = error.to_string();
    match error {
        vault::Error::NoVault(_) => Error::new(
            Code::NotAVault,
            format!("{} is no vault.", store.display()),
            "Make one with `kith init`, or name the store that you mean.",
        ),
        vault::Error::Exists(_) | vault::Error::KeysExist(_) => {
            Error::new(Code::NotEmpty, what, "Name another folder, or mount the vault that is there.")
        }
        vault::Error::NewerStore { .. } => {
            Error::new(Code::NewerFormat, what, "Install a newer kith. Nothing was changed.")
        }
        vault::Error::WrongKey(_) => Error::new(
            Code::WrongPassphrase,
            format!("The passphrase does not open {}.", store.display()),
            "Type it again; a passphrase that is lost cannot be had back.",
        ),
        vault::Error::ConfigChanged(_)
        | vault::Error::NoSlots(_)
        | vault::Error::NoKeyring(_)
        | vault::Error::Slot { .. }
        | vault::Error::Sealed { .. } => Error::new(
            Code::Damaged,
            what,
            "Put back kith.toml and the folder keys/ from a backup of this very vault. Nothing was changed.",
        ),
        vault::Error::Io(e) => Error::io(&e.path, &e.source),
        _ => Error::new(Code::Other, what, "See kith(1)."),
    }
}
