use super::*;

#[test]
fn what_was_synced_survives_a_power_cut_and_nothing_else_must() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..200 {
        let disk = SimDisk::new();
        let mut dice = Dice(seed);
        let file = disk.create(Path::new("a"), 0o600).unwrap();
        file.write_at(&[1; 5000], 0).unwrap();
        file.sync(false).unwrap();
        disk.sync_folder(Path::new("")).unwrap();
        file.write_at(&[2; 10], 4096).unwrap();
        disk.rename(Path::new("a"), Path::new("b"), Rename::Over).unwrap();
        disk.power_cut(&mut dice);
        assert!(file.length().is_err(), "a handle of before the cut");
        let name = if disk.stat(Path::new("a")).is_ok() { "a" } else { "b" };
        let file = disk.open(Path::new(name), true).unwrap();
        let mut buf = [0; 5000];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 5000);
        assert!(buf[..4096].iter().all(|b| *b == 1) && (buf[4096] == 1 || buf[4096] == 2));
        *if buf[4096] == 2 { &mut kept } else { &mut lost } += 1;
    }
    assert!(kept > 0 && lost > 0);
}

#[test]
fn a_kill_falls_between_two_steps_and_loses_nothing() {
    let disk = SimDisk::new();
    let file = disk.create(Path::new("a"), 0o600).unwrap();
    disk.kill_after(1);
    assert!(file.write_at(&[1; 8192], 0).is_err());
    disk.kill();
    let file = disk.open(Path::new("a"), true).unwrap();
    assert_eq!(file.length().unwrap(), 4096);
}

#[test]
fn folders_hold_what_is_renamed_into_them() {
    let disk = SimDisk::new();
    disk.make_folder(Path::new("d"), 0o700).unwrap();
    disk.make_folder(Path::new("e"), 0o700).unwrap();
    disk.create(Path::new("d/a"), 0o600).unwrap();
    disk.rename(Path::new("d"), Path::new("e/d"), Rename::NoReplace).unwrap();
    assert_eq!(disk.list(Path::new("e/d")).unwrap()[0].name, OsStr::new("a"));
    assert!(disk.remove_folder(Path::new("e")).is_err());
    assert!(disk.open(Path::new("../x"), false).is_err());
}
