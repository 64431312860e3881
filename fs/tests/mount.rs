//! A real mount, used by real programs.

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use common::{Vault, Watchdog, run};

/// Things of every kind, under a folder of the disk.
fn sample(at: &std::path::Path) {
    fs::create_dir_all(at.join("a/b/c")).unwrap();
    fs::write(at.join("a/hello.txt"), "hello\n").unwrap();
    fs::write(at.join("a/empty"), "").unwrap();
    fs::write(at.join("a/b/big"), (0..700_000u32).map(|i| (i * 31 % 251) as u8).collect::<Vec<_>>()).unwrap();
    fs::write(at.join("a/b").join("ü".repeat(127)), "a name of 254 bytes").unwrap();
    fs::create_dir(at.join("x".repeat(255))).unwrap();
    fs::write(at.join("x".repeat(255)).join("y".repeat(255)), "a name of 255 bytes").unwrap();
    fs::hard_link(at.join("a/hello.txt"), at.join("a/b/link")).unwrap();
    std::os::unix::fs::symlink("../hello.txt", at.join("a/b/symlink")).unwrap();
    std::os::unix::fs::symlink("/nowhere/".repeat(100), at.join("long-symlink")).unwrap();
    run("mkfifo", &["a/fifo"], at);
    let sparse = File::create(at.join("a/sparse")).unwrap();
    sparse.set_len(50_000_000).unwrap();
    sparse.write_all_at(b"data", 30_000_000).unwrap();
    for (name, mode) in [("a/hello.txt", 0o640), ("a/empty", 0o444), ("a/b/c", 0o1777), ("a/b/big", 0o4755)] {
        fs::set_permissions(at.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    run("setfattr", &["-n", "user.note", "-v", "something", "a/hello.txt"], at);
    run("setfattr", &["-n", "user.folder", "-v", "else", "a/b"], at);
    run("touch", &["-d", "2001-02-03 04:05:06.789", "a/hello.txt", "a/b/c"], at);
    run("touch", &["-h", "-d", "1969-12-31 12:00:00", "a/b/symlink"], at);
}

fn same(a: &std::path::Path, b: &std::path::Path) {
    let (a, b) = (format!("{}/", a.display()), format!("{}/", b.display()));
    let diff = run("rsync", &["-anciHAX", "--delete", &a, &b], std::path::Path::new("/"));
    assert_eq!(diff.trim(), "");
}

#[test]
fn what_is_copied_in_comes_out_the_same_also_after_a_remount() {
    let _watchdog = Watchdog::new(100);
    let vault = Vault::new();
    let plain = vault.dir.path().join("plain");
    fs::create_dir(&plain).unwrap();
    sample(&plain);
    let volume = vault.open(true);
    let mount = vault.mount(&volume);
    let copy = mount.path("copy");
    run("cp", &["-a", "--", &plain.to_string_lossy(), &copy.to_string_lossy()], &mount.at);
    same(&plain, &copy);
    run(
        "diff",
        &["-r", "--no-dereference", "-x", "fifo", &plain.to_string_lossy(), &copy.to_string_lossy()],
        &mount.at,
    );
    assert!(fs::metadata(copy.join("a/sparse")).unwrap().blocks() < 1000, "holes stay holes");
    assert!(fs::metadata(copy.join("a/hello.txt")).unwrap().nlink() == 2);
    mount.unmount();
    vault.close(&volume);
    drop(volume);
    let volume = vault.open(true);
    let mount = vault.mount(&volume);
    same(&plain, &mount.path("copy"));
    run("rm", &["-rf", "copy"], &mount.at);
    assert_eq!(fs::read_dir(&mount.at).unwrap().count(), 0);
    mount.unmount();
    vault.close(&volume);
    assert_eq!(vault.ear.refusals.lock().unwrap().as_slice(), []);
}

#[test]
fn programs_find_what_they_expect_of_a_file_system() {
    let _watchdog = Watchdog::new(60);
    let vault = Vault::new();
    let volume = vault.open(true);
    let mount = vault.mount(&volume);

    // Unlinked and still open.
    let path = mount.path("gone");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.write_all(b"still here").unwrap();
    fs::remove_file(&path).unwrap();
    assert!(!path.exists());
    file.write_all(b", and more").unwrap();
    file.sync_all().unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "still here, and more");
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    drop(file);

    // Appending, cutting, growing.
    let path = mount.path("log");
    for _ in 0..3 {
        OpenOptions::new().append(true).create(true).open(&path).unwrap().write_all(&[b'x'; 3000]).unwrap();
    }
    assert_eq!(fs::read(&path).unwrap(), [b'x'; 9000]);
    File::options().write(true).open(&path).unwrap().set_len(5000).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(8000).unwrap();
    assert_eq!(fs::read(&path).unwrap(), [vec![b'x'; 5000], vec![0; 3000]].concat());
    File::create(&path).unwrap().write_all(b"new").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");

    // Renames.
    fs::write(mount.path("a"), "a").unwrap();
    fs::write(mount.path("b"), "b").unwrap();
    fs::rename(mount.path("a"), mount.path("b")).unwrap();
    assert_eq!(fs::read_to_string(mount.path("b")).unwrap(), "a");
    fs::create_dir(mount.path("d1")).unwrap();
    fs::create_dir(mount.path("d2")).unwrap();
    fs::write(mount.path("d1/f"), "f").unwrap();
    assert!(fs::rename(mount.path("d2"), mount.path("d1")).is_err(), "a folder with something in it is not replaced");
    fs::rename(mount.path("d1"), mount.path("d2")).unwrap();
    assert_eq!(fs::read_to_string(mount.path("d2/f")).unwrap(), "f");
    nix::fcntl::renameat2(
        nix::fcntl::AT_FDCWD,
        &mount.path("b"),
        nix::fcntl::AT_FDCWD,
        &mount.path("d2"),
        nix::fcntl::RenameFlags::RENAME_EXCHANGE,
    )
    .unwrap();
    assert_eq!(fs::read_to_string(mount.path("d2")).unwrap(), "a");
    assert_eq!(fs::read_to_string(mount.path("b/f")).unwrap(), "f");

    // A name that is too long, and one that is not.
    assert_eq!(fs::write(mount.path(&"n".repeat(256)), "").unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    fs::write(mount.path(&"n".repeat(255)), "n").unwrap();
    fs::rename(mount.path(&"n".repeat(255)), mount.path("short")).unwrap();
    assert_eq!(fs::read_to_string(mount.path("short")).unwrap(), "n");
    mount.unmount();
    vault.close(&volume);
    let left: Vec<_> = walk(&vault.store().join("tree")).into_iter().filter(|n| n.contains("kith-name")).collect();
    assert_eq!(left, Vec::<String>::new(), "no sidecar is left of a name that is gone");
}

#[test]
fn a_shared_mapping_is_written_back() {
    let _watchdog = Watchdog::new(60);
    let vault = Vault::new();
    let volume = vault.open(true);
    let mount = vault.mount(&volume);
    fs::write(mount.path("m"), vec![0; 20_000]).unwrap();
    let path = std::ffi::CString::new(mount.path("m").into_os_string().into_encoded_bytes()).unwrap();
    // In a process of its own: unmapping waits for the writes to be answered with this process's memory locked, and the
    // threads that answer are in it. (A daemon must never map a file of its own mount.)
    // SAFETY: after the fork the child makes system calls only, on memory that it has by then, and exits.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        // SAFETY: as above; the mapping is checked, and written within its length.
        unsafe {
            let fd = libc::open(path.as_ptr(), libc::O_RDWR);
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let at = libc::mmap(std::ptr::null_mut(), 20_000, access, libc::MAP_SHARED, fd, 0);
            if fd < 0 || at == libc::MAP_FAILED {
                libc::_exit(1);
            }
            at.cast::<u8>().add(10_000).write(7);
            libc::_exit(libc::munmap(at, 20_000));
        }
    }
    let mut status = 0;
    // SAFETY: the child is ours, and `status` lives through the call.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    mount.unmount();
    vault.close(&volume);
    let volume = vault.open(true);
    let mount = vault.mount(&volume);
    assert_eq!(fs::read(mount.path("m")).unwrap()[9_999..10_002], [0, 7, 0]);
    mount.unmount();
}

#[test]
fn an_unmount_from_outside_ends_it() {
    let _watchdog = Watchdog::new(60);
    let vault = Vault::new();
    let volume = vault.open(true);
    let mount = vault.mount(&volume);
    fs::write(mount.path("a"), "a").unwrap();
    let at = mount.at.clone();
    let held = File::open(mount.path("a")).unwrap();
    let mounted = std::sync::Arc::new(mount.take());
    let waits = mounted.clone();
    let waiter = std::thread::spawn(move || waits.join());
    assert!(mounted.unmount().is_err(), "somebody is in it");
    assert_eq!(fs::read_to_string(at.join("a")).unwrap(), "a");
    drop(held);
    for _ in 0..100 {
        // The close reaches us a moment later.
        if std::process::Command::new("fusermount3").arg("-u").arg(&at).output().unwrap().status.success() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    mounted.join().unwrap();
    waiter.join().unwrap().unwrap();
    assert!(!at.join("a").exists());
    vault.close(&volume);
}

fn walk(at: &std::path::Path) -> Vec<String> {
    let mut out = Vec::new();
    for entry in fs::read_dir(at).unwrap() {
        let entry = entry.unwrap();
        out.push(entry.file_name().to_string_lossy().into_owned());
        if entry.file_type().unwrap().is_dir() {
            out.extend(walk(&entry.path()));
        }
    }
    out
}
